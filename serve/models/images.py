"""A request's bytes -> an image of the model's input size, with a limit at every step."""

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from bayes_pfl.data.preprocess import FORMATS, decode
from bayes_pfl.errors import ImageError
from bayes_pfl.inference.view import WHOLE, RegionOfInterest, View
from serve.problems import Problem
from serve.settings import Limits


class Prepared(NamedTuple):
    """An image as a replica gets it, and how large it was."""

    pixels: np.ndarray
    """(side, side, 3) uint8; (height, width, 3) for tiles or a region."""
    width: int
    height: int
    sha256: str
    """Of the encoded file, hexadecimal."""
    read_as: str | None
    """What was assumed of the file, or left out: "first of 3 pages"."""


class Decoder:
    """Decodes in threads, few at a time, and keeps small squares: memory stays bounded whatever comes.

    Images that keep their size, for tiles or a region, wait for one of as many places in `large`.

    Args:
        limits: pixels, side and threads.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.threads = ThreadPoolExecutor(limits.decoders, "decode")
        self.large = asyncio.Semaphore(limits.decoders)

    async def prepare(self, data: bytes, side: int, view: View = WHOLE, bits: int | None = None) -> Prepared:
        """Decode an image in one of the threads, and resize it unless the view needs its own size.

        Args:
            data: an encoded file.
            side: of the model's input, pixels.
            view: how it is looked at.
            bits: of gray with more than 8; None as the file or its values say.

        Returns:
            The pixels and the size before.

        Raises:
            Problem: 413 for an image too large, 415 for anything unreadable, 422 for too many tiles.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, prepare, data, side, self.limits, view, bits)

    async def region(self, data: bytes) -> RegionOfInterest:
        """Decode a region's mask in one of the threads.

        Args:
            data: an encoded file.

        Returns:
            The region.

        Raises:
            Problem: 413 for a mask too large, 422 for anything unreadable.
        """
        return await asyncio.get_running_loop().run_in_executor(self.threads, mask_region, data, self.limits)


def mask_region(data: bytes, limits: Limits) -> RegionOfInterest:
    """As `Decoder.region`, in this thread.

    Args:
        data: an encoded file.
        limits: pixels and side.

    Returns:
        The region.

    Raises:
        Problem: 413 for a mask too large, 422 for anything unreadable.
    """
    try:
        return RegionOfInterest.from_mask(data, limits.max_view_pixels, limits.max_side_px)
    except (ImageError, MemoryError, ValueError, OverflowError) as error:
        too_large = "larger than" in str(error) or "longer than" in str(error)
        raise Problem(413 if too_large else 422, f"roi_mask is refused: {error}.") from error


def prepare(data: bytes, side: int, limits: Limits, view: View = WHOLE, bits: int | None = None) -> Prepared:
    """As `Decoder.prepare`, in this thread.

    Resized exactly as the Detector resizes: that it does so once more, to the same size, changes nothing.

    Args:
        data: an encoded file.
        side: of the model's input, pixels.
        limits: pixels, side and tiles.
        view: how it is looked at.
        bits: of gray with more than 8; None as the file or its values say.

    Returns:
        The pixels and the size before.

    Raises:
        Problem: 413 for an image too large, 415 for anything unreadable, 422 for too many tiles.
    """
    whole = view == WHOLE
    bounds = {"max_pixels": limits.max_pixels}
    if not whole:
        bounds["max_view_pixels"] = limits.max_view_pixels
    if data[8:12] == b"WEBP":
        bounds["max_webp_pixels"] = limits.max_webp_pixels
    tightest = min(bounds, key=lambda name: bounds[name])
    try:
        decoded = decode(data, bounds[tightest], limits.max_side_px, bits)
    except ImageError as error:
        reason = str(error)
        for words, option in (("larger than", tightest), ("longer than", "max_side_px")):
            if words in reason:
                raise Problem(
                    413,
                    f"The image is refused: {reason}; send a smaller one, or raise limits.{option} of the endpoint.",
                ) from error
        raise Problem(415, f"The body is no usable image: {reason}. Send a {', '.join(FORMATS)} file.") from error
    except (MemoryError, ValueError, OverflowError) as error:
        raise Problem(415, f"The body is no usable image. Send a {', '.join(FORMATS)} file.") from error
    image = decoded.image
    facts = image.width, image.height, hashlib.sha256(data).hexdigest(), "; ".join(decoded.remarks) or None
    if not whole:
        tiles = view.tiles(image.width, image.height, side)
        if tiles > limits.max_tiles:
            raise Problem(
                422,
                f"The image would be looked at in {tiles:,} tiles of {side} px; send a smaller overlap or a smaller "
                f"roi, or raise limits.max_tiles of the endpoint ({limits.max_tiles}).",
            )
        return Prepared(np.asarray(image), *facts)
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    return Prepared(pixels, *facts)
