"""What goes over the wire under /v1, as pydantic models: the OpenAPI document is made of these."""

import base64
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from bayes_pfl.config import NumSamples, Settings
from bayes_pfl.inference.view import RegionOfInterest, View
from serve.messages import Label, ModelInfo, Question, StreamState
from serve.problems import ProblemBody
from serve.settings import DriftSettings

MOST_IMAGES = 1000
"""In one request, whatever `limits.max_images` says."""

MapKind = Literal["png", "png16", "npy"]


def fold_spaces(value: Any) -> Any:
    """Make every space a plain one: texts from web pages and word processors hold no-break spaces.

    Args:
        value: a class name; what is no text is left to the next check.

    Returns:
        The same length, each white-space character replaced by a space.
    """
    return re.sub(r"\s", " ", value) if isinstance(value, str) else value


def refuse_blank(value: str) -> str:
    """Refuse a class name without a word.

    Args:
        value: the name, without spaces around it.

    Returns:
        The same.

    Raises:
        PydanticCustomError: it is blank.
    """
    if not value:
        raise PydanticCustomError("blank", "is blank; say what the image shows, such as 'metal nut', or leave it out")
    return value


ClassName = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=1000),
    BeforeValidator(fold_spaces),
    AfterValidator(refuse_blank),
    Field(json_schema_extra={"minLength": 1}),
]
Name = Annotated[str, StringConstraints(max_length=63)]


NUM_SAMPLES = (
    "R, prompts drawn from each learned distribution; `auto`: as many as the score needs to be clear of the threshold"
)


class ViewOptions(Settings):
    """How an image is looked at; a threshold belongs to one way."""

    tile: bool = Field(False, description="look at the image tile by tile, at its own resolution")
    overlap: float | None = Field(
        None, ge=0, lt=1, allow_inf_nan=False, description="with `tile`: share that the next tile covers; none: 0.5"
    )
    roi: str | None = Field(
        None,
        pattern=r"^[0-9]{1,6},[0-9]{1,6},[1-9][0-9]{0,5},[1-9][0-9]{0,5}$",
        description="region of interest, `x,y,width,height` in pixels: nothing outside counts, the map is 0 there",
    )

    bits: int | None = Field(
        None, ge=9, le=16, description="of a gray image with more than 8; none: as the file or its largest value says"
    )

    @model_validator(mode="after")
    def _overlap_is_of_tiles(self) -> Self:
        if self.overlap is not None and not self.tile:
            raise ValueError("overlap is of tiles; send tile=true too")
        return self

    def view(self, region: RegionOfInterest | None = None) -> View:
        """The way of looking.

        Args:
            region: from a mask; none: that of `roi`.

        Returns:
            The view.
        """
        if region is None and self.roi is not None:
            region = RegionOfInterest.from_text(self.roi)
        return View((0.5 if self.overlap is None else self.overlap) if self.tile else None, region)


class ScoreOptions(ViewOptions):
    """What the client wants to know of an image."""

    class_name: ClassName = Field("object", description="what the image shows, in a word or two: `metal nut`, `skin`")
    num_samples: NumSamples = Field(10, description=NUM_SAMPLES)
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the draws: equal requests give equal answers")
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="score from which an image is defective; none: the calibration decides, else the model's own",
    )
    region_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="map value from which a pixel belongs to a region; none: `threshold`, or the calibration's",
    )
    map: Literal["none", "png", "png16", "npy"] = Field(
        "none", description="anomaly map to send along: coloured PNG, 16-bit gray PNG (value x 65535), or float32 npy"
    )
    mask: bool = Field(False, description="send `pred_mask`: a PNG with 255 where the map reaches `region_threshold`")
    model: Name | None = Field(None, description="name of the model; none: the first one of /v1/models")

    def question(self, region: RegionOfInterest | None = None) -> Question:
        """What the replica is asked.

        Args:
            region: from a mask; none: that of `roi`.

        Returns:
            The question; it wants a map only if something is made of it.
        """
        drawn = self.map != "none" or self.mask or (self.threshold, self.region_threshold) != (None, None)
        question = Question(self.class_name, self.num_samples, self.seed, drawn, self.view(region), self.bits)
        return question._replace(threshold=self.threshold) if self.num_samples == "auto" else question


