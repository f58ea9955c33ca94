"""Configuration -> method: the only place that knows every method by name, a row each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone, context_length, load_tokenizer
from bayes_pfl.clip.class_names import ClassNames
from bayes_pfl.config import DetectorConfig, MethodConfig, RunConfig
from bayes_pfl.errors import ConfigError
from bayes_pfl.methods.ada_clip.method import AdaClip, AdaClipObjective, ada_clip_encoder
from bayes_pfl.methods.anomaly_clip import AnomalyClip, AnomalyClipObjective, anomaly_clip_encoder
from bayes_pfl.methods.april_gan import AprilGan, april_gan_encoder, april_gan_objective
from bayes_pfl.methods.clip_ad import ClipAd, clip_ad_encoder, clip_ad_objective
from bayes_pfl.methods.ensemble import wording_tokens
from bayes_pfl.methods.method import FrozenEncoder, Method, TrainableMethod, WithoutSamples
from bayes_pfl.methods.prompt_ensemble import PromptEnsemble
from bayes_pfl.methods.prompt_flow.head import other_tokens
from bayes_pfl.methods.prompt_flow.method import PromptFlow
from bayes_pfl.methods.prompt_flow.objective import PromptFlowObjective
from bayes_pfl.methods.prompt_flow.pairs import PairScorer
from bayes_pfl.methods.winclip import WinClip, winclip_encoder

Weights = dict[str, Tensor]


class Row(NamedTuple):
    """How a method is built from its settings, whose type it knows."""

    encoder: Callable[[Any, Backbone], FrozenEncoder]
    """What it takes from the frozen image encoder."""
    method: Callable[[DetectorConfig, Backbone, torch.device, Weights], Method]
    """Ready to score."""
    objective: Callable[[RunConfig, Backbone, torch.device], TrainableMethod] | None
    """To be trained; None where nothing is learned."""
    other_tokens: Callable[[Any, Any], int]
    """Tokens of its longest prompt beside start, class name and end of text, from settings and tokenizer."""
    paper: str
    """Name, venue and, where there is one, the arXiv number."""
    licence: str
    """Of its authors' code and weights: nothing of either is in this package."""


def _plain(_: Any, backbone: Backbone) -> FrozenEncoder:
    return FrozenEncoder(backbone.encode_image, backbone.plain_kind)


def _bayes_pfl(config: DetectorConfig, backbone: Backbone, device: torch.device, weights: Weights) -> Method:
    if _settings(config).variant.prompts == "flow":
        return PromptFlow(config, backbone, device, weights)
    return WithoutSamples(PairScorer(config, backbone, device, weights))


def _prompt_ensemble(config: DetectorConfig, backbone: Backbone, device: torch.device, weights: Weights) -> Method:
    _refuse_weights(weights)
    return WithoutSamples(PromptEnsemble(_settings(config), backbone, device))


def _winclip(config: DetectorConfig, backbone: Backbone, device: torch.device, weights: Weights) -> Method:
    _refuse_weights(weights)
    return WithoutSamples(WinClip(_settings(config), backbone, device))


def _april_gan(config: DetectorConfig, backbone: Backbone, device: torch.device, weights: Weights) -> Method:
    return WithoutSamples(AprilGan(_settings(config), backbone, device, weights))


def _clip_ad(config: DetectorConfig, backbone: Backbone, device: torch.device, weights: Weights) -> Method:
    return WithoutSamples(ClipAd(_settings(config), backbone, device, weights))


def _anomaly_clip(config: DetectorConfig, backbone: Backbone, device: torch.device, weights: Weights) -> Method:
    return WithoutSamples(AnomalyClip(_settings(config), backbone, device, weights))


def _ada_clip(config: DetectorConfig, backbone: Backbone, device: torch.device, weights: Weights) -> Method:
    return WithoutSamples(AdaClip(_settings(config), backbone, device, weights))


def _refuse_weights(weights: Weights) -> None:
    if weights:
        raise RuntimeError(f"the method learns nothing, but there are weights: {', '.join(sorted(weights))}")


def _settings(config: DetectorConfig) -> Any:
    return config.model


