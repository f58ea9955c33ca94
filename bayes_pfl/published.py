"""The authors' published head weights: key names, shapes and meaning, turned into `BayesPFL`'s."""

import re

from torch import Tensor

from bayes_pfl.config import BackboneConfig, DetectorConfig, ModelConfig, ScoringConfig, published_variant
from bayes_pfl.errors import BundleError

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


def convert_published(published: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The model's configuration, read off the shapes, and its state dict.

    Raises BundleError listing every key that is neither used nor knowingly dropped, and every one that is missing.
    """
    converted: dict[str, Tensor] = {}
    unexpected: list[str] = []
    for key, value in published.items():
        if UNUSED.match(key):
            continue
        prefix = next((old for old in RENAMED if key == old or key.startswith(old + ".")), None)
        if prefix is None:
            unexpected.append(key)
        else:
            converted[RENAMED[prefix] + key.removeprefix(prefix)] = value
    missing = [old for old, new in RENAMED.items() if not any(k == new or k.startswith(new + ".") for k in converted)]
    if unexpected or missing:
        raise BundleError(
            f"These are not the published weights: unexpected keys {sorted(unexpected)}, missing {sorted(missing)}. "
            "Give the authors' train_visa.pth or train_mvtec.pth."
        )
    _reshape(converted)
    return _read_config(converted), converted


def published_detector(model: ModelConfig, backbone: str, pretrained: str) -> DetectorConfig:
    """The whole configuration the published weights run with: 518 px, blocks 6, 12, 18, 24, exact GELU."""
    return DetectorConfig(backbone=BackboneConfig(name=backbone, pretrained=pretrained), model=model, scoring=ScoringConfig())


def _reshape(weights: dict[str, Tensor]) -> None:
    """Drop the singleton axes that the published layout has (convolutions of width 1, batch axes of 1)."""
    for key, value in weights.items():
        if key.startswith("states.flows.") or key.startswith("states.free_") or key == "attention.query.weight":
            weights[key] = value.squeeze() if value.dim() > 1 else value
    for flow in ("states.flows.0", "states.flows.1"):
        weights[f"{flow}.u"] = weights[f"{flow}.u"].reshape(-1, weights["banks.context"].shape[-1])
        weights[f"{flow}.w"] = weights[f"{flow}.w"].reshape(-1, weights["banks.context"].shape[-1])
        weights[f"{flow}.b"] = weights[f"{flow}.b"].reshape(-1)


def _read_config(weights: dict[str, Tensor]) -> ModelConfig:
    """Sizes from the shapes, everything else as released."""
    prompts, context, _ = weights["banks.context"].shape
    sizes = ModelConfig(
        num_prompts=prompts,
        context_tokens=context,
        state_tokens=weights["banks.normal"].shape[1],
        flow_length=len(weights["states.flows.0.b"]),
    )
    return published_variant(sizes)
