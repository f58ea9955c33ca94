"""CLIP weights -> their SHA-256, computed once for each file and machine."""

import contextlib
import hashlib
import json
import os
import uuid
from pathlib import Path

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from torch import nn

from bayes_pfl.clip.loading import architecture_text, package_path
from bayes_pfl.config import BackboneConfig


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all parameters and buffers.

    Args:
        module: any.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(array.shape)}{array.dtype}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_of(config: BackboneConfig, clip: nn.Module) -> str:
    """`weights_digest` of a CLIP that was just loaded; remembered for a local file, and for one of the model hub.

    Remembered is what path, size and times of the file, the architecture and the versions of open_clip and torch gave:
    a file that was written since has other times, which only the machine's clock sets.

    Args:
        config: names the weights.
        clip: loaded from it.

    Returns:
        64 hexadecimal digits.
    """
    note = _note(config)
    with contextlib.suppress(OSError, ValueError):
        if note is not None and len(bytes.fromhex(digest := note.read_text("ascii"))) == 32:
            return digest
    digest = weights_digest(clip)
    with contextlib.suppress(OSError):  # a machine that remembers nothing computes it again
        if note is not None:
            note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = note.with_name(f".{note.name}.{uuid.uuid4().hex}")
            temporary.write_text(digest, "ascii")
            temporary.replace(note)
    return digest


def _note(config: BackboneConfig) -> Path | None:
    """Where the digest of a file is kept; None for random weights, and for those that the model hub's cache has not."""
    local = package_path(config.pretrained)
    file = local if local.is_file() else _downloaded(config)
    if file is None:
        return None
    try:
        facts, home = file.stat(), Path("~").expanduser()
    except (OSError, RuntimeError):  # gone in between; a user without a home
        return None
    times = [str(file.resolve()), facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
    software = [open_clip.__version__, torch.__version__, architecture_text(config)]
    positions = [config.image_size, config.position_resize]  # which decide their embeddings
    key = hashlib.sha256(json.dumps([*times, *software, *positions]).encode()).hexdigest()
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "bayes-pfl" / "weights" / key


def _downloaded(config: BackboneConfig) -> Path | None:
    """The file that open_clip has loaded for a tag; None if the hub's cache has none."""
    tag = open_clip.pretrained.get_pretrained_cfg(config.name, config.pretrained) or {}
    repository, _, name = tag.get("hf_hub", "").rpartition("/")
    name = name or HF_WEIGHTS_NAME
    safe = HF_SAFE_WEIGHTS_NAME if name == HF_WEIGHTS_NAME else str(Path(name).with_suffix(".safetensors"))
    for candidate in (safe, name) if repository else ():  # open_clip's order
        file = try_to_load_from_cache(repository, candidate)
        if isinstance(file, str):
            return Path(file)
    return None
