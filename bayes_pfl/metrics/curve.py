"""Counts at every threshold -> AUROC, average precision, F1-max and PRO."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bayes_pfl.metrics.result import Metrics

PRO_FPR_LIMIT = 0.3
"""PRO is the area below this false-positive rate, divided by it (Bergmann et al., 2020)."""


class Curve(NamedTuple):
    """Counts at each distinct score that an anomalous item has, from the highest score down.

    These thresholds suffice. At any other one only normal items were added since the last: AP and
    F1-max gain nothing there, and the ROC and PRO curves run level.

    hits: anomalous items at or above the score, at least 1 at the first.
    alarms_above, alarms: normal items strictly above it, and at or above it.
    overlap: mean over regions of the share of their pixels at or above it, in (0, 1].
    normal: number of normal items.
    """

    hits: Float[np.ndarray, " scores"]
    alarms_above: Float[np.ndarray, " scores"]
    alarms: Float[np.ndarray, " scores"]
    overlap: Float[np.ndarray, " scores"] | None
    normal: int


class BestF1(NamedTuple):
    """Where F1 is highest, and what it is worth: all that is called anomalous has an F1 too.

    threshold: score from which on an item is called anomalous.
    all_positive: F1 of calling every item anomalous, 2 anomalous / (2 anomalous + normal).
    """

    threshold: float
    all_positive: float


def auroc(curve: Curve) -> float:
    """P(anomalous score > normal score) + P(equal) / 2, the area under the ROC curve.

    Args:
        curve: counts at the thresholds.

    Returns:
        A figure in [0, 1].
    """
    outranked = 1 - (curve.alarms_above + curve.alarms) / (2 * curve.normal)
    return float((_new_hits(curve) * outranked).sum() / curve.hits[-1])


def average_precision(curve: Curve) -> float:
    """sum_k (recall_k - recall_{k-1}) precision_k, not interpolated.

    Args:
        curve: counts at the thresholds.

    Returns:
        A figure in [0, 1].
    """
    precision = curve.hits / (curve.hits + curve.alarms)
    return float((_new_hits(curve) * precision).sum() / curve.hits[-1])


def f1_max(curve: Curve) -> float:
    """max_k 2 TP_k / (2 TP_k + FP_k + FN_k) over all thresholds k.

    Args:
        curve: counts at the thresholds.

    Returns:
        A figure in [0, 1].
    """
    return float(_f1(curve).max())


def best_f1(curve: Curve, scores: Float[np.ndarray, " scores"]) -> BestF1:
    """The highest threshold at which F1 is `f1_max`.

    Args:
        curve: counts at the thresholds.
        scores: the thresholds, from the highest down.

    Returns:
        The threshold, and the F1 without one.
    """
    anomalous = float(curve.hits[-1])
    return BestF1(float(scores[_f1(curve).argmax()]), 2 * anomalous / (2 * anomalous + curve.normal))


def per_region_overlap(curve: Curve) -> float:
    """Area under (false-positive rate, mean region overlap) up to PRO_FPR_LIMIT, scaled to [0, 1].

    The curve starts at (0, 0) and is linear between thresholds, as a ROC curve is; where the limit
    falls between two, it is cut there by interpolation. The rate counts all normal pixels of all
    images (Bergmann et al., 2020).

    Args:
        curve: counts at the thresholds.

    Returns:
        A figure in [0, 1].
    """
    assert curve.overlap is not None
    before = np.concatenate(([0.0], curve.overlap[:-1]))
    rate = np.stack((curve.alarms_above, curve.alarms), axis=1).ravel() / curve.normal
    rate = np.concatenate(([0.0], rate, [1.0]))
    overlap = np.concatenate(([0.0], np.stack((before, curve.overlap), axis=1).ravel(), [1.0]))
    # A vertical step exactly at the limit has no area: taking all points up to and including it
    # leaves a segment of positive width to cut, because the last rate, 1, is above the limit.
    stop = int(np.searchsorted(rate, PRO_FPR_LIMIT, side="right"))
    share = (PRO_FPR_LIMIT - rate[stop - 1]) / (rate[stop] - rate[stop - 1])
    cut = overlap[stop - 1] + share * (overlap[stop] - overlap[stop - 1])
    area = np.trapezoid(np.append(overlap[:stop], cut), np.append(rate[:stop], PRO_FPR_LIMIT))
    return float(area / PRO_FPR_LIMIT)


IMAGE_METRICS = {"image_auroc": auroc, "image_f1_max": f1_max, "image_ap": average_precision}
PIXEL_METRICS = {
    "pixel_auroc": auroc,
    "pixel_pro": per_region_overlap,
    "pixel_ap": average_precision,
    "pixel_f1_max": f1_max,
}


def one_class_reason(item: str, anomalous: int, normal: int) -> str | None:
    """Why nothing can be measured on so many items, or None if both classes are there.

    With one class AP and F1-max would be 0 or 1 whatever the scores are, and would shift a mean
    without measuring anything: they are undefined there, just as AUROC and PRO are.

    Args:
        item: "image" or "pixel".
        anomalous: how many there are.
        normal: how many there are.

    Returns:
        The reason as a clause, or None.
    """
    if not anomalous and not normal:
        return f"there is no {item}" + (" of an image with a mask" if item == "pixel" else "")
    if not anomalous:
        return f"there is no anomalous {item}" + (", so no region" if item == "pixel" else "")
    return None if normal else f"there is no normal {item}"


def undefined(metrics: Mapping[str, Callable[[Curve], float]], reason: str) -> Metrics:
    """NaN for every metric, for one reason.

    Args:
        metrics: functions by name.
        reason: of `one_class_reason`.

    Returns:
        The undefined figures.
    """
    return Metrics(dict.fromkeys(metrics, math.nan), dict.fromkeys(metrics, reason))


def read_off(metrics: Mapping[str, Callable[[Curve], float]], curve: Curve) -> Metrics:
    """Every metric of a curve that has both classes.

    Args:
        metrics: functions by name.
        curve: counts at the thresholds.

    Returns:
        Figures in [0, 1] by name.
    """
    return Metrics({name: metric(curve) for name, metric in metrics.items()})


def _f1(curve: Curve) -> Float[np.ndarray, " scores"]:
    return np.asarray(2 * curve.hits / (curve.hits[-1] + curve.hits + curve.alarms))


def _new_hits(curve: Curve) -> Float[np.ndarray, " scores"]:
    return np.diff(curve.hits, prepend=0)
