"""From a request's bytes to a picture of the model's input size, with a limit at every step."""

import asyncio

import numpy as np
from PIL import Image

from bayes_pfl.errors import ImageError
from bayes_pfl.preprocess import FORMATS, decode_image
from serve.problems import Problem
from serve.settings import Limits

CONTENT_TYPES = ("image/png", "image/jpeg", "image/bmp", "image/tiff", "image/webp", "application/octet-stream")


class Decoder:
    """Decodes in threads, few at a time: memory stays bounded whatever comes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.slots = asyncio.Semaphore(limits.decoders)

    async def decode(self, data: bytes) -> Image.Image:
        """Bytes to an upright RGB picture. Raises Problem 413 for a picture too large, 415 for anything unreadable."""
        async with self.slots:
            return await asyncio.to_thread(decode, data, self.limits)

    async def squeeze(self, picture: Image.Image, side: int) -> np.ndarray:
        """(side, side, 3) uint8, resized exactly as the Detector resizes."""
        async with self.slots:
            return await asyncio.to_thread(squeeze, picture, side)


def decode(data: bytes, limits: Limits) -> Image.Image:
    """As `Decoder.decode`, in this thread."""
    try:
        return decode_image(data, limits.max_pixels, limits.max_side_px)
    except ImageError as error:
        reason = str(error)
        if "larger than" in reason or "longer than" in reason:
            raise Problem(413, f"The image is {reason}; send a smaller one.") from error
        raise Problem(415, f"The body is no usable image: {reason}. Send a {', '.join(FORMATS)} file.") from error
    except (MemoryError, ValueError, OverflowError) as error:
        raise Problem(415, f"The body is no usable image. Send a {', '.join(FORMATS)} file.") from error


def squeeze(picture: Image.Image, side: int) -> np.ndarray:
    """As `Decoder.squeeze`, in this thread. Resizing again to the same size, as the Detector does, changes nothing."""
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))


def check_content_type(content_type: str, content_encoding: str) -> None:
    """Raise Problem 415 unless the headers announce a plain image body."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in CONTENT_TYPES:
        raise Problem(415, f"Send the image itself as the body, with a Content-Type of {', '.join(CONTENT_TYPES)}.")
    if content_encoding.lower() not in ("", "identity"):
        raise Problem(415, "Send the image without Content-Encoding; image files are compressed already.")