def _sentence_tokens(model: Any, tokenizer: Any) -> int:
    return wording_tokens(model.wording, tokenizer)


METHODS: dict[str, Row] = {
    "bayes_pfl": Row(
        _plain,
        _bayes_pfl,
        PromptFlowObjective,
        other_tokens,
        "Bayes-PFL (CVPR 2025)",
        "code MIT; weights: none stated",
    ),
    "prompt_ensemble": Row(
        _plain,
        _prompt_ensemble,
        None,
        _sentence_tokens,
        "CLIP with sentences in place of learned prompts: a baseline",
        "none but CLIP's own",
    ),
    "winclip": Row(
        winclip_encoder,
        _winclip,
        None,
        _sentence_tokens,
        "WinCLIP (CVPR 2023), arXiv 2303.14814",
        "no code of its authors; agrees with anomalib's (Apache-2.0)",
    ),
    "april_gan": Row(
        april_gan_encoder,
        _april_gan,
        april_gan_objective,
        _sentence_tokens,
        "APRIL-GAN (VAND challenge 2023), arXiv 2305.17382",
        "code and weights MIT",
    ),
    "clip_ad": Row(
        clip_ad_encoder,
        _clip_ad,
        clip_ad_objective,
        _sentence_tokens,
        "CLIP-AD (2023), arXiv 2311.00453",
        "code and weights: none stated",
    ),
    "anomaly_clip": Row(
        anomaly_clip_encoder,
        _anomaly_clip,
        AnomalyClipObjective,
        lambda *_: 0,
        "AnomalyCLIP (ICLR 2024), arXiv 2310.18961",
        "code and weights MIT",
    ),
    "ada_clip": Row(
        ada_clip_encoder,
        _ada_clip,
        AdaClipObjective,
        _sentence_tokens,
        "AdaCLIP (ECCV 2024), arXiv 2407.15795",
        "code MIT; weights: none stated",
    ),
}
"""Every method by `model.method`."""


def class_names(config: DetectorConfig) -> ClassNames:
    """Which class names fit into the prompts of a configuration: from its tokenizer alone, without any weights.

    Args:
        config: what a bundle stores, or a run.

    Returns:
        `check(names)` refuses names that are blank or too long.

    Raises:
        BackboneError: the architecture is unknown.
    """
    tokenizer = load_tokenizer(config.backbone)
    words = METHODS[config.model.method].other_tokens(config.model, tokenizer)
    return ClassNames(tokenizer, context_length(config.backbone), words)


def frozen_encoder(model: MethodConfig, backbone: Backbone) -> FrozenEncoder:
    """What a method takes from the frozen image encoder, and nothing that is learned decides.

    Args:
        model: the method's settings.
        backbone: the frozen CLIP.

    Returns:
        Images -> features, and their kind.

    Raises:
        BackboneError: the method cannot compute with this encoder.
        ConfigError: its settings do not fit the encoder.
    """
    return METHODS[model.method].encoder(model, backbone)


def build_method(
    config: DetectorConfig, backbone: Backbone, device: torch.device, weights: dict[str, Tensor]
) -> Method:
    """The method that a configuration describes, ready to score.

    Args:
        config: what a bundle stores.
        backbone: the frozen CLIP, on `device`.
        device: where the method computes.
        weights: state dict of what is learned; empty where nothing is.

    Returns:
        The method.

    Raises:
        RuntimeError: the weights do not fit the configuration.
        BackboneError: the method cannot compute with this encoder.
        ConfigError: its settings do not fit the encoder.
    """
    return METHODS[config.model.method].method(config, backbone, device, weights)


def build_trainable_method(run: RunConfig, backbone: Backbone, device: torch.device) -> TrainableMethod:
    """The method that a run trains, with the initial weights of the run's seed.

    Args:
        run: the training run.
        backbone: the frozen CLIP, on `device`.
        device: where the method computes.

    Returns:
        The method, untrained.

    Raises:
        ConfigError: it learns nothing.
    """
    objective = METHODS[run.model.method].objective
    if objective is None:
        raise ConfigError(f"model.method '{run.model.method}' learns nothing: score with it at once.")
    return objective(run, backbone, device)
