"""Scores of many images -> metrics of each category; the paper averages them over the categories of a dataset."""

from collections.abc import Mapping, Sequence

import numpy as np

from bayes_pfl.metrics.exact import image_metrics
from bayes_pfl.metrics.result import Metrics


def metrics_by_category(
    categories: Sequence[str],
    labels: Sequence[int],
    image_scores: Sequence[float] | np.ndarray | None,
    pixel: Mapping[str, Metrics],
) -> dict[str, Metrics]:
    """Image metrics of each category's images, joined with its pixel metrics; `dataset_mean` averages them.

    Args:
        categories: category of each image.
        labels: 1 for each anomalous image, else 0.
        image_scores: score of each image, the higher, the more anomalous; None leaves the image metrics out.
        pixel: pixel metrics by category, from `pixel_metrics` or `PixelHistogram.metrics`; empty leaves them out.

    Returns:
        Metrics by category, in alphabetical order.

    Raises:
        DataError: a score is not finite.

    >>> measured = metrics_by_category(["bolt", "bolt", "nut", "nut"], [0, 1, 0, 1], [0.1, 0.9, 0.6, 0.4], {})
    >>> {category: metrics["image_auroc"] for category, metrics in measured.items()}
    {'bolt': 1.0, 'nut': 0.0}
    """
    positions: dict[str, list[int]] = {}
    for position, category in enumerate(categories):
        positions.setdefault(category, []).append(position)
    measured, truth = {}, np.asarray(labels)
    scores = None if image_scores is None else np.asarray(image_scores, dtype=np.float64)
    for category in sorted(positions):
        chosen = positions[category]
        parts = [pixel[category]] if category in pixel else []
        if scores is not None:
            parts.insert(0, image_metrics(scores[chosen], truth[chosen]))
        measured[category] = parts[0] if len(parts) == 1 else parts[0] | parts[1]
    return measured
