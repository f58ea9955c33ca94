"""The images that cost their reader most: many parts in few bytes, and the largest of every kind that is allowed."""

import functools
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from hostile import chunk
from PIL import Image

from serve.settings import Limits

LIMITS = Limits()
ROOM = LIMITS.max_body_bytes - 10_000
MOST_ENTRIES = 65_535


def small(kind: str) -> bytes:
    """A good file of 64 x 64 pixels."""
    sink = io.BytesIO()
    Image.new("RGB", (64, 64)).save(sink, kind)
    return sink.getvalue()


def png_of(part: bytes) -> bytes:
    """A PNG with a part again and again, up to the largest body."""
    good = small("PNG")
    return good[:33] + part * (ROOM // len(part)) + good[33:]


def jpeg_of(part: bytes) -> bytes:
    """A JPEG with a part again and again, up to the largest body."""
    good = small("JPEG")
    return good[:2] + part * (ROOM // len(part)) + good[2:]


def directory(*entries: tuple[int, int, int, int]) -> bytes:
    """A TIFF of one directory: tag, type, number of values and where they lie."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


def tiff_of(*entries: tuple[int, int, int, int]) -> bytes:
    """A TIFF of this directory in the largest body."""
    return directory(*entries).ljust(ROOM, b"\0")


def tiff_of_pages() -> bytes:
    """A good TIFF, and behind its page as many empty ones as there is room for."""
    good = small("TIFF")
    (first,) = struct.unpack_from("<I", good, 4)
    (entries,) = struct.unpack_from("<H", good, first)
    link = first + 2 + 12 * entries
    head, behind = good[:link], good[link + 4 :]
    start = len(good)
    pages = b"".join(struct.pack("<HI", 0, start + 6 * number) for number in range(1, (ROOM - start) // 6))
    return head + struct.pack("<I", start) + behind + pages + bytes(6)


def webp_with_exif(exif: bytes) -> bytes:
    """A WebP with a block of EXIF."""
    extended = b"VP8X" + struct.pack("<I", 10) + bytes([8, 0, 0, 0, 63, 0, 0, 63, 0, 0])
    inner = b"WEBP" + extended + small("WEBP")[12:] + b"EXIF" + struct.pack("<I", len(exif)) + exif
    return b"RIFF" + struct.pack("<I", len(inner)) + inner


def bmp_of_runs(run: bytes) -> bytes:
    """A run-length BMP whose runs fill the largest body."""
    head = struct.pack("<IiiHHIIiiII", 40, 16_000, 2_000, 1, 8, 1, ROOM, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", ROOM, 0, 0, 54 + 1024) + head + bytes(1024) + run * (ROOM // len(run) - 600)


def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    """A DICOM element, explicit and little endian."""
    is_long = kind in (b"OB", b"OW", b"SQ", b"UN")
    size = b"\0\0" + struct.pack("<I", len(value)) if is_long else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + kind + size + value


def dicom_of(content: bytes, side: int = 64, syntax: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    """A DICOM file with more content before its pixels."""
    meta = element(2, 0x10, b"UI", syntax)
    numbers = {0x02: 1, 0x10: side, 0x11: side, 0x100: 16, 0x101: 16, 0x102: 15, 0x103: 0}
    image = b"".join(element(0x28, number, b"US", struct.pack("<H", value)) for number, value in numbers.items())
    image += element(0x28, 4, b"CS", b"MONOCHROME2 ")
    pixels = b"" if content.startswith(b"\xe0\x7f") else element(0x7FE0, 0x10, b"OW", bytes(2 * side * side))
    return bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta + image + content + pixels


ITEM, ENDLESS = b"\xfe\xff\x00\xe0", b"\xff\xff\xff\xff"
SEQUENCE = struct.pack("<HH", 0x5200, 0x9230) + b"SQ\0\0"
EMPTY_ITEMS = (ITEM + bytes(4)) * (ROOM // 8)
EMPTY_ELEMENTS = element(0x5300, 0x10, b"CS", b"") * (ROOM // 8 - 100)

MANY_PARTS: dict[str, Callable[[], bytes]] = {
    "png of chunks": lambda: png_of(chunk(b"abCd", b"")),
    "png of notes": lambda: png_of(chunk(b"tEXt", b"a\0b")),
    "png of international notes": lambda: png_of(chunk(b"iTXt", b"a\0\0\0\0\0b")),
    "png of notes too long": lambda: png_of(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3 * 2**20)))),
    "png of pixels in crumbs": lambda: png_of(chunk(b"IDAT", b"")),
    "png of exif": lambda: png_of(chunk(b"eXIf", directory(*((i, 4, 9000, 8) for i in range(3000))))),
    "png of a long exif": lambda: png_of(chunk(b"eXIf", bytes(ROOM - 100))),
    "jpeg of segments": lambda: jpeg_of(b"\xff\xe5\0\2"),
    "jpeg of comments": lambda: jpeg_of(b"\xff\xfe\0\2"),
    "jpeg of profiles": lambda: jpeg_of(b"\xff\xe2\0\x10ICC_PROFILE\0\1\1"),
    "jpeg of filling": lambda: jpeg_of(b"\xff"),
    "jpeg of tables": lambda: jpeg_of(b"\xff\xdb\0\x43\0" + bytes(64)),
    "jpeg of frames": lambda: jpeg_of(b"\xff\xc0\0\x0b\x08\0\x40\0\x40\1\1\x11\0"),
    "jpeg of exif": lambda: jpeg_of(b"\xff\xe1\xff\xffExif\0\0" + directory((0x11A, 5, 4_000_000, 8)).ljust(65_527)),
    "tiff of tags": lambda: tiff_of(*((i, 7, ROOM - 10, 8) for i in range(256, MOST_ENTRIES))),
    "tiff of an array": lambda: tiff_of(*((256 + i, 3, ROOM // 2 - 9000, 8) for i in range(300))),
    "tiff of fractions": lambda: tiff_of((256, 4, 1, 64), (257, 4, 1, 64), (282, 5, ROOM // 8 - 9, 8)),
    "tiff of pages": lambda: tiff_of_pages(),
    "webp of exif": lambda: webp_with_exif(directory(*((i, 4, 4_000_000, 8) for i in range(9000))).ljust(ROOM - 9999)),
    "bmp of runs": lambda: bmp_of_runs(b"\1\0"),
    "bmp of ends": lambda: bmp_of_runs(b"\0\2\1\0"),
    "dicom of elements": lambda: dicom_of(element(0x29, 0x10, b"CS", b"") * (ROOM // 8)),
    "dicom of one element": lambda: dicom_of(element(0x28, 0x1050, b"DS", b"") * (ROOM // 8)),
    "dicom of items": lambda: dicom_of(SEQUENCE + struct.pack("<I", len(EMPTY_ITEMS)) + EMPTY_ITEMS),
    "dicom of items without an end": lambda: dicom_of(SEQUENCE + ENDLESS + EMPTY_ITEMS),
    "dicom of one item": lambda: dicom_of(
        SEQUENCE + struct.pack("<I", 8 + len(EMPTY_ELEMENTS)) + ITEM + struct.pack("<I", len(EMPTY_ELEMENTS))
        + EMPTY_ELEMENTS
    ),
    "dicom of one item without an end": lambda: dicom_of(SEQUENCE + ENDLESS + ITEM + ENDLESS + EMPTY_ELEMENTS),
    "dicom in dicom": lambda: dicom_of((SEQUENCE + ENDLESS + ITEM + ENDLESS) * (ROOM // 20)),
    "dicom of fragments": lambda: dicom_of(
        element(0x7FE0, 0x10, b"OB", b"")[:8] + ENDLESS + EMPTY_ITEMS, 64, b"1.2.840.10008.1.2.5\0"
    ),
}  # fmt: skip
"""Small pictures, or none, in the largest body."""


@functools.lru_cache(maxsize=1)
def large(mode: str, kind: str, pixels: int = LIMITS.max_pixels, **options: object) -> bytes:
    """A smooth picture of almost as many pixels as are allowed."""
    side = int(pixels**0.5) - 1
    colours = np.random.default_rng(0).integers(0, 256, (70, 70, 4), np.uint8)
    picture = (
        Image.fromarray(colours)
        .resize((side, side), Image.Resampling.BILINEAR)
        .convert("RGB" if mode == "P" else "RGBA")
    )
    if mode == "P":
        picture = picture.quantize(32, method=Image.Quantize.FASTOCTREE)
    elif mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    elif mode == "F":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.float32) / 255)
    else:
        picture = picture.convert(mode)
    sink = io.BytesIO()
    picture.save(sink, kind, **options)
    return sink.getvalue()


MANY_PIXELS: dict[str, Callable[[], bytes]] = {
    "png of colours": lambda: large("RGB", "PNG", 25_000_000, compress_level=1),
    "png with alpha": lambda: large("RGBA", "PNG", 20_000_000, compress_level=1),
    "png of gray with alpha": lambda: large("LA", "PNG", compress_level=1),
    "png of a palette with alpha": lambda: large("P", "PNG", compress_level=1, transparency=3),
    "png of two values": lambda: large("1", "PNG", compress_level=1),
    "png of 16 bits": lambda: large("I;16", "PNG", compress_level=1),
    "tiff of floats": lambda: large("F", "TIFF", 8_000_000),
    "jpeg": lambda: large("RGB", "JPEG"),
    "jpeg of inks": lambda: large("CMYK", "JPEG"),
    "webp": lambda: large("RGB", "WEBP", LIMITS.max_webp_pixels, quality=20, method=0),
    "dicom": lambda: dicom_of(b"", 4_000),
}
"""Good pictures."""
