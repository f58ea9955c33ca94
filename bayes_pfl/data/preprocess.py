"""Bytes to pixels: the only place that decodes, and that resizes masks; `pixels.py` makes tensors of images.

Everything that leaves here is RGB and upright, whatever the file was: gray, palette, with alpha, 16-bit, CMYK, turned
by an EXIF note, a PNG that calls itself .jpg, or DICOM (`dicom.py`). torch is imported where a tensor is made:
ingestion decodes in many processes and needs none of its 200 MB.
"""

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from bayes_pfl.data.colours import ASSUMED, BITS, FRAMES, STATED_BITS, WHITE_IS_ZERO, WIDE, converted, eight_bits, rgb
from bayes_pfl.data.dicom import count_frames, decode_dicom, is_dicom
from bayes_pfl.data.parts import BoundedReader, check_parts, count_directories, parts
from bayes_pfl.errors import ImageError

if TYPE_CHECKING:
    import torch

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""The only decoders of Pillow that are ever tried; the rest stay out of reach of unknown bytes."""

MAX_PIXELS = 8192 * 8192
"""Larger images are refused from their header, before a pixel is decoded."""

MAX_SIDE_PX = 32_768


class Decoded(NamedTuple):
    """An image, and what a person may want to know of how its file was read."""

    image: Image.Image
    """Upright RGB."""
    pages: int
    """Pages or frames of the file, of which the first was taken."""
    bits: int | None
    """How many bits of a gray image with more than 8 were used; None for other images."""
    bits_stated: bool
    """Whether the file or the caller said so, or it was taken from the largest value."""
    remarks: tuple[str, ...] = ()
    """What was assumed or left out, each in a few words: "first of 3 pages"."""


def decode(
    data: bytes, max_pixels: int = MAX_PIXELS, max_side_px: int = MAX_SIDE_PX, bits: int | None = None
) -> Decoded:
    """Encoded bytes to an upright RGB image, with what was assumed.

    Args:
        data: the file's bytes.
        max_pixels: larger images are refused.
        max_side_px: longer ones are refused.
        bits: of a gray image with more than 8; None as the file says.

    Returns:
        The image and how it was read.

    Raises:
        ImageError: as `decode_image`.
    """
    stored = _decode(data, max_pixels, max_side_px)
    profile = stored.info.get("icc_profile")
    image = rgb(stored, bits)
    pages = stored.info.get(FRAMES) or count_pages(data)
    used, stated = image.info.get(BITS, (None, False))
    remarks = [f"first of {pages} pages"] if pages > 1 else []
    if used is not None and used < 16 and not stated:
        remarks.append(f"{used} of 16 bits used, as the largest value shows")
    remarks += [image.info[ASSUMED]] if ASSUMED in image.info else []
    if profile and b"sRGB" not in profile.replace(b"\0", b""):
        remarks.append("colour profile (ICC) not applied")
    return Decoded(image, pages, used, stated, tuple(remarks))


def decode_image(
    data: bytes, max_pixels: int = MAX_PIXELS, max_side_px: int = MAX_SIDE_PX, bits: int | None = None
) -> Image.Image:
    """Encoded bytes to an upright RGB image.

    Transparent pixels are shown over white; gray of more than 8 bits is scaled so that its full range becomes 0..255;
    of several frames the first is taken.

    Args:
        data: the file's bytes.
        max_pixels: larger images are refused.
        max_side_px: longer ones are refused.
        bits: of a gray image with more than 8; None as the file says.

    Returns:
        The image at its own size.

    Raises:
        ImageError: the bytes are no image of an allowed format, are cut short, or are too large.
    """
    return rgb(_decode(data, max_pixels, max_side_px), bits)


def count_pages(data: bytes) -> int:
    """Pages or frames of an encoded image.

    Args:
        data: the file's bytes.

    Returns:
        Their number; 1 for what is no image.

    Raises:
        ImageError: there are too many.
    """
    if is_dicom(data):
        return count_frames(data)
    if data.startswith((b"II", b"MM")):
        return count_directories(data)  # Pillow would read what every page says of itself
    try:
        with _opened(data) as opened:
            return int(getattr(opened, "n_frames", 1))
    except Exception:  # Pillow's plugins answer malformed bytes with a dozen exception types
        return 1


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
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"broken or cut short: {error}") from error
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode.startswith(("I", "F")) and tags:
        image.info[WHITE_IS_ZERO] = tags.get(262) == 0  # Pillow turns only 8 bits and fewer around
        image.info.setdefault(STATED_BITS, _stated_by_tiff(tags))
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image  # an unreadable EXIF block says nothing about the orientation


def decode_mask(
    data: bytes, above: int = 0, max_pixels: int = MAX_PIXELS, max_side_px: int = MAX_SIDE_PX
) -> np.ndarray:
    """Encoded bytes to a uint8 array (height, width) of 0 and 1: 1 where the gray value > ``above``.

    Colours are read by their luminance. A 16-bit mask whose values all fit in 8 bits holds class
    numbers and is compared as it is; a brighter one is scaled by 1/257 first.

    Args:
        data: the file's bytes.
        above: gray value, 0..255.
        max_pixels: larger masks are refused.
        max_side_px: longer ones are refused.

    Returns:
        The mask at its own size.

    Raises:
        ImageError: as `decode_image`.
    """
    image = _decode(data, max_pixels, max_side_px)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        values = values if values.max() <= 255 else eight_bits(values)
    else:
        values = np.asarray(converted(image, "L"))
    return (values > above).astype(np.uint8)


def encode_mask(mask: np.ndarray) -> bytes:
    """A mask to a gray PNG of 0 and 255.

    Args:
        mask: (height, width), anomalous above 0.

    Returns:
        The file's bytes.
    """
    return encode_png(Image.fromarray(np.where(mask > 0, np.uint8(255), np.uint8(0))))


def encode_png(image: Image.Image) -> bytes:
    """An image to PNG bytes, the same bytes for the same pixels.

    Args:
        image: of any mode that PNG holds.

    Returns:
        The file's bytes.
    """
    sink = io.BytesIO()
    image.save(sink, format="PNG")
    return sink.getvalue()


def shrink(image: Image.Image, mask: np.ndarray | None, max_side_px: int) -> tuple[Image.Image, np.ndarray | None]:
    """Scale an image, and its mask with it, so that the longer side is at most ``max_side_px``.

    Args:
        image: RGB.
        mask: of the same size, if there is one.
        max_side_px: the limit, pixels.

    Returns:
        Both, unchanged where they are small enough.
    """
    longer = max(image.size)
    if longer <= max_side_px:
        return image, mask
    width, height = (max(1, round(side * max_side_px / longer)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image, None if mask is None else _resize_mask(mask, width, height)


def mask_tensor(mask: np.ndarray, size: int) -> "torch.Tensor":
    """A 0/1 array (height, width) to a float32 tensor (size, size) of 0 and 1.

    Resized bilinearly (antialiased), then 1 where at least half of a pixel is defective.

    Args:
        mask: of 0 and 1.
        size: side of the square, pixels.

    Returns:
        The tensor.
    """
    import torch

    return torch.from_numpy(_resize_mask(mask, size, size)).to(torch.float32)


def truth_at(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask at the size of a model's maps, for metrics: as `mask_tensor`, and NaN where a defect has vanished.

    A region of the mask (8 neighbours) of which no pixel is left is neither found nor missed by a map of that size: the
    pixels where it lies count as neither anomalous nor normal.

    Args:
        mask: (height, width) of 0 and 1.
        size: of the map's side, pixels.

    Returns:
        float32 (size, size) of 0, 1 and NaN.

    >>> mask = np.zeros((8, 8), np.uint8)
    >>> mask[0, 0] = mask[4:, 4:] = 1
    >>> truth_at(mask, 2)
    array([[nan,  0.],
           [ 0.,  1.]], dtype=float32)
    """
    from scipy import ndimage

    truth = _resize_mask(mask, size, size).astype(np.float32)
    rows, columns = np.nonzero(mask)
    if len(rows):
        region = ndimage.label(mask, structure=np.ones((3, 3)))[0][rows, columns]
        rows, columns = rows * size // mask.shape[0], columns * size // mask.shape[1]
        lost = (np.bincount(region, weights=truth[rows, columns]) == 0)[region]
        truth[rows[lost], columns[lost]] = np.nan
    return truth


