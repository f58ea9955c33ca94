"""Title of a model -> the run that trains it: the paper's at full size, or the embedded one scaled to a small CLIP."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bayes_pfl.config import parse_config, read_config
from bayes_pfl.inference.bundle import load_bundle
from pipelines.options.config_files import config_file
from pipelines.platform.settings import TrainSettings
from pipelines.reproduction.settings import Scale

BAYES_PFL = "Bayes-PFL"
TEXT_ENSEMBLE = "text ensemble"
RELEASED_OFFSETS = "released offsets"
AGNOSTIC_PROMPT, SENTENCES = "AnomalyCLIP's prompt", "APRIL-GAN's sentences"
ALL_FROM_IMAGE, ALL_AGNOSTIC = "ISD-ISD", "IAD-IAD"

ABLATIONS: dict[str, dict[str, Any]] = {
    "without ISD": {"model.variant.context_from_image": False},
    "without IAD": {"model.variant.state_distribution": False},
    "without ISD and IAD": {"model.variant.context_from_image": False, "model.variant.state_distribution": False},
    "without RCA": {"model.variant.residual_attention": False},
    "without orthogonality loss": {"loss.orthogonal_weight": 0.0},
    "without x_cls": {"model.variant.class_token_in_image": False},
    "without x_patch": {"model.variant.patches_in_image": False},
}
"""Rows of table 2 that are trained anew, by the settings that differ from Bayes-PFL's."""

SCORE_PARTS = {"without s_text": "map_score", "without s_img": "text_score"}
"""Rows of table 2 that are read off Bayes-PFL: the part of its image score that is left."""

VARIANTS: dict[str, dict[str, Any]] = {
    BAYES_PFL: {},
    **ABLATIONS,
    RELEASED_OFFSETS: {"model.offset_scale": 1.0, "model.flow_initial_scale": 1.0},
    SENTENCES: {"model.variant.prompts": "sentences", "loss.orthogonal_mean": False},
    AGNOSTIC_PROMPT: {"model.variant.prompts": "agnostic", "loss.orthogonal_mean": False},
    ALL_FROM_IMAGE: {"model.variant.states_from_image": True},
    ALL_AGNOSTIC: {"model.variant.agnostic_context": True},
}
"""Bayes-PFL and what differs from it, by the settings that do."""


EMBEDDED_VARIANTS: dict[str, dict[str, Any]] = {AGNOSTIC_PROMPT: {"model.variant.deep_blocks": 2}}
"""Further settings with the embedded CLIP, whose text encoder has three blocks."""


class Compared(NamedTuple):
    """A method of table 1 beside Bayes-PFL."""

    config: str
    """Its recipe at full size, a file of `configs/`; empty: its defaults."""
    at_full_size: dict[str, Any]
    """Settings that differ from that recipe."""
    on_mvtec: dict[str, Any]
    """Further ones where it is trained on MVTec-AD."""
    embedded: dict[str, Any]
    """All its settings with the embedded CLIP."""
    trains: bool = True


COMPARED = {
    "WinCLIP": Compared("", {"model.method": "winclip"}, {}, {"model.method": "winclip"}, trains=False),
    "APRIL-GAN": Compared(
        "methods/april_gan.yaml",
        {},
        {"training.epochs": 3},
        {"model.method": "april_gan", "training.learning_rate": 1e-3},
    ),
    "CLIP-AD": Compared(
        "methods/clip_ad.yaml",
        {"backbone.feature_layers": (6, 12, 18, 24)},
        {"model.cluster_radius": 0.5, "model.cluster_neighbours": 15},
        {
            "model.method": "clip_ad",
            "model.linear_layers": True,
            "training.learning_rate": 1e-3,
            "training.adam_beta1": 0.9,
        },
    ),
    "AnomalyCLIP": Compared(
        "methods/anomaly_clip.yaml",
        {},
        {},
        {"model.method": "anomaly_clip", "model.deep_blocks": 2, "training.learning_rate": 1e-3},
    ),
    "AdaCLIP": Compared(
        "methods/ada_clip.yaml",
        {"training.keep_best": False, "data.validation_share": 0.0},
        {},
        {
            "model.method": "ada_clip",
            "model.prompted_blocks": 2,
            "model.clusters": 10,
            "training.learning_rate": 1e-2,
        },
    ),
}
"""The columns of table 1 in the paper's order, Bayes-PFL's excepted. CLIP-AD is SDP+, whose linear layers are trained.

AdaCLIP's recipe chooses its best epoch on a third data set; here the last one is taken, as for every other method."""

