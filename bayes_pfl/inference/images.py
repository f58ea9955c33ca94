"""Path, bytes, PIL image or array -> RGB pixels; normalised pixels -> the key of an image's noise."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from bayes_pfl.data.colours import rgb
from bayes_pfl.data.pixels import normalized, square_pixels
from bayes_pfl.data.preprocess import decode_image, upright
from bayes_pfl.errors import ImageError


class PreparedImage(NamedTuple):
    """An image as the model takes it: what a process without a model makes of it, in front of those that have one."""

    pixels: UInt8[Tensor, "3 size size"]
    """See `pixels.square_pixels`; in the CPU's memory."""
    noise_key: bytes
    """See `noise_key`."""


Photo = str | Path | bytes | Image.Image | np.ndarray
"""A file's path, its bytes, a PIL image, or a (height, width, 3) uint8 array."""

ImageLike = Photo | PreparedImage
"""A `Photo`, or an image prepared for the model."""

GIVE = (
    "give a path, the file's bytes, a PIL image, or a (height, width, 3) uint8 array: "
    "for values in [0, 1], np.uint8(np.round(255 * x)), channels last."
)


def rgb_image(image: ImageLike) -> Image.Image:
    """The pixels of an image.

    Args:
        image: what the caller has.

    Returns:
        An upright RGB image at its own size.

    Raises:
        ImageError: the file cannot be read, the bytes do not decode, or it is something else.
    """
    if isinstance(image, str | Path):
        try:
            return decode_image(Path(image).read_bytes())
        except OSError as error:
            raise ImageError(f"cannot read {image}: {error.strerror or error}") from error
        except ImageError as error:
            raise ImageError(f"{image}: {error}") from error
    if isinstance(image, bytes):
        return decode_image(image)
    if isinstance(image, Image.Image):
        return rgb(upright(image))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and _is_image_shape(image.shape):
        return rgb(Image.fromarray(image))
    raise ImageError(f"{_described(image)} is no image; {GIVE}")


def file_sha256(image: ImageLike) -> str:
    """What tells an image's file from others, as batch scoring does.

    Args:
        image: what the caller has.

    Returns:
        SHA-256 of a file's bytes; empty for pixels, whose file is not known.
    """
    if isinstance(image, str | Path):
        image = Path(image).read_bytes()
    return hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else ""


def prepare_image(image: Image.Image, size: int) -> PreparedImage:
    """Resize an image for a model, and hash it.

    Args:
        image: RGB.
        size: side of the model's square input, pixels.

    Returns:
        Its pixels, and what its noise is keyed by.
    """
    pixels = square_pixels(image, size)
    return PreparedImage(pixels, noise_key(normalized(pixels)))


def prepared_image(image: ImageLike, size: int) -> PreparedImage:
    """An image as a model takes it.

    Args:
        image: what the caller has, prepared or not.
        size: side of the model's square input, pixels.

    Returns:
        Its pixels, and what its noise is keyed by.

    Raises:
        ImageError: it cannot be read, or is prepared for a model of another size.
    """
    if not isinstance(image, PreparedImage):
        return prepare_image(rgb_image(image), size)
    if image.pixels.shape != (3, size, size):
        raise ImageError(f"it is prepared for {image.pixels.shape[-1]} px, and this model takes {size} px")
    return image


def noise_key(image: Float[Tensor, "3 height width"]) -> bytes:
    """What an image's noise is keyed by: the SHA-256 of its normalised pixels at the model's size.

    Args:
        image: the normalised image, in the CPU's memory.

    Returns:
        32 bytes.
    """
    return hashlib.sha256(image.numpy().tobytes()).digest()


def _is_image_shape(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape is gray, RGB or RGBA."""
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4)))


def _described(value: object) -> str:
    """A value in few words: type, and for arrays and tensors element type and shape."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"a {type(value).__name__} of {value.dtype} with shape {tuple(value.shape)}"
    return f"{type(value).__name__}"
