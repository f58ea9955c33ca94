"""Images resampled with replacement -> every figure once for each resampled set, and its 95 % interval.

Normal and anomalous images are drawn each from their own, so that every set has both in the dataset's proportion
(Robin et al., 2011, BMC Bioinformatics 12:77). All pixels of an image are drawn together, because they are not
independent. Intervals are bias-corrected percentiles (Efron, 1981, Canadian Journal of Statistics 9:139, section 7):
F1-max, a maximum, is higher in resampled sets than in the images themselves, and plain percentiles would miss it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bayes_pfl.metrics.aupimo import share_of_area
from bayes_pfl.metrics.curve import PRO_FPR_LIMIT, one_class_reason
from bayes_pfl.metrics.levels import LevelCounts

FEWEST_IMAGES = 5
"""Of each kind that is there; resampling fewer says nothing of how others would fall."""

_NORMAL = NormalDist()

_ROUNDING = 1e-10
"""Figures that differ by less are equal: their sums were taken in another order."""

_BLOCK = 100
"""Resampled sets that are measured at once."""

Replicates = Mapping[str, Float[np.ndarray, " sets"]]
"""Figures by name: first of the images as they are, then of each resampled set."""


class Range(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def image_weights(
    keys: Sequence[str], labels: Sequence[int] | np.ndarray, seed: int, resamples: int
) -> Float[np.ndarray, "sets images"]:
    """How often each image is in each resampled set: all once in the first, multinomial in the others.

    The draws depend on the seed and the set of keys alone, not on the order of the images.

    Args:
        keys: a name for each image that is the same everywhere, such as the hash of its bytes.
        labels: 0 (normal) or 1 (anomalous).
        seed: of the resampling.
        resamples: number of resampled sets.

    Returns:
        (1 + resamples, images).

    >>> image_weights(["a", "b", "c"], [0, 0, 1], seed=0, resamples=2)
    array([[1., 1., 1.],
           [2., 0., 1.],
           [2., 0., 1.]], dtype=float32)
    """
    order = np.array(sorted(range(len(keys)), key=lambda position: (keys[position], position)), dtype=np.int64)
    digest = hashlib.sha256("\n".join(keys[position] for position in order).encode()).digest()
    random = np.random.default_rng([seed, *np.frombuffer(digest, np.uint32)])
    weights = np.ones((1 + resamples, len(keys)), np.float32)
    truth = np.asarray(labels)[order]
    for label in (0, 1):
        chosen = order[truth == label]
        if chosen.size:
            share = np.full(chosen.size, 1 / chosen.size)
            weights[1:, chosen] = random.multinomial(chosen.size, share, resamples)
    return weights


def too_few(labels: Sequence[int] | np.ndarray) -> str | None:
    """Why there is no interval.

    Args:
        labels: 0 or 1 of each image.

    Returns:
        A clause, or None where there are enough images.
    """
    for label, name in ((0, "normal"), (1, "anomalous")):
        count = int((np.asarray(labels) == label).sum())
        if 0 < count < FEWEST_IMAGES:
            images = "image is" if count == 1 else "images are"
            return f"{count} {name} {images} too few to resample: an interval needs {FEWEST_IMAGES}"
    return None


def image_replicates(
    scores: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray, weights: Float[np.ndarray, "sets images"]
) -> Replicates:
    """image_auroc, image_ap and image_f1_max of each set, exact.

    Args:
        scores: one an image, higher means more anomalous.
        labels: 0 or 1.
        weights: of `image_weights`.

    Returns:
        Figures by name; none where a kind is missing.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(labels) == 1
    if one_class_reason("image", int(truth.sum()), int((~truth).sum())):
        return {}
    distinct, level = np.unique(values, return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.searchsorted(level[order], np.arange(distinct.size))
    blocks = []
    for start in range(0, len(weights), _BLOCK):
        drawn = weights[start : start + _BLOCK, order].astype(np.float64)
        anomalous = np.add.reduceat(drawn * truth[order], starts, axis=1)
        normal = np.add.reduceat(drawn * ~truth[order], starts, axis=1)
        blocks.append({f"image_{name}": each for name, each in _rank_figures(normal, anomalous).items()})
    return _joined(blocks)


def pixel_replicates(
    counts: LevelCounts, labels: Sequence[int] | np.ndarray, weights: Float[np.ndarray, "sets images"], aupimo: bool
) -> Replicates:
    """pixel_auroc, pixel_pro, pixel_ap, pixel_f1_max and, if wanted, pixel_aupimo of each set.

    A level is taken for a tie: exact where levels hold one score each, otherwise about 1e-3 below the exact figures,
    which `interval` makes up for.

    Args:
        counts: pixels of the images.
        labels: 0 or 1 of each image; normal images give AUPIMO's false-positive rate.
        weights: of `image_weights`.
        aupimo: whether there are normal images enough for it.

    Returns:
        Figures by name; none where a kind of pixel is missing. NaN for a set in which it is.
    """
    if not counts.anomalous.any() or not counts.normal.any():
        return {}
    normal, anomalous = counts.normal.astype(np.float64), counts.anomalous.astype(np.float64)
    per_defect = anomalous / np.maximum(anomalous.sum(1, keepdims=True), 1)
    clean = (np.asarray(labels) == 0)[:, None] * normal / np.maximum(normal.sum(1, keepdims=True), 1)
    blocks = []
    for start in range(0, len(weights), _BLOCK):
        drawn = weights[start : start + _BLOCK].astype(np.float64)
        figures = _rank_figures(drawn @ normal, drawn @ anomalous)
        figures["pro"] = _pro(drawn @ normal, drawn @ counts.overlap.astype(np.float64))
        if aupimo:
            figures["aupimo"] = _aupimo(drawn @ clean, drawn @ per_defect)
        blocks.append({f"pixel_{name}": each for name, each in figures.items()})
    return _joined(blocks)


def interval(value: float, replicates: Float[np.ndarray, " sets"]) -> Range | None:
    """95 % interval of a figure: its bias-corrected percentiles, moved by what levels cost the figure itself.

    With z0 the normal quantile of the share of sets below the figure, they are those at Phi(2 z0 - 1.96) and
    Phi(2 z0 + 1.96): 2.5 % and 97.5 % where half of the sets are below.

    Args:
        value: the exact figure.
        replicates: of the images as they are, then of the sets.

    Returns:
        The interval; None where the figure is NaN for the images or for every set.
    """
    drawn = replicates[1:][np.isfinite(replicates[1:])]
    if not drawn.size or not np.isfinite([value, replicates[0]]).all():
        return None
    z0 = _NORMAL.inv_cdf(share_below(replicates[0], drawn))
    ranks = [_NORMAL.cdf(2 * z0 + side * _NORMAL.inv_cdf(0.975)) for side in (-1, 1)]
    low, high = np.quantile(drawn, ranks) + (value - replicates[0])
    return Range(float(low), float(high))


def share_below(value: float, drawn: Float[np.ndarray, " sets"]) -> float:
    """Share of sets in which a figure is lower, half of the ties among them; never 0 or 1.

    Args:
        value: of the figure.
        drawn: the figure in each set.

    Returns:
        A share in (0, 1), at least 1 / (sets + 1) from both ends.
    """
    ties = np.abs(drawn - value) < _ROUNDING
    share, least = float(np.mean((drawn < value) & ~ties) + np.mean(ties) / 2), 1 / (drawn.size + 1)
    return min(max(share, least), 1 - least)


def mean_replicates(per_category: Sequence[Replicates]) -> Replicates:
    """The mean over categories of each set; categories are resampled within themselves, independently.

    Args:
        per_category: of equally many sets.

    Returns:
        Means by name, each over the categories that have the figure.
    """
    names = dict.fromkeys(name for replicates in per_category for name in replicates)
    return {name: np.mean([each[name] for each in per_category if name in each], axis=0) for name in names}


def _joined(blocks: Sequence[Mapping[str, np.ndarray]]) -> Replicates:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _from_the_top(counts: np.ndarray) -> np.ndarray:
    """Numbers at or above each level."""
    return np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]


