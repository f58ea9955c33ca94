"""RGB images -> the tensors that CLIP takes: resized bytes, and normalised floats."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI CLIP's channel statistics for values in [0, 1]."""


def square_pixels(image: Image.Image, size: int) -> Tensor:
    """An RGB image to a uint8 tensor (3, size, size): a quarter of the bytes of the normalised one.

    The whole image is squeezed into the square (bicubic, antialiased), never cropped: a defect at
    the border counts too, and the published code does the same.

    Args:
        image: RGB.
        size: side of the square, pixels.

    Returns:
        The tensor, in the CPU's memory.
    """
    return torch.from_numpy(np.array(image.resize((size, size), Image.Resampling.BICUBIC))).permute(2, 0, 1)


def normalized(pixels: Tensor) -> Tensor:
    """Pixels to what CLIP's encoder takes: (x / 255 - mean) / std of CLIP's channel statistics.

    Args:
        pixels: uint8 (..., 3, height, width), on any device.

    Returns:
        float32 of the same shape, on the same device.
    """
    mean, std = (torch.tensor(values).view(3, 1, 1).to(pixels.device) for values in (CLIP_MEAN, CLIP_STD))
    return (pixels.to(torch.float32) / 255.0 - mean) / std


def image_tensor(image: Image.Image, size: int) -> Tensor:
    """`normalized` of `square_pixels`.

    Args:
        image: RGB.
        size: side of the square, pixels.

    Returns:
        float32 (3, size, size).
    """
    return normalized(square_pixels(image, size))