def vanishes(mask: np.ndarray, width: int, height: int) -> bool:
    """Whether a mask has anomalous pixels and none is left when it is resized as `mask_tensor` does.

    Args:
        mask: (height, width) of 0 and 1.
        width: wanted, pixels.
        height: wanted, pixels.

    Returns:
        True for a mask that is too thin or too small for that size.

    >>> mask = np.zeros((2000, 2000), np.uint8)
    >>> mask[:3, :3] = 1
    >>> vanishes(mask, 112, 112), vanishes(mask, 2000, 2000)
    (True, False)
    """
    return bool(mask.any()) and not _resize_mask(mask, width, height).any()


def _resize_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    gray = Image.fromarray(np.where(mask > 0, np.uint8(255), np.uint8(0)))
    return (np.asarray(gray.resize((width, height), Image.Resampling.BILINEAR)) > 127).astype(np.uint8)


def _decode(data: bytes, max_pixels: int, max_side_px: int) -> Image.Image:
    """All pixels of the first frame, upright, in the file's own mode."""
    if not data:
        raise ImageError("the file is empty")
    if is_dicom(data):
        first = decode_dicom(data, max_pixels, max_side_px)
        first.image.info[STATED_BITS] = first.stated_bits
        first.image.info[WHITE_IS_ZERO] = first.white_is_zero
        first.image.info[FRAMES] = first.frames
        return first.image
    check_parts(data)
    try:
        image = _opened(data)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))  # where Pillow stops by itself
        raise ImageError(f"larger than {limit} pixels") from error
    except Exception as error:
        # Pillow's plugins answer malformed bytes with a dozen exception types; all mean the same.
        raise ImageError(f"not a readable image ({', '.join(FORMATS)})") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} is larger than {max_pixels} pixels (max_pixels)")
    if max(width, height) > max_side_px:
        raise ImageError(f"{width} x {height} has a side longer than {max_side_px} px")
    if image.format == "PNG" and image.mode.startswith("I"):
        image.info[STATED_BITS] = next((data[start] for kind, start, end in parts(data) if kind == b"sBIT"), 0)
    if image.mode in ("RGB", "RGBA", "LA") and _bits_of_a_colour(image, data) == 16:
        image.info[WIDE] = True
    return upright(image)