def _rank_figures(normal: np.ndarray, anomalous: np.ndarray) -> dict[str, np.ndarray]:
    """AUROC, AP and F1-max of every row of counts, levels in rising order, each a tie."""
    alarms, hits = _from_the_top(normal), _from_the_top(anomalous)
    below, positives = alarms[:, :1] - alarms, hits[:, :1]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(hits > 0, hits / np.maximum(hits + alarms, 1e-300), 0)
        figures = {
            "auroc": (anomalous * (below + 0.5 * normal)).sum(1) / (alarms[:, 0] * hits[:, 0]),
            "f1_max": (2 * hits / (positives + hits + alarms)).max(1),
            "ap": (anomalous * precision).sum(1) / hits[:, 0],
        }
    lacking = (alarms[:, 0] == 0) | (hits[:, 0] == 0)
    return {name: np.where(lacking, np.nan, each) for name, each in figures.items()}


def _pro(normal: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Area under (false-positive rate, overlap) up to the limit, linear between levels, as `per_region_overlap`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.cumsum(normal[:, ::-1], axis=1) / normal.sum(1, keepdims=True)
        share = np.cumsum(overlap[:, ::-1], axis=1) / overlap.sum(1, keepdims=True)
    rate, share = (np.pad(each, ((0, 0), (1, 0))) for each in (rate, share))
    left, width = rate[:, :-1], np.diff(rate, axis=1)
    inside = np.clip(PRO_FPR_LIMIT - left, 0, width)
    slope = np.diff(share, axis=1) / np.where(width > 0, width, 1)
    return np.asarray((inside * (share[:, :-1] + 0.5 * inside * slope)).sum(1) / PRO_FPR_LIMIT)


def _aupimo(clean: np.ndarray, per_defect: np.ndarray) -> np.ndarray:
    """Mean over anomalous images of `image_aupimo`."""
    above = _from_the_top(clean)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = above / above[:, :1]
        return np.asarray((per_defect * share_of_area(rates)).sum(1) / per_defect.sum(1))
