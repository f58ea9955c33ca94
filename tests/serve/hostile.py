"""Bodies that somebody sends to break an endpoint, made here byte by byte; with the statuses that refuse them."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from local_endpoint import encoded, picture
from PIL import Image, TiffImagePlugin

REFUSED = (413, 415)
MARKS = {
    "7z": b"7z\xbc\xaf\x27\x1c",
    "bzip2": b"BZh91AY&SY",
    "xz": b"\xfd7zXZ\0",
    "zstandard": b"\x28\xb5\x2f\xfd",
    "tar": b"name".ljust(257, b"\0") + b"ustar\0",
    "rar": b"Rar!\x1a\x07\x01\0",
    "sqlite": b"SQLite format 3\0",
    "hdf5": b"\x89HDF\r\n\x1a\n",
    "matlab": b"MATLAB 5.0 MAT-file",
    "parquet": b"PAR1",
    "arrow": b"ARROW1\0\0",
    "safetensors": b"\x08\0\0\0\0\0\0\0{}",
    "java class": b"\xca\xfe\xba\xbe",
    "windows program": b"MZ\x90\0",
    "script": b"#!/bin/sh\nreboot\n",
    "openexr": b"\x76\x2f\x31\x01",
    "radiance": b"#?RADIANCE\n",
    "dicom": bytes(128) + b"DICM",
    "nifti": b"\x5c\x01\0\0",
    "pcx": b"\x0a\x05\x01\x08",
    "dds": b"DDS |\0\0\0",
    "mp4": b"\0\0\0\x18ftypmp42",
    "matroska": b"\x1a\x45\xdf\xa3",
    "ogg": b"OggS\0\x02",
    "wasm": b"\0asm\x01\0\0\0",
    "xml with an entity": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "windows metafile": b"\xd7\xcd\xc6\x9a",
    "icns": b"icns\0\0\x01\0",
}
"""First bytes of formats that are no image of this interface."""


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, pixels: bytes, depth: int = 8, color: int = 2, interlace: int = 0, extra: bytes = b""
) -> bytes:
    """A PNG whose header may say anything."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, offset: int = 54) -> bytes:
    """A BMP header with 100 bytes of pixels."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 100, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 154, 0, 0, offset) + head + bytes(100)


def tiff(width: int, height: int, compression: int = 1, strips: int = 1, offset: int = 8) -> bytes:
    """A TIFF of one directory that points wherever it is told."""
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, compression),
        (262, 3, 1, 1),
        (273, 4, strips, offset),
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def bodies() -> Iterator[tuple[str, bytes]]:
    """Name and body, all to be refused as too large or as no image."""
    yield from not_images()
    yield from cut_short()
    yield from bombs()
    yield from lying_headers()


def not_images() -> Iterator[tuple[str, bytes]]:
    """Other files, other formats, and noise."""
    random = np.random.default_rng(0)
    yield "empty", b""
    yield "one zero", b"\0"
    yield "zeros", bytes(5000)
    yield "text", b"hello"
    yield "json", b'{"image": "http://localhost/secret.png"}'
    yield "url", b"http://169.254.169.254/latest/meta-data"
    yield "path", b"../../../../etc/passwd"
    yield "html", b"<html><script>alert(1)</script></html>"
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield (
        "pickle",
        b"\x80\x04\x95\x1e\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
    )
    yield (
        "npy of objects",
        b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(128) + b"\x80\x04.",
    )
    yield "zip", b"PK\x03\x04" + bytes(100)
    yield "gzip", b"\x1f\x8b\x08" + bytes(100)
    yield "elf", b"\x7fELF\x02\x01\x01" + bytes(100)
    yield "pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"
    yield "postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\nshowpage\n"
    yield (
        "gif",
        b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;",
    )
    yield "ico", b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0\x68\x04\0\0\x16\0\0\0" + bytes(200)
    yield "psd", b"8BPS\0\x01" + bytes(200)
    yield "ppm", b"P6 2 2 255 " + bytes(12)
    yield "ppm of many pixels", b"P6 100000 100000 255\n"
    yield "tga", b"\0\0\x02" + bytes(9) + b"\x10\0\x10\0\x18\0" + bytes(768)
    yield "avif", b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B" + bytes(100)
    yield "jpeg 2000", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100)
    yield "fits", b"SIMPLE  =                    T".ljust(2880)
    for name, magic in MARKS.items():
        yield name, magic + bytes(100)
    for index in range(4):
        yield f"noise {index}", random.integers(0, 256, 2000, dtype=np.uint8).tobytes()
    for name, magic in {
        "png": b"\x89PNG\r\n\x1a\n",
        "jpeg": b"\xff\xd8\xff\xe0",
        "webp": b"RIFF\xff\0\0\0WEBPVP8 ",
        "tiff": b"II*\0",
    }.items():
        yield f"{name} mark before noise", magic + random.integers(0, 256, 500, dtype=np.uint8).tobytes()
        yield f"{name} mark alone", magic


def cut_short() -> Iterator[tuple[str, bytes]]:
    """Good files of every format, ended early or with holes."""
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP"):
        good = encoded(picture(), kind)
        for share in (0.02, 0.5):
            yield f"{kind} cut at {share}", good[: int(len(good) * share)]
    good = encoded(picture())
    broken = bytearray(good)
    broken[60:200] = bytes(140)
    yield "png with a hole", bytes(broken)
    yield "png twice its head", good[:33] + good[8:33] + good[33:60]


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that say they are large, or are."""
    yield "png of 900 megapixels", png(30_000, 30_000, bytes(1000))
    yield "png of 4 gigapixels a side", png(2**31 - 1, 2**31 - 1, bytes(10))
    yield "png one pixel high", png(2_000_000, 1, bytes(10))
    yield "png one pixel wide", png(1, 2_000_000, bytes(10))
    yield "png of black megapixels", encoded(np.zeros((1500, 1500, 3), np.uint8))
    yield "webp of black megapixels", encoded(np.zeros((1500, 1500, 3), np.uint8), "WEBP")
    yield "jpeg of black megapixels", encoded(np.zeros((1900, 1900, 3), np.uint8), "JPEG")
    yield "bmp of 4 gigapixels", bmp(65_000, 65_000)
    yield "tiff of 4 gigapixels", tiff(65_000, 65_000)
    yield "body too long", bytes(400_001)
    yield "png with a long tail", encoded(picture()) + bytes(400_000)


