"""Folders of good and defective images -> shards in a temporary folder, for one evaluation."""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from bayes_pfl.data.samples import index_shards
from bayes_pfl.datasets.names import ANY_OBJECT
from bayes_pfl.datasets.own import FOLDER
from bayes_pfl.errors import ConfigError, DataError, OutputError
from pipelines.ingest import ingest
from pipelines.ingestion.summary import summary_text
from pipelines.options.evaluate import EvaluateSettings
from pipelines.options.ingest import IngestConfig
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


def shards_of_folders(settings: EvaluateSettings, temporary: Path) -> list[str]:
    """Ingest the folders of images; their counts go to stderr.

    Args:
        settings: what is evaluated.
        temporary: where the shards are written.

    Returns:
        A folder of shards for each.

    Raises:
        DataError: a folder cannot be ingested, or holds no image of the split or the categories.
        ConfigError: nothing says what its images show.
        OutputError: there is no room for the shards.
    """
    shards = []
    names = {"": settings.class_name} if settings.class_name is not None else {}
    for number, source in enumerate(settings.images):
        config = IngestConfig(class_names=names, max_pixels=settings.max_pixels)
        try:
            summary = ingest(FOLDER.name, source, temporary / str(number), config)
        except DataError as error:
            raise DataError(f"{error} Options are those of `bayes-pfl ingest folder`, for --shards.") from error
        except OutputError as error:
            raise _no_copy(source, str(error).partition(". ")[0]) from error
        print(summary_text({**summary, "output": "evaluated, not kept"}), file=sys.stderr)
        shards.append(summary["output"])
        _check_choice(source, summary["counts"], settings)
        used = sorted({ref.class_name for ref in index_shards(summary["output"])})
        if names:
            continue
        if ANY_OBJECT in used:
            raise ConfigError(f'Say what the images in {source} show: --class-name "metal plate".')
        shown = ", ".join(f'"{printable(name)}"' for name in used[:LISTED]) + (", ..." if len(used) > LISTED else "")
        print(f"Class names from the folders' names: {shown}. --class-name gives another.", file=sys.stderr)
    return shards


def _check_choice(source: str, counts: dict[str, dict[str, dict[str, int]]], settings: EvaluateSettings) -> None:
    """Refuse a folder of which nothing is left to evaluate. Raises DataError."""
    if settings.categories is not None and not set(settings.categories) & set(counts):
        raise DataError(f"{source} has none of the categories chosen; there are: {', '.join(counts)}.")
    splits = sorted({split for by_split in counts.values() for split in by_split})
    if settings.split not in (None, *splits):
        raise DataError(
            f"{source} has no image of the split {settings.split}, which is evaluated; all are of {' and '.join(splits)}. "
            f"Evaluate these by --set split={splits[0]}."
        )


def _no_copy(source: str, reason: str) -> OutputError:
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
    _remove_leftovers(Path(tempfile.gettempdir()))
    with _ending_at_sigterm():
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX))
            lock = os.open(folder / f"{LOCK}.new", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _no_copy("the folder", error.strerror or str(error)) from error
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
