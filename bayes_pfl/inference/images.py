"""Path, bytes, PIL image or array -> RGB pixels; normalised pixels -> the key of an image's noise."""

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bayes_pfl.data.colours import rgb
from bayes_pfl.data.preprocess import decode_image, upright
from bayes_pfl.errors import ImageError

ImageLike = str | Path | bytes | Image.Image | np.ndarray
"""A file's path, its bytes, a PIL image, or a (height, width, 3) uint8 array."""

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


def is_one_image(images: object) -> bool:
    """Whether a single image stands where a list of images is expected.

    Args:
        images: what the caller has.

    Returns:
        True for one image.
    """
    if hasattr(images, "ndim"):  # an array or a tensor
        return bool(images.ndim <= 3)
    return isinstance(images, str | Path | bytes | Image.Image)


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
