"""Seed and image -> standard-normal noise behind R Monte Carlo samples (sections 3.2 and 3.3).

Noise is keyed by content, so that order, batch, worker and replica change nothing. Sample r of a stream does not depend
on how many follow it: the noise of R samples is the beginning of any longer stream.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Noise(NamedTuple):
    """Standard-normal noise of R samples; the states' is shared by all images, unless they depend on the image."""

    context: Float[Tensor, "batch samples dim"]
    normal: Float[Tensor, "*batch samples dim"]
    abnormal: Float[Tensor, "*batch samples dim"]


def keyed_noise(seed: int, image_keys: list[bytes], num_samples: int, dim: int, states_by_image: bool = False) -> Noise:
    """Noise keyed by seed and image (context), and by the seed alone (states, which are image-agnostic).

    Args:
        seed: seed of all streams.
        image_keys: one key for each image, such as the SHA-256 of its pixels.
        num_samples: R.
        dim: width of a text token.
        states_by_image: key the states by the image too (`model.variant.states_from_image`).

    Returns:
        The noise of all images.
    """
    context, *states = (
        torch.from_numpy(np.stack([_stream(seed, name + key, num_samples, dim) for key in image_keys]))
        for name in (b"context", *((b"normal", b"abnormal") if states_by_image else ()))
    )
    if not states:
        states = [torch.from_numpy(_stream(seed, name, num_samples, dim)) for name in (b"normal", b"abnormal")]
    return Noise(context, *states)


def ordered_noise(seed: int, position: int, num_samples: int, dim: int) -> Noise:
    """Noise of one image of a call, drawn as the released code does: from one generator, image by image.

    Every image draws R times the context, R times the normal and R times the abnormal state, 1 x C each; all images use
    the states of the first. So the noise depends on the image's position and on R, not on its pixels.

    Args:
        seed: seed of the generator.
        position: the image's position in its call, from 0.
        num_samples: R.
        dim: width C of a text token.

    Returns:
        The noise, batch 1.
    """
    generator = torch.Generator().manual_seed(seed)

    def _next_stream() -> Tensor:
        return torch.cat([torch.randn(1, dim, generator=generator) for _ in range(num_samples)])

    images = [(_next_stream(), _next_stream(), _next_stream()) for _ in range(position + 1)]
    return Noise(images[position][0].unsqueeze(0), *images[0][1:])


def _stream(seed: int, name: bytes, num_samples: int, dim: int) -> np.ndarray:
    digest = hashlib.sha256(str(seed).encode() + b"/" + name).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    return generator.standard_normal((num_samples, dim), dtype=np.float32)
