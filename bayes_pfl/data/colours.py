"""Pixels of any mode -> RGB of 8 bits: gray of many bits and floats scaled, palettes looked up, alpha over white.

A 16-bit gray file often holds 10, 12 or 14 bits of a camera. How many count is what the file states (a PNG's sBIT, a
TIFF's BitsPerSample or MaxSampleValue) if its values fit, else the smallest of 10, 12, 14 and 16 bits that holds its
largest value; `decode` says which.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from bayes_pfl.errors import ImageError

DEPTHS = (10, 12, 14, 16)
"""Bits of a gray image with more than 8, where its file does not state them."""

STATED_BITS, WHITE_IS_ZERO = "bayes_pfl_stated_bits", "bayes_pfl_white_is_zero"
FRAMES, WIDE = "bayes_pfl_frames", "bayes_pfl_wide"
BITS, ASSUMED = "bayes_pfl_bits", "bayes_pfl_assumed"
"""Notes in `Image.info` that survive copying and turning: what the file states, and what was used or assumed."""

PIXELS_AT_ONCE = 2**20
"""Pixels that are converted in one step, about 10 ms: other requests of an endpoint are answered meanwhile."""

BACKGROUND = (255, 255, 255)
"""RGB of what lies behind transparent pixels: white, as on a page."""


def rgb(image: Image.Image, bits: int | None = None) -> Image.Image:
    """A decoded image of any mode in RGB.

    Args:
        image: upright pixels.
        bits: of a gray image with more than 8; None as the file says.

    Returns:
        Its pixels over `BACKGROUND`; the full range of gray with more than 8 bits, or floats, becomes 0..255.

    Raises:
        ImageError: the mode or its values have no RGB equivalent.
    """
    if image.mode.startswith("I"):
        return _gray_of_many_bits(image, bits)
    if image.mode.startswith("F"):
        return _gray_of_floats(image)
    is_wide = bool(image.info.pop(WIDE, False))
    if is_wide:
        _check_upper_byte(image, bits)
    has_alpha = image.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in image.info
    result = _over_background(image) if has_alpha else converted(image, "RGB")
    if is_wide:
        result.info[ASSUMED] = "upper 8 of the 16 bits of a colour"
    return result


def _check_upper_byte(image: Image.Image, bits: int | None) -> None:
    """Colours of 16 bits, of which Pillow reads the upper 8: ImageError if they are nearly black, or bits stated."""
    extrema = np.reshape(image.getextrema(), (-1, 2))
    colours = [int(high) for band, (_, high) in zip(image.getbands(), extrema, strict=True) if band != "A"]
    if bits is not None or max(colours) < 64:
        raise ImageError("has colours of 16 bits, of which only the upper 8 are read; save it with 8 bits")


def _gray_of_many_bits(image: Image.Image, bits: int | None) -> Image.Image:
    """Gray with more than 8 bits in RGB; `info` says how many were used and whether the file or the caller said so."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65_535:
        raise ImageError("integer pixels outside 0..65535; save it with 8 or 16 bits")
    stated = bits or int(image.info.get(STATED_BITS) or 0)
    is_stated = 8 < stated <= 16 and high < 1 << stated
    if bits is not None and not is_stated:
        raise ImageError(f"has values up to {high}, which are no {bits} bits; leave the number of bits out")
    used = stated if is_stated else next(depth for depth in DEPTHS if high < 1 << depth)
    levels = np.arange(1 << used)
    table = np.round(levels * (255 / (len(levels) - 1)) if used < 16 else levels / 257).astype(np.uint8)
    gray = np.empty(values.shape, np.uint8)
    for top, bottom in _rows(image):
        gray[top:bottom] = table[values[top:bottom]]
    result = Image.fromarray(255 - gray if image.info.get(WHITE_IS_ZERO) else gray).convert("RGB")
    result.info[BITS] = (used, is_stated)
    return result


def _gray_of_floats(image: Image.Image) -> Image.Image:
    """Floating-point gray in RGB: of 0..1, or of 0..255 where a value is above 1; other ranges are not guessed at."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 255):  # written so that NaN is refused too
        raise ImageError("floating-point pixels outside [0, 1] and [0, 255]; save it with 8 or 16 bits")
    full = 1 if high <= 1 else 255
    gray = np.round(values * (255 / full)).astype(np.uint8)
    result = Image.fromarray(255 - gray if image.info.get(WHITE_IS_ZERO) else gray).convert("RGB")
    if full == 255:
        result.info[ASSUMED] = "floating-point values taken as 0 to 255, as the largest value shows"
    return result


def _over_background(image: Image.Image) -> Image.Image:
    """An image with transparency over `BACKGROUND`; alpha that is 0 everywhere was never meant and does not count."""
    result = Image.new("RGB", image.size)
    least, most = 255, 0
    for top, band in _bands(image, "RGBA"):
        low, high = np.asarray(band.getchannel("A").getextrema())
        least, most = min(least, low), max(most, high)
        if low < 255:
            band = Image.alpha_composite(Image.new("RGBA", band.size, (*BACKGROUND, 255)), band)
        result.paste(band.convert("RGB"), (0, top))
    if most == 0:
        for top, band in _bands(image, "RGBA"):
            result.paste(band.convert("RGB"), (0, top))
        result.info[ASSUMED] = "alpha not used, as it is 0 everywhere"
    elif least < 255:
        result.info[ASSUMED] = "transparent pixels over white"
    return result


def _rows(image: Image.Image) -> Iterator[tuple[int, int]]:
    """First row and end of bands of `PIXELS_AT_ONCE`."""
    step = max(1, PIXELS_AT_ONCE // image.width)
    return ((top, min(image.height, top + step)) for top in range(0, image.height, step))


def _bands(image: Image.Image, mode: str) -> Iterator[tuple[int, Image.Image]]:
    """Rows of an image in another mode with the first one's number, some at a time: Pillow holds Python's lock.

    Raises ImageError if Pillow cannot convert it.
    """
    for top, bottom in _rows(image):
        part = image.crop((0, top, image.width, bottom))
        try:
            yield top, part.convert(mode)
        except ValueError as error:
            raise ImageError(f"has the mode {image.mode}; save it as RGB or gray") from error


def converted(image: Image.Image, mode: str) -> Image.Image:
    """An image in another mode, transparency dropped.

    Args:
        image: of any mode.
        mode: Pillow's name of the wanted one.

    Returns:
        The image.

    Raises:
        ImageError: Pillow cannot convert it.
    """
    image.info.pop("transparency", None)  # dropped anyway; Pillow warns of a palette's
    try:
        return image.convert(mode)
    except ValueError as error:
        raise ImageError(f"has the mode {image.mode}; save it as RGB or gray") from error


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Gray of 16 bits, or floats in [0, 1], to 8 bits; other ranges are not guessed at.

    Args:
        values: gray of any shape.

    Returns:
        uint8 of the same shape.

    Raises:
        ImageError: a value is out of range.
    """
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.floating):
        if not (low >= 0 and high <= 1):
            raise ImageError("floating-point pixels outside [0, 1]; save it with 8 or 16 bits")
        return np.round(values * 255).astype(np.uint8)
    if low < 0 or high > 65_535:
        raise ImageError("integer pixels outside 0..65535; save it with 8 or 16 bits")
    return np.round(values / 257).astype(np.uint8)
