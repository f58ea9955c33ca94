"""Scores and labels, or maps and masks -> exact metrics, from one sort of all scores.

Equal to scikit-learn's AUROC, AP and F1, and to a PRO over all thresholds.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

from bayes_pfl.errors import DataError
from bayes_pfl.metrics.curve import (
    IMAGE_METRICS,
    PIXEL_METRICS,
    BestF1,
    Curve,
    best_f1,
    one_class_reason,
    read_off,
    undefined,
)
from bayes_pfl.metrics.regions import as_floats, split_pixels
from bayes_pfl.metrics.result import Metrics


def image_metrics(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
) -> Metrics:
    """image_auroc, image_f1_max and image_ap of image scores.

    Args:
        scores: one an image, any finite number; higher means more anomalous.
        labels: 0 (normal) or 1 (anomalous).

    Returns:
        Figures in [0, 1] by name; NaN with a reason where one class is missing.

    Raises:
        DataError: the lengths differ, a label is neither 0 nor 1, or a score is not finite.

    >>> metrics = image_metrics([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    >>> {name: round(value, 3) for name, value in metrics.values.items()}
    {'image_auroc': 0.75, 'image_f1_max': 0.8, 'image_ap': 0.833}
    """
    positive, normal = _by_label(scores, labels)
    if reason := one_class_reason("image", positive.size, normal.size):
        return undefined(IMAGE_METRICS, reason)
    return read_off(IMAGE_METRICS, _curve(positive, normal)[0])


def image_best_f1(scores: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray) -> BestF1 | None:
    """The threshold of image_f1_max, and the F1 of calling every image anomalous.

    Args:
        scores: one an image, any finite number; higher means more anomalous.
        labels: 0 (normal) or 1 (anomalous).

    Returns:
        Both; None where one class is missing.

    Raises:
        DataError: as `image_metrics`.

    >>> image_best_f1([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    BestF1(threshold=0.35, all_positive=0.6666666666666666)
    """
    positive, normal = _by_label(scores, labels)
    if one_class_reason("image", positive.size, normal.size):
        return None
    return best_f1(*_curve(positive, normal))


def _by_label(
    scores: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray
) -> tuple[Float[np.ndarray, " anomalous"], Float[np.ndarray, " normal"]]:
    """Scores of anomalous and of normal images. Raises DataError."""
    values, truth = as_floats(np.asarray(scores)), np.asarray(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise DataError(f"There are {values.size} scores and {truth.size} labels: give one each.")
    anomalous = truth == 1
    if not np.all(anomalous | (truth == 0)):
        raise DataError("Labels must be 0 (normal) or 1 (anomalous).")
    return values[anomalous], values[~anomalous]


def pixel_metrics(
    maps: Iterable[np.ndarray],
    masks: Iterable[np.ndarray],
) -> Metrics:
    """pixel_auroc, pixel_pro, pixel_ap and pixel_f1_max of anomaly maps against their masks.

    Holds the scores of all pixels at once, 4 bytes each in float32, and some more while sorting.

    Args:
        maps: finite scores (height, width) of each image; higher means more anomalous.
        masks: the same shapes; anomalous where not 0.

    Returns:
        Figures in [0, 1] by name; NaN with a reason where one class is missing.

    Raises:
        DataError: a map and its mask do not fit each other, or a score is not finite.

    >>> import numpy as np
    >>> mask = np.array([[0, 0, 0], [0, 1, 1], [0, 0, 0]])
    >>> maps = np.array([[0.1, 0.1, 0.1], [0.1, 0.9, 0.4], [0.1, 0.6, 0.1]])
    >>> metrics = pixel_metrics([maps], [mask])
    >>> {name: round(value, 3) for name, value in metrics.values.items()}
    {'pixel_auroc': 0.929, 'pixel_pro': 0.762, 'pixel_ap': 0.833, 'pixel_f1_max': 0.8}
    """
    pixels = list(split_pixels(maps, masks))
    if not pixels:
        return undefined(PIXEL_METRICS, "there is no pixel of an image with a mask")
    normal, anomalous, area = (np.concatenate(parts) for parts in zip(*pixels, strict=True))
    del pixels
    if reason := one_class_reason("pixel", anomalous.size, normal.size):
        return undefined(PIXEL_METRICS, reason)
    return read_off(PIXEL_METRICS, _curve(anomalous, normal, area)[0])


def _curve(
    anomalous: Float[np.ndarray, " anomalous"],
    normal: Float[np.ndarray, " normal"],
    region_area: Int[np.ndarray, " anomalous"] | None = None,
) -> tuple[Curve, Float[np.ndarray, " scores"]]:
    """The curve of two sets of scores, and its thresholds; sorts `normal`, the larger one, in place."""
    normal.sort()
    order = np.argsort(-anomalous)
    ranked = anomalous[order]
    # Infinities sort to the ends and NaN behind them, so the ends speak for all.
    if not np.isfinite([normal[0], normal[-1], ranked[0], ranked[-1]]).all():
        raise DataError("A score is NaN or infinite: the model's weights or its input are damaged.")
    last_of_tie = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    scores = ranked[last_of_tie]
    overlap = None
    if region_area is not None:
        # A pixel adds 1 / (area x regions); the total over all pixels is 1.
        covered = np.cumsum(1 / region_area[order])
        overlap = (covered / covered[-1])[last_of_tie]
    curve = Curve(
        hits=last_of_tie + 1.0,
        alarms_above=(normal.size - np.searchsorted(normal, scores, side="right")).astype(float),
        alarms=(normal.size - np.searchsorted(normal, scores, side="left")).astype(float),
        overlap=overlap,
        normal=normal.size,
    )
    return curve, scores
