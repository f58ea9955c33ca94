"""Predictions of a trial on the validation images -> its pixel AP on each of many resampled sets of these images."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from bayes_pfl.data.samples import SampleRef
from bayes_pfl.metrics.levels import LevelCounts, level_counts
from bayes_pfl.metrics.resampling import image_weights, pixel_replicates
from bayes_pfl.metrics.streaming import BINS, image_pixels
from pipelines.training.validation import by_category

RESAMPLES = 1000

LEVELS = np.arange(0, BINS, BINS // 4096)
"""Fixed, so that no second pass over the maps is needed; an interval makes up for what levels cost."""


class ResampledPixels:
    """Pixels of the validation images at fixed levels, for each R.

    Args:
        refs: the validation images.
    """

    def __init__(self, refs: Sequence[SampleRef]) -> None:
        self._refs = refs
        self._counts: dict[int, dict[int, tuple[np.ndarray, ...]]] = {}

    def add(self, num_samples: int, position: int, anomaly_map: np.ndarray, mask: np.ndarray) -> None:
        """Count one prediction.

        Args:
            num_samples: its R.
            position: of the image.
            anomaly_map: probabilities.
            mask: the same shape.
        """
        counts = level_counts(image_pixels(anomaly_map, mask), LEVELS)
        self._counts.setdefault(num_samples, {})[position] = counts

    def pixel_ap(self) -> dict[int, Float[np.ndarray, " sets"]]:
        """Mean over categories of the pixel AP, of the images as they are and of each resampled set.

        Normal and anomalous images are drawn each from their own, over all categories: a validation set often has one
        or two of a category, and drawing within it would say that these never vary. A set's mean is over the categories
        of which it has anomalous pixels. The sets depend on the images alone: those of two trials are the same, so
        their differences can be taken.

        Returns:
            1 + `RESAMPLES` figures by R; none without an anomalous pixel.
        """
        labels = np.array([ref.label for ref in self._refs])
        weights = image_weights([ref.sha256 for ref in self._refs], labels, 0, RESAMPLES)
        figures = {}
        for number, counted in self._counts.items():
            categories = []
            for positions in by_category(self._refs).values():
                members = [position for position in positions if position in counted]
                if not members:
                    continue
                counts = LevelCounts(*map(np.stack, zip(*(counted[position] for position in members), strict=True)))
                drawn = pixel_replicates(counts, labels[members], weights[:, members], aupimo=False)
                categories += [drawn["pixel_ap"]] if drawn else []
            if categories:
                figures[number] = _mean_where_defined(np.stack(categories))
        return figures


def _mean_where_defined(categories: Float[np.ndarray, "categories sets"]) -> Float[np.ndarray, " sets"]:
    """Mean over the categories that have a figure in a set; NaN where none has."""
    defined = np.isfinite(categories)
    number = defined.sum(0)
    return np.where(number > 0, np.nansum(categories, axis=0) / np.maximum(number, 1), np.nan)
