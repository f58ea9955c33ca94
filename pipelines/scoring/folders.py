"""Folders of images that are evaluated at once: what is refused of them, and the temporary folder of their copy."""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from bayes_pfl.datasets.names import ANY_OBJECT
from bayes_pfl.errors import ConfigError, DataError, OutputError
from pipelines.options.evaluate import EvaluateSettings
from pipelines.scoring.inputs import printable

PREFIX = "bayes-pfl-evaluate-"
"""Of the temporary folders' names."""
LOCK = ".bayes-pfl-lock"
"""A file in them, locked by the process that uses the folder: a lock ends with its process."""
LISTED = 5
"""Class names that a line names."""


def check_folders(settings: EvaluateSettings) -> None:
    """Refuse folders of images that are not there.

    Args:
        settings: what is evaluated.

    Raises:
        DataError: one is missing.
    """
    for source in settings.images:
        if not _is_folder(source):
            raise DataError(f"There is no folder {source}: give a folder with good and defective images.")


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # such as a name that is too long
        return False


def check_folder(source: str, counts: dict[str, dict[str, dict[str, int]]], settings: EvaluateSettings) -> None:
    """Refuse a folder of which nothing is left to evaluate.

    Args:
        source: the folder, as the user named it.
        counts: of its ingest: images by category, split and label.
        settings: what is evaluated.

    Raises:
        DataError: it has no image of the split or the categories.
    """
    if settings.categories is not None and not set(settings.categories) & set(counts):
        raise DataError(f"{source} has none of the categories chosen; there are: {', '.join(counts)}.")
    splits = sorted({split for by_split in counts.values() for split in by_split})
    if settings.split not in (None, *splits):
        raise DataError(
            f"{source} has no image of the split {settings.split}, which is evaluated; all are of "
            f"{' and '.join(splits)}. Evaluate these by --set split={splits[0]}."
        )


def say_class_names(source: str, class_names: Collection[str]) -> None:
    """Name on stderr the class names that come from the names of folders.

    Args:
        source: the folder, as the user named it.
        class_names: of its images.

    Raises:
        ConfigError: no name says what they show.
    """
    if ANY_OBJECT in class_names:
        raise ConfigError(f'Say what the images in {source} show: --class-name "metal plate".')
    names = sorted(class_names)
    shown = ", ".join(f'"{printable(name)}"' for name in names[:LISTED]) + (", ..." if len(names) > LISTED else "")
    print(f"Class names from the folders' names: {shown}. --class-name gives another.", file=sys.stderr)


def cannot_copy(source: str, reason: str) -> OutputError:
    """The sentence for a copy that failed.

    Args:
        source: what was to be copied.
        reason: why.

    Returns:
        The error to raise.
    """
    return OutputError(
        f"The images of {source} cannot be copied for the time of the evaluation ({reason}). Set the environment "
        "variable TMPDIR to a folder with room for them."
    )


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that vanishes at the end, also when SIGTERM ends the process; those of killed processes vanish first.

    Yields:
        The folder.

    Raises:
        OutputError: it cannot be made.
    """
    with _ending_at_sigterm():
        try:
            _remove_leftovers(Path(tempfile.gettempdir()))
            folder = Path(tempfile.mkdtemp(prefix=PREFIX))
            lock = os.open(folder / f"{LOCK}.new", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise cannot_copy("the folder", error.strerror or str(error)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / f"{LOCK}.new").rename(folder / LOCK)  # others see it locked only
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


@contextlib.contextmanager
def _ending_at_sigterm() -> Iterator[None]:
    """SIGTERM raises SystemExit in the block, so that what is to be deleted is deleted."""
    if threading.current_thread() is not threading.main_thread():  # others set no handlers
        yield
        return

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is end:  # else it is Ray's, which ends Ray too
            signal.signal(signal.SIGTERM, before)


def _remove_leftovers(parent: Path) -> None:
    """Delete temporary folders of this user's processes that were killed: nobody holds their locks."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
