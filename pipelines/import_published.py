"""`bayes-pfl import`: the authors' published weights of any method, told apart by what is in the file -> a bundle."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import open_clip
import torch

from bayes_pfl.clip.backbone import architecture_text
from bayes_pfl.config import BackboneConfig, DetectorConfig, ModelConfig
from bayes_pfl.errors import BackboneError, BundleError, ConfigError
from bayes_pfl.inference.bundle import refuse_other_model, save_bundle
from bayes_pfl.methods.prompt_flow.published import published_detector
from bayes_pfl.methods.published import PublishedModel, read_published


def run(args: argparse.Namespace) -> int:
    """Recognise the method, convert and write; CLIP's own weights are not needed for it.

    Args:
        args: parsed options.

    Returns:
        Exit code.

    Raises:
        BackboneError, BundleError: with what to do.
    """
    digest, published = read_checkpoint(args.weights)
    config = _detector_config(published, args)
    training = {"kind": "the authors' published weights", "file": args.weights.name, "file_sha256": digest}
    refuse_other_model(args.output, config, published.weights)
    save_bundle(args.output, config, published.weights, training, [])
    _report(args.output, config, args.json)
    return 0


def read_checkpoint(path: Path) -> tuple[str, PublishedModel]:
    """Read a published checkpoint; nothing of it is executed.

    Args:
        path: the authors' .pth file.

    Returns:
        SHA-256 of the file, and what it holds.

    Raises:
        BundleError: the file is missing, damaged, of another kind, or holds anything but plain tensors.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"Cannot read {path}: {error.strerror}. Give the authors' .pth file.") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its readers of archives and of pickles raise
        raise BundleError(
            f"{path} is damaged or no PyTorch checkpoint of plain tensors; download the authors' file again."
        ) from error
    return digest, read_published(content)


def _detector_config(published: PublishedModel, args: argparse.Namespace) -> DetectorConfig:
    """The published settings of the method, on the CLIP that is asked for."""
    model = published.model
    given = {"name": args.backbone, "pretrained": args.pretrained, "image_size": args.image_size}
    config = DetectorConfig.model_validate(
        {"model": model, "backbone": {key: value for key, value in given.items() if value is not None}}
    )
    layers = _feature_layers(config.backbone.name, published)
    backbone = config.backbone.model_copy(update={"feature_layers": layers})
    if not isinstance(model, ModelConfig):
        if args.released_draws:
            raise ConfigError(f"--released-draws is of Bayes-PFL's weights; {model.method} draws nothing.")
        return config.model_copy(update={"backbone": backbone})
    return published_detector(
        model, backbone.name, backbone.pretrained, layers, backbone.image_size, draws_in_order=args.released_draws
    )


def _feature_layers(backbone: str, published: PublishedModel) -> tuple[int, ...]:
    """The blocks at equal distances that the weights read, 6, 12, 18, 24 of 24; the last where they do not say.

    Raises BackboneError for an unknown architecture and BundleError if its widths are not those of the weights.
    """
    if not backbone.endswith(".json") and backbone not in open_clip.list_models():
        raise BackboneError(
            f"open_clip has no architecture '{backbone}'; the published weights of {published.model.method} were "
            "trained on the one that is the default."
        )
    architecture: dict[str, Any] = json.loads(architecture_text(BackboneConfig(name=backbone)))
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    theirs = {"joint": architecture["embed_dim"], "text": text.get("width"), "vision": vision.get("width")}
    blocks, layers = vision.get("layers"), published.layers or 1
    different = any(theirs[name] != width for name, width in published.widths.items())
    if different or not isinstance(blocks, int) or blocks % layers:
        widths = ", ".join(f"{width} ({name})" for name, width in published.widths.items())
        raise BundleError(
            f"The weights are for a CLIP of widths {widths} and {layers} of its blocks; {backbone} has "
            f"{tuple(theirs.values())} and {blocks}. Give another --backbone."
        )
    return tuple(blocks * (index + 1) // layers for index in range(layers))


def _report(folder: Path, config: DetectorConfig, as_json: bool) -> None:
    """Say what was written and how to use it."""
    if as_json:
        print(
            json.dumps(
                {
                    "model": str(folder),
                    "method": config.model.method,
                    "backbone": config.backbone.name,
                    "pretrained": config.backbone.pretrained,
                }
            )
        )
    else:
        print(
            f"Wrote {folder}, {config.model.method} for CLIP {config.backbone.name} ({config.backbone.pretrained}): "
            f"bayes-pfl serve --model {folder}"
        )
