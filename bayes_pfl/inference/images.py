"""What people give as an image -> RGB pixels; pixels -> the key of an image's noise."""

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bayes_pfl.data.preprocess import decode_image
from bayes_pfl.errors import ConfigError

ImageLike = bytes | Image.Image | np.ndarray
"""Encoded bytes, a PIL image, or a (height, width, 3) uint8 array."""


def rgb_image(image: ImageLike) -> Image.Image:
    """The pixels of an image.

    Args:
        image: what the caller has.

    Returns:
        An RGB image at its own size.

    Raises:
        ConfigError: it is a path.
        ImageError: the bytes do not decode.
    """
    if isinstance(image, bytes):
        return decode_image(image)
    if isinstance(image, str | Path):
        raise ConfigError(f"{image} is a path; give the file's bytes: Path(...).read_bytes().")
    if isinstance(image, np.ndarray):
        return Image.fromarray(image).convert("RGB")
    return image.convert("RGB")


def noise_key(image: Float[Tensor, "3 height width"]) -> bytes:
    """What an image's noise is keyed by: the SHA-256 of its normalised pixels at the model's size.

    Args:
        image: the normalised image, in the CPU's memory.

    Returns:
        32 bytes.
    """
    return hashlib.sha256(image.numpy().tobytes()).digest()
