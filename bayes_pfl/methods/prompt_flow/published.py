"""The authors' published head weights -> configuration and weights of `BayesPFL`, by key names and shapes."""

import re

import torch
from torch import Tensor

from bayes_pfl.config import BackboneConfig, DetectorConfig, ModelConfig, PromptFlowVariant, published_variant
from bayes_pfl.errors import BundleError
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths

RENAMED = {
    "prompt_context": "banks.context",
    "prompt_state_normal": "banks.normal",
    "prompt_state_abnormal": "banks.abnormal",
    "temperature_pixel": "pixel_temperature",
    "temperature_image": "image_temperature",
    "context_encoder.weight_mean.module": "context.density.mean",
    "context_encoder.weight_log_variance.module": "context.density.log_variance",
    "state_encoder.weight_mean.module": "states.density.mean",
    "state_encoder.weight_log_variance.module": "states.density.log_variance",
    "PFL_context.amor_u": "context.flow.u",
    "PFL_context.amor_w": "context.flow.w",
    "PFL_context.amor_b": "context.flow.b",
    "PFL_normal.amor_u": "states.flows.0.u",
    "PFL_normal.amor_w": "states.flows.0.w",
    "PFL_normal.amor_b": "states.flows.0.b",
    "PFL_normal.state": "states.free_normal",
    "PFL_abnormal.amor_u": "states.flows.1.u",
    "PFL_abnormal.amor_w": "states.flows.1.w",
    "PFL_abnormal.amor_b": "states.flows.1.b",
    "PFL_abnormal.state": "states.free_abnormal",
    "fuse.fuse_modules": "pooling.fuse",
    "fuse.compress": "pooling.compress",
    "fuse.post_process": "pooling.project",
    "RCA.q_proj_pre": "attention.query",
    "RCA.linear_proj": "projections",
    "class_mapping": "class_mapping",
    "image_mapping": "image_mapping",
}
"""Published key or prefix -> ours."""

UNUSED = re.compile(r"^(context_decoder|state_decoder|PFL_\w+\.decoder|PFL_\w+\.p_mu|PFL_\w+\.encoder)\.")
"""Decoders and priors that the released code computes and never uses, and the encoders it stores a second time."""

FREE_FLOW = re.compile(r"^states\.(flows|free_)")
"""Ours that the published layout stores with singleton axes."""


def convert_published(published: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The model's configuration, read off the shapes, and its state dict.

    Args:
        published: the published state dict.

    Returns:
        Configuration and weights of `BayesPFL`.

    Raises:
        BundleError: keys are unknown or missing, or shapes do not fit each other; it lists them all.
    """
    used = {key: our_key(key) for key in published if not UNUSED.match(key)}
    unexpected = [key for key, ours in used.items() if ours is None]
    weights = {ours: published[key] for key, ours in used.items() if ours is not None}
    missing = [
        old for old, new in RENAMED.items() if not any(key == new or key.startswith(new + ".") for key in weights)
    ]
    if unexpected or missing:
        raise _foreign(unexpected, missing, [])
    try:
        weights = {key: _without_singletons(key, value) for key, value in weights.items()}
        config, widths = _read_config(weights), published_widths(weights)
        with torch.device("meta"):
            expected = {key: value.shape for key, value in BayesPFL(config, widths).state_dict().items()}
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise _foreign([], [], [f"shapes that fit no head ({error})"]) from error
    theirs = {ours: key for key, ours in used.items()}
    unexpected = [theirs[key] for key in weights if key not in expected]
    missing = [_published_key(key) for key in expected if key not in weights]
    misshapen = [
        f"{theirs[key]} {tuple(weights[key].shape)} instead of {tuple(shape)}"
        for key, shape in expected.items()
        if key in weights and weights[key].shape != shape
    ]
    if unexpected or missing or misshapen:
        raise _foreign(unexpected, missing, misshapen)
    return config, {key: value.contiguous() for key, value in weights.items()}


def our_key(published: str) -> str | None:
    """Our name of a published weight.

    Args:
        published: the published name.

    Returns:
        Our name, or None for an unknown one.
    """
    prefix = next((old for old in RENAMED if published == old or published.startswith(old + ".")), None)
    return None if prefix is None else RENAMED[prefix] + published.removeprefix(prefix)


def published_widths(weights: dict[str, Tensor]) -> Widths:
    """The backbone's sizes that converted weights were trained for.

    Args:
        weights: what `convert_published` returned.

    Returns:
        The sizes.
    """
    joint, patch = weights["projections.0.weight"].shape
    layers = sum(key.startswith("projections.") for key in weights)
    return Widths(joint=joint, text=weights["banks.context"].shape[-1], patch=patch, layers=layers)


def published_detector(
    model: ModelConfig,
    backbone: str,
    pretrained: str,
    feature_layers: tuple[int, ...] = (6, 12, 18, 24),
    image_size: int = 518,
    draws_in_order: bool = False,
) -> DetectorConfig:
    """The whole configuration the published weights run with; always exact GELU.

    The weights decide everything about the model, and nothing about where its noise comes from.

    Args:
        model: what `convert_published` returned.
        backbone: open_clip architecture, or a JSON file.
        pretrained: CLIP weights.
        feature_layers: vision blocks, counted from 1.
        image_size: side of the input, pixels.
        draws_in_order: draw noise as the released code does, which makes a prediction depend on the images before it;
            else noise is keyed by seed and image.

    Returns:
        The configuration of the bundle.
    """
    clip = BackboneConfig(
        name=backbone, pretrained=pretrained, image_size=image_size, feature_layers=feature_layers, quick_gelu=False
    )
    variant = model.variant.model_copy(update={"draws_in_order": draws_in_order})
    return DetectorConfig(backbone=clip, model=model.model_copy(update={"variant": variant}))


def _published_key(ours: str) -> str:
    """The published name of one of our weights."""
    old, new = next((old, new) for old, new in RENAMED.items() if ours == new or ours.startswith(new + "."))
    return old + ours.removeprefix(new)


def _without_singletons(key: str, value: Tensor) -> Tensor:
    """Drop the axes of 1 that the published layout has: convolutions of width 1, batches of 1, vectors as columns."""
    if key == "attention.query.weight" and value.dim() == 3:
        return value.squeeze(2)
    if not FREE_FLOW.match(key):
        return value
    return value[0] if key.startswith("states.free_") else value.flatten(1 if key.endswith(".b") else 2)[0]


def _read_config(weights: dict[str, Tensor]) -> ModelConfig:
    """Sizes from the shapes, everything else as released."""
    prompts, context, _ = weights["banks.context"].shape
    sizes = ModelConfig(
        num_prompts=prompts,
        context_tokens=context,
        state_tokens=weights["banks.normal"].shape[1],
        flow_length=len(weights["states.flows.0.b"]),
        variant=PromptFlowVariant(
            hidden_width=len(weights["context.density.mean.0.weight"]),
            pooling_width=len(weights["pooling.fuse.weight"]),
        ),
    )
    return published_variant(sizes)


def _foreign(unexpected: list[str], missing: list[str], misshapen: list[str]) -> BundleError:
    """One sentence with everything that does not fit."""
    problems = [
        f"{name} {', '.join(sorted(keys))}"
        for name, keys in (("unexpected keys:", unexpected), ("missing keys:", missing), ("wrong shapes:", misshapen))
        if keys
    ]
    return BundleError(
        f"These are not the published weights ({'; '.join(problems)}); "
        "give the authors' train_visa.pth or train_mvtec.pth."
    )
