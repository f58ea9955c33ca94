"""open_clip's tag of weights -> its file in the cache, or one question to its hub, or one sentence why not."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bayes_pfl.config import BackboneConfig
from bayes_pfl.errors import BackboneError

NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""What open_clip calls a file of weights on Hugging Face's hub, in the order in which it asks for them."""
ANSWER_S = 5.0
"""Time for the hub to answer; open_clip would ask it again and again for a minute."""


def cure(config: BackboneConfig, file: str, page: str) -> str:
    """What to do where weights cannot be downloaded here.

    Args:
        config: names them by a tag.
        file: of the weights.
        page: where it can be downloaded.

    Returns:
        An advice for the command line and for Python; a file needs QuickGELU where its tag does.
    """
    typed, written = (" --set backbone.quick_gelu=true", ", quick_gelu=True") if config.quick_gelu else ("", "")
    return (
        f"download {file} from {page} where there is a network, and name it: --set backbone.pretrained=FILE{typed}, or "
        f'for a model that is trained --weights FILE (in Python BackboneConfig(name="{config.name}", pretrained=FILE'
        f"{written}), or Detector.load(FOLDER, weights=FILE))"
    )


def hub_of(tag: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Where the weights of a tag lie on Hugging Face's hub.

    Args:
        tag: open_clip's entry.

    Returns:
        The repository, and the files in question; both empty for a tag of another place.
    """
    repository, _, file = str(tag.get("hf_hub") or "").rpartition("/")
    if not repository:
        return "", ()
    return repository, (str(Path(file).with_suffix(".safetensors")), file) if file and file not in NAMES else NAMES


def cached_file(tag: Mapping[str, Any]) -> Path | None:
    """The file of a tag in the cache of Hugging Face's hub.

    Args:
        tag: open_clip's entry.

    Returns:
        Its path; None where it has to be downloaded.
    """
    import huggingface_hub

    repository, files = hub_of(tag)
    for file in files:
        path = huggingface_hub.try_to_load_from_cache(repository, file)
        if isinstance(path, str):
            return Path(path)
    return None


def check_hub(tag: Mapping[str, Any], config: BackboneConfig) -> None:
    """Ask the hub once whether the weights of a tag can be had, before open_clip downloads them.

    Args:
        tag: open_clip's entry.
        config: names it.

    Raises:
        BackboneError: the hub does not answer, or may not be asked.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import get_session

    repository, files = hub_of(tag)
    if not repository:
        return
    reason = ""
    if constants.is_offline_mode():
        reason = "HF_HUB_OFFLINE is set"
    else:
        try:
            answer = get_session().head(hf_hub_url(repository, files[0]), timeout=ANSWER_S, follow_redirects=False)
            if answer.status_code >= 500 or answer.status_code == 429:
                reason = f"{constants.ENDPOINT} answers {answer.status_code}"
        except Exception as error:  # whatever the HTTP library raises
            reason = f"{constants.ENDPOINT} does not answer: {str(error) or type(error).__name__}"
    if reason:
        raise BackboneError(
            f"The weights '{config.pretrained}' of {config.name} are not in the cache and cannot be downloaded "
            f"({reason}): {cure(config, files[0], f'https://huggingface.co/{repository}')}."
        )


@contextlib.contextmanager
def without_asking() -> Iterator[None]:
    """Take files from the cache as they are: the hub would be asked first whether they are the newest.

    Yields:
        Nothing.
    """
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
