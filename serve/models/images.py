"""From a request's bytes to a picture of the model's input size, with a limit at every step."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from bayes_pfl.data.preprocess import FORMATS, decode_image
from bayes_pfl.errors import ImageError
from serve.problems import Problem
from serve.settings import Limits

CONTENT_TYPES = ("image/png", "image/jpeg", "image/bmp", "image/tiff", "image/webp", "application/octet-stream")


class Prepared(NamedTuple):
    """A picture squeezed into the model's input size, and how large it was."""

    pixels: np.ndarray
    """(side, side, 3) uint8."""
    width: int
    height: int


class Decoder:
    """Decodes in threads, few at a time, and keeps nothing but small squares: memory stays bounded whatever comes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.threads = ThreadPoolExecutor(limits.decoders, "decode")

    async def prepare(self, data: bytes, side: int) -> Prepared:
        """Bytes to a square of `side` pixels. Raises Problem 413 for a picture too large, 415 for anything unreadable."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, prepare, data, side, self.limits)


def prepare(data: bytes, side: int, limits: Limits) -> Prepared:
    """As `Decoder.prepare`, in this thread.

    Resized exactly as the Detector resizes: that it does so once more, to the same size, changes nothing.
    """
    try:
        picture = decode_image(data, limits.max_pixels, limits.max_side_px)
    except ImageError as error:
        reason = str(error)
        if "larger than" in reason or "longer than" in reason:
            raise Problem(413, f"The image is {reason}; send a smaller one.") from error
        raise Problem(415, f"The body is no usable image: {reason}. Send a {', '.join(FORMATS)} file.") from error
    except (MemoryError, ValueError, OverflowError) as error:
        raise Problem(415, f"The body is no usable image. Send a {', '.join(FORMATS)} file.") from error
    return Prepared(np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)), picture.width, picture.height)


def check_content_type(content_type: str, content_encoding: str) -> None:
    """Raise Problem 415 unless the headers announce a plain image body."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in CONTENT_TYPES:
        raise Problem(415, f"Send the image itself as the body, with a Content-Type of {', '.join(CONTENT_TYPES)}.")
    if content_encoding.lower() not in ("", "identity"):
        raise Problem(415, "Send the image without Content-Encoding; image files are compressed already.")
