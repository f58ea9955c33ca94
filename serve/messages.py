"""What the HTTP layer and the model replicas say to each other: small typed tuples that need no torch."""

from typing import Any, Literal, NamedTuple

import numpy as np

from bayes_pfl.inference.view import WHOLE, View

DEMONSTRATION = (
    "This model stands on the small demonstration CLIP inside the package, which has only seen generated images: "
    "its scores show how the endpoint works, not what is wrong with real objects."
)


Label = Literal["good", "defective", "unsure"]


class ModelInfo(NamedTuple):
    """Which model this is, and what a client must know of it."""

    version: str
    """First 12 hexadecimal digits of the head's SHA-256."""
    kind: Literal["trained", "untrained", "demonstration"]
    source: str
    """`embedded`, a models:/ URI, or the last part of a folder's path."""
    backbone: str
    image_size: int
    """Side of the square the picture is squeezed into, and of the anomaly map, pixels."""
    num_prompts: int | None
    """None, as is `flow_length`, for a model without uncertainty."""
    flow_length: int | None
    threshold: float | None
    """Image score from which the model calls an image anomalous, if one is known."""
    threshold_for: str
    """Way of looking at images that the threshold belongs to, in words."""
    calibration: str | None
    """Version of the model's calibration, if it has one."""

    @property
    def note(self) -> str | None:
        """What must be said wherever the model's answers are shown."""
        return DEMONSTRATION if self.kind == "demonstration" else None


class Question(NamedTuple):
    """What a client asks of an image: made at the route, carried unchanged to the replica."""

    class_name: str
    num_samples: int | Literal["auto"]
    """R, prompts drawn from each learned distribution, or as many as are needed."""
    seed: int
    want_map: bool
    """Send the map back in any case: it is larger than all the rest together."""
    view: View = WHOLE
    """How the image is looked at."""
    bits: int | None = None
    """Of gray with more than 8; None: as the file or its values say."""
    threshold: float | None = None
    """Image score that `auto` samples decide by; None: the model's own."""


class Job(NamedTuple):
    """One image to score, and the question about it."""

    pixels: np.ndarray
    """(side, side, 3) uint8: the image, already resized to the model's input size; at its own size for tiles or a
    region."""
    question: Question
    most_seconds: float | None = None
    """No further tile is begun after this time: nobody waits any longer."""
    sha256: str = ""
    """Of the encoded file, hexadecimal: equal scores are ordered by it."""


class Judgement(NamedTuple):
    """What the calibration of the model that scored an image says of it."""

    calibration: str
    """Its version."""
    calibrated_name: str | None
    """The class that decided, as its name is compared; None: all classes together."""
    label: Label | None
    p_value: float | None
    unsure_because: str | None
    good_up_to: float | None
    """Score up to which an image is called good; None: none is."""
    defective_above: float | None
    """Score above which an image is called defective; None: none is."""
    region_from: float | None
    """Map value from which a pixel belongs to a region; None: the rule has no rate of false alarms."""


class WatchedScores(NamedTuple):
    """Scores of a class's good calibration images, and how many of the highest count as defective."""

    scores: list[float]
    rank: int


class CalibrationReport(NamedTuple):
    """A model's calibration, for whoever asks about it and for the drift alarm."""

    version: str
    description: dict[str, Any]
    """As `GET /v1/calibration` tells it."""
    watched: dict[str, WatchedScores]
    """By class, as its name is compared."""
    false_alarms: float
    """Share of good images called defective that no class exceeds, with its rule's confidence."""
    sha256: frozenset[str]
    """Of the calibration images."""


class ReplicaAnswer(NamedTuple):
    """What a replica says of one image."""

    image_score: float
    uncertainty: float | None
    """None for a method without a distribution."""
    anomaly_map: np.ndarray | None
    """(side, side), or of the image's size for tiles or a region, float32 in [0, 1]; if asked for, or if the model
    has a threshold or the image a verdict, so that there are regions."""
    model: ModelInfo
    compute_ms: float
    verdict: Judgement | None
    """Of the model's calibration, where it applies to this image."""
    no_verdict_because: str | None
    """Why it does not."""


class StreamState(NamedTuple):
    """How far the images answered so far speak against the calibration."""

    evidence: float
    """Highest so far; 1 at the beginning."""
    alarm_at: float
    images: int

    @property
    def is_alarm(self) -> bool:
        """Whether the evidence has reached `alarm_at`."""
        return self.evidence >= self.alarm_at


class Refused(NamedTuple):
    """The replica cannot score this job; the client must change it."""

    detail: str


class Outgrown(NamedTuple):
    """The job was made for another input size: a new model has been loaded meanwhile."""

    model: ModelInfo


class Failed(NamedTuple):
    """The replica broke off over this job; the others of its batch have outcomes of their own."""

    reason: str
    """Type of the error, for the log."""


Outcome = ReplicaAnswer | Refused | Outgrown | Failed


class BatchOutcome(NamedTuple):
    """What a replica says of a batch."""

    replica: str
    """Which one it is: so the HTTP layer learns how many there are."""
    outcomes: list[Outcome]
