"""`bayes-pfl import`: the authors' published weights, `{"MyModel": state dict}` in a .pth file -> a bundle."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from bayes_pfl.clip.backbone import architecture_text
from bayes_pfl.config import BackboneConfig, DetectorConfig
from bayes_pfl.errors import BackboneError, BundleError
from bayes_pfl.inference.bundle import save_bundle
from bayes_pfl.methods.prompt_flow.published import convert_published, published_detector, published_widths

HEAD = "MyModel"
"""The only entry of a published checkpoint that is used: the head's state dict."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `bayes-pfl import`.

    Args:
        parser: gets the options.
    """
    parser.add_argument("weights", type=Path, help="the authors' .pth file, such as train_visa.pth")
    parser.add_argument(
        "--backbone", default="ViT-L-14-336", help="open_clip architecture or JSON file; default ViT-L-14-336"
    )
    parser.add_argument("--pretrained", default="openai", help="CLIP weights: open_clip tag or file; default openai")
    parser.add_argument(
        "--image-size", type=int, default=518, metavar="PX", help="side of the input image; default 518"
    )
    parser.add_argument(
        "--released-draws",
        action="store_true",
        help="draw noise in the images' order and keep the first one's states, as the released code does",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundle to write")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Convert and write; CLIP's own weights are not needed for it.

    Args:
        args: parsed options.

    Returns:
        Exit code.

    Raises:
        BackboneError, BundleError: with what to do.
    """
    digest, head = read_checkpoint(args.weights)
    model, weights = convert_published(head)
    layers = _feature_layers(args.backbone, weights)
    config = published_detector(
        model, args.backbone, args.pretrained, layers, args.image_size, draws_in_order=args.released_draws
    )
    training = {"kind": "the authors' published weights", "file": args.weights.name, "file_sha256": digest}
    save_bundle(args.output, config, weights, training, [])
    _report(args.output, config, args.json)
    return 0


def read_checkpoint(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Read a published checkpoint; nothing of it is executed.

    Args:
        path: the authors' .pth file.

    Returns:
        SHA-256 of the file, and its head's state dict in float32.

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
    head = content.get(HEAD) if isinstance(content, dict) else None
    if not isinstance(head, dict) or not all(isinstance(value, Tensor) for value in head.values()):
        raise BundleError(
            f"{path} has no '{HEAD}' with a state dict; give the authors' train_visa.pth or train_mvtec.pth."
        )
    return digest, {str(key): value.float() for key, value in head.items()}


def _feature_layers(backbone: str, weights: dict[str, Tensor]) -> tuple[int, ...]:
    """The blocks at equal distances that the head reads: 6, 12, 18, 24 of 24.

    Raises BackboneError for an unknown architecture and BundleError if its widths are not the head's.
    """
    if not backbone.endswith(".json") and backbone not in open_clip.list_models():
        raise BackboneError(
            f"open_clip has no architecture '{backbone}'; the published weights were trained on ViT-L-14-336."
        )
    architecture: dict[str, Any] = json.loads(architecture_text(BackboneConfig(name=backbone)))
    vision, text, widths = architecture["vision_cfg"], architecture["text_cfg"], published_widths(weights)
    theirs = (architecture["embed_dim"], text.get("width"), vision.get("width"))
    blocks = vision.get("layers")
    if theirs != (widths.joint, widths.text, widths.patch) or not isinstance(blocks, int) or blocks % widths.layers:
        raise BundleError(
            f"The weights are for a CLIP of widths {widths.joint} (joint), {widths.text} (text), {widths.patch} "
            "(vision) and "
            f"{widths.layers} of its blocks; {backbone} has {theirs} and {blocks}. Give another --backbone."
        )
    return tuple(blocks * (index + 1) // widths.layers for index in range(widths.layers))


def _report(folder: Path, config: DetectorConfig, as_json: bool) -> None:
    """Say what was written and how to use it."""
    if as_json:
        print(
            json.dumps(
                {"model": str(folder), "backbone": config.backbone.name, "pretrained": config.backbone.pretrained}
            )
        )
    else:
        print(
            f"Wrote {folder} for CLIP {config.backbone.name} ({config.backbone.pretrained}): bayes-pfl serve "
            f"--model {folder}"
        )