def _bits_of_a_colour(image: Image.Image, data: bytes) -> int:
    """Bits of a sample by the header of a PNG or TIFF; 8 for others."""
    if image.format == "PNG":
        return data[24]
    bits = getattr(image, "tag_v2", {}).get(258, 8)
    return int(bits[0] if isinstance(bits, tuple) else bits)


def _opened(data: bytes) -> Image.Image:
    """An image whose header was read; notes in a PNG that are too long for Pillow are left out."""
    try:
        return Image.open(BoundedReader(data), formats=FORMATS)
    except ValueError:
        texts = [(start - 8, end + 4) for kind, start, end in parts(data) if kind in (b"tEXt", b"zTXt", b"iTXt")]
        if not texts:
            raise
    begin, rest = 0, []
    for start, end in texts:
        rest.append(data[begin:start])
        begin = end
    return Image.open(BoundedReader(b"".join([*rest, data[begin:]])), formats=FORMATS)


def _stated_by_tiff(tags: Any) -> int:
    """Bits of a sample that a TIFF states: packed ones, or its largest value; 0 where it states none."""
    try:
        packed = int(tags.get(258, (16,))[0])
        largest = tags.get(281)
        largest = int(largest[0] if isinstance(largest, tuple) else largest or 0)
    except (TypeError, ValueError, IndexError):
        return 0
    return packed if packed < 16 else largest.bit_length()
