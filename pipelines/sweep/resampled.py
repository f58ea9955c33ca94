"""Predictions of a trial on the validation images -> its pixel AP on each of many resampled sets of these images."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from bayes_pfl.data.samples import SampleRef
from bayes_pfl.metrics.levels import LevelCounts, level_counts
from bayes_pfl.metrics.resampling import image_weights, mean_replicates, pixel_replicates
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

        The sets depend on the images alone: those of two trials are the same, so their differences can be taken.

        Returns:
            1 + `RESAMPLES` figures by R; none without an anomalous pixel.
        """
        figures = {}
        for number, counted in self._counts.items():
            categories = []
            for positions in by_category(self._refs).values():
                members = [position for position in positions if position in counted]
                if not members:
                    continue
                labels = [self._refs[position].label for position in members]
                counts = LevelCounts(*map(np.stack, zip(*(counted[position] for position in members), strict=True)))
                keys = [self._refs[position].sha256 for position in members]
                weights = image_weights(keys, labels, 0, RESAMPLES)
                categories.append(pixel_replicates(counts, labels, weights, aupimo=False))
            mean = mean_replicates(categories).get("pixel_ap")
            if mean is not None:
                figures[number] = mean
        return figures
