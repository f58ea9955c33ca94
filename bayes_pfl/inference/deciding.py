"""A model's calibration or threshold -> decisions on its predictions."""

import logging
from functools import cached_property
from typing import Literal

from bayes_pfl.config import Precision
from bayes_pfl.decisions.boundaries import Decision
from bayes_pfl.decisions.calibration import Calibration, read_calibration
from bayes_pfl.decisions.records import HowScored
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.how_scored import how_scored
from bayes_pfl.inference.images import ImageLike, file_sha256
from bayes_pfl.inference.prediction import Prediction
from bayes_pfl.inference.view import WHOLE, View

NOTHING_DECIDES = "the model has no threshold; give one, or make one with `bayes-pfl calibrate`"
"""Why a prediction has no label."""

logger = logging.getLogger(__name__)


class Decider:
    """What decides on a model's predictions: a given threshold, else its calibration, else its own threshold.

    Args:
        bundle: the model.
        precision: of CLIP's matrix products.
    """

    def __init__(self, bundle: Bundle, precision: Precision) -> None:
        self._bundle, self._precision = bundle, precision
        self._image_size = bundle.config.backbone.image_size
        self._told: set[str] = set()

    def decided(
        self,
        prediction: Prediction,
        image: ImageLike,
        class_name: str,
        num_samples: int | Literal["auto"],
        seed: int,
        view: View = WHOLE,
        threshold: float | None = None,
    ) -> Prediction:
        """A prediction with its decision.

        Args:
            prediction: without one.
            image: that was scored.
            class_name: what it shows.
            num_samples: R as it was asked for.
            seed: of the samples.
            view: how the image was looked at.
            threshold: image score from which an image is defective; None: the model decides.

        Returns:
            The same prediction with `decision`.

        Raises:
            BundleError: the calibration is damaged.
        """
        return prediction._replace(
            decision=_by_threshold(prediction, threshold)
            if threshold is not None
            else self._own_decision(prediction, image, class_name, num_samples, seed, view.name(self._image_size))
        )

    @cached_property
    def _calibration(self) -> Calibration | None:
        """Read when it is first needed."""
        return read_calibration(self._bundle.folder)

    @cached_property
    def _how(self) -> HowScored:
        """How scores are made, but for what differs from call to call."""
        return how_scored(self._bundle, "", 1, self._precision, None)

    def _own_decision(
        self,
        prediction: Prediction,
        image: ImageLike,
        class_name: str,
        num_samples: int | Literal["auto"],
        seed: int,
        looked_at: str,
    ) -> Decision:
        """By the model's calibration, else by its threshold."""
        reason = self._does_not_apply(num_samples, seed, looked_at)
        if self._calibration is not None and reason is None:
            score, uncertainty = prediction.image_score, prediction.uncertainty
            return self._calibration.verdict(class_name, score, uncertainty, file_sha256(image))
        scoring = self._bundle.config.scoring
        made_for = scoring.threshold_for or WHOLE.name(self._image_size)
        if scoring.threshold is None or made_for != looked_at:
            other = f"the model's threshold is for {made_for}, not for {looked_at}; give one"
            return Decision(None, no_label_because=reason or (other if scoring.threshold else NOTHING_DECIDES))
        if reason is not None and reason not in self._told:
            self._told.add(reason)
            logger.warning("The model's own threshold decides: %s.", reason)
        return _by_threshold(prediction, scoring.threshold)

    def _does_not_apply(self, num_samples: int | Literal["auto"], seed: int, looked_at: str) -> str | None:
        """Why the calibration is not for scores made like these; None where it is, or where there is none."""
        calibration = self._calibration
        if calibration is None:
            return None
        if num_samples == "auto":
            return f"the calibration does not apply: it was made with R = {calibration.how.num_samples}, not with auto"
        made = {"looked_at": looked_at, "num_samples": num_samples, "seed": seed}
        return calibration.differences(self._how.model_copy(update=made))


def _by_threshold(prediction: Prediction, threshold: float) -> Decision:
    return Decision("defective" if prediction.image_score >= threshold else "good")
