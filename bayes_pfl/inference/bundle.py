"""A trained model <-> a folder: `bundle.json` (configuration, checksums), `head.safetensors`, `README.md`.

Nothing in it is pickled. CLIP's own weights are not in it: the configuration names them, and their SHA-256 must match
when the bundle is used.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from bayes_pfl.clip.activation import warn_of_file
from bayes_pfl.clip.backbone import package_path
from bayes_pfl.command_line import nearest
from bayes_pfl.config import BackboneConfig, DetectorConfig, parse_config
from bayes_pfl.config.untrained import SCHEME, read_source, untrained_config
from bayes_pfl.data.cache import cache_folder
from bayes_pfl.errors import BundleError, ConfigError
from bayes_pfl.inference.model_card import UNTRAINED, model_card

FORMAT = 1
FILES = ("bundle.json", "head.safetensors", "training_images.txt", "README.md")
"""What a bundle consists of; anything else in its folder belongs to somebody else and is kept."""
EMBEDDED = "embedded"
EMBEDDED_FOLDER = "package:embedded/bundle"
DEMONSTRATION = "embedded demonstration model"
RESOLVERS = "bayes_pfl.model_sources"
"""Entry-point group: the name is a URI scheme, the object a function from URI to a local bundle folder."""


class Bundle:
    """A loaded bundle.

    Args:
        folder: where it lies.
        config: of the detector.
        weights: of the head, by name.
        record: what `bundle.json` holds; `training` tells where the model comes from.
        clip_file: where CLIP's weights lie now, if not where `config` says.
    """

    def __init__(
        self,
        folder: Path,
        config: DetectorConfig,
        weights: dict[str, Tensor],
        record: dict[str, Any],
        clip_file: Path | None = None,
    ) -> None:
        self.folder = folder
        self.clip_file = clip_file
        self.config = config
        self.weights = weights
        self.record = record

    @property
    def kind(self) -> str:
        """What people should know at once: "embedded demonstration model", or nothing."""
        return DEMONSTRATION if self.record["head_sha256"] == _embedded_head() else ""

    @property
    def backbone(self) -> BackboneConfig:
        """What `Backbone` is built of: the configured one, its weights from where they lie now."""
        moved = {} if self.clip_file is None else {"pretrained": str(self.clip_file)}
        return self.config.backbone.model_copy(update=moved)

    @property
    def needs_no_training(self) -> bool:
        """Whether it stands for a method that learns nothing."""
        return bool(self.record.get("training") == UNTRAINED)

    @property
    def version(self) -> str:
        """First 12 hexadecimal digits of the head's SHA-256: names this very model."""
        return str(self.record["head_sha256"])[:12]


@functools.cache
def _embedded_head() -> str:
    """SHA-256 of the demonstration model's head: a copy of it stays one."""
    return str(json.loads((package_path(EMBEDDED_FOLDER) / "bundle.json").read_bytes())["head_sha256"])


