"""A request's bytes -> an image of the model's input size, with a limit at every step."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from bayes_pfl.data.preprocess import FORMATS, decode_image
from bayes_pfl.errors import ImageError
from serve.problems import Problem
from serve.settings import Limits


class Prepared(NamedTuple):
    """An image resized to the model's input size, and how large it was."""

    pixels: np.ndarray
    """(side, side, 3) uint8."""
    width: int
    height: int


class Decoder:
    """Decodes in threads, few at a time, and keeps nothing but small squares: memory stays bounded whatever comes.

    Args:
        limits: pixels, side and threads.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.threads = ThreadPoolExecutor(limits.decoders, "decode")

    async def prepare(self, data: bytes, side: int) -> Prepared:
        """Decode and resize an image in one of the threads.

        Args:
            data: an encoded file.
            side: of the model's input, pixels.

        Returns:
            The (side, side, 3) pixels and the size before.

        Raises:
            Problem: 413 for an image too large, 415 for anything unreadable.
        """
        return await asyncio.get_running_loop().run_in_executor(self.threads, prepare, data, side, self.limits)


def prepare(data: bytes, side: int, limits: Limits) -> Prepared:
    """As `Decoder.prepare`, in this thread.

    Resized exactly as the Detector resizes: that it does so once more, to the same size, changes nothing.

    Args:
        data: an encoded file.
        side: of the model's input, pixels.
        limits: pixels and side.

    Returns:
        The (side, side, 3) pixels and the size before.

    Raises:
        Problem: 413 for an image too large, 415 for anything unreadable.
    """
    try:
        image = decode_image(data, limits.max_pixels, limits.max_side_px)
    except ImageError as error:
        reason = str(error)
        for words, option in (("larger than", "max_pixels"), ("longer than", "max_side_px")):
            if words in reason:
                raise Problem(
                    413,
                    f"The image is refused: {reason}; send a smaller one, or raise limits.{option} of the endpoint.",
                ) from error
        raise Problem(415, f"The body is no usable image: {reason}. Send a {', '.join(FORMATS)} file.") from error
    except (MemoryError, ValueError, OverflowError) as error:
        raise Problem(415, f"The body is no usable image. Send a {', '.join(FORMATS)} file.") from error
    return Prepared(np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)), image.width, image.height)