METHODS = (*COMPARED, BAYES_PFL)


def trains(title: str) -> bool:
    """Whether a model learns anything.

    Args:
        title: of the model.

    Returns:
        False for WinCLIP.
    """
    return title not in COMPARED or COMPARED[title].trains


def recipe(title: str, seed: int, scale: Scale, auxiliary: str) -> TrainSettings:
    """The run that makes a model.

    Args:
        title: a key of `VARIANTS` or `COMPARED`.
        seed: of the training.
        scale: what all models have in common.
        auxiliary: dataset that is trained on.

    Returns:
        Settings of the training; its places are left at their defaults.
    """
    changes: dict[str, Any] = {"training.seed": seed}
    if scale.epochs is not None:
        changes["training.epochs"] = scale.epochs
    if scale.backbone is not None:
        changes["backbone"] = scale.backbone.model_dump()
    if title in VARIANTS:
        start = embedded_recipe() if scale.embedded else _at_full_size("train_visa.yaml")
        scaled = EMBEDDED_VARIANTS.get(title, {}) if scale.embedded else {}
        return changed(start, VARIANTS[title] | scaled | changes)
    method = COMPARED[title]
    if scale.embedded:
        return _scaled(method.embedded | changes)
    specific = method.at_full_size | (method.on_mvtec if auxiliary == "mvtec" else {})
    return changed(_at_full_size(method.config), _same_clip() | specific | changes)


def changed(run: TrainSettings, changes: Mapping[str, Any]) -> TrainSettings:
    """A run with some settings replaced.

    Args:
        run: to start from.
        changes: values by dotted key.

    Returns:
        The changed run.

    Raises:
        ConfigError: a key is unknown or a value does not fit.
    """
    return parse_config(TrainSettings, nested(run.model_dump(exclude_unset=True), changes), "the reproduction")


def nested(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with some replaced.

    Args:
        values: by section; it is changed.
        changes: values by dotted key.

    Returns:
        The same mapping.
    """
    for key, value in changes.items():
        *sections, leaf = key.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
        target[leaf] = value
    return values


def embedded_recipe() -> TrainSettings:
    """What the shipped head was trained with, as its bundle records it.

    Returns:
        The training run's settings.
    """
    return parse_config(TrainSettings, load_bundle("embedded").record["training"]["settings"], "the embedded bundle")


def _scaled(changes: Mapping[str, Any]) -> TrainSettings:
    """A compared method under the conditions of the shipped head: CLIP, smoothing, epochs and images a step."""
    shipped = embedded_recipe()
    same = {
        "backbone.name": "embedded",
        "scoring.smoothing_sigma_px": shipped.scoring.smoothing_sigma_px,
        "training.epochs": shipped.training.epochs,
        "training.batch_size": shipped.training.batch_size,
        "training.adam_beta1": 0.5,
    }
    return parse_config(TrainSettings, nested({}, same | dict(changes)), "the reproduction")


def _same_clip() -> dict[str, Any]:
    """The backbone and image size that the paper gives every method (section 4.2)."""
    paper = TrainSettings().backbone
    return {
        "backbone.name": paper.name,
        "backbone.pretrained": paper.pretrained,
        "backbone.image_size": paper.image_size,
    }


def _at_full_size(config: str) -> TrainSettings:
    return read_config(TrainSettings, config_file(config) if config else None, [])
