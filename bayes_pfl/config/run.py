"""Settings of a run and of what it produces: backbone, scoring, optimisation; one field, one sentence, one unit.

The defaults are the paper's formulation at full scale; where the authors' released implementation differs, the field
says which value reproduces it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WrapValidator,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from bayes_pfl.config.architectures import architecture
from bayes_pfl.config.methods import (
    AdaClipConfig,
    AnomalyClipConfig,
    AprilGanConfig,
    ClipAdConfig,
    PromptEnsembleConfig,
    WinClipConfig,
    recommended_settings,
)
from bayes_pfl.config.prompt_flow import (
    FLOW_LOSSES,
    LossConfig,
    LossVariant,
    ModelConfig,
    PromptFlowVariant,
    refuse_without_flow,
)
from bayes_pfl.config.settings import Settings, changed_settings

EMBEDDED = "embedded"
EMBEDDED_BACKBONE: dict[str, Any] = {
    "name": "package:embedded/bayes-pfl-embedded.json",
    "pretrained": "package:embedded/bayes-pfl-embedded.safetensors",
    "image_size": 112,
    "feature_layers": (3, 6, 9, 12),
}

PositionResize = Literal["antialiased_bicubic", "bicubic", "bilinear"]


class BackboneConfig(Settings):
    """The frozen CLIP: any architecture and any weights that open_clip can load."""

    name: str = Field(
        "ViT-L-14-336",
        description="open_clip architecture, a JSON file with one (package:... inside us), or embedded: the small CLIP "
        "inside this package",
    )
    pretrained: str = Field(
        "openai",
        description="open_clip tag, checkpoint file, package:<file inside this package>, or random:<seed> for tests",
    )
    image_size: int = Field(
        518,
        ge=14,
        description="side of the square input image, pixels; not given: 518 for ViT-L-14-336, else the architecture's",
    )
    feature_layers: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (6, 12, 18, 24),
        min_length=1,
        description="vision blocks, counted from 1, whose patch tokens are used; not given: quarters of the depth",
    )
    quick_gelu: bool = Field(
        False, description="QuickGELU instead of exact GELU; the authors run OpenAI's weights with exact GELU"
    )
    weights_sha256: str = Field("", description="expected SHA-256 of the CLIP parameters; empty accepts any")
    position_resize: PositionResize = Field(
        "antialiased_bicubic",
        description="how the positional grid is brought to image_size: as open_clip does, or without antialiasing",
    )

    @model_validator(mode="before")
    @classmethod
    def _embedded(cls, values: Any) -> Any:
        """`embedded` as a name is the small CLIP inside this package, with its size and quarters of its depth."""
        if isinstance(values, dict) and values.get("name") == EMBEDDED:
            return {**EMBEDDED_BACKBONE, **{key: value for key, value in values.items() if key != "name"}}
        return values

    @model_validator(mode="before")
    @classmethod
    def _architectures_own(cls, values: Any) -> Any:
        """Image size and layers of the architecture where they are not given."""
        if not isinstance(values, dict) or not isinstance(values.get("name"), str):
            return values
        if {"image_size", "feature_layers"} <= set(values):
            return values
        own = architecture(values["name"])
        return values if own is None else {"image_size": own.image_size, "feature_layers": own.quarters, **values}

    @field_validator("name", "pretrained")
    @classmethod
    def _written_out(cls, value: str) -> str:
        """A file named from the current folder, written out: workers have another current folder."""
        return str(Path(value).resolve()) if Path(value).is_file() else value

    @model_validator(mode="after")
    def _layers_differ(self) -> "BackboneConfig":
        if len(set(self.feature_layers)) < len(self.feature_layers):
            raise ValueError(f"feature_layers {list(self.feature_layers)} names a block twice")
        return self


NUM_SAMPLES_LIMIT = 1000
"""Largest R: time and memory grow with it, and the mean over samples has settled long before."""


def _in_words(value: Any, validate: Callable[[Any], Any]) -> Any:
    """One sentence in place of pydantic's two, a number's and a word's."""
    try:
        return validate(value)
    except ValidationError as error:
        words = f"a whole number from 1 to {NUM_SAMPLES_LIMIT}, or auto"
        raise PydanticCustomError("num_samples", words) from error


NumSamples = Annotated[Annotated[int, Field(ge=1, le=NUM_SAMPLES_LIMIT)] | Literal["auto"], WrapValidator(_in_words)]
"""R, or as many as the image score needs to be clear of its threshold (`Detector.predict`)."""

MAX_SAMPLES = 20
"""R at which `auto` stops in any case."""

Precision = Literal["float32", "tf32", "bfloat16"]


