"""Temporary folder -> a sentence if Ray cannot keep its sockets and logs in it, before Ray starts."""

import os
from pathlib import Path

from bayes_pfl.errors import ConfigError, OutputError

SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket."""
ROOM_BYTES = 2**20


def temporary_folder() -> Path:
    """Where Ray keeps its sockets and logs.

    Returns:
        RAY_TMPDIR, TMPDIR or /tmp.
    """
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def check_temporary_folder(folder: Path) -> None:
    """Look whether Ray can keep its sockets and logs in a folder.

    Args:
        folder: RAY_TMPDIR, TMPDIR or /tmp.

    Raises:
        ConfigError: its path is too long, it does not exist, or it belongs to somebody else.
        OutputError: it has no room.
    """
    cure = "set RAY_TMPDIR to a short path of a folder of your own, such as /tmp/ray-mine."
    session = f"session_2000-01-01_00-00-00_000000_{os.getpid()}"
    longest = folder.absolute() / "ray" / session / "sockets" / "plasma_store"
    if len(os.fsencode(longest)) > SOCKET_PATH_BYTES:
        raise ConfigError(f"The path of the temporary folder {folder} is too long for Ray's sockets: {cure}")
    if not folder.is_dir():
        raise ConfigError(f"The temporary folder {folder} does not exist: make it, or {cure}")
    own = folder / "ray" if (folder / "ray").exists() else folder
    if not os.access(own, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"Ray cannot write into {own}, which belongs to another user: {cure}")
    room = os.statvfs(folder)
    if room.f_bavail * room.f_frsize < ROOM_BYTES or (room.f_files and not room.f_favail):
        raise OutputError(
            f"There is no room left in the temporary folder {folder}, where Ray keeps its sockets and logs: "
            f"free some, or {cure}"
        )
