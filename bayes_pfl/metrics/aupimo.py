"""Pixels counted by image -> AUPIMO: how much of each defect is seen where normal images show almost nothing.

AUPIMO (Bertoldo, Ameln, Vaidya, Akçay, 2024, arXiv 2401.01984) of an anomalous image is the area under its recall of
anomalous pixels over the logarithm of the false-positive rate, from 1e-5 to 1e-4. The rate at a threshold is that of
normal images: the share of their pixels at or above it, averaged over the images. A dataset's figure is the mean over
its anomalous images.
"""

import math

import numpy as np
from jaxtyping import Float

from bayes_pfl.metrics.streaming import BINS, REGION_UNIT, ImagePixels

LOWEST_RATE, HIGHEST_RATE = 1e-5, 1e-4
"""Bounds of the area (section 3.2 of the paper)."""


class NormalImages:
    """Sum of the distributions of pixels of normal images, each image of weight 1, in integers: 8 MB."""

    def __init__(self) -> None:
        self.weight = np.zeros(BINS, np.int64)
        self.images = 0
        self.pixels = 0

    def add(self, image: ImagePixels) -> None:
        """Add one normal image; of one without a pixel nothing is added.

        Args:
            image: its pixels.
        """
        size = int(image.normal.sum(dtype=np.int64))
        if size:
            unit = round(REGION_UNIT / size)
            self.weight[image.normal_bins] += image.normal.astype(np.int64) * unit
            self.images += 1
            self.pixels += size

    def rates(self) -> Float[np.ndarray, " bins"]:
        """The false-positive rate at the lower edge of every bin.

        Returns:
            Rates in [0, 1], falling.
        """
        above = np.cumsum(self.weight[::-1])[::-1]
        return above / max(int(above[0]), 1)

    def reason(self) -> str | None:
        """Why AUPIMO is undefined with these normal images.

        Returns:
            A clause, or None where it is defined.
        """
        if not self.images:
            return "there is no normal image"
        if self.pixels * LOWEST_RATE < 1 - 1e-9:
            needed = math.ceil(1 / LOWEST_RATE - 1e-6)
            return f"normal images have {self.pixels:,} pixels, and a rate of 1e-5 needs {needed:,}"
        return None


def share_of_area(rates: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """What a pixel adds to the area, if the threshold that finds it has this false-positive rate.

    A pixel is found at every rate from its own on: log(1e-4 / rate) / log(1e-4 / 1e-5), within [0, 1].

    Args:
        rates: false-positive rates.

    Returns:
        Shares of the whole area.
    """
    clipped = np.clip(rates, LOWEST_RATE, HIGHEST_RATE)
    return np.log(HIGHEST_RATE / clipped) / math.log(HIGHEST_RATE / LOWEST_RATE)


def image_aupimo(image: ImagePixels, rates: Float[np.ndarray, " bins"]) -> float:
    """Area under one image's curve: the mean of `share_of_area` over its anomalous pixels.

    Equal to the area of its recall as a step function: at each rate the recall is that of the lowest threshold that
    has no higher rate. A tie of anomalous and normal pixels counts against the model.

    Args:
        image: its pixels.
        rates: of `NormalImages.rates`.

    Returns:
        A figure in [0, 1]; NaN for an image without anomalous pixels.
    """
    if not image.anomalous.size:
        return math.nan
    counts = image.anomalous.astype(np.float64)
    return float((counts * share_of_area(rates[image.anomalous_bins])).sum() / counts.sum())
