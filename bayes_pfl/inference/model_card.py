"""A bundle's configuration and training -> its README.md."""

import json
from typing import Any

from bayes_pfl.config import DetectorConfig, ModelConfig

UNTRAINED = {"kind": "needs no training"}
"""What `bundle.json` says of the training of a method without any."""


def model_card(config: DetectorConfig, training: dict[str, Any], images: int) -> str:
    """README.md of a bundle.

    Args:
        config: of the detector.
        training: where the model comes from.
        images: number of images that it was trained on.

    Returns:
        Markdown.
    """
    backbone = config.backbone
    trained_on = (
        f"- Trained on {images} images (`training_images.txt` has their SHA-256: do not report results on them)"
        if images
        else "- Nothing was trained"
        if training == UNTRAINED
        else "- Which images it was trained on is not recorded: evaluating on them cannot be refused"
    )
    lines = [
        "# Bayes-PFL head" if isinstance(config.model, ModelConfig) else f"# Head of {config.model.method}",
        "",
        f"- Backbone: {backbone.name}, weights `{backbone.pretrained}` "
        f"(SHA-256 {backbone.weights_sha256[:16]}...), not included",
        f"- Input: {backbone.image_size} px; vision blocks {', '.join(map(str, backbone.feature_layers))}",
        _sizes(config),
        trained_on,
        "",
        "```json",
        json.dumps(training, indent=1, sort_keys=True),
        "```",
        "",
        "Load it with `bayes_pfl.Detector.load(folder)`. It finds what it was never trained on by comparing an image",
        "with learned descriptions of flawless and damaged objects; check it on images of your own before you rely",
        "on it.",
    ]
    return "\n".join(lines) + "\n"


def _sizes(config: DetectorConfig) -> str:
    """A line of the model card: what is learned."""
    model = config.model
    if not isinstance(model, ModelConfig):
        return f"- Method: {model.method}; its settings are in `bundle.json`"
    if model.variant.prompts != "flow":
        return f"- Prompts: {model.variant.prompts}, in place of the prompt flow"
    return (
        f"- B = {model.num_prompts} prompts, P = {model.context_tokens}, Q = {model.state_tokens}, "
        f"K = {model.flow_length} flow steps"
    )