class ScoringConfig(Settings):
    """From logits to what a user sees."""

    text_weight: float = Field(0.5, ge=0, description="weight of the global text score in the image score")
    map_weight: float = Field(0.5, ge=0, description="weight of the map's maximum in the image score")
    smoothing_sigma_px: float = Field(
        8.0, ge=0, description="Gaussian smoothing of the returned map, pixels; 0 for none"
    )
    threshold: float | None = Field(
        None, description="image score from which an image is called anomalous, if one is known"
    )
    threshold_for: str | None = Field(
        None, description="way of looking at images that the threshold was made for, in words; none: whole images"
    )
    edge_twice: bool = Field(
        False, description="smoothing reflects the outermost pixels too, as scipy does and the released codes with it"
    )
    smoothed_maximum: bool = Field(
        False, description="the map's maximum in the image score is that of the smoothed map (CLIP-AD)"
    )

    @model_validator(mode="after")
    def _score_is_something(self) -> "ScoringConfig":
        if self.text_weight == self.map_weight == 0:
            raise ValueError("text_weight and map_weight cannot both be 0: every image score would be 0")
        return self


class DetectorOptions(Settings):
    """How a model computes: the same model, faster or to the last bit."""

    precision: Precision = Field(
        "float32",
        description="of CLIP's matrix products: exact, or faster on a GPU (tf32, bfloat16) or some CPUs (bfloat16)",
    )
    compiled: bool = Field(
        False, description="hand the image encoder to torch.compile: minutes for the first image, then faster"
    )
    deterministic: bool = Field(False, description="score images one by one on a GPU too; default: in batches there")


MOST_EPOCHS = 100_000
MOST_IMAGES_A_STEP = 100_000
MOST_SEED = 2**63 - 1
"""Largest seed of torch's generators that is no other's negative."""


class TrainingConfig(Settings):
    """Optimisation of the head on an auxiliary dataset."""

    epochs: int = Field(20, ge=1, le=MOST_EPOCHS, description="passes over the auxiliary set")
    second_stage_epochs: int = Field(
        0,
        ge=0,
        le=MOST_EPOCHS,
        description="further passes that train only the maps of the image score, by classification (released)",
    )
    patience_epochs: int = Field(
        0,
        ge=0,
        description="end the first stage after so many epochs without a better validation pixel AP; 0: never "
        "(released: 3)",
    )
    keep_best: bool = Field(
        False, description="keep the first-stage head with the best validation pixel AP instead of the last (released)"
    )
    batch_size: int = Field(32, ge=1, le=MOST_IMAGES_A_STEP, description="images per optimiser step over all workers")
    learning_rate: float = Field(1e-4, gt=0, description="Adam's step size for linear layers")
    prompt_learning_rate: float | None = Field(
        None, gt=0, description="for banks and flows; none: learning_rate (released: 1e-3)"
    )
    temperature_learning_rate: float | None = Field(
        None, gt=0, description="for temperatures; none: learning_rate (released: 1e-2)"
    )
    warmup_fraction: float = Field(
        0.0, ge=0, lt=1, description="share of the steps with linear warm-up, then cosine decay; 0: constant"
    )
    gradient_clip_norm: float = Field(0.0, ge=0, description="largest gradient norm; 0: no clipping")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Adam's first moment decay (released: 0.5)")
    augment: bool = Field(False, description="seeded augmentation of the training images (released recipe)")
    mosaic_probability: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the anomalous images that become a 2 x 2 mosaic; needs augment (released on MVTec: 0.4)",
    )
    accumulation_parts: int = Field(
        1,
        ge=1,
        le=MOST_IMAGES_A_STEP,
        description="parts of a worker's share of a batch that go through the head one by one: less memory, the same "
        "loss",
    )
    mixed_precision: bool = Field(
        False, description="bfloat16 matrix products in backbone and head; losses and weights stay float32"
    )
    num_samples: int = Field(1, ge=1, le=NUM_SAMPLES_LIMIT, description="R during training")
    seed: int = Field(0, ge=0, le=MOST_SEED, description="initialisation, order, augmentation and draws")

    @model_validator(mode="after")
    def _mosaics_are_augmentation(self) -> "TrainingConfig":
        if self.mosaic_probability and not self.augment:
            raise ValueError("mosaic_probability needs augment: true")
        return self


ADDED_LATER: dict[str, dict[str, Any]] = {
    "model": {"method": "bayes_pfl"},
    "model.variant": {
        "prompts": "flow",
        "deep_blocks": 9,
        "text_ensemble": False,
        "agnostic_context": False,
        "states_from_image": False,
    },
    "backbone": {"position_resize": "antialiased_bicubic"},
    "scoring": {"edge_twice": False, "smoothed_maximum": False},
}
"""By section, fields that configurations of Bayes-PFL lack where they have these values, as they did before there were
the fields: names of runs, digests and bundles of older versions stay what they were."""

MODEL_KEYS = {
    f"model.{name}": f"model.variant.{name}"
    for name in PromptFlowVariant.model_fields
    if name not in ADDED_LATER["model.variant"]
} | {"scoring.draws_in_order": "model.variant.draws_in_order"}
LOSS_KEYS = {f"loss.{name}": f"loss.variant.{name}" for name in LossVariant.model_fields}


