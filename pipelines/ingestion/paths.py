"""A path on the command line -> an absolute one."""

from pathlib import Path

from bayes_pfl.errors import ConfigError


def local_path(given: Path | str, option: str) -> Path:
    """The absolute path of a command-line option.

    Args:
        given: the option's value.
        option: its name, for the error.

    Returns:
        The path.

    Raises:
        ConfigError: it is empty, or its ``~user`` is unknown.
    """
    if not str(given):
        raise ConfigError(f"{option} is empty; give a folder.")
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"There is no home folder for {option} {given}; write the path in full.") from error
