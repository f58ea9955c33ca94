"""Pixels -> frozen features, on a device and in a precision."""

from collections.abc import Callable

import torch
from jaxtyping import UInt8
from torch import Tensor

from bayes_pfl.clip.backbone import Features
from bayes_pfl.clip.placement import bfloat16_products, on_device, tf32_products
from bayes_pfl.config import Precision
from bayes_pfl.data.pixels import normalized


class ImageEncoder:
    """A frozen image encoder as it is run: pixels travel as bytes and are normalised on the device.

    Args:
        encode_image: normalised images -> features, with weights on `device`, in bfloat16 where `precision` says so.
        device: where to compute.
        precision: of the matrix products.
        compiled: hand the encoder to `torch.compile`.
    """

    def __init__(
        self, encode_image: Callable[[Tensor], Features], device: torch.device, precision: Precision, compiled: bool
    ) -> None:
        self.device, self.precision = device, precision
        self.last: Tensor | None = None
        """Global features of the last batch: whoever watches images needs no second pass."""
        self._encode_image = torch.compile(encode_image, dynamic=False) if compiled else encode_image

    @torch.inference_mode()
    def __call__(self, pixels: UInt8[Tensor, "batch 3 height width"]) -> Features:
        """Features of a batch.

        Args:
            pixels: see `pixels.square_pixels`, in the CPU's memory.

        Returns:
            Features in float32, on the device.
        """
        reduced = bfloat16_products(self.device, self.precision == "bfloat16")
        with reduced, tf32_products(self.precision == "tf32"):
            features = self._encode_image(normalized(on_device(pixels, self.device)))
        features = Features(*(part.to(self.device, torch.float32) for part in features))
        self.last = features.image
        return features