def save_bundle(
    folder: Path,
    config: DetectorConfig,
    weights: dict[str, Tensor],
    training: dict[str, Any],
    training_images: list[str],
) -> None:
    """Write a bundle, replacing one that is there; other files in its folder stay.

    A process that is killed meanwhile leaves the old bundle or the new one: the new one is written under a name of its
    own, the old one is renamed, the new one takes its place, and only then the old one is deleted. Between the two
    renamings `load_bundle` reads the old one.

    Args:
        folder: where it shall lie.
        config: of the detector.
        weights: of the head, by name.
        training: where the model comes from, as JSON can hold it.
        training_images: SHA-256 of the images trained on.

    Raises:
        BundleError: the folder cannot be written, or holds something that is no bundle.
    """
    folder = folder.resolve()
    try:
        if folder.exists() and not _is_replaceable(folder):
            raise BundleError(f"{folder} holds something that is no bundle; choose another folder.")
        part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
        try:
            part.mkdir(parents=True)
            _write(part, config, weights, training, sorted(set(training_images)))
            if folder.exists():
                folder.rename(folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.old"))
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        for old in _replaced(folder):
            _discard(old, folder)
    except OSError as error:
        raise BundleError(
            f"Cannot write the bundle {folder}: {error.strerror or error}. Free space or choose another folder."
        ) from error


def refuse_other_model(folder: Path, config: DetectorConfig, weights: dict[str, Tensor]) -> None:
    """Refuse to replace a model by another one.

    Args:
        folder: where a bundle shall be written.
        config: of its detector.
        weights: of its head, by name.

    Raises:
        BundleError: another model lies there, or a damaged one.
    """
    if not (folder / "bundle.json").exists():
        return
    present = load_bundle(folder)
    same = present.config == config and present.weights.keys() == weights.keys()
    if not same or not all(torch.equal(value, weights[name]) for name, value in present.weights.items()):
        raise BundleError(f"{folder} holds another model: choose another folder, or move that model away.")


def _is_replaceable(folder: Path) -> bool:
    """Whether a folder is empty or holds a bundle that this project wrote."""
    if not folder.is_dir():
        return False
    try:
        record = json.loads((folder / "bundle.json").read_bytes())
        return isinstance(record, dict) and "format" in record and "head_sha256" in record
    except FileNotFoundError:
        return not any(folder.iterdir())
    except (ValueError, RecursionError, OSError):
        return False


def _write(
    folder: Path, config: DetectorConfig, weights: dict[str, Tensor], training: dict[str, Any], images: list[str]
) -> None:
    """All files of a bundle, on the disk when this returns."""
    head = _head(config, weights)
    listed = "".join(f"{digest}\n" for digest in images).encode("ascii")
    record = _record(config, head, listed, training)
    contents = {
        "head.safetensors": head,
        "training_images.txt": listed,
        "bundle.json": (json.dumps(record, indent=1, sort_keys=True) + "\n").encode("utf-8"),
        "README.md": model_card(config, training, len(images)).encode("utf-8"),
    }
    for name, content in contents.items():
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the folder must not get its name before its content in a power cut


def _head(config: DetectorConfig, weights: dict[str, Tensor]) -> bytes:
    """The file of weights; without any, one that differs where the settings do: its hash is the model's version."""
    settings = None if weights else {"settings": hashlib.sha256(config.model_dump_json().encode()).hexdigest()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    return safetensors.torch.save(tensors, settings)


def _record(config: DetectorConfig, head: bytes, images: bytes, training: dict[str, Any]) -> dict[str, Any]:
    """What `bundle.json` holds."""
    return {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "head_sha256": hashlib.sha256(head).hexdigest(),
        "training_images_sha256": hashlib.sha256(images).hexdigest(),
        "training": training,
    }


def untrained_bundle(
    method: str, backbone: BackboneConfig | str | None = None, overrides: Sequence[str] = ()
) -> Bundle:
    """What stands in for a trained model where a method needs no training: its released settings and no weights.

    Args:
        method: name of the method.
        backbone: another CLIP than the method's own, or its name.
        overrides: other settings, such as `backbone.name=ViT-B-16`.

    Returns:
        The bundle, in memory alone.

    Raises:
        ConfigError: see `untrained_config`.
    """
    config = untrained_config(method, backbone, overrides)
    return Bundle(Path(method), config, {}, _record(config, _head(config, {}), b"", UNTRAINED))


def _replaced(folder: Path) -> list[Path]:
    """Bundles that were renamed to make room for a new one at `folder` and not deleted yet, the newest first."""
    prefix, parent = f".{folder.name}.", folder.parent
    paths = [path for path in parent.glob("*.old") if path.name.startswith(prefix)] if parent.is_dir() else []
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)


def _discard(old: Path, folder: Path) -> None:
    """Delete a replaced bundle; whatever else lay in its folder moves to the new one."""
    with contextlib.suppress(OSError):  # a leftover does no harm, and the next save tries again
        for path in old.iterdir():
            if path.name in FILES:
                path.unlink()
            elif not (folder / path.name).exists():
                path.rename(folder / path.name)
        old.rmdir()


def load_bundle(source: str | Path, clip_file: str | Path | None = None) -> Bundle:
    """Read and verify a bundle.

    Args:
        source: a folder, `embedded`, or a URI whose scheme an installed program resolves (models:/...).
        clip_file: the file of CLIP's weights, if it no longer lies where the bundle says; its SHA-256 is checked when
            the backbone is built.

    Returns:
        The bundle.

    Raises:
        BundleError: it is missing, of another format, or not what its checksums say.
        ConfigError: there is no such file of weights.
    """
    if clip_file is not None and not Path(clip_file).is_file():
        raise ConfigError(f"There is no file {clip_file}: give that of CLIP's weights, which the model was trained on.")
    folder = resolve(source)
    try:
        if not folder.exists():
            folder = next(iter(_replaced(folder)), folder)
        record = json.loads((folder / "bundle.json").read_bytes())
        head = (folder / "head.safetensors").read_bytes()
    except (OSError, ValueError, RecursionError) as error:
        meant = "" if folder.exists() else nearest(str(source), [EMBEDDED])
        reason = f"{getattr(error, 'strerror', None) or error}{meant}"
        raise BundleError(
            f"{folder} is no bundle ({reason}). Give the folder that training wrote, or models:/NAME@ALIAS."
        ) from error
    _verify(folder, record, head)
    backbone = record["config"].get("backbone")
    if isinstance(backbone, dict) and str(backbone.get("name")).endswith("-quickgelu"):
        # Bundles of such an architecture once recorded false, and ran QuickGELU all the same.
        record["config"]["backbone"] = {**backbone, "quick_gelu": True}
    try:
        config = parse_config(DetectorConfig, record["config"], f"{folder}/bundle.json")
    except ConfigError as error:
        raise BundleError(f"The bundle has settings that this version does not take: {error}.") from error
    try:
        weights = safetensors.torch.load(head)
    except safetensors.SafetensorError as error:
        raise BundleError(f"{folder}/head.safetensors cannot be read: {error}. Copy the bundle again.") from error
    return Bundle(folder, config, weights, record, None if clip_file is None else Path(clip_file).resolve())


def _verify(folder: Path, record: Any, head: bytes) -> None:
    """Refuse a record that lacks a key, has one of another type, or does not fit the head."""
    if not isinstance(record, dict) or type(record.get("format")) is not int or record["format"] != FORMAT:
        version = record.get("format", "?") if isinstance(record, dict) else "?"
        raise BundleError(f"{folder} has bundle format {str(version)[:20]}; this version reads {FORMAT}.")
    kinds = {"config": dict, "head_sha256": str, "training_images_sha256": str, "training": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(record.get(key), kind)]
    if wrong:
        raise BundleError(f"{folder}/bundle.json lacks {', '.join(wrong)} or has it wrong; copy the bundle again.")
    if hashlib.sha256(head).hexdigest() != record["head_sha256"]:
        raise BundleError(
            f"{folder}/head.safetensors is damaged: its SHA-256 is not the recorded one. Copy the bundle again."
        )


def store_threshold(bundle: Bundle, threshold: float, looked_at: str) -> None:
    """Write a threshold into the configuration of a bundle on disk; its weights and its version stay.

    Args:
        bundle: a loaded one.
        threshold: image score from which an image is called anomalous.
        looked_at: the way of looking that it was made for, as of `View.name`.

    Raises:
        BundleError: the bundle cannot be written.
    """
    path = bundle.folder / "bundle.json"
    config = {**bundle.record["config"]}
    config["scoring"] = {**config.get("scoring", {}), "threshold": threshold, "threshold_for": looked_at}
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(json.dumps({**bundle.record, "config": config}, indent=1, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise BundleError(f"Cannot write {path} ({error.strerror or error}): make the folder writable.") from error
    finally:
        part.unlink(missing_ok=True)


def training_images(bundle: Bundle) -> frozenset[str]:
    """SHA-256 of every image the bundle was trained on.

    Args:
        bundle: a loaded one.

    Returns:
        Hexadecimal digests.

    Raises:
        BundleError: the list is missing or damaged.
    """
    try:
        text = (bundle.folder / "training_images.txt").read_bytes()
    except OSError as error:
        raise BundleError(f"{bundle.folder} lacks training_images.txt; copy the bundle again.") from error
    if hashlib.sha256(text).hexdigest() != bundle.record["training_images_sha256"]:
        raise BundleError(f"{bundle.folder}/training_images.txt is damaged; copy the bundle again.")
    return frozenset(text.decode("ascii", "replace").split())


def resolve(source: str | Path) -> Path:
    """The local folder of a bundle.

    Args:
        source: path, `embedded`, `method:/NAME` of a method that needs no training, or another URI.

    Returns:
        The folder; one behind a URI is copied, that of a method is written.

    Raises:
        BundleError: no installed program resolves the URI.
    """
    text = str(source)
    if text == EMBEDDED:
        return package_path(EMBEDDED_FOLDER)
    scheme, separator, name = text.partition(":/")
    if scheme == SCHEME and separator:
        return _untrained_folder(name)
    if separator and scheme.isalnum() and len(scheme) > 1:
        for entry in importlib.metadata.entry_points(group=RESOLVERS, name=scheme):
            return Path(entry.load()(text))
        raise BundleError(
            f"Nothing installed resolves '{scheme}:' models; install this project with pip, or give a folder."
        )
    return Path(source)


def _untrained_folder(source: str) -> Path:
    """A bundle of a method that needs no training, in the cache."""
    method, overrides = read_source(source)
    bundle = untrained_bundle(method, None, overrides)
    warn_of_file(bundle.backbone)  # the stored settings do not tell what was written
    folder = cache_folder() / bundle.version / method
    try:
        earlier = load_bundle(folder)
        same = (earlier.config, earlier.record["head_sha256"]) == (bundle.config, bundle.record["head_sha256"])
    except BundleError:  # not there, or not whole
        same = False
    if not same:
        save_bundle(folder, bundle.config, {}, UNTRAINED, [])
    return folder
