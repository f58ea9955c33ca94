"""A model's threshold or a typed one -> the threshold of a scoring; scores of normal images -> a model's threshold.

A threshold belongs to one way of looking at images and is used for no other.
"""

import sys
from collections.abc import Sequence

import numpy as np

from bayes_pfl.datasets.checks import counted
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.bundle import Bundle, store_threshold
from bayes_pfl.inference.view import WHOLE
from pipelines.scoring.task import ScoringTask

NO_THRESHOLD = "the model has no threshold; give --threshold"
"""Why `pred_label` is null."""


def threshold_for(bundle: Bundle) -> str:
    """The way of looking that a model's threshold was made for.

    Args:
        bundle: the model.

    Returns:
        Words, as of `View.name`.
    """
    return bundle.config.scoring.threshold_for or WHOLE.name(bundle.config.backbone.image_size)


def label_threshold(typed: float | None, task: ScoringTask) -> float | None:
    """The threshold of the labels.

    Args:
        typed: by the user.
        task: the model, and how it predicts.

    Returns:
        The typed one, else the model's own if it was made for this way of looking; None: no labels.
    """
    if typed is not None:
        return float(typed)
    return task.bundle.config.scoring.threshold if threshold_for(task.bundle) == task.looked_at else None


def check_auto(task: ScoringTask, threshold: float | None) -> None:
    """Refuse `auto` samples where nothing says how many are enough.

    Args:
        task: the model, and how it predicts.
        threshold: of the labels.

    Raises:
        ConfigError: there is no threshold, or it is not of whole images.
    """
    if task.num_samples == "auto" and (threshold is None or task.view != WHOLE):
        raise ConfigError(
            "num_samples can be auto for whole images and with a threshold, which says how many samples are enough: "
            "give a number, or a model that has one (or --threshold)."
        )


def no_label_because(threshold: float | None, task: ScoringTask) -> str | None:
    """Why there are no labels.

    Args:
        threshold: of the labels.
        task: the model, and how it predicts.

    Returns:
        Words; None if there are labels.
    """
    if threshold is not None:
        return None
    if task.bundle.config.scoring.threshold is None:
        return NO_THRESHOLD
    return f"the model's threshold is for {threshold_for(task.bundle)}, not for {task.looked_at}; give --threshold"


def map_threshold(typed: float | None, threshold: float | None, task: ScoringTask) -> float:
    """Map value from which a pixel belongs to a region.

    Args:
        typed: by the user.
        threshold: of the labels.
        task: the model, and how it predicts.

    Returns:
        The typed one, else the threshold of the labels.

    Raises:
        ConfigError: there is neither.
    """
    level = threshold if typed is None else typed
    if level is None:
        raise ConfigError(
            f"--coco needs to know from which map value on a pixel belongs to a region, and the model has no threshold "
            f"for {task.looked_at}: give --threshold or --region-threshold, a value between 0 and 1."
        )
    return float(level)


def remind_of_view(options: Sequence[str], task: ScoringTask) -> None:
    """Say on standard error what typed thresholds must have been made for, where it is not the usual way.

    Args:
        options: those that were given.
        task: the model, and how it predicts.
    """
    if options and task.view != WHOLE:
        print(
            f"{' and '.join(options)} must come from scores of {task.looked_at}: one made for another way of looking "
            "does not hold here.",
            file=sys.stderr,
        )


def keep_threshold(task: ScoringTask, scores: np.ndarray, share: float) -> None:
    """Keep with the model the lowest threshold that at most a share of normal images reaches, and say so.

    Args:
        task: the model, and how it predicted.
        scores: of the images.
        share: 0 to 1.

    Raises:
        BundleError: the model cannot be written.
    """
    threshold = lowest_threshold(scores, share)
    store_threshold(task.bundle, threshold, task.looked_at)
    reach = int((scores >= threshold).sum())
    print(
        f"The threshold {threshold:.6g} for {task.looked_at}, which {reach:,} of {counted(len(scores), 'image')} "
        f"{'reaches' if reach == 1 else 'reach'}, is kept in {task.bundle.folder}.",
        file=sys.stderr,
    )


def lowest_threshold(scores: np.ndarray, share: float) -> float:
    """The lowest threshold that at most a share of scores reaches.

    Args:
        scores: of normal images, at least one.
        share: 0 to 1.

    Returns:
        A number just above one of the scores; 0 for a share of 1.

    >>> lowest_threshold(np.array([0.1, 0.4, 0.2, 0.3]), 0.25) > 0.3, lowest_threshold(np.array([0.5]), 1.0)
    (True, 0.0)
    """
    falling = np.sort(scores)[::-1]
    allowed = int(np.floor(share * len(falling) + 1e-9))
    return 0.0 if allowed >= len(falling) else float(np.nextafter(falling[allowed], np.inf))