class MapOptions(ViewOptions):
    """What `POST /v1/map` draws."""

    class_name: ClassName = Field("object", description="what the image shows")
    num_samples: NumSamples = Field(10, description=NUM_SAMPLES)
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the draws")
    kind: MapKind = Field("png", description="coloured PNG, 16-bit gray PNG (value x 65535), or float32 npy")
    model: Name | None = Field(None, description="name of the model; none: the first one of /v1/models")

    def question(self) -> Question:
        """What the replica is asked.

        Returns:
            The question.
        """
        return Question(self.class_name, self.num_samples, self.seed, True, self.view(), self.bits)


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True)


class ModelBody(Answer):
    """Which model answered."""

    name: str
    version: str = Field(description="first 12 hexadecimal digits of the SHA-256 of the trained head")
    kind: Literal["trained", "untrained", "demonstration"]
    note: str | None = Field(description="what must be said wherever this model's answers are shown")
    source: str
    backbone: str
    image_size: int = Field(description="side of the square input and of the anomaly map, pixels")
    num_prompts: int | None
    flow_length: int | None
    threshold: float | None = Field(description="image score from which the model calls an image anomalous, if known")
    threshold_for: str = Field(description="the way of looking at images that this threshold belongs to")
    calibration: str | None = Field(description="version of the model's calibration, if it has one")

    @classmethod
    def of_model(cls, name: str, info: ModelInfo) -> "ModelBody":
        """The public view of a replica's model.

        Args:
            name: as clients call it.
            info: from a replica.

        Returns:
            What clients are told.
        """
        return cls(name=name, note=info.note, **info._asdict())


class DriftBody(Answer):
    """Whether images are still like those of the calibration."""

    state: Literal["watching", "alarm"]
    evidence: float = Field(description="highest so far against it; 1 at the beginning")
    alarm_at: float
    images: int = Field(description="images watched by this process of the HTTP layer")
    promise: str

    @classmethod
    def of_stream(cls, stream: StreamState, drift: DriftSettings) -> "DriftBody":
        """The public view of a drift alarm.

        Args:
            stream: what was seen.
            drift: what is promised.

        Returns:
            What clients are told.
        """
        promise = (
            "While the images that are not called defective score like the good images of the calibration, and at most "
            f"{100 * drift.usual_defects:g} % are defective, at most one in {drift.false_alarms_one_in:,} endpoints "
            "ever comes to an alarm."
        )
        state: Literal["watching", "alarm"] = "alarm" if stream.is_alarm else "watching"
        return cls(
            state=state, evidence=stream.evidence, alarm_at=stream.alarm_at, images=stream.images, promise=promise
        )


class OfferedModel(ModelBody):
    """Which model would answer, and how its images fare."""

    drift: DriftBody | None = Field(description="of a model with a calibration")

    @classmethod
    def of_offer(cls, name: str, info: ModelInfo, drift: DriftBody | None) -> "OfferedModel":
        """The public view of a replica's model and of its images.

        Args:
            name: as clients call it.
            info: from a replica.
            drift: of its calibration.

        Returns:
            What clients are told.
        """
        return cls(**dict(ModelBody.of_model(name, info)), drift=drift)


class EncodedMap(Answer):
    """A map or mask to be stretched over the image: of the model's input size; with `tile` or `roi` of the image's."""

    encoding: MapKind
    width: int
    height: int
    data: str = Field(description="the file, base64")

    @classmethod
    def of_file(cls, encoding: MapKind, shape: tuple[int, ...], data: bytes) -> "EncodedMap":
        """Wrap a file's bytes.

        Args:
            encoding: kind of file.
            shape: height and width, pixels.
            data: the file.

        Returns:
            The map as text.
        """
        return cls(encoding=encoding, width=shape[1], height=shape[0], data=base64.b64encode(data).decode("ascii"))


