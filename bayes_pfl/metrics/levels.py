"""Pixels counted in a million bins -> counts of each image at a few hundred levels, from which resampling is cheap."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from bayes_pfl.metrics.streaming import BINS, REGION_UNIT, ImagePixels, PixelHistogram

LEVELS = 384
"""At most; an image takes 12 bytes of each, 4.6 KB in all."""

_RECALLS = np.linspace(0, 1, 193)
_RATES = np.concatenate([np.geomspace(1e-7, 1e-2, 81), np.linspace(0.01, 0.3, 60), np.linspace(0.3, 1, 24)])


class LevelCounts(NamedTuple):
    """Pixels of images between levels of the score, levels in rising order.

    normal, anomalous: numbers of pixels.
    overlap: sum over a level's anomalous pixels of 1 / (area of its region), so that a row's sum is its regions.
    """

    normal: Shaped[np.ndarray, "images levels"]
    anomalous: Shaped[np.ndarray, "images levels"]
    overlap: Float[np.ndarray, "images levels"]

    def rows(self, chosen: Sequence[int] | np.ndarray) -> "LevelCounts":
        """Counts of some of the images.

        Args:
            chosen: their positions.

        Returns:
            Those rows.
        """
        return LevelCounts(self.normal[chosen], self.anomalous[chosen], self.overlap[chosen])


def choose_levels(histogram: PixelHistogram) -> Int[np.ndarray, " levels"]:
    """Lower edges of levels that follow the curves of a histogram.

    Edges lie at equal steps of recall, and at false-positive rates from 1e-7 to 1: close together where AUPIMO and PRO
    look. Where no more bins are in use than levels are allowed, each of them is a level, and nothing is lost.

    Args:
        histogram: of all images.

    Returns:
        Bins of `PixelHistogram`, rising; the first is 0.
    """
    used = np.flatnonzero(histogram.normal | histogram.anomalous)
    if used.size < LEVELS:
        return np.unique(np.append(0, used))
    edges = [np.zeros(1, np.int64)]
    for counts, shares in ((histogram.anomalous, _RECALLS), (histogram.normal, _RATES)):
        above = np.cumsum(counts[::-1])
        if above[-1]:
            edges.append(BINS - 1 - np.searchsorted(above, np.maximum(shares * above[-1], 1)).clip(0, BINS - 1))
    return np.unique(np.concatenate(edges))


def level_counts(
    image: ImagePixels, levels: Int[np.ndarray, " levels"]
) -> tuple[Shaped[np.ndarray, " levels"], Shaped[np.ndarray, " levels"], Float[np.ndarray, " levels"]]:
    """One image's rows of `LevelCounts`.

    Args:
        image: its pixels.
        levels: of `choose_levels`.

    Returns:
        Normal and anomalous pixels, and overlap.
    """

    def summed(bins: np.ndarray, weights: np.ndarray) -> np.ndarray:
        level = np.searchsorted(levels, bins, side="right") - 1
        return np.bincount(level, weights, minlength=levels.size)

    return (
        summed(image.normal_bins, image.normal).astype(np.uint32),
        summed(image.anomalous_bins, image.anomalous).astype(np.uint32),
        (summed(image.anomalous_bins, image.region_weight) / REGION_UNIT).astype(np.float32),
    )
