"""Two models on the same images -> the difference of a figure, its 95 % interval and p-value, and where they differ.

Both are measured on the same resampled sets, so that what makes an image hard for both cancels out.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bayes_pfl.metrics.resampling import interval, share_below


class Difference(NamedTuple):
    """Of a figure of two models, the first less the second."""

    value: float
    low: float
    high: float
    p_value: float
    """Two-sided: how often the figure would differ by so much if there were no difference."""


def difference(
    values: tuple[float, float], replicates: tuple[Float[np.ndarray, " sets"], Float[np.ndarray, " sets"]]
) -> Difference | None:
    """The difference of a figure with what resampling says of it.

    The p-value is that of the interval: the level at which the bias-corrected interval just reaches 0. It is not
    below about 2 / sets.

    Args:
        values: exact figures of both models.
        replicates: of the images as they are, then of the same resampled sets.

    Returns:
        The difference; None where a figure is NaN.
    """
    value, drawn = values[0] - values[1], replicates[0] - replicates[1]
    bounds = interval(value, drawn)
    if bounds is None:
        return None
    normal, moved = NormalDist(), drawn[np.isfinite(drawn)] + (value - drawn[0])
    z0, at_zero = (normal.inv_cdf(share_below(point, moved[1:])) for point in (value, 0.0))
    return Difference(value, *bounds, 2 * normal.cdf(-abs(at_zero - 2 * z0)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests, such that all of them together err with the stated probability (Holm, 1979).

    Args:
        p_values: of each test alone.

    Returns:
        The corrected ones, in the same order.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda test: p_values[test])
    corrected, highest = [1.0] * len(p_values), 0.0
    for rank, test in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[test]))
        corrected[test] = highest
    return corrected


def placements(
    scores: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray
) -> Float[np.ndarray, " images"]:
    """Share of the images of the other kind that each image is ranked rightly against, ties by half.

    The mean over the images of either kind is the AUROC (DeLong et al., 1988), and unlike scores these shares can be
    compared between models.

    Args:
        scores: one an image, higher means more anomalous.
        labels: 0 or 1.

    Returns:
        Shares in [0, 1]; NaN where there is no image of the other kind.

    >>> placements([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    array([1. , 0.5, 0.5, 1. ])
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(labels)
    shares = np.full(values.size, np.nan)
    for label in (0, 1):
        own, others = values[truth == label], np.sort(values[truth != label])
        if others.size:
            below = sum(np.searchsorted(others, own, side) for side in ("left", "right")) / (2 * others.size)
            shares[truth == label] = below if label == 1 else 1 - below
    return shares
