"""Architecture, weights and `quick_gelu` -> nothing, one sentence that they contradict, or a warning."""

import logging
from pathlib import Path

import open_clip

from bayes_pfl.clip.hub import hub_of
from bayes_pfl.config import BackboneConfig
from bayes_pfl.errors import BackboneError

logger = logging.getLogger(__name__)

PUBLISHED = "openai"
"""Weights of this tag were trained with QuickGELU and are run with exact GELU by the published implementation: both are
accepted for them."""


def refuse_contradiction(config: BackboneConfig, name: str) -> None:
    """Refuse an activation that the architecture or its weights contradict.

    A file of a model that is trained (it has a SHA-256) is not asked: the model computes as it was trained.

    Args:
        config: names both.
        name: open_clip's, of the architecture.

    Raises:
        BackboneError: as said.
    """
    architecture = open_clip.get_model_config(name) if ":" not in name else {}
    if architecture.get("quick_gelu", False) and not config.quick_gelu:
        raise BackboneError(
            f"{config.name} is an architecture with QuickGELU, but backbone.quick_gelu is false: make it true, or "
            "choose the architecture without QuickGELU."
        )
    file = Path(config.pretrained)
    tag = config.pretrained
    if file.is_file() and not config.weights_sha256:
        tag = tag_of_file(name, file)
    entry = open_clip.pretrained.get_pretrained_cfg(name, tag) or {}
    trained_with = bool(entry.get("quick_gelu", False))
    if entry and trained_with != config.quick_gelu and tag != PUBLISHED:
        activation = "QuickGELU" if trained_with else "exact GELU"
        known_as = f"'{tag}'" if tag == config.pretrained else f"in {file}, open_clip's '{tag}'"
        raise BackboneError(
            f"The weights {known_as} of {name} were trained with {activation}, "
            f"but backbone.quick_gelu is {str(config.quick_gelu).lower()}: make it {str(trained_with).lower()}."
        )


def warn_of_file(config: BackboneConfig) -> None:
    """Warn of a file whose activation nobody has said and nothing tells, where such weights may need QuickGELU.

    Args:
        config: as it was written: settings that were stored once have every key, and are not warned of.
    """
    file = Path(config.pretrained)
    if "quick_gelu" in config.model_fields_set or not file.is_file() or tag_of_file(config.name, file):
        return
    tags = [tag for tag in open_clip.list_pretrained_tags_by_model(config.name) if tag != PUBLISHED]
    if any((open_clip.pretrained.get_pretrained_cfg(config.name, tag) or {}).get("quick_gelu") for tag in tags):
        logger.warning(
            "%s does not say whether it was trained with QuickGELU; exact GELU is used. OpenAI's, DFN's and MetaCLIP's "
            "weights were: --set backbone.quick_gelu=true (in Python quick_gelu=True), else false.",
            file,
        )


def tag_of_file(name: str, file: Path) -> str:
    """open_clip's tag of a file of weights: by the file's name, or by the hub's repository among its folders.

    Args:
        name: open_clip's, of the architecture.
        file: of weights, under the name or in the folder that it was downloaded to.

    Returns:
        The tag; empty where neither is one of the architecture's.
    """
    for tag in open_clip.list_pretrained_tags_by_model(name):
        entry = open_clip.pretrained.get_pretrained_cfg(name, tag) or {}
        repository = hub_of(entry)[0]
        folders = {repository.rpartition("/")[2], f"models--{repository.replace('/', '--')}"} if repository else set()
        if file.name == Path(entry.get("url") or "").name or folders & set(file.parts):
            return str(tag)
    return ""
