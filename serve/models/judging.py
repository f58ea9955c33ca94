"""Scores of one model -> verdicts of its calibration, where they were made as the calibration's were."""

import math
from functools import cached_property

from bayes_pfl.config import Precision
from bayes_pfl.decisions.boundaries import Boundaries
from bayes_pfl.decisions.calibration import NO_CALIBRATION, class_key, read_calibration
from bayes_pfl.decisions.conformal import rate_bound
from bayes_pfl.decisions.statements import describe
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.how_scored import how_scored
from serve.messages import CalibrationReport, Job, Judgement, WatchedScores


class Judge:
    """The calibration of a bundle, read once: a model is replaced together with it.

    Args:
        bundle: of the model.
        precision: of CLIP's matrix products in this replica.

    Raises:
        BundleError: the calibration is damaged.
    """

    def __init__(self, bundle: Bundle, precision: Precision) -> None:
        self.calibration = read_calibration(bundle.folder)
        self.side = bundle.config.backbone.image_size
        self._how = how_scored(bundle, "", 1, precision, None)
        self._limits: dict[str | None, tuple[float | None, float | None, float | None]] = {}

    @property
    def version(self) -> str | None:
        """Of the calibration, if there is one."""
        return None if self.calibration is None else self.calibration.version

    def verdict(self, job: Job, score: float, uncertainty: float | None) -> tuple[Judgement | None, str | None]:
        """What the calibration says of a scored image.

        Args:
            job: the image and the question about it.
            score: its image score.
            uncertainty: of the score.

        Returns:
            The verdict; or None, and why.
        """
        calibration, name = self.calibration, job.question.class_name
        if calibration is None:
            return None, NO_CALIBRATION
        reason = self._does_not_apply(job)
        boundaries = calibration.boundaries(name)
        if reason is not None or boundaries is None:
            return None, reason or calibration.not_for(name)
        decision = calibration.verdict(name, score, uncertainty, job.sha256)
        key = None if calibration.is_pooled(name) else class_key(name)
        if key not in self._limits:
            good, defective = _finite(boundaries.good_up_to), _finite(boundaries.defective_above)
            self._limits[key] = good, defective, boundaries.region_from
        decided = decision.label, decision.p_value, decision.unsure_because
        return Judgement(calibration.version, key, *decided, *self._limits[key]), None

    @cached_property
    def report(self) -> CalibrationReport | None:
        """What the HTTP layer needs of the calibration; None if there is none."""
        if self.calibration is None:
            return None
        classes = self.calibration.record.classes
        boundaries = {class_key(name): self.calibration.of(name) for name in self.calibration.names}
        watched = {key: _watched(each) for key, each in boundaries.items()}
        bounds = [
            rate_bound(watched[key].rank, len(each.images), each.rule.confidence) for key, each in boundaries.items()
        ]
        images = [each for entry in classes for each in (entry.normal, entry.anomalous) if each is not None]
        return CalibrationReport(
            version=self.calibration.version,
            description=describe(self.calibration),
            watched=watched,
            false_alarms=max(bounds),
            sha256=frozenset(digest for each in images for digest in each.sha256),
        )

    def _does_not_apply(self, job: Job) -> str | None:
        """Why the calibration is not for scores made like this one; None: it is."""
        assert self.calibration is not None
        question = job.question
        if question.num_samples == "auto":
            samples = self.calibration.how.num_samples
            return f"the calibration does not apply: it was made with num_samples {samples}, not auto"
        made = {
            "looked_at": question.view.name(self.side),
            "num_samples": question.num_samples,
            "bits": question.bits,
            "seed": question.seed,
        }
        return self.calibration.differences(self._how.model_copy(update=made))


def _watched(boundaries: Boundaries) -> WatchedScores:
    """Where a rule has no rate of false alarms, the good images above its threshold count as defective."""
    scores = list(boundaries.images.scores)
    above = sum(score > boundaries.defective_above for score in scores)
    return WatchedScores(scores, boundaries.alarm_rank or max(1, above))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