MethodConfig = Annotated[
    Annotated[ModelConfig, Tag("bayes_pfl")]
    | Annotated[PromptEnsembleConfig, Tag("prompt_ensemble")]
    | Annotated[WinClipConfig, Tag("winclip")]
    | Annotated[AprilGanConfig, Tag("april_gan")]
    | Annotated[ClipAdConfig, Tag("clip_ad")]
    | Annotated[AnomalyClipConfig, Tag("anomaly_clip")]
    | Annotated[AdaClipConfig, Tag("ada_clip")],
    Discriminator(lambda value: _method_name(value)),  # which is defined below
]
"""Settings of any method, told apart by `method`; without it they are Bayes-PFL's."""

METHOD_NAMES: tuple[str, ...] = tuple(get_args(kind)[1].tag for kind in get_args(get_args(MethodConfig)[0]))
"""Values of `method`."""


class DetectorConfig(Settings):
    """All that is needed to rebuild a trained detector: what a bundle stores.

    A method other than Bayes-PFL brings its own defaults of `backbone` and `scoring`; keys that are given win.
    """

    old_keys: ClassVar[dict[str, str]] = MODEL_KEYS

    backbone: BackboneConfig = BackboneConfig()
    model: MethodConfig = ModelConfig()
    scoring: ScoringConfig = ScoringConfig()

    @model_validator(mode="before")
    @classmethod
    def _methods_own_defaults(cls, values: Any) -> Any:
        return _with_defaults_of_method(values) if isinstance(values, dict) else values

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        values = handler(self)
        if isinstance(self.model, ModelConfig):
            for section, fields in ADDED_LATER.items():
                written = values
                for part in section.split("."):
                    written = written.get(part, {})
                for name, default in fields.items():
                    if written.get(name) == default:
                        del written[name]
        return values


class RunConfig(DetectorConfig):
    """A training run: the detector, its losses and its optimisation."""

    old_keys: ClassVar[dict[str, str]] = MODEL_KEYS | LOSS_KEYS

    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _second_stage_needs_maps(self) -> "RunConfig":
        has_maps = isinstance(self.model, ModelConfig) and self.model.variant.mapped_classification
        if self.training.second_stage_epochs and not has_maps:
            raise ValueError(
                "training.second_stage_epochs trains model.variant.mapped_classification and attention_pooling: set "
                "both"
            )
        return self

    @model_validator(mode="after")
    def _settings_of_the_flow_alone(self) -> "RunConfig":
        if not isinstance(self.model, ModelConfig):
            return self
        variant = self.model.variant
        if variant.states_from_image and self.loss.variant.state_log_det_over_batch:
            raise ValueError(
                "loss.variant.state_log_det_over_batch divides the states' of a whole batch; states_from_image has "
                "one for each image: set one of them"
            )
        if variant.prompts != "flow":
            changed = [f"loss.{key}" for key in changed_settings(self.loss, FLOW_LOSSES)]
            names = ("num_samples", "prompt_learning_rate")[: 2 if variant.prompts == "sentences" else 1]
            changed += [f"training.{key}" for key in changed_settings(self.training, names)]
            refuse_without_flow(variant.prompts, changed)
        return self

    @model_validator(mode="after")
    def _settings_of_bayes_pfl_alone(self) -> "RunConfig":
        if isinstance(self.model, ModelConfig):
            return self
        if self.loss != LossConfig():
            raise ValueError(
                f"the settings under loss are Bayes-PFL's; those of {self.model.method} are under model.segmentation"
            )
        if self.training.prompt_learning_rate or self.training.temperature_learning_rate:
            raise ValueError(
                "training.prompt_learning_rate and temperature_learning_rate are Bayes-PFL's; "
                f"{self.model.method} learns with training.learning_rate alone"
            )
        return self

    def detector(self) -> DetectorConfig:
        """The part of the run that a bundle stores.

        Returns:
            Backbone, model and scoring.
        """
        return DetectorConfig(backbone=self.backbone, model=self.model, scoring=self.scoring)


def _method_name(value: Any) -> Any:
    """The tag of a method's settings, given as such or as a mapping."""
    return value.get("method", "bayes_pfl") if isinstance(value, dict) else getattr(value, "method", "bayes_pfl")


def _with_defaults_of_method(values: dict[str, Any]) -> dict[str, Any]:
    """The values, with the method's own defaults for keys of `backbone` and `scoring` that are not given."""
    model = values.get("model")
    recommended = recommended_settings(_method_name(model), model) if model is not None else {}
    values = dict(values)
    for section, defaults in recommended.items():
        given = values.get(section, {})
        if isinstance(given, dict) and given.get("name") != EMBEDDED:
            values[section] = {**(_for_another(defaults, given) if section == "backbone" else defaults), **given}
    return values


def _for_another(recommended: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """A method's recommended backbone, for another architecture where one is given: its size, and as deep layers."""
    name = given.get("name", recommended["name"])
    other, own = architecture(str(name)), architecture(recommended["name"])
    if name == recommended["name"] or other is None or own is None:
        return recommended
    layers = other.scaled(recommended["feature_layers"], own.depth)
    return {**recommended, "image_size": other.image_size, "feature_layers": layers}
