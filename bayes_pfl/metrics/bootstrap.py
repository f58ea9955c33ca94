"""Scores and labels -> an AUROC with its 95 % interval over the choice of images (percentile bootstrap)."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bayes_pfl.errors import DataError

BINS = 4096
"""Scores are ranked among so many quantiles of all scores: a tie within one costs less than 1e-3 of an AUROC."""


class Interval(NamedTuple):
    """A figure in [0, 1] of the images at hand, and its 2.5 and 97.5 percentiles over resampled images."""

    value: float
    low: float
    high: float


def image_auroc_interval(
    scores: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray, seed: int = 0, resamples: int = 2000
) -> Interval:
    """95 % interval of the image AUROC; normal and anomalous images are drawn with replacement, each from its own kind.

    Args:
        scores: one an image, higher means more anomalous.
        labels: 0 (normal) or 1 (anomalous).
        seed: of the resampling.
        resamples: number of resampled sets.

    Returns:
        The AUROC in [0, 1] and its interval.

    Raises:
        DataError: one kind is missing.

    >>> image_auroc_interval([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]).value
    0.75
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    groups = [(values[[i]], values[:0]) if label == 0 else (values[:0], values[[i]]) for i, label in enumerate(truth)]
    return _interval(groups, truth == 1, seed, resamples)


def pixel_auroc_interval(
    maps: Iterable[np.ndarray], masks: Iterable[np.ndarray], seed: int = 0, resamples: int = 2000
) -> Interval:
    """95 % interval of the pixel AUROC; whole images are drawn, because pixels of one image are not independent.

    Args:
        maps: scores (height, width) of each image.
        masks: the same shapes; anomalous where not 0.
        seed: of the resampling.
        resamples: number of resampled sets.

    Returns:
        The AUROC in [0, 1] and its interval.

    Raises:
        DataError: no image has an anomalous pixel, or none a normal one.
    """
    groups = [(values[mask == 0], values[mask != 0]) for values, mask in zip(maps, masks, strict=True)]
    return _interval(groups, np.array([anomalous.size > 0 for _, anomalous in groups]), seed, resamples)


def _interval(
    groups: list[tuple[np.ndarray, np.ndarray]], anomalous: np.ndarray, seed: int, resamples: int
) -> Interval:
    """AUROC of the groups' (normal, anomalous) scores, from counts per quantile that resampling only has to weight."""
    if not sum(normal.size for normal, _ in groups) or not anomalous.any():
        raise DataError("An AUROC needs normal and anomalous scores; there is only one kind.")
    pooled = np.concatenate([part for group in groups for part in group])
    edges = np.unique(np.quantile(pooled, np.linspace(0, 1, min(BINS, pooled.size) + 1), method="higher"))

    def counts(kind: int) -> np.ndarray:
        binned = [np.bincount(np.searchsorted(edges, group[kind]), minlength=edges.size) for group in groups]
        return np.stack(binned).astype(np.float64)

    normal, defective = counts(0), counts(1)
    random = np.random.default_rng(seed)
    weights = np.zeros((resamples + 1, len(groups)))
    weights[0] = 1
    for chosen in (np.flatnonzero(anomalous), np.flatnonzero(~anomalous)):
        if chosen.size:
            weights[1:, chosen] = random.multinomial(chosen.size, np.full(chosen.size, 1 / chosen.size), resamples)
    aurocs = np.concatenate([_auroc(part @ normal, part @ defective) for part in np.array_split(weights, 20)])
    low, high = np.nanpercentile(aurocs[1:], [2.5, 97.5])
    return Interval(float(aurocs[0]), float(low), float(high))


def _auroc(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """P(anomalous > normal) + P(equal) / 2 of every row of counts per bin, bins in rising order."""
    below = np.cumsum(normal, axis=1) - normal
    wins = (anomalous * (below + 0.5 * normal)).sum(1)
    with np.errstate(invalid="ignore"):
        return np.asarray(wins / (normal.sum(1) * anomalous.sum(1)))
