"""Configuration -> an open_clip model with its weights and tokenizer, or one sentence why not."""

import contextlib
import difflib
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch

from bayes_pfl.clip.activation import refuse_contradiction, warn_of_file
from bayes_pfl.clip.checkpoints import describe, torchscript_tensors, transformers_tensors
from bayes_pfl.clip.hub import cached_file, check_hub, cure, hub_of, without_asking
from bayes_pfl.clip.positions import resize_positions
from bayes_pfl.config import BackboneConfig
from bayes_pfl.errors import BackboneError

PACKAGE = Path(__file__).parents[1]

SERVED = (
    "choose one such as ViT-B-16, ViT-L-14-336, ViT-H-14, ViT-bigG-14, EVA02-L-14, PE-Core-L-14-336, ViTamin-L or "
    "MobileCLIP-B: docs/backbones.md lists all"
)
"""Advice where an architecture cannot serve."""

WEIGHT_FILES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")
"""How names of files of weights end."""

MISMATCH = r"size mismatch for (\S+): .*?Size\((\[.*?\])\) from checkpoint, .*?Size\((\[.*?\])\)"
"""torch's words for a tensor of another shape: its name, the file's shape, the model's shape."""

POSITIONS = ("positional_embedding", "text.positional_embedding")
"""open_clip's names of the text encoder's positions."""

REDUCED = (torch.float16, torch.bfloat16)

NO_TOKENIZER = f" has a tokenizer of another kind, which learned prompts cannot be put through; {SERVED}."


def package_path(name: str) -> Path:
    """A path as configured.

    Args:
        name: `package:x` lies inside the installed package; anything else is taken as it is.

    Returns:
        The path.
    """
    return PACKAGE / name.removeprefix("package:") if name.startswith("package:") else Path(name)


def _architecture(name: str) -> str:
    """open_clip's name of the architecture, registering a JSON file first where the configuration names one."""
    # hf-hub:... and local-dir:... are names too
    if not name.endswith(".json") and ":" not in name and name not in open_clip.list_models():
        near = difflib.get_close_matches(name, open_clip.list_models(), 3, 0.3)
        raise BackboneError(
            f"open_clip has no architecture '{name}'; did you mean {' or '.join(near) or 'ViT-L-14-336'}? "
            "`python -c 'import open_clip; print(open_clip.list_models())'` lists all."
        )
    if not name.endswith(".json"):
        return name
    path = package_path(name)
    if not path.is_file():
        raise BackboneError(
            f"There is no architecture file {path}; name an open_clip architecture or an existing JSON file."
        )
    open_clip.add_model_config(path)
    return path.stem


def load_clip(config: BackboneConfig) -> Any:
    """Build the architecture and load its weights; random ones for `random:<seed>`.

    Args:
        config: names both.

    Returns:
        open_clip's model, on the CPU.

    Raises:
        BackboneError: one of them cannot be found or loaded, or they contradict the configuration.
    """
    name = _architecture(config.name)
    refuse_contradiction(config, name)
    warn_of_file(config)
    seed = config.pretrained.removeprefix("random:") if config.pretrained.startswith("random:") else None
    with contextlib.ExitStack() as stack:
        pretrained = None if seed is not None else _weights(config.pretrained, stack)
        tag = open_clip.pretrained.get_pretrained_cfg(name, pretrained) if pretrained else None
        if tag and cached_file(tag) is not None:
            stack.enter_context(without_asking())
        elif tag:
            check_hub(tag, config)
        stack.enter_context(_quiet())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(int(seed or 0))
        try:
            clip = open_clip.create_model(
                name,
                pretrained=pretrained,
                force_quick_gelu=config.quick_gelu,
                device=torch.get_default_device(),
                force_image_size=config.image_size if config.position_resize == "antialiased_bicubic" else None,
                pretrained_text=False,
                weights_only=True,
            )
        except Exception as error:  # open_clip raises whatever its many loaders raise
            raise BackboneError(_why_not_loaded(config, name, error, pretrained)) from error
    if config.position_resize != "antialiased_bicubic":
        resize_positions(clip.visual, config)
    runs = any(isinstance(module, open_clip.transformer.QuickGELU) for module in clip.modules())
    if runs != config.quick_gelu:
        raise BackboneError(
            f"{config.name} runs {'QuickGELU' if runs else 'exact GELU'}, but backbone.quick_gelu is "
            f"{str(config.quick_gelu).lower()}: make it {str(runs).lower()}."
        )
    return clip


def _weights(pretrained: str, stack: contextlib.ExitStack) -> str:
    """What open_clip is given: a tag, or a file that it reads; tensors of files of another form are copied to one."""
    local = package_path(pretrained)
    if not local.is_file():
        return pretrained
    tensors = torchscript_tensors(local)
    tensors = transformers_tensors(local) if tensors is None else tensors
    tensors = _reduced_tensors(local) if tensors is None else tensors
    if tensors is None:
        return str(local)
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bayes-pfl-"))
    try:
        safetensors.torch.save_file(tensors, Path(folder, "clip.safetensors"))
    except (OSError, safetensors.SafetensorError) as error:
        raise BackboneError(
            f"Cannot copy the tensors of {local} to {folder}: {error}. Free some space, or name another TMPDIR."
        ) from error
    return str(Path(folder, "clip.safetensors"))


def _reduced_tensors(path: Path) -> dict[str, Any] | None:
    """Tensors of a file that has some in 16 bits, whose positions open_clip cannot bring to another size; else None."""
    try:
        tensors = open_clip.factory.load_state_dict(str(path))
        return tensors if any(value.dtype in REDUCED for value in tensors.values()) else None
    except Exception:  # what it is tells open_clip's own attempt to load it
        return None


