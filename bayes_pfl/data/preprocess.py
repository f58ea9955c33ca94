"""Bytes to pixels to tensors: the only place that decodes, resizes and normalises.

Everything that leaves here is RGB and upright, whatever the file was: gray, palette, with alpha,
16-bit, CMYK, turned by an EXIF note, or a PNG that calls itself .jpg. torch is imported where a
tensor is made: ingestion decodes in many processes and needs none of its 200 MB.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from bayes_pfl.errors import ImageError

if TYPE_CHECKING:
    import torch

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""The only decoders that are ever tried; the rest of Pillow's stay out of reach of unknown bytes."""

MAX_PIXELS = 8192 * 8192
"""Larger pictures are refused from their header, before a pixel is decoded."""

MAX_SIDE_PX = 32_768

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI CLIP's channel statistics for values in [0, 1]."""


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS, max_side_px: int = MAX_SIDE_PX) -> Image.Image:
    """Encoded bytes to an upright RGB picture.

    Alpha is dropped, not blended, as the published evaluation reads its images; 16-bit gray is
    scaled by 1/257; of several frames the first is taken.

    Raises:
        ImageError: the bytes are no image of an allowed format, are cut short, or are too large.
    """
    return rgb(_decode(data, max_pixels, max_side_px))


def upright(image: Image.Image) -> Image.Image:
    """All pixels of an opened image, turned as its EXIF note says.

    Args:
        image: as opened; its pixels may not have been read yet.

    Returns:
        The upright image.

    Raises:
        ImageError: the file is broken or cut short.
    """
    try:
        image.load()
    except Exception as error:
        raise ImageError(f"broken or cut short: {error}") from error
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image  # an unreadable EXIF block says nothing about the orientation


def rgb(image: Image.Image) -> Image.Image:
    """A decoded image of any mode in RGB.

    Args:
        image: upright pixels.

    Returns:
        Its pixels without alpha; 16-bit gray is scaled by 1/257.

    Raises:
        ImageError: the mode or its values have no RGB equivalent.
    """
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.mode == "RGBa":  # premultiplied: Pillow only converts it by way of RGBA
        image = image.convert("RGBA")
    return _converted(image, "RGB")


def decode_mask(
    data: bytes, above: int = 0, max_pixels: int = MAX_PIXELS, max_side_px: int = MAX_SIDE_PX
) -> np.ndarray:
    """Encoded bytes to a uint8 array (height, width) of 0 and 1: 1 where the gray value > ``above``.

    Colours are read by their luminance. A 16-bit mask whose values all fit in 8 bits holds class
    numbers and is compared as it is; a brighter one is scaled by 1/257 first.

    Raises:
        ImageError: as `decode_image`.
    """
    image = _decode(data, max_pixels, max_side_px)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        values = values if values.max() <= 255 else _eight_bits(values)
    else:
        values = np.asarray(_converted(image, "L"))
    return (values > above).astype(np.uint8)


def encode_mask(mask: np.ndarray) -> bytes:
    """A 0/1 array (height, width) to the bytes of a gray PNG of 0 and 255."""
    return encode_png(Image.fromarray(np.where(mask > 0, np.uint8(255), np.uint8(0))))


def encode_png(image: Image.Image) -> bytes:
    """A picture to PNG bytes, the same bytes for the same pixels."""
    sink = io.BytesIO()
    image.save(sink, format="PNG")
    return sink.getvalue()


def shrink(image: Image.Image, mask: np.ndarray | None, max_side_px: int) -> tuple[Image.Image, np.ndarray | None]:
    """Scale a picture, and its mask with it, so that the longer side is at most ``max_side_px``."""
    longer = max(image.size)
    if longer <= max_side_px:
        return image, mask
    width, height = (max(1, round(side * max_side_px / longer)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image, None if mask is None else _resize_mask(mask, width, height)


def image_tensor(
    image: Image.Image,
    size: int,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> "torch.Tensor":
    """An RGB picture to a normalised float32 tensor (3, size, size).

    The whole picture is squeezed into the square (bicubic, antialiased), never cropped: a defect at
    the border counts too, and the published code does the same.
    """
    import torch

    square = image.resize((size, size), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.array(square)).permute(2, 0, 1).to(torch.float32) / 255.0
    shape = (3, 1, 1)
    return (values - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def mask_tensor(mask: np.ndarray, size: int) -> "torch.Tensor":
    """A 0/1 array (height, width) to a float32 tensor (size, size) of 0 and 1.

    Resized bilinearly (antialiased), then 1 where at least half of a pixel is defective.
    """
    import torch

    return torch.from_numpy(_resize_mask(mask, size, size)).to(torch.float32)


def _resize_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    gray = Image.fromarray(np.where(mask > 0, np.uint8(255), np.uint8(0)))
    return (np.asarray(gray.resize((width, height), Image.Resampling.BILINEAR)) > 127).astype(np.uint8)


def _decode(data: bytes, max_pixels: int, max_side_px: int) -> Image.Image:
    """All pixels of the first frame, upright, in the file's own mode."""
    if not data:
        raise ImageError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))  # where Pillow stops by itself
        raise ImageError(f"larger than {limit} pixels") from error
    except Exception as error:
        # Pillow's plugins answer malformed bytes with a dozen exception types; all mean the same.
        raise ImageError(f"not a readable image ({', '.join(FORMATS)})") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} is larger than {max_pixels} pixels")
    if max(width, height) > max_side_px:
        raise ImageError(f"{width} x {height} has a side longer than {max_side_px} px")
    return upright(image)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    image.info.pop("transparency", None)  # dropped anyway; Pillow warns of a palette's
    try:
        return image.convert(mode)
    except ValueError as error:
        raise ImageError(f"has the mode {image.mode}; save it as RGB or gray") from error


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Gray of 16 bits, or floats in [0, 1], to 8 bits; other ranges are not guessed at."""
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.floating):
        if not (low >= 0 and high <= 1):
            raise ImageError("floating-point pixels outside [0, 1]; save it with 8 or 16 bits")
        return np.round(values * 255).astype(np.uint8)
    if low < 0 or high > 65_535:
        raise ImageError("integer pixels outside 0..65535; save it with 8 or 16 bits")
    return np.round(values / 257).astype(np.uint8)
