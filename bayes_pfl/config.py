"""Every choice of a model and of its training, as frozen pydantic models: one field, one sentence, one unit.

Unknown keys are errors that name the nearest valid key. The defaults are the paper's formulation at full scale; where the
authors' released implementation differs, the field says which value reproduces it (see `published_variant`).
"""

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bayes_pfl.errors import ConfigError

T = TypeVar("T", bound="Settings")

UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)
"""What text that is no YAML ends in: also no UTF-8, no date, or brackets without an end."""


class Settings(BaseModel):
    """Base of all configuration: immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneConfig(Settings):
    """The frozen CLIP: any architecture and any weights that open_clip can load."""

    name: str = Field(
        "ViT-L-14-336", description="open_clip architecture, or a JSON file with one (package:... inside us)"
    )
    pretrained: str = Field(
        "openai",
        description="open_clip tag, checkpoint file, package:<file inside this package>, or random:<seed> for tests",
    )
    image_size: int = Field(518, ge=14, description="side of the square input image, pixels")
    feature_layers: tuple[int, ...] = Field(
        (6, 12, 18, 24), min_length=1, description="vision blocks, counted from 1, whose patch tokens are used"
    )
    quick_gelu: bool = Field(
        False, description="QuickGELU instead of exact GELU; the authors run OpenAI's weights with exact GELU"
    )
    weights_sha256: str = Field("", description="expected SHA-256 of the CLIP parameters; empty accepts any")


class ModelConfig(Settings):
    """The learned head of Bayes-PFL. B, K, P, Q of the paper and every point where implementations differ."""

    num_prompts: int = Field(3, ge=1, description="B, prompts in each of the two banks")
    context_tokens: int = Field(5, ge=1, description="P, learnable context vectors of a prompt")
    state_tokens: int = Field(5, ge=1, description="Q, learnable state vectors of a prompt")
    flow_length: int = Field(10, ge=0, description="K, planar flow steps")
    flow_initial_scale: float = Field(
        0.01,
        ge=0,
        description="standard deviation of the flow's u and w at the start: near the identity; the released code has 1",
    )
    offset_scale: float = Field(
        0.01,
        gt=0,
        description="sampled offsets are this times z_K: the prior N(0, I) then means offsets of a token embedding's size; with 1, "
        "as released, their norm sqrt(C) drowns the prompt vectors, prompts collapse and the KL starts near 1,100 nats",
    )
    context_from_image: bool = Field(
        True, description="image-specific distribution of the context; off: no such offset (Table 2)"
    )
    state_distribution: bool = Field(
        True, description="image-agnostic distribution of the states; off: no such offset (Table 2)"
    )
    condition_on_patches: bool = Field(
        True, description="the context distribution sees x = x_cls + x_patch (paper); released: x_cls alone (false)"
    )
    amortized_context_flow: bool = Field(
        False, description="the context flow's u, w, b are linear in the condition (released) instead of free (paper)"
    )
    separate_state_flows: bool = Field(
        False,
        description="normal and abnormal states have a flow of their own (released) instead of sharing it (paper)",
    )
    variance_exponent: float = Field(
        0.5, gt=0, description="q0's standard deviation is variance to this power: 0.5, or 0.25 as in the released code"
    )
    log_det_epsilon: float = Field(0.0, ge=0, description="added inside log|1 + u.psi|; released: 1e-5")
    hidden_width: int = Field(
        0,
        ge=0,
        description="inner width of the networks for q0's mean and variance; 0: half of the text width; released: half of the vision width",
    )
    attention_heads: int = Field(
        1, ge=1, description="heads of the cross-modal attention: 1 (paper, eq. 10), 4 (released)"
    )
    attention_query_bias: bool = Field(False, description="bias of the query projection: off (paper), on (released)")
    attention_normalized_keys: bool = Field(
        False, description="keys and values are L2-normalised patch features (released) instead of plain ones (paper)"
    )
    residual_attention: bool = Field(
        True, description="refine text embeddings with patch features; off: eq. 10 without the sum"
    )
    class_token_in_image: bool = Field(True, description="x contains x_cls; off: x = x_patch (Table 2)")
    patches_in_image: bool = Field(True, description="x contains x_patch; off: x = x_cls (Table 2)")
    attention_pooling: bool = Field(
        False, description="x_patch by softmax pooling over patches (released) instead of the mean over patches (paper)"
    )
    pooling_width: int = Field(
        0,
        ge=0,
        description="inner width of the attention pooling; 0: half of the joint width; released: half of the vision width",
    )
    mapped_classification: bool = Field(
        False, description="linear maps of text and image embeddings before the image score (released, second stage)"
    )
    upsampled_corners: bool = Field(False, description="bilinear upsampling with align_corners=True, as released")

    @model_validator(mode="after")
    def _pooling_needs_mapping(self) -> "ModelConfig":
        if self.attention_pooling != self.mapped_classification:
            raise ValueError("attention_pooling and mapped_classification belong to one second stage: set both or none")
        return self

    @model_validator(mode="after")
    def _image_is_something(self) -> "ModelConfig":
        if not (self.class_token_in_image or self.patches_in_image):
            raise ValueError("class_token_in_image and patches_in_image cannot both be off: x would be nothing")
        return self


class LossConfig(Settings):
    """Weights and shape of the training objective, eq. 14."""

    kl_weight: float = Field(0.01, ge=0, description="weight of the three prompt-flow KL terms (released; eq. 7 has 1)")
    orthogonal_weight: float = Field(
        1.0, ge=0, description="weight of the orthogonality of the text embeddings, eq. 13"
    )
    orthogonal_mean: bool = Field(
        False,
        description="average the squared cosines over the B x B matrix (released) instead of summing them (eq. 13)",
    )
    classify_class_token: bool = Field(
        False, description="classify with x_cls alone (released, first stage) instead of x_cls + x_patch (paper)"
    )
    focal_gamma: float = Field(2.0, ge=0, description="focusing exponent of the focal loss")
    focal_epsilon: float = Field(0.0, ge=0, description="added inside the focal loss's logarithm; released: 1e-8")
    dice_epsilon: float = Field(0.0, ge=0, description="added to dice's numerator and denominator; released: 1e-5")
    one_prompt_per_step: bool = Field(
        False, description="classify and segment with one randomly drawn prompt of the bank a step (released)"
    )
    state_log_det_over_batch: bool = Field(
        False, description="divide the state flows' log-determinant by the batch size, a broadcast of the released code"
    )


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
    draws_in_order: bool = Field(
        False,
        description="draw for the images of one call in their order and keep the first one's states, as released; predictions then "
        "depend on order, batch and R. Off: draws are keyed by seed and image",
    )


class TrainingConfig(Settings):
    """Optimisation of the head on an auxiliary dataset."""

    epochs: int = Field(20, ge=1, description="passes over the auxiliary set")
    second_stage_epochs: int = Field(
        0, ge=0, description="further passes that train only the maps of the image score, by classification (released)"
    )
    patience_epochs: int = Field(
        0,
        ge=0,
        description="end the first stage after so many epochs without a better validation pixel AP; 0: never (released: 3)",
    )
    keep_best: bool = Field(
        False, description="keep the first-stage head with the best validation pixel AP instead of the last (released)"
    )
    batch_size: int = Field(32, ge=1, description="images per optimiser step over all workers")
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
        description="parts of a worker's share of a batch that go through the head one by one: less memory, the same loss",
    )
    mixed_precision: bool = Field(
        False, description="bfloat16 matrix products in backbone and head; losses and weights stay float32"
    )
    num_samples: int = Field(1, ge=1, description="R during training")
    seed: int = Field(0, ge=0, description="initialisation, order, augmentation and draws")

    @model_validator(mode="after")
    def _mosaics_are_augmentation(self) -> "TrainingConfig":
        if self.mosaic_probability and not self.augment:
            raise ValueError("mosaic_probability needs augment: true")
        return self


class DetectorConfig(Settings):
    """All that is needed to rebuild a trained detector: what a bundle stores."""

    backbone: BackboneConfig = BackboneConfig()
    model: ModelConfig = ModelConfig()
    scoring: ScoringConfig = ScoringConfig()


class RunConfig(DetectorConfig):
    """A training run: the detector, its losses and its optimisation."""

    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _second_stage_needs_maps(self) -> "RunConfig":
        if self.training.second_stage_epochs and not self.model.mapped_classification:
            raise ValueError(
                "training.second_stage_epochs trains model.mapped_classification and model.attention_pooling: set both"
            )
        return self

    def detector(self) -> DetectorConfig:
        """The part of the run that a bundle stores."""
        return DetectorConfig(backbone=self.backbone, model=self.model, scoring=self.scoring)


def published_variant(model: ModelConfig) -> ModelConfig:
    """The released implementation's choices, needed by its published weights, with `model`'s sizes."""
    return model.model_copy(
        update={
            "flow_initial_scale": 1.0,
            "offset_scale": 1.0,
            "condition_on_patches": False,
            "amortized_context_flow": True,
            "separate_state_flows": True,
            "variance_exponent": 0.25,
            "log_det_epsilon": 1e-5,
            "attention_heads": 4,
            "attention_query_bias": True,
            "attention_normalized_keys": True,
            "attention_pooling": True,
            "mapped_classification": True,
            "upsampled_corners": True,
        }
    )


def read_config(kind: type[T], path: Path | None, overrides: list[str]) -> T:
    """Read `kind` from a YAML file and dotted `key=value` overrides (values are YAML).

    Raises ConfigError for a missing file, unreadable YAML, an unknown key (naming the nearest) or an invalid value.
    """
    values: Any = {}
    if path is not None:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(
                f"Cannot read the configuration {path}: {error.strerror}. Give an existing YAML file."
            ) from error
        except UNREADABLE as error:
            raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values.")
    for override in overrides:
        _apply(values, override)
    return parse_config(kind, values, str(path or "the command line"))


def parse_config(kind: type[T], values: dict[str, Any], origin: str) -> T:
    """Validate `values` as `kind`. Raises ConfigError with every problem found in `origin`."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(kind, problem) for problem in error.errors())
        raise ConfigError(f"{origin}: {problems}") from error


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one dotted `key=value` in nested `values`."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"'{override}' is not an override; write --set key.subkey=value.")
    *parents, leaf = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"'{override}' goes below a plain value; check the dotted key.")
    try:
        values[leaf] = yaml.safe_load(text)
    except UNREADABLE as error:
        raise ConfigError(f"The value of '{override}' is not valid YAML: {error}") from error


def _explain(kind: type[Settings], problem: Any) -> str:
    """One problem of pydantic's as a sentence; for an unknown key, with the nearest valid one."""
    location = [str(part) for part in problem["loc"]]
    if problem["type"] != "extra_forbidden":
        return f"{'.'.join(location) or 'configuration'}: {problem['msg']}"
    model: Any = kind
    for part in location[:-1]:
        model = model.model_fields[part].annotation
    valid = list(model.model_fields)
    nearest = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.0)[0]
    return f"unknown key '{'.'.join(location)}'; did you mean '{nearest}'? Valid keys: {', '.join(valid)}"
