"""An encoded mask -> the pixels that are not black, in whatever way the file says black."""

import numpy as np
from PIL import Image

from bayes_pfl.data.preprocess import MAX_SIDE_PX, decode_mask
from bayes_pfl.datasets.header import open_image
from bayes_pfl.errors import ImageError

_LOSSY_ABOVE = (127, 31)
"""Thresholds of masks stored with losses: the first that leaves a pixel; the noise around an outline is darker."""


def marked_pixels(data: bytes, max_pixels: int) -> np.ndarray:
    """Where a mask marks something: any number of a class, any colour, any index but that of a black background.

    Of masks stored with losses, JPEG and WebP, it is the brighter half. Of masks with an alpha channel it is what is
    visible and not black, or all that is visible where nothing else is.

    Args:
        data: the mask's bytes.
        max_pixels: larger masks are refused.

    Returns:
        uint8 (height, width) of 0 and 1, upright.

    Raises:
        ImageError: the bytes are no image of an allowed format, are cut short, or are too large.
    """
    if data[:3] == b"\xff\xd8\xff" or (data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 "):
        first, second = (decode_mask(data, level, max_pixels) for level in _LOSSY_ABOVE)
        return first if first.any() else second
    image = open_image(data, max_pixels, MAX_SIDE_PX)
    return _is_marked(image).astype(np.uint8)


def _is_marked(image: Image.Image) -> np.ndarray:
    if image.mode == "P":
        palette = image.getpalette("RGB") or []
        if not any(palette[:3]):  # black background: every other number is a class, whatever its colour
            return np.asarray(image).astype(bool)
        image = image.convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        pixels = np.asarray(image.convert("RGBA"))
        coloured, visible = pixels[..., :3].any(-1), pixels[..., 3] > 0
        if visible.all() or not visible.any():
            return np.asarray(coloured)
        both = np.logical_and(coloured, visible)
        return both if both.any() else visible
    if image.mode not in ("1", "L", "RGB") and not image.mode.startswith(("I", "F")):
        try:
            image = image.convert("RGB")
        except ValueError as error:
            raise ImageError(f"has the mode {image.mode}; save it as RGB or gray") from error
    pixels = np.asarray(image)
    marked = np.isfinite(pixels) & (pixels != 0) if pixels.dtype.kind == "f" else pixels != 0
    return marked.any(-1) if marked.ndim == 3 else marked