def _why_not_loaded(config: BackboneConfig, name: str, error: Exception, pretrained: str | None) -> str:
    """One sentence for what open_clip's loaders raised; their advice to load files without safety is not passed on."""
    local = package_path(config.pretrained)
    if local.exists():
        description = describe(local)
        if description:
            return f"{config.pretrained} {description}."
        differences = _differences(error, name, pretrained)
        if differences:
            return (
                f"{config.pretrained} holds weights of another architecture than {config.name}: {differences}. Choose "
                "the architecture that it was saved from (backbone.name)."
            )
        reason = "it holds other objects" if "weights_only" in str(error) else _first_line(error)
        return (
            f"{config.pretrained} cannot be loaded as weights of {config.name} ({reason}); give a safetensors file, or "
            "one that torch.save wrote of state_dict() alone."
        )
    if "/" in config.pretrained or local.suffix in WEIGHT_FILES:
        return _no_file(config)
    tag = open_clip.pretrained.get_pretrained_cfg(name, config.pretrained)
    if tag:
        repository, files = hub_of(tag)
        page = f"https://huggingface.co/{repository}" if repository else tag.get("url", "its page")
        advice = cure(config, files[0] if files else "the file", page)
        return f"The weights '{config.pretrained}' of {config.name} cannot be loaded ({_first_line(error)}): {advice}."
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
    return (
        f"Cannot load CLIP {config.name} with weights '{config.pretrained}' ({_first_line(error)}). open_clip's tags "
        f"for it: {tags}. Name one, or download a checkpoint and give its path."
    )


def require_weights_file(config: BackboneConfig) -> None:
    """Refuse a file of weights that is not on this machine, before anything is loaded.

    Args:
        config: names the weights.

    Raises:
        BackboneError: there is no such file.
    """
    file = package_path(config.pretrained)
    if file.is_absolute() and not file.exists():
        raise BackboneError(_no_file(config))


def _no_file(config: BackboneConfig) -> str:
    return (
        f"There is no file {config.pretrained}, which CLIP's weights are to come from. Where it has moved, give a "
        "trained model --weights FILE (in Python weights=FILE), and a training --set backbone.pretrained=FILE."
    )


def _differences(error: Exception, name: str, pretrained: str | None) -> str:
    """What of a file's tensors is not the architecture's, in words; empty where the error is about something else."""
    text = str(error)
    names, shapes = re.findall(r'"([^"]+)"', text), re.findall(MISMATCH, text)
    if isinstance(error, AssertionError) and pretrained:  # open_clip's, of the text encoder's width
        tensors = open_clip.factory.load_state_dict(pretrained)
        key = next((key for key in tensors if key in POSITIONS), "")
        width = open_clip.get_model_config(name)["text_cfg"].get("width", 512)
        if key and tensors[key].shape[1] != width:
            shapes = [(key, str([*tensors[key].shape]), str([tensors[key].shape[0], width]))]
    elif "state_dict" not in text:
        return ""
    parts = [f"{len(names)} names differ, such as {names[0]}"] if names else []
    if shapes:
        tensor, given, needed = shapes[0]
        parts.append(f"{tensor} has the shape {given} in the file and {needed} in the architecture")
    return ", and ".join(parts)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While it loads, drop open_clip's own records in the root logger and its warning of a meant activation.

    open_clip logs with `logging.info(...)`, which adds a handler to a root logger without one: `logging.lastResort`,
    which such a logger uses anyway, stands in its place. Afterwards the root logger is as it was.
    """
    root = logging.getLogger()
    folder = str(Path(open_clip.__file__).parent)

    def is_foreign(record: logging.LogRecord) -> bool:
        return not record.pathname.startswith(folder)

    stand_in = logging.lastResort if not root.handlers else None
    if stand_in is not None:
        root.addHandler(stand_in)
    root.addFilter(is_foreign)
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # it tells of every attempt, twice; what it ends with is told in our words
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="QuickGELU mismatch", category=UserWarning)
            yield
    finally:
        root.removeFilter(is_foreign)
        hub.setLevel(level)
        if stand_in is not None:
            root.removeHandler(stand_in)


def context_length(config: BackboneConfig) -> int:
    """Tokens that the text encoder holds, from the architecture alone.

    Args:
        config: names the architecture.

    Returns:
        The length, start and end of text included.
    """
    return int(open_clip.get_model_config(_architecture(config.name))["text_cfg"].get("context_length", 77))


def load_tokenizer(config: BackboneConfig) -> Any:
    """open_clip's tokenizer; the configuration's own vocabulary if its text_cfg names one, relative to the JSON file.

    Args:
        config: names the architecture.

    Returns:
        The tokenizer.

    Raises:
        BackboneError: it is no tokenizer of CLIP's kind.
    """
    name = _architecture(config.name)
    text = open_clip.get_model_config(name)["text_cfg"] if ":" not in name else {}
    if "hf_tokenizer_name" in text or "hf_model_name" in text:
        raise BackboneError(f"{config.name}{NO_TOKENIZER}")
    vocabulary = text.get("tokenizer_kwargs", {}).get("bpe_path")
    if vocabulary is None:
        tokenizer = open_clip.get_tokenizer(name)
        if not isinstance(tokenizer, open_clip.SimpleTokenizer):
            raise BackboneError(f"{config.name}{NO_TOKENIZER}")
        return tokenizer
    folder = package_path(config.name).parent
    return open_clip.SimpleTokenizer(bpe_path=str(folder / vocabulary), context_length=text["context_length"])


def architecture_text(config: BackboneConfig) -> str:
    """The architecture as JSON text: what a model card records.

    Args:
        config: names the architecture.

    Returns:
        Indented JSON.
    """
    return json.dumps(open_clip.get_model_config(_architecture(config.name)), indent=1, sort_keys=True)
