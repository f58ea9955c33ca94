"""A path -> whether a decision log can be written there, before anything else is imported."""

import os
from pathlib import Path

from bayes_pfl.errors import ConfigError


def check_decision_log(path: Path) -> None:
    """See to it that a decision log can be written; the file is made if there is none.

    Args:
        path: the file.

    Raises:
        ConfigError: its folder is missing, or it cannot be written.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"There is no folder {path.parent} for the decision log {path.name}; make it first.")
    if path.exists() and not path.is_file():
        raise ConfigError(f"The decision log {path} is no file; name another.")
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise ConfigError(
            f"Cannot write the decision log {path} ({error.strerror}); make it writable, or name another file."
        ) from error
    os.close(file)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(
            f"The folder {path.parent} of the decision log is not writable, so that the file could not be set aside "
            "when it is full; make it writable, or name another file."
        )