class Region(Answer):
    """A connected part of the map at or above the region threshold, as a box in the upright image's pixels."""

    x: int
    y: int
    width: int
    height: int
    score: float = Field(description="largest value of the map inside")
    area: float = Field(description="share of the image it covers, 0 to 1")


class ImageSize(Answer):
    """The upright image as it was read, pixels."""

    width: int
    height: int


class Timings(Answer):
    """Where the time went, milliseconds."""

    model: float = Field(description="computation in the replica")
    total: float = Field(description="from the whole body read to the answer made: decoding and waiting included")


class Score(Answer):
    """The judgement of one image."""

    image_score: float = Field(description="image score: the higher, the more anomalous")
    pred_label: Label | None = Field(
        description="by `threshold`, where one decides: defective from it on; else by the calibration"
    )
    p_value: float | None = Field(
        description="share of good images that score at least as high, as the calibration knows; null unless it decides"
    )
    unsure_because: str | None = Field(description="why `pred_label` is unsure")
    no_label_because: str | None = Field(description="why `pred_label` is null")
    threshold: float | None = Field(description="the request's, else the model's; null where the calibration decides")
    good_up_to: float | None = Field(description="score up to which the calibration calls an image good")
    defective_above: float | None = Field(description="score above which the calibration calls an image defective")
    calibration: str | None = Field(description="version of the calibration; null unless it decides")
    pooled_calibration: bool = Field(
        description="`class_name` was not calibrated: the images of all calibrated classes together decide"
    )
    no_calibration_because: str | None = Field(description="why the calibration does not decide")
    class_name: str = Field(description="what the image was taken to show: the request's, else the default")
    read_as: str | None = Field(
        description="what was assumed of the file, or left out of it, such as `first of 2 pages`; else null"
    )
    looked_at: str = Field(description="the way of looking, which a threshold must have been made for")
    uncertainty: float | None = Field(
        description="standard deviation of the score over the drawn prompts; null for a method that draws none"
    )
    regions: list[Region] = Field(description="the 50 strongest; empty if no region threshold is known")
    region_threshold: float | None = Field(description="map value from which a pixel belongs to a region, if known")
    regions_because: str | None = Field(
        description="why an image called good has regions, or one called defective has none; else null"
    )
    anomaly_map: EncodedMap | None
    pred_mask: EncodedMap | None
    image: ImageSize
    model: ModelBody
    timings_ms: Timings
    request_id: str


class BatchImage(Settings):
    """One image of a batch."""

    image: str = Field(description="the encoded file (PNG, JPEG, BMP, TIFF, WebP), base64 or a data URI", min_length=1)
    class_name: ClassName | None = Field(None, description="what it shows; none: the batch's class_name")


class BatchRequest(Settings):
    """Several images with the same options."""

    images: list[BatchImage] = Field(min_length=1, max_length=MOST_IMAGES)
    options: ScoreOptions = ScoreOptions()
    roi_mask: str | None = Field(
        None, description="region of interest: a mask of the images' size, not black inside; base64 or a data URI"
    )


class BatchAnswer(Answer):
    """One entry an image, in the order of the request: a score, or why that one image was refused."""

    results: list[Score | ProblemBody]
    request_id: str


class Models(Answer):
    """What this endpoint offers; the first is the default."""

    models: list[OfferedModel]


class CalibrationBody(Answer):
    """The calibration of a model: for what it holds, where its verdicts change, and what it promises."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: str
    made: str = Field(description="when")
    applies_to: dict[str, Any] = Field(description="how scores must have been made")
    classes: list[dict[str, Any]] = Field(description="by class name: rule, boundaries, counts, promises")
    other_class_names: dict[str, Any] | None = Field(description="of all classes together, for other names")


class Version(Answer):
    """Versions of the software."""

    name: str
    version: str
    ray: str
