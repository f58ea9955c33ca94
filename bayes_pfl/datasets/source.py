"""The files below a dataset's folder, listed once; readers only look at the names in it."""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bayes_pfl.datasets.record import Record
from bayes_pfl.errors import DataError, ImageError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

JUNK = (
    (re.compile(r"(^|/)\."), "hidden file"),
    (re.compile(r"(^|/)(thumbs\.db|desktop\.ini)$", re.IGNORECASE), "left by a file manager"),
    (re.compile(r"(^|/)__MACOSX/"), "left by a file manager"),
    (re.compile(r"\(copy( \d+)?\)", re.IGNORECASE), "a stray copy"),
    (re.compile(r"(^|/)pred/"), "unlabelled images"),
    (re.compile(r"(^|/)(_manifest/.+|shard-\d{5}\.arrow)$"), "shards of an ingest"),
)
"""Names that are never part of a dataset, with the reason that the summary gives."""


OF_THE_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG})
"""Failures that would be the same at the next try: the file is gone, is forbidden, or its links lead nowhere."""


class SkippedFile(NamedTuple):
    """A file that gave no record, and why."""

    path: str
    reason: str


class DatasetListing(NamedTuple):
    """What a reader made of a folder. Every file is in exactly one place; masks count with images."""

    layout: str
    root: str
    """The folder inside the source that holds the layout, "" for the source itself."""
    records: tuple[Record, ...]
    """Sorted by image path."""
    set_aside: tuple[SkippedFile, ...]
    """Images that belong to the dataset and cannot be used."""
    ignored: tuple[SkippedFile, ...]
    """Files that are no images of the dataset."""
    left_out: tuple[SkippedFile, ...] = ()
    """Images that the chosen subset, split or categories exclude."""


class Source:
    """A folder and the sorted POSIX paths of all files in it.

    Raises:
        DataError: the folder does not exist or cannot be read, or its name is not UTF-8.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not os.path.isdir(folder):  # noqa: PTH112  # Path.is_dir raises for a name that is too long
            raise DataError(f"There is no folder {folder}. Give the dataset's unpacked folder as --source.")
        if not _is_utf8(folder.name):  # it may name the dataset and the category
            raise DataError(f"The name of the folder {printable(str(folder))} is not UTF-8. Rename it.")
        try:
            paths = sorted(_walk(folder, ""))
        except OSError as error:
            raise DataError(f"Cannot read {error.filename}: {error.strerror}.") from error
        self.junk: list[SkippedFile] = []
        self.files: list[str] = []
        self.unnamed: list[SkippedFile] = []
        """Images whose names no list, shard or manifest can hold."""
        for path in paths:
            reason = next((why for pattern, why in JUNK if pattern.search(path)), None)
            if _is_utf8(path):
                if reason is None:
                    self.files.append(path)
                else:
                    self.junk.append(SkippedFile(path, reason))
            elif reason is None and is_image(path):
                self.unnamed.append(SkippedFile(printable(path), "has a name that is not UTF-8; rename it"))
            else:
                self.junk.append(SkippedFile(printable(path), reason or "no image"))

    def folders(self, depth: int) -> list[str]:
        """The folders that hold files, from the source ("") downwards to ``depth``, by depth."""
        found = {""}
        for path in self.files:
            parts = path.split("/")[:-1]
            found.update("/".join(parts[:n]) for n in range(1, min(depth, len(parts)) + 1))
        return sorted(found, key=lambda folder: (folder.count("/") + bool(folder), folder))

    def name_of(self, root: str) -> str:
        """The last part of the path of a folder inside the source, or of the source itself."""
        return (self.folder.absolute() / root).name

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """Image files by their lower-cased path without suffix, to find a partner by name."""
        index: dict[str, list[str]] = {}
        for path in self.files:
            if is_image(path):
                index.setdefault(str(PurePosixPath(path).with_suffix("")).lower(), []).append(path)
        return index

    @cached_property
    def known(self) -> frozenset[str]:
        """All files, for the question whether one exists."""
        return frozenset(self.files)

    def read(self, path: str) -> bytes:
        """The bytes of one file; raises as `read_file`."""
        return read_file(self.folder, path)


def read_file(folder: Path, path: str) -> bytes:
    """The bytes of one file of a source.

    Raises:
        ImageError: it is gone, may not be read, or is no file (a pipe would be waited for forever).
        DataError: the disk or network failed, which says nothing about the file.
    """
    try:
        if not stat.S_ISREG((folder / path).stat().st_mode):
            raise ImageError("is no regular file")
        return (folder / path).read_bytes()
    except OSError as error:
        if error.errno in OF_THE_FILE:
            raise ImageError(f"cannot be read: {error.strerror}") from error
        raise DataError(f"Reading {folder / path} failed: {error.strerror}. Run the same command again.") from error


def printable(path: str) -> str:
    """A path for a line of text: line breaks, control characters and bytes that are no UTF-8 are escaped."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in path)


def is_image(path: str) -> bool:
    """Whether a name ends like an image's."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def paths_inside(root: str, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The paths inside ``root``, each with what follows it."""
    prefix = f"{root}/" if root else ""
    return ((path, path[len(prefix) :]) for path in paths if path.startswith(prefix))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    """Relative paths of all files; links to folders are followed once, never in a circle."""
    stack, seen = [(folder, prefix)], {os.path.realpath(folder)}
    while stack:
        place, prefix = stack.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                if not _is_folder(entry):
                    yield prefix + entry.name
                elif (real := os.path.realpath(entry.path)) not in seen:
                    seen.add(real)
                    stack.append((Path(entry.path), f"{prefix}{entry.name}/"))
