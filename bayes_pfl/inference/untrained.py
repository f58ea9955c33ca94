"""The name of a method that needs no training -> what stands in for a bundle: released settings, no weights."""

import difflib
import hashlib
from pathlib import Path
from typing import Any

from bayes_pfl.config import BackboneConfig, DetectorConfig, parse_config
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.methods.builder import METHODS, needs_training

NOTHING = hashlib.sha256(b"").hexdigest()
"""Of the training images of a method that saw none."""


def untrained_bundle(method: str, backbone: BackboneConfig | None = None, **model: Any) -> Bundle:
    """A bundle in memory, of the settings that a method is released with.

    Args:
        method: name of the method.
        backbone: another CLIP than the method's own.
        model: other settings of the method.

    Returns:
        The bundle; its version is the hash of its settings.

    Raises:
        ConfigError: there is no such method, it must be trained, or a setting does not exist.
    """
    free = [name for name in METHODS if not needs_training(name)]
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, 1, 0.0)[0]
        raise ConfigError(f"There is no method '{method}'; did you mean '{near}'? There are {', '.join(METHODS)}.")
    if method not in free:
        raise ConfigError(
            f"The method '{method}' must be trained, or imported from a published checkpoint; {' and '.join(free)} "
            "need no training."
        )
    values = {"model": {**model, "method": method}} | ({} if backbone is None else {"backbone": backbone})
    config = parse_config(DetectorConfig, values, f"method {method}")
    record = {
        "head_sha256": hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
        "training_images_sha256": NOTHING,
        "training": {"kind": "needs no training"},
    }
    return Bundle(Path(method), config, {}, record)
