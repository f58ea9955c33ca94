"""A record's mask files or annotated regions -> one mask of 0 and 1 that lies on the upright image."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from bayes_pfl.data.preprocess import decode_mask
from bayes_pfl.datasets.header import read_header
from bayes_pfl.datasets.marked import marked_pixels
from bayes_pfl.datasets.record import Record, Shape
from bayes_pfl.datasets.source import read_file
from bayes_pfl.errors import ImageError

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""


class RecordMask(NamedTuple):
    """The mask of one record."""

    mask: np.ndarray
    """uint8 (height, width) of 0 and 1, upright."""
    turned: str
    """"" where the image is not turned by EXIF or the mask is turned too; else "by its size" or "unsure"."""


def record_mask(
    source: Path,
    record: Record,
    data: bytes,
    size: tuple[int, int],
    above: int | None,
    as_stored: bool | None,
    max_pixels: int,
) -> RecordMask | None:
    """The union of a record's masks, or its annotated regions.

    Args:
        source: folder of the files.
        record: the image.
        data: its encoded bytes.
        size: width and height of the decoded, upright image, pixels.
        above: a pixel is anomalous above this gray value; None for any that is not black.
        as_stored: whether masks were drawn on the pixels as they are stored, before EXIF turns them; None tells it by
            the mask's size where that says it, and takes them as drawn on the upright image where not.
        max_pixels: larger masks are refused.

    Returns:
        The mask; None for a record without one.

    Raises:
        ImageError: a mask cannot be used; the message is the reason.
    """
    if record.shapes is not None:
        orientation = read_header(data).orientation
        drawn = [_on_upright(shape, size, orientation, as_stored) for shape in record.shapes]
        empty = np.zeros(size[::-1], np.uint8)
        return RecordMask(np.maximum.reduce([empty, *(mask for mask, _ in drawn)]), _worst(turn for _, turn in drawn))
    if not record.masks:
        return None
    orientation = read_header(data).orientation
    parts = []
    for path in record.masks:
        try:
            encoded = read_file(source, path)
            mask = decode_any_mask(encoded, above, max_pixels)
        except ImageError as error:
            raise ImageError(f"its mask {path}: {error}") from error
        turns = orientation if read_header(encoded).orientation == 1 else 1
        part = _turned(mask, size, turns, as_stored)
        if part.mask.shape != size[::-1]:
            width, height = mask.shape[::-1]
            raise ImageError(f"its mask is {width} x {height}, the image {size[0]} x {size[1]}")
        parts.append(part)
    return RecordMask(np.maximum.reduce([part.mask for part in parts]), _worst(part.turned for part in parts))


def decode_any_mask(data: bytes, above: int | None, max_pixels: int) -> np.ndarray:
    """A mask's bytes to 0 and 1, where any value but black is anomalous unless the data set says otherwise.

    Args:
        data: encoded.
        above: gray value; None for any that is not black, as `marked_pixels` has it.
        max_pixels: larger masks are refused.

    Returns:
        uint8 (height, width).

    Raises:
        ImageError: as `decode_mask`.
    """
    return marked_pixels(data, max_pixels) if above is None else decode_mask(data, above, max_pixels)


def drawn_mask(shape: Shape, width: int, height: int) -> np.ndarray:
    """One annotated region as pixels.

    Args:
        shape: the region.
        width: of the image it was drawn on, pixels.
        height: of the image it was drawn on, pixels.

    Returns:
        uint8 (height, width) of 0 and 1.

    Raises:
        ImageError: the region has too few points, or runs of another size.
    """
    if shape.form == "runs":
        rows, columns, *runs = (int(value) for value in shape.values)
        if (columns, rows) != (width, height) or sum(runs) != rows * columns:
            raise ImageError(f"is annotated with runs for {columns} x {rows}, the image is {width} x {height}")
        values = np.arange(len(runs)) % 2
        return np.repeat(values, runs).astype(np.uint8).reshape(columns, rows).T
    scale = (width, height) if shape.relative else (1, 1)
    points = np.array(shape.values[: len(shape.values) // 2 * 2], np.float64).reshape(-1, 2) * scale
    if len(points) < (3 if shape.form == "polygon" else 2):
        raise ImageError(f"is annotated with a {shape.form} of {len(points)} points")
    if shape.form == "polygon":
        return _filled_polygon(points, width, height)
    (left, top), (right, bottom) = points[:2].min(0), points[:2].max(0)
    y, x = np.ogrid[0.5:height, 0.5:width]  # centres of pixels
    if shape.form == "box":
        return ((x > left) & (x < right) & (y > top) & (y < bottom)).astype(np.uint8)
    radii = max((right - left) / 2, 1e-9), max((bottom - top) / 2, 1e-9)
    return (((x - (left + right) / 2) / radii[0]) ** 2 + ((y - (top + bottom) / 2) / radii[1]) ** 2 < 1).astype(
        np.uint8
    )


def _filled_polygon(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pixels whose centres lie inside a polygon: an edge to the left of a centre turns inside and outside about."""
    crossings = np.zeros((height, width + 1), np.int32)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        first, last = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in sorted((y0, y1)))
        rows = np.arange(first, last)
        if len(rows):
            columns = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            np.add.at(crossings, (rows, np.clip(np.ceil(columns - 0.5), 0, width).astype(int)), 1)
    return (crossings.cumsum(axis=1)[:, :width] % 2).astype(np.uint8)


def _on_upright(
    shape: Shape, size: tuple[int, int], orientation: int, as_stored: bool | None
) -> tuple[np.ndarray, str]:
    stored = size[::-1] if orientation >= 5 else size
    annotated = shape.size or (stored if as_stored else size)
    if annotated not in (size, stored):
        raise ImageError(f"is annotated as {annotated[0]} x {annotated[1]}, the image is {size[0]} x {size[1]}")
    return _turned(drawn_mask(shape, *annotated), size, orientation, as_stored)


def _turned(mask: np.ndarray, size: tuple[int, int], orientation: int, as_stored: bool | None) -> RecordMask:
    """A mask made upright with its image, where it was drawn on the stored pixels."""
    if orientation == 1:
        return RecordMask(mask, "")
    upright = Image.fromarray(mask).transpose(_TURNS[orientation])
    if as_stored is not None:
        return RecordMask(np.asarray(upright) if as_stored else mask, "")
    if mask.shape == size[::-1] and upright.size != size:
        return RecordMask(mask, "by its size")
    if mask.shape != size[::-1] and upright.size == size:
        return RecordMask(np.asarray(upright), "by its size")
    return RecordMask(mask, "unsure")


def _worst(turns: Iterable[str]) -> str:
    remarks = set(turns)
    return next((remark for remark in ("unsure", "by its size") if remark in remarks), "")
