"""A model's threshold or a typed one -> the threshold of a scoring; scores of normal images -> a model's threshold.

A threshold belongs to one way of looking at images and is used for no other.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from bayes_pfl.datasets.checks import counted
from bayes_pfl.decisions.boundaries import Decision
from bayes_pfl.decisions.calibration import Calibration, read_calibration
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.bundle import Bundle, store_threshold
from bayes_pfl.inference.view import WHOLE
from pipelines.scoring.task import ScoringTask

NO_THRESHOLD = "the model has no threshold; give --threshold, or make one with `bayes-pfl calibrate`"
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


class Labelling(NamedTuple):
    """What labels are made by: a threshold, a calibration, or nothing."""

    threshold: float | None
    """Scores from here on are defective."""
    calibration: Calibration | None
    because: str | None
    """Why there are no labels."""
    false_discoveries: float | None = None
    """Of images that are selected together; None: none are."""
    no_calibration_because: str | None = None
    """Why the model's calibration does not decide, where it has one and the model's own threshold does."""

    @classmethod
    def make(cls, typed: float | None, task: ScoringTask) -> "Labelling":
        """A typed threshold, else the model's calibration where it applies, else the model's own threshold.

        Args:
            typed: by the user.
            task: the model, and how it predicts.

        Returns:
            What labels are made by.

        Raises:
            BundleError: the calibration is damaged.
        """
        threshold = label_threshold(typed, task)
        if typed is not None:
            return cls(threshold, None, None)
        calibration = read_calibration(task.bundle.folder)
        reason = None if calibration is None else _does_not_apply(calibration, task)
        if calibration is not None and reason is None:
            return cls(None, calibration, None)
        if threshold is not None:
            return cls(threshold, None, None, no_calibration_because=reason)
        if reason is None and task.bundle.config.scoring.threshold is None:
            reason = NO_THRESHOLD
        own = f"the model's threshold is for {threshold_for(task.bundle)}, not for {task.looked_at}; give --threshold"
        return cls(None, None, reason or own)

    def selecting(self, false_discoveries: float | None) -> "Labelling":
        """The same, with a selection.

        Args:
            false_discoveries: largest share of good images among the selected ones, on average; None: no selection.

        Returns:
            What labels are made by.

        Raises:
            ConfigError: there are no p-values to select by.
        """
        if false_discoveries is not None and self.calibration is None:
            reason = self.because or "a threshold decides, not a calibration"
            raise ConfigError(f"--false-discoveries needs the p-values of a calibration: {reason}.")
        return self._replace(false_discoveries=false_discoveries)

    def decide(self, row: Mapping[str, Any]) -> Decision:
        """The decision on an image.

        Args:
            row: its columns as in `results.PART`.

        Returns:
            The decision; one without a label where there is no score.
        """
        score = row["image_score"]
        if score is None:
            return Decision(None)
        if self.threshold is not None:
            return Decision("defective" if score >= self.threshold else "good")
        if self.calibration is None:
            return Decision(None, no_label_because=self.because)
        return self.calibration.verdict(row["class_name"], score, row["uncertainty"], row.get("sha256") or "")

    def pooled(self, class_names: Iterable[str]) -> list[str]:
        """Class names that the calibration's images of all classes together decide.

        Args:
            class_names: of the images.

        Returns:
            Those that were not calibrated.
        """
        if self.calibration is None or self.calibration.pooled is None:
            return []
        return sorted(name for name in class_names if self.calibration.is_pooled(name))

    def region_thresholds(self, typed: float | None, class_names: Iterable[str], task: ScoringTask) -> dict[str, float]:
        """Map value from which a pixel belongs to a region, by class name.

        Args:
            typed: by the user.
            class_names: of the images.
            task: the model, and how it predicts.

        Returns:
            The typed one, else that of the labels.

        Raises:
            ConfigError: there is neither for a class name.
        """
        levels: dict[str, float] = {}
        for name in class_names:
            own = None if self.calibration is None else self.calibration.boundaries(name)
            calibrated = None if own is None else own.region_from
            level = next((each for each in (typed, self.threshold, calibrated) if each is not None), None)
            if level is None:
                raise ConfigError(
                    f"--coco needs to know from which map value on a pixel belongs to a region, and the model has no "
                    f"threshold for {task.looked_at}: give --threshold or --region-threshold, a value between 0 and 1."
                )
            levels[name] = float(level)
        return levels


def _does_not_apply(calibration: Calibration, task: ScoringTask) -> str | None:
    if task.how_scored is None:
        return f"the calibration does not apply: it was made with R = {calibration.how.num_samples}, not with auto"
    return calibration.differences(task.how_scored)


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


def scores_of_files(rows: pa.Table) -> np.ndarray:
    """Scores of the images, of byte-identical ones once, as `calibrate` counts them; how many are left out is said.

    Args:
        rows: of `results.TABLE`.

    Returns:
        Scores.
    """
    scored = [(row["sha256"], row["image_score"]) for row in rows.to_pylist() if row["image_score"] is not None]
    once = {digest or position: score for position, (digest, score) in enumerate(scored)}
    if copies := len(scored) - len(once):
        print(f"{counted(copies, 'image')} of the same bytes as others: each file counts once.", file=sys.stderr)
    return np.array(list(once.values()))


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