def text_bomb() -> bytes:
    """A small picture with a note of 80 MB in 78 KB."""
    return png(10, 10, bytes(310), extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000))))


def lying_headers() -> Iterator[tuple[str, bytes]]:
    """Files whose fields contradict themselves."""
    yield "png of no width", png(0, 10, bytes(10))
    yield "png of an odd depth", png(10, 10, bytes(310), depth=7)
    yield "png of an unknown colour", png(10, 10, bytes(310), color=5)
    yield "png with too few pixels", png(100, 100, bytes(50))
    yield (
        "png without pixels",
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0)) + chunk(b"IEND", b""),
    )
    yield "png chunk longer than the file", b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffIHDR" + bytes(20)
    yield "bmp of negative width", bmp(-10, 10)
    yield "bmp of an unknown compression", bmp(5, 5, compression=77)
    yield "bmp that starts beyond its end", bmp(50, 50, offset=2**31)
    yield "tiff with strips beyond its end", tiff(10, 10, offset=2**31)
    yield "tiff with a million strips", tiff(10, 10, strips=1_000_000, offset=4)
    yield "tiff of an unknown compression", tiff(10, 10, compression=60_000)
    yield "tiff that points at itself", b"II*\0\x08\0\0\0\x00\x00\x08\0\0\0" + bytes(8)
    yield "tiff of floats beyond 1", float_tiff()
    jpeg = bytearray(encoded(picture(), "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = b"\xff\xff\xff\xff"
    yield "jpeg of 65535 a side", bytes(jpeg)
    webp = bytearray(encoded(picture(), "WEBP"))
    webp[4:8] = b"\xff\xff\xff\x7f"
    yield "webp that says it is longer", bytes(webp[:200])


def float_tiff() -> bytes:
    """Gray values that are no brightness."""
    sink = io.BytesIO()
    Image.fromarray(np.full((9, 9), 1e30, np.float32)).save(
        sink, "TIFF", tiffinfo=TiffImagePlugin.ImageFileDirectory_v2()
    )
    return sink.getvalue()


def polyglots() -> Iterator[tuple[str, bytes]]:
    """Good images with something behind or inside: only the picture is read, and nothing of the rest comes back."""
    secret = b"<script>SECRET-MARK</script>"
    yield "png and html", encoded(picture()) + secret
    yield "jpeg and zip", encoded(picture(), "JPEG") + b"PK\x03\x04" + secret
    yield "png with a comment", png(10, 10, bytes(310), extra=chunk(b"tEXt", b"Comment\0" + secret))
    exif = Image.Exif()
    exif[0x010E] = "SECRET-MARK"
    sink = io.BytesIO()
    Image.fromarray(picture()).save(sink, "JPEG", exif=exif)
    yield "jpeg with a description", sink.getvalue()
