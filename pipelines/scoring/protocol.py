"""The image scores of the released codes, some of which look at all test images of a category.

A prediction depends on its image alone; published figures of some methods do not. This scales the parts of a score as
the released evaluations of Bayes-PFL and CLIP-AD do. The other methods' released image score is that of each image.
"""

from collections.abc import Sequence

import numpy as np
import torch

from bayes_pfl.config import ScoringConfig
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.prediction import Prediction, smoothed
from bayes_pfl.inference.view import WHOLE, View
from pipelines.options.evaluate import Protocol

PART_WEIGHTS = {"bayes_pfl": (0.5, 0.5), "clip_ad": (1.0, 1.0)}
"""Of text score and map, each scaled by its minimum and maximum over a category; other methods do not scale."""


def check_protocol(protocol: Protocol, view: View) -> None:
    """Refuse the released protocol where the released code has none.

    Args:
        protocol: wanted.
        view: how images are looked at.

    Raises:
        ConfigError: tiles or a region are looked at.
    """
    if protocol == "released" and view != WHOLE:
        raise ConfigError("The released protocol is of whole images: leave tiles and region out, or protocol=image.")


def map_part(method: str, raw: Prediction, scoring: ScoringConfig, top_pixels: int) -> tuple[Prediction, float]:
    """A prediction with its map smoothed, and the map's part of the released score.

    Args:
        method: name of the method.
        raw: prediction with the map as it is before smoothing.
        scoring: how it is smoothed.
        top_pixels: how many of the largest values Bayes-PFL's released code averages, before smoothing.

    Returns:
        The prediction, and for CLIP-AD the maximum of the smoothed map.
    """
    final = smoothed(torch.from_numpy(raw.anomaly_map), scoring).numpy()
    values = raw.anomaly_map.ravel()
    count = min(top_pixels, values.size)
    part = float(np.partition(values, -count)[-count:].mean()) if method == "bayes_pfl" else float(final.max())
    return raw._replace(anomaly_map=final), part


def released_scores(
    method: str, scores: np.ndarray, text: np.ndarray, maps: np.ndarray, groups: Sequence[str]
) -> np.ndarray:
    """Image scores of the released code.

    Args:
        method: name of the method.
        scores: (images,) of each image alone; NaN where there is none.
        text: (images,) text scores.
        maps: (images,) of `map_part`.
        groups: category of each image, of its dataset.

    Returns:
        (images,) scores; those of a method that does not scale are the given ones.
    """
    if method not in PART_WEIGHTS:
        return scores
    weights, result, names = PART_WEIGHTS[method], scores.copy(), np.asarray(groups)
    for name in dict.fromkeys(groups):
        chosen = (names == name) & np.isfinite(scores)
        parts = zip(weights, (text[chosen], maps[chosen]), strict=True)
        result[chosen] = sum((weight * _scaled(part) for weight, part in parts), np.zeros(int(chosen.sum())))
    return result


def _scaled(values: np.ndarray) -> np.ndarray:
    """Values brought to [0, 1]; 0 where all are equal."""
    if not values.size:
        return values
    extent = values.max() - values.min()
    return (values - values.min()) / extent if extent > 0 else np.zeros_like(values)
