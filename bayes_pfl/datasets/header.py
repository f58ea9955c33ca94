"""An encoded image -> what its header says, and its pixels as the file has them."""

import io
from typing import NamedTuple

from PIL import Image, ImageOps

from bayes_pfl.data.preprocess import FORMATS
from bayes_pfl.errors import ImageError

_ORIENTATION = 0x0112

FEW = 16
"""Gray values of a mask with classes."""


class ImageHeader(NamedTuple):
    """What the beginning of a file says."""

    orientation: int = 1
    """Of EXIF: 1 upright or unknown, else 2 to 8."""
    one_channel: bool = False
    """Gray, palette or two-valued, as masks are."""


def read_header(data: bytes) -> ImageHeader:
    """What the header of an encoded image says.

    Args:
        data: the file's bytes.

    Returns:
        Its properties; the defaults for what is no image.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow's plugins answer malformed bytes with a dozen exception types
        return ImageHeader()
    return ImageHeader(orientation if orientation in range(1, 9) else 1, image.mode in ("1", "L", "P", "I;16"))


def has_few_values(data: bytes) -> bool:
    """Whether an encoded image holds only a few gray values, as a mask does and a photograph does not.

    Args:
        data: the file's bytes.

    Returns:
        False for what is no image.
    """
    try:
        colours = Image.open(io.BytesIO(data), formats=FORMATS).getcolors(FEW)
    except Exception:  # as above
        return False
    return colours is not None


def open_image(data: bytes, max_pixels: int, max_side_px: int) -> Image.Image:
    """An encoded image in the file's own mode, upright.

    Args:
        data: the file's bytes.
        max_pixels: larger images are refused.
        max_side_px: longer ones are refused.

    Returns:
        The decoded image.

    Raises:
        ImageError: the bytes are no image of an allowed format, are cut short, or are too large.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # as above
        raise ImageError(f"not a readable image ({', '.join(FORMATS)})") from error
    width, height = image.size
    if width * height > max_pixels or max(width, height) > max_side_px:
        raise ImageError(f"{width} x {height} is larger than {max_pixels} pixels or {max_side_px} px a side")
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:
        raise ImageError(f"broken or cut short: {error}") from error
