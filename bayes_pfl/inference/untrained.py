"""The name of a method that needs no training -> its released settings, which stand for a whole model."""

import difflib
from typing import Any

from bayes_pfl.config import BackboneConfig, DetectorConfig, parse_config
from bayes_pfl.errors import ConfigError
from bayes_pfl.methods.builder import METHODS, needs_training

SCHEME = "method"
"""Of model sources `method:/NAME`, which every command takes in place of a bundle."""


def method_source(method: str) -> str:
    """The model source of a method that needs no training.

    Args:
        method: its name.

    Returns:
        `method:/NAME`.
    """
    return f"{SCHEME}:/{method}"


def untrained_config(method: str, backbone: BackboneConfig | None = None, **model: Any) -> DetectorConfig:
    """The settings that a method is released with.

    Args:
        method: name of the method.
        backbone: another CLIP than the method's own.
        model: other settings of the method.

    Returns:
        What a bundle would store.

    Raises:
        ConfigError: there is no such method, it must be trained, or a setting does not exist.
    """
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, 1, 0.0)[0]
        raise ConfigError(f"There is no method '{method}'; did you mean '{near}'? There are {', '.join(METHODS)}.")
    if needs_training(method):
        free = [name for name in METHODS if not needs_training(name)]
        raise ConfigError(
            f"The method '{method}' must be trained, or imported from a published checkpoint; {' and '.join(free)} "
            "need no training."
        )
    values = {"model": {**model, "method": method}} | ({} if backbone is None else {"backbone": backbone})
    return parse_config(DetectorConfig, values, f"method {method}")
