"""Standard-normal draws keyed by seed and content: order, batch, worker and replica change nothing.

Sample r of a stream does not depend on how many follow it, so R draws are the beginning of any longer stream.
"""

import hashlib

import numpy as np
import torch

from bayes_pfl.methods.prompt_flow.distributions import Draws

Key = bytes
"""What a stream is keyed by beside the seed: the SHA-256 of an image's pixels."""


def keyed_draws(seed: int, images: list[Key], num_samples: int, dim: int) -> Draws:
    """R draws of every image's context, and of the states, which depend on the seed alone (image-agnostic, section 3.3)."""
    context = np.stack([_stream(seed, b"context" + image, num_samples, dim) for image in images])
    normal = _stream(seed, b"normal", num_samples, dim)
    abnormal = _stream(seed, b"abnormal", num_samples, dim)
    return Draws(torch.from_numpy(context), torch.from_numpy(normal), torch.from_numpy(abnormal))


def ordered_draws(seed: int, images: int, num_samples: int, dim: int) -> list[Draws]:
    """Draws of `images` in turn from one generator: R of the context, R of the normal, R of the abnormal state, 1 x C each.

    As in the released code every image draws its states, and every image uses those of the first.
    """
    generator = torch.Generator().manual_seed(seed)

    def stream() -> torch.Tensor:
        return torch.cat([torch.randn(1, dim, generator=generator) for _ in range(num_samples)])

    drawn = [(stream(), stream(), stream()) for _ in range(images)]
    return [Draws(context.unsqueeze(0), drawn[0][1], drawn[0][2]) for context, _, _ in drawn]


def _stream(seed: int, name: bytes, num_samples: int, dim: int) -> np.ndarray:
    digest = hashlib.sha256(str(seed).encode() + b"/" + name).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    return generator.standard_normal((num_samples, dim), dtype=np.float32)
