"""A trained model as a folder: `bundle.json` (configuration, checksums), `head.safetensors`, `README.md`; nothing is pickled.

CLIP's own weights are not in it: the configuration names them, and their SHA-256 must match when the bundle is used.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from bayes_pfl.clip.backbone import package_path
from bayes_pfl.config import DetectorConfig, parse_config
from bayes_pfl.errors import BundleError

FORMAT = 1
EMBEDDED = "embedded"
EMBEDDED_FOLDER = "package:embedded/bundle"
DEMONSTRATION = "embedded demonstration model"
RESOLVERS = "bayes_pfl.model_sources"
"""Entry-point group: the name is a URI scheme, the object a function from URI to a local bundle folder."""


class Bundle:
    """A loaded bundle: its configuration, weights and the record of its training."""

    def __init__(
        self, folder: Path, config: DetectorConfig, weights: dict[str, Tensor], record: dict[str, Any]
    ) -> None:
        self.folder = folder
        self.config = config
        self.weights = weights
        self.record = record

    @property
    def kind(self) -> str:
        """What people should know at once: "embedded demonstration model", or nothing."""
        return DEMONSTRATION if self.folder == package_path(EMBEDDED_FOLDER) else ""

    @property
    def version(self) -> str:
        """First 12 hexadecimal digits of the head's SHA-256: names this very model."""
        return str(self.record["head_sha256"])[:12]


def save_bundle(
    folder: Path,
    config: DetectorConfig,
    weights: dict[str, Tensor],
    training: dict[str, Any],
    training_images: list[str],
) -> None:
    """Write a bundle under a temporary name and move it to `folder`, replacing one that is there.

    `training` says where the model comes from (JSON-able); `training_images` are SHA-256 of the images trained on.
    Raises BundleError if the folder cannot be written or holds something that is no bundle.
    """
    if folder.exists() and not (folder / "bundle.json").is_file() and any(folder.iterdir()):
        raise BundleError(f"{folder} holds something that is no bundle; choose another folder.")
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        head = safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in weights.items()})
        (temporary / "head.safetensors").write_bytes(head)
        images = "".join(f"{digest}\n" for digest in sorted(set(training_images)))
        (temporary / "training_images.txt").write_text(images, encoding="ascii")
        record = {
            "format": FORMAT,
            "config": config.model_dump(mode="json"),
            "head_sha256": hashlib.sha256(head).hexdigest(),
            "training_images_sha256": hashlib.sha256(images.encode("ascii")).hexdigest(),
            "training": training,
        }
        (temporary / "bundle.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(_model_card(config, training, len(set(training_images))), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as error:
        raise BundleError(
            f"Cannot write the bundle {folder}: {error.strerror}. Free space or choose another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_bundle(source: str | Path) -> Bundle:
    """Read and verify a bundle: a folder, `embedded`, or a URI whose scheme an installed program resolves (models:/...).

    Raises BundleError if it is missing, of another format, or not what its checksums say.
    """
    folder = resolve(source)
    try:
        record = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        head = (folder / "head.safetensors").read_bytes()
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{folder} is no bundle ({getattr(error, 'strerror', None) or error}). Give the folder that training wrote, or models:/NAME@ALIAS."
        ) from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise BundleError(
            f"{folder} has bundle format {record.get('format') if isinstance(record, dict) else '?'}; this version reads {FORMAT}."
        )
    if hashlib.sha256(head).hexdigest() != record.get("head_sha256"):
        raise BundleError(
            f"{folder}/head.safetensors is damaged: its SHA-256 is not the recorded one. Copy the bundle again."
        )
    config = parse_config(DetectorConfig, record["config"], f"{folder}/bundle.json")
    try:
        weights = safetensors.torch.load(head)
    except safetensors.SafetensorError as error:
        raise BundleError(f"{folder}/head.safetensors cannot be read: {error}") from error
    return Bundle(folder, config, weights, record)


def training_images(bundle: Bundle) -> frozenset[str]:
    """SHA-256 of every image the bundle was trained on. Raises BundleError if the list is damaged."""
    try:
        text = (bundle.folder / "training_images.txt").read_bytes()
    except OSError as error:
        raise BundleError(f"{bundle.folder} lacks training_images.txt; copy the bundle again.") from error
    if hashlib.sha256(text).hexdigest() != bundle.record["training_images_sha256"]:
        raise BundleError(f"{bundle.folder}/training_images.txt is damaged; copy the bundle again.")
    return frozenset(text.decode("ascii").split())


def resolve(source: str | Path) -> Path:
    """The local folder of a bundle named by path, `embedded` or URI."""
    text = str(source)
    if text == EMBEDDED:
        return package_path(EMBEDDED_FOLDER)
    scheme, separator, _ = text.partition(":/")
    if separator and scheme.isalnum() and len(scheme) > 1:
        for entry in importlib.metadata.entry_points(group=RESOLVERS, name=scheme):
            return Path(entry.load()(text))
        raise BundleError(
            f"Nothing installed resolves '{scheme}:' models; install this project with pip, or give a folder."
        )
    return Path(source)


def _model_card(config: DetectorConfig, training: dict[str, Any], images: int) -> str:
    model, backbone = config.model, config.backbone
    lines = [
        "# Bayes-PFL head",
        "",
        f"- Backbone: {backbone.name}, weights `{backbone.pretrained}` (SHA-256 {backbone.weights_sha256[:16]}...), not included",
        f"- Input: {backbone.image_size} px; vision blocks {', '.join(map(str, backbone.feature_layers))}",
        f"- B = {model.num_prompts} prompts, P = {model.context_tokens}, Q = {model.state_tokens}, K = {model.flow_length} flow steps",
        f"- Trained on {images} images (`training_images.txt` has their SHA-256: do not report results on them)"
        if images
        else "- Which images it was trained on is not recorded: evaluating on them cannot be refused",
        "",
        "```json",
        json.dumps(training, indent=1, sort_keys=True),
        "```",
        "",
        "Load it with `bayes_pfl.Detector.load(folder)`. It finds what it was never trained on by comparing an image with learned",
        "descriptions of flawless and damaged objects; check it on images of your own before you rely on it.",
    ]
    return "\n".join(lines) + "\n"
