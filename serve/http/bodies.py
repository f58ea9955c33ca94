"""A request's headers and body -> the bytes of an image file: content types that are taken, forms of base64."""

import binascii

from fastapi import Request

from serve.problems import Problem

CONTENT_TYPES = (
    "image/png",
    "image/jpeg",
    "image/bmp",
    "image/tiff",
    "image/webp",
    "application/dicom",
    "application/octet-stream",
)
ALIASES = frozenset(
    (
        "",
        "application/binary",
        "application/x-binary",
        "binary/octet-stream",
        "image/*",
        "image/jfif",
        "image/jpg",
        "image/pjpeg",
        "image/tif",
        "image/x-bmp",
        "image/x-ms-bmp",
        "image/x-png",
        "image/x-tiff",
        "image/x-webp",
    )
)
"""Other names that programs send. The file's own bytes decide its format, whatever it is called."""
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
JSON_TYPES = ("", "application/json", "application/octet-stream", "text/json")

DECODED_AT_ONCE = 2**20
"""Characters of base64: each step holds Python's lock for about 2 ms, so other requests are answered meanwhile."""
ALPHABET = bytes.maketrans(b"-_", b"+/")
PADDING = " \t\r\n="


async def image_body(request: Request) -> bytes:
    """The body of a request that sends an image file as it is.

    Args:
        request: behind the gate, which bounds and decompresses its body.

    Returns:
        The file's bytes.

    Raises:
        Problem: 415 for a content type that is no image; 408, 413 or 503 from the gate.
    """
    kind = content_type(request)
    if kind in FORMS:
        raise Problem(
            415,
            "Forms are not read; send the file itself as the body: curl --data-binary @part.png "
            "-H 'Content-Type: image/png' (not -F, and not without a Content-Type).",
        )
    if kind not in CONTENT_TYPES and kind not in ALIASES:
        raise Problem(415, f"Send the image itself as the body, with a Content-Type of {', '.join(CONTENT_TYPES)}.")
    return await read_body(request)


async def json_body(request: Request) -> bytes:
    """The body of a request that sends JSON.

    Args:
        request: behind the gate, which bounds and decompresses its body.

    Returns:
        The JSON's bytes.

    Raises:
        Problem: 415 for another content type; 408, 413 or 503 from the gate.
    """
    kind = content_type(request)
    if kind not in JSON_TYPES and not kind.endswith("+json"):
        raise Problem(415, "Send JSON as the body, with -H 'Content-Type: application/json'; forms are not read.")
    return await read_body(request)


def content_type(request: Request) -> str:
    """The media type of a request's body.

    Args:
        request: any.

    Returns:
        In small letters and without parameters; empty if there is none.
    """
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request) -> bytes:
    """The whole body. Unlike `Request.body` nothing keeps it once the caller has dropped it.

    Args:
        request: behind the gate, which bounds its body.

    Returns:
        Its bytes.
    """
    return b"".join([chunk async for chunk in request.stream()])


def from_base64(text: str) -> bytes:
    """Decode base64 as programs write it: with line breaks, URL-safe, without padding, or as a data URI.

    Args:
        text: ASCII of any length; decoded in steps.

    Returns:
        The bytes.

    Raises:
        ValueError: it is no base64; the message says what is wrong.
    """
    start = 0
    if text[:5].lower() == "data:":
        start = text.find(",", 0, 200) + 1
        if not text[:start].lower().endswith(";base64,"):
            raise ValueError("a data URI must be data:image/png;base64,... ")
    tail = text[max(start, len(text) - 64) :]
    end = len(text) - (len(tail) - len(tail.rstrip(PADDING)))
    decoded, rest = [], b""
    try:
        for at in range(start, end, DECODED_AT_ONCE):
            piece = rest + text[at : min(end, at + DECODED_AT_ONCE)].encode("ascii").translate(ALPHABET, b"\r\n")
            whole = len(piece) // 4 * 4
            rest = piece[whole:]
            if b"=" in piece:
                raise ValueError
            decoded.append(binascii.a2b_base64(piece[:whole], strict_mode=True))
        if rest:
            decoded.append(binascii.a2b_base64(rest + b"=" * (4 - len(rest)), strict_mode=True))
    except ValueError as error:  # binascii.Error and UnicodeEncodeError are such too
        raise ValueError("not base64; encode the file's bytes with the standard alphabet") from error
    return b"".join(decoded)
