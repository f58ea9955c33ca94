"""A replica's answer, a typed threshold -> good, defective, unsure, or why nothing is said; labels beside regions."""

from typing import NamedTuple

from serve.messages import Judgement, Label, ReplicaAnswer

TYPED = "the threshold of the request decides"
NEITHER = "the model has no threshold and no calibration: make one with `bayes-pfl calibrate`, or send threshold"


class Ruling(NamedTuple):
    """What is said of an image."""

    label: Label | None
    no_label_because: str | None = None
    threshold: float | None = None
    """That decides, if one does."""
    verdict: Judgement | None = None
    """Of the calibration, where it decides."""
    no_calibration_because: str | None = None
    """Why it does not."""

    @property
    def p_value(self) -> float | None:
        """Of the calibration."""
        return None if self.verdict is None else self.verdict.p_value

    @property
    def unsure_because(self) -> str | None:
        """Why it is neither good nor defective."""
        return None if self.verdict is None else self.verdict.unsure_because

    @property
    def calibration(self) -> str | None:
        """Version of the calibration that decides."""
        return None if self.verdict is None else self.verdict.calibration

    @property
    def is_pooled(self) -> bool:
        """Whether the images of all calibrated classes together decide."""
        return self.verdict is not None and self.verdict.calibrated_name is None

    @property
    def region_threshold(self) -> float | None:
        """Map value from which a pixel belongs to a region, if nobody says otherwise."""
        return self.threshold if self.verdict is None else self.verdict.region_from


def decide(answer: ReplicaAnswer, typed: float | None, looked_at: str) -> Ruling:
    """A typed threshold decides; without one the calibration where it applies; else the model's own threshold.

    Args:
        answer: of the replica.
        typed: threshold of the request.
        looked_at: way of looking at the image, in words.

    Returns:
        What is said of the image.
    """
    if typed is not None:
        return _by_threshold(answer, typed, TYPED)
    if answer.verdict is not None:
        return Ruling(answer.verdict.label, verdict=answer.verdict)
    reason = answer.no_verdict_because
    if answer.model.threshold is not None and answer.model.threshold_for == looked_at:
        return _by_threshold(answer, answer.model.threshold, reason)
    return Ruling(None, _no_label_because(answer, looked_at), no_calibration_because=reason)


def explain_regions(ruling: Ruling, score: float, region_threshold: float | None, has_regions: bool) -> str | None:
    """Label and regions each have a threshold of their own: where they seem to contradict each other, both are named.

    Args:
        ruling: on the image.
        score: image score.
        region_threshold: map value from which a pixel belongs to a region; None: no regions were looked for.
        has_regions: whether a pixel reaches it.

    Returns:
        Why a good image has regions, or a defective one none; None where there is nothing to explain.
    """
    if region_threshold is None or (ruling.label, has_regions) not in (("good", True), ("defective", False)):
        return None
    is_good, verdict = ruling.label == "good", ruling.verdict
    if verdict is None:
        limit = f"below {ruling.threshold:.6g}" if is_good else f"from {ruling.threshold:.6g} on"
    else:
        limit = f"up to {verdict.good_up_to:.6g}" if is_good else f"above {verdict.defective_above:.6g}"
    pixels = "pixels of the anomaly map reach" if is_good else "no pixel of the anomaly map reaches"
    return (
        f"the image score {score:.6g} is {ruling.label} ({limit}), but {pixels} the region threshold "
        f"{region_threshold:.6g}: the label is of the whole image, regions are of single pixels"
    )


def _by_threshold(answer: ReplicaAnswer, threshold: float, no_calibration_because: str | None) -> Ruling:
    label: Label = "defective" if answer.image_score >= threshold else "good"
    return Ruling(label, threshold=threshold, no_calibration_because=no_calibration_because)


def _no_label_because(answer: ReplicaAnswer, looked_at: str) -> str:
    model, reason = answer.model, answer.no_verdict_because
    if model.threshold is not None:
        threshold = f"the model's threshold is for {model.threshold_for}, not for {looked_at}; send threshold"
        return threshold if model.calibration is None else f"{reason}; {threshold}"
    if model.calibration is None:
        return NEITHER
    return f"{reason}; or send threshold"
