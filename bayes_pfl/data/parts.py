"""What an image file may make its reader do before a pixel is decoded: bounds on its parts, counted without Pillow.

Pillow keeps a Python object for every segment, chunk and value of a directory. A file of 32 MB can hold eight million,
which cost a gigabyte and ten seconds; a camera's file holds some hundred.
"""

import io
import struct
from collections.abc import Iterator
from typing import NamedTuple

from bayes_pfl.errors import ImageError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

MOST_READS = 1_000_000
"""Reads of one file: a run-length BMP takes two a run, all other formats some thousand."""

MOST_PARTS = 50_000
"""Segments of a JPEG, chunks of a PNG or WebP."""

MOST_VALUES = 200_000
"""Values of one entry of a TIFF or EXIF directory; a palette of 16 bits has 196,608."""

MOST_EXIF_BYTES = 2**20

_TOO_MANY = "made of more parts than an image has; save it again as PNG"
_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of the numbers of a directory by their type; values of any other type are kept as bytes."""


class BoundedReader(io.BytesIO):
    """A file in memory that ends a reading of too many parts.

    Args:
        data: the file's bytes.
        most: reads.
    """

    def __init__(self, data: bytes, most: int = MOST_READS) -> None:
        super().__init__(data)
        self._left = most

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file.

        Args:
            size: bytes; None or a negative number for all that are left.

        Returns:
            The bytes.

        Raises:
            ImageError: there have been too many reads.
        """
        self._left -= 1
        if self._left < 0:
            raise ImageError(_TOO_MANY)
        return super().read(size)


class Part(NamedTuple):
    """A segment of a JPEG or a chunk of a PNG or WebP."""

    kind: bytes
    start: int
    """Of its content, as `end`."""
    end: int


def check_parts(data: bytes) -> None:
    """Refuse an image file that would cost its reader much more than its pixels.

    Args:
        data: the file's bytes.

    Raises:
        ImageError: it has too many parts, or a directory with too many values.
    """
    if data.startswith((b"II", b"MM")):
        _check_directory(data)
        return
    exif = []
    for number, part in enumerate(parts(data)):
        if number >= MOST_PARTS:
            raise ImageError(_TOO_MANY)
        marked = data.startswith(b"Exif\0\0", part.start)  # other APP1 segments of a JPEG are XMP or a camera's own
        if part.kind in (b"eXIf", b"EXIF") or (part.kind == b"\xe1" and marked):
            exif.append(data[part.start : part.end].removeprefix(b"Exif\0\0"))
    if sum(map(len, exif)) > MOST_EXIF_BYTES:
        raise ImageError(f"has an EXIF block of more than {MOST_EXIF_BYTES // 2**20} MB; save it again without")
    _check_directory(b"".join(exif))


def parts(data: bytes) -> Iterator[Part]:
    """The segments of a JPEG before its pixels, or the chunks of a PNG or WebP.

    Args:
        data: the file's bytes.

    Returns:
        Those that are whole, in order; none of another file.
    """
    if data.startswith(PNG_SIGNATURE):
        return _chunks(data, len(PNG_SIGNATURE), ">I4s", 4)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _chunks(data, 12, "<4sI", 0)
    return _segments(data)


def _chunks(data: bytes, position: int, layout: str, checksum: int) -> Iterator[Part]:
    while position + 8 <= len(data):
        first, second = struct.unpack_from(layout, data, position)
        kind, length = (second, first) if isinstance(first, int) else (first, second)
        start = position + 8
        if start + length > len(data):
            return
        yield Part(kind, start, start + length)
        position = start + length + (checksum or length % 2)


def _segments(data: bytes) -> Iterator[Part]:
    position = 2
    while data.startswith(b"\xff\xd8") and position + 4 <= len(data):
        if data[position] != 0xFF or data[position + 1] in (0x00, 0xFF):  # filling, which a reader skips
            position += 1
            yield Part(b"", position, position)
            continue
        kind = data[position + 1 : position + 2]
        if kind == b"\xda":
            return
        length = 0 if b"\xd0" <= kind <= b"\xd9" else int.from_bytes(data[position + 2 : position + 4], "big")
        yield Part(kind, position + 4, position + 2 + length)
        position += 2 + length


def count_directories(data: bytes) -> int:
    """Directories of a TIFF, a page each, without reading their entries.

    Args:
        data: the file's bytes.

    Returns:
        Their number; at least 1.

    Raises:
        ImageError: there are too many.
    """
    order, head, count, entry = _layout(data)
    starts: set[int] = set()
    try:
        (at,) = struct.unpack_from(order + head, data, 8 if head == "Q" else 4)
        while at and at not in starts:
            (entries,) = struct.unpack_from(order + count, data, at)
            starts.add(at)
            if len(starts) > MOST_PARTS:
                raise ImageError(_TOO_MANY)
            after = at + struct.calcsize(count) + entries * struct.calcsize("=" + entry)
            (at,) = struct.unpack_from(order + head, data, after)
    except (struct.error, OverflowError):
        pass  # the rest is cut short
    return max(1, len(starts))


def _layout(data: bytes) -> tuple[str, str, str, str]:
    """Byte order of a TIFF, and how it writes an offset, a number of entries and an entry."""
    order = "<" if data.startswith(b"II") else ">"
    return (order, "Q", "Q", "HHQQ") if data[2:4] in (b"+\0", b"\0+") else (order, "I", "H", "HHII")


def _check_directory(data: bytes) -> None:
    """Refuse a TIFF's or EXIF's first directory whose entries are longer together than the file, or of many values."""
    order, head, count, entry = _layout(data)
    try:
        (at,) = struct.unpack_from(order + head, data, 8 if head == "Q" else 4)
        (entries,) = struct.unpack_from(order + count, data, at)
        at += struct.calcsize(count)
        size = struct.calcsize("=" + entry)
        directory = data[at : at + entries * size]
    except (struct.error, OverflowError):
        return  # there is none, or it is cut short
    total = 0
    for _, kind, values, _ in struct.iter_unpack(order + entry, directory[: len(directory) // size * size]):
        if kind in _SIZES and values > MOST_VALUES:
            raise ImageError("has a directory entry of more values than an image has; save it again as PNG")
        total += values * _SIZES.get(kind, 1)
        if total > 2 * len(data) + MOST_EXIF_BYTES:
            raise ImageError("has directory entries that are longer together than the file; save it again as PNG")
