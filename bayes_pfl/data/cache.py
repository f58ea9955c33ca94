"""Copies of files that a URI names, on the machine that reads them: whole or absent, within a limit, oldest out first.

Several processes share the folder. What belongs to it has names of its own making, and nothing else is ever removed. A
copy that a process has mapped stays readable for it when it is removed, but its room comes back only when that ends:
such copies are left alone.
"""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bayes_pfl.data.shards import replacing
from bayes_pfl.errors import ConfigError, OutputError

LIMIT_VARIABLE = "BAYES_PFL_CACHE_GB"
FOLDER = "copies"
SPARE_BYTES = 64 * 2**20
"""Room on the disk that copies leave to everyone else."""
JUST_USED_S = 5.0
"""A copy used so recently is about to be opened."""
PATIENCE_S = 10.0
"""How long to wait for copies that others are about to open, or read no more."""
ABANDONED_S = 3600.0
"""A part of a copy that has not grown for so long is nobody's."""

COPY = re.compile(r"[0-9a-f]{24}-.+")
PART = re.compile(r"\.[0-9a-f]{24}-.+\.part")
CLAIM = re.compile(r"\.[0-9a-f]{24}\.claim")


class _Copy(NamedTuple):
    used: float
    path: Path
    size_bytes: int


def cache_folder() -> Path:
    """Where copies lie on this machine.

    Returns:
        BAYES_PFL_CACHE, else a folder of this user's in the temporary one, which nobody else may write to.

    Raises:
        OutputError: another user was there first.
    """
    given = os.environ.get("BAYES_PFL_CACHE")
    if given:
        return Path(given)
    folder = Path(tempfile.gettempdir()) / f"bayes-pfl-cache-{os.getuid()}"
    with contextlib.suppress(FileNotFoundError):
        facts = folder.lstat()
        if facts.st_uid != os.getuid() or not stat.S_ISDIR(facts.st_mode):
            raise OutputError(
                f"{folder} belongs to another user or is no folder: name one of yours in BAYES_PFL_CACHE."
            )
        return folder
    with contextlib.suppress(OSError):  # whoever writes there says what is wrong
        folder.mkdir(mode=0o700)
    return folder


def cached(key: str, name: str, size_bytes: int, fetch: Callable[[Path], object]) -> Path:
    """A file's copy, made unless it is there.

    Args:
        key: 24 hexadecimal digits that name the file and its version.
        name: that the copy's name ends with.
        size_bytes: of the file.
        fetch: writes the file to a path.

    Returns:
        The copy. Open it at once: it may be removed later on, which takes nothing from whoever has it open or mapped.

    Raises:
        OutputError: there is no room.
        ConfigError: the limit is no number.
    """
    folder = cache_folder() / FOLDER
    target = folder / f"{key}-{name}"
    if not _touched(target):
        folder.mkdir(parents=True, exist_ok=True)
        with _claimed(folder / f".{key}.claim") as claim:  # whoever wants the same file waits for it
            if not _touched(target):
                _make_room(folder, size_bytes, claim)
                with replacing(target) as temporary:
                    fetch(temporary)
                _touched(target)
    return target


def _touched(target: Path) -> bool:
    """Whether the copy is there; it is used now."""
    try:
        os.utime(target)
    except OSError:
        return target.is_file()
    return True


@contextlib.contextmanager
def _claimed(path: Path, wait: bool = True) -> Iterator[int | None]:
    """Hold a lock file alone; it is gone afterwards. None if another process holds it and `wait` is off."""
    while True:
        claim = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(path.stat(), os.fstat(claim)):
                break
        except BlockingIOError:
            os.close(claim)
            yield None
            return
        except FileNotFoundError:
            pass
        os.close(claim)  # whoever held it has removed it
    try:
        os.truncate(claim, 0)
        yield claim
    finally:
        path.unlink(missing_ok=True)
        fcntl.flock(claim, fcntl.LOCK_UN)
        os.close(claim)


def _make_room(folder: Path, size_bytes: int, claim: int | None) -> None:
    """Remove copies, the longest unused first, until another one fits; the claim's length reserves the room."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with _claimed(folder / ".lock"):
            lacking = _lacking(folder, size_bytes)
            if lacking > 0:
                lacking -= _evict(folder, lacking)
            if lacking <= 0:
                if claim is not None:
                    os.truncate(claim, size_bytes)
                return
        if time.monotonic() > deadline:
            raise OutputError(
                f"No room in {folder} for a copy of {size_bytes / 2**20:,.0f} MB: the copies that are being read there "
                f"fill it. Set {LIMIT_VARIABLE} to more gigabytes, or BAYES_PFL_CACHE to a folder on a larger disk."
            )
        time.sleep(0.2)


def _lacking(folder: Path, size_bytes: int) -> int:
    """By how many bytes the copies would be too many."""
    held, reserved = sum(copy.size_bytes for copy in _copies(folder)), _reserved(folder)
    free = shutil.disk_usage(folder).free
    needed = size_bytes + reserved
    return max(held + needed - _limit_bytes(held, free), needed + SPARE_BYTES - free)


def _limit_bytes(held: int, free: int) -> int:
    """The limit that is set, else half of what copies have and could have."""
    text = os.environ.get(LIMIT_VARIABLE)
    try:
        gigabytes = float(text) if text else (held + free) / 2e9
    except ValueError:
        gigabytes = -1.0
    if not 0 < gigabytes < float("inf"):
        raise ConfigError(f"{LIMIT_VARIABLE} is {text!r}: give a number of gigabytes, e.g. 50.")
    return int(gigabytes * 1e9)


def _copies(folder: Path) -> list[_Copy]:
    """All whole copies, the longest unused first."""
    copies = []
    for entry in os.scandir(folder):
        if COPY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):
                stat = entry.stat(follow_symlinks=False)
                copies.append(_Copy(stat.st_mtime, Path(entry.path), stat.st_size))
    return sorted(copies)


def _reserved(folder: Path) -> int:
    """Bytes of the copies that other processes are making; what killed ones left is removed."""
    total = 0
    for entry in [entry for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]:
        with contextlib.suppress(FileNotFoundError):
            stat = entry.stat(follow_symlinks=False)
            if PART.fullmatch(entry.name) and time.time() - stat.st_mtime > ABANDONED_S:
                Path(entry.path).unlink()
            elif CLAIM.fullmatch(entry.name) and stat.st_size:
                with _claimed(Path(entry.path), wait=False) as abandoned:
                    total += stat.st_size if abandoned is None else 0
    return total


def _evict(folder: Path, wanted_bytes: int) -> int:
    """Remove copies that nobody uses until so much is gained; how much it was."""
    gained, mapped = 0, _mapped()
    for copy in _copies(folder):
        if gained >= wanted_bytes or time.time() - copy.used < JUST_USED_S:
            break
        if copy.path.name not in mapped:
            copy.path.unlink(missing_ok=True)
            gained += copy.size_bytes
    return gained


def _mapped() -> set[str]:
    """Names of the copies that processes of this machine have mapped, as far as it tells."""
    names = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            for line in maps.read_text(errors="replace").splitlines():
                folder, _, name = line.rpartition("/")
                if folder.endswith(f"/{FOLDER}"):
                    names.add(name)
    return names
