"""The name of a method that needs no training -> its released settings, which stand for a whole model."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from bayes_pfl.config.run import METHOD_NAMES, BackboneConfig, DetectorConfig
from bayes_pfl.config.settings import read_config
from bayes_pfl.errors import ConfigError

SCHEME = "method"
"""Of model sources `method:/NAME`, which every command takes in place of a bundle."""

WITHOUT_TRAINING = ("prompt_ensemble", "winclip", "clip_ad")
"""Methods that score without weights of their own by their default settings: CLIP-AD's SDP learns nothing."""


def method_source(method: str, overrides: Sequence[str] = ()) -> str:
    """The model source of a method that needs no training.

    Args:
        method: its name.
        overrides: such as `backbone.name=ViT-B-16`.

    Returns:
        `method:/NAME`, with `?KEY=VALUE&KEY=VALUE`.
    """
    query = "&".join(quote(override, safe="=.,[]/:") for override in overrides)
    return f"{SCHEME}:/{method}" + (f"?{query}" if query else "")


def read_source(source: str) -> tuple[str, list[str]]:
    """The inverse of `method_source`.

    Args:
        source: the model source.

    Returns:
        Name of the method, and overrides.
    """
    method, _, query = source.removeprefix(f"{SCHEME}:").lstrip("/").partition("?")
    return method, [unquote(part) for part in query.split("&") if part]


def with_settings(source: str, overrides: Sequence[str]) -> str:
    """A model source with more settings.

    Args:
        source: `method:/NAME`, with settings or without; without overrides any model source.
        overrides: such as `backbone.name=ViT-B-16`.

    Returns:
        The source with those settings behind its own.

    Raises:
        ConfigError: the source is no method's.
    """
    if not overrides:
        return source
    if not source.startswith(f"{SCHEME}:/"):
        raise ConfigError("--set is of a method that needs no training: give --method too, such as winclip.")
    method, before = read_source(source)
    return method_source(method, [*before, *overrides])


def written_out(source: str) -> str:
    """A model source whose files are named by their whole paths: other processes have another current folder.

    Args:
        source: `method:/NAME?KEY=VALUE`.

    Returns:
        The same source.
    """
    method, overrides = read_source(source)
    pairs = [override.partition("=") for override in overrides]
    files = [
        key + equals + (str(Path(value).resolve()) if Path(value).is_file() else value) for key, equals, value in pairs
    ]
    return method_source(method, files)


def untrained_config(
    method: str, backbone: BackboneConfig | str | None = None, overrides: Sequence[str] = ()
) -> DetectorConfig:
    """The settings that a method is released with.

    Args:
        method: name of the method.
        backbone: another CLIP than the method's own; a name stands for `backbone.name`, with the method's weights.
        overrides: other settings, such as `backbone.name=ViT-B-16` or `model.scales=[2]`.

    Returns:
        What a bundle would store.

    Raises:
        ConfigError: there is no such method, it must be trained, a setting does not exist, or the backbone is none.
    """
    if isinstance(backbone, str):
        backbone, overrides = None, [f"backbone.name={backbone}", *overrides]
    if not isinstance(backbone, BackboneConfig | None):
        raise ConfigError(
            f"backbone is {backbone!r:.60}; give the name of an architecture, embedded, or a BackboneConfig: from "
            "bayes_pfl.config import BackboneConfig."
        )
    if method not in METHOD_NAMES:
        near = difflib.get_close_matches(str(method), METHOD_NAMES, 1, 0.0)[0]
        raise ConfigError(f"There is no method '{method}'; did you mean '{near}'? There are {', '.join(METHOD_NAMES)}.")
    if method not in WITHOUT_TRAINING:
        raise ConfigError(
            f"The method '{method}' must be trained, or imported from a published checkpoint; "
            f"{', '.join(WITHOUT_TRAINING)} need no training."
        )
    config = read_config(DetectorConfig, None, [f"model.method={method}", *overrides])
    return config if backbone is None else config.model_copy(update={"backbone": backbone})
