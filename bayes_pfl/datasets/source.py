"""A data set's folder -> the files in it, listed once, and what a reader made of them."""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bayes_pfl.data.walk import SkippedFile, composed, is_image, list_files, printable
from bayes_pfl.datasets.record import Record
from bayes_pfl.errors import DataError, ImageError

_UNLABELLED = re.compile(r"(^|/)(pred|test_private(_mixed)?)/")
"""Folders of images whose labels nobody has: of Br35H and of MVTec AD 2."""

_FAILURES_OF_THE_FILE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
)
"""Failures that would be the same at the next try: the file is gone, is forbidden, or its links lead nowhere."""


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
    """A folder and the sorted POSIX paths of all files in it; readers only look at the names.

    Args:
        folder: a data set's unpacked folder.

    Raises:
        DataError: the folder does not exist or cannot be read, or its name is not UTF-8.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not os.path.isdir(folder):  # noqa: PTH112  # Path.is_dir raises for a name that is too long
            raise DataError(f"There is no folder {folder}. Give the dataset's unpacked folder as --source.")
        if not _is_utf8(folder.name):  # it may name the dataset and the category
            raise DataError(f"The name of the folder {printable(str(folder))} is not UTF-8. Rename it.")
        listing = list_files(folder)
        self.junk: list[SkippedFile] = []
        self.files: list[str] = []
        self.unusable: list[SkippedFile] = []
        """Images that cannot be read as files, or whose names no list, shard or manifest can hold."""
        for path, reason in listing.skipped:
            broken = is_image(path) and reason.startswith(("cannot be read", "is no regular file"))
            (self.unusable if broken else self.junk).append(SkippedFile(printable(path), reason))
        for path in listing.files:
            if _UNLABELLED.search(path):
                self.junk.append(SkippedFile(path, "unlabelled images"))
            elif _is_utf8(path):
                self.files.append(path)
            elif is_image(path):
                self.unusable.append(SkippedFile(printable(path), "has a name that is not UTF-8; rename it"))
            else:
                self.junk.append(SkippedFile(printable(path), "no image"))

    def folders(self, depth: int) -> list[str]:
        """The folders that hold files.

        Args:
            depth: levels below the source to go down.

        Returns:
            Paths from the source ("") downwards, by depth.
        """
        folders = {""}
        for path in self.files:
            parts = path.split("/")[:-1]
            folders.update("/".join(parts[:n]) for n in range(1, min(depth, len(parts)) + 1))
        return sorted(folders, key=lambda folder: (folder.count("/") + bool(folder), folder))

    def name_of(self, root: str) -> str:
        """The last part of a folder's path.

        Args:
            root: a folder inside the source; "" for the source itself.

        Returns:
            Its name.
        """
        return (self.folder.absolute() / root).name

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """Image files by name, to find a partner.

        Returns:
            `stem_key` of the path without suffix -> paths.
        """
        index: dict[str, list[str]] = {}
        for path in self.files:
            if is_image(path):
                index.setdefault(stem_key(PurePosixPath(path).with_suffix("")), []).append(path)
        return index

    @cached_property
    def folders_with_images(self) -> frozenset[str]:
        """Every folder that holds an image, at any depth below it.

        Returns:
            `stem_key` of the folders, each with a "/" at its end; "" for the source.
        """
        folders = {parent for stem in self.by_stem for parent in PurePosixPath(stem).parents}
        return frozenset("" if str(folder) == "." else f"{folder}/" for folder in folders)

    @cached_property
    def existing(self) -> frozenset[str]:
        """All files, for the question whether one exists.

        Returns:
            Their paths.
        """
        return frozenset(self.files)

    def find(self, path: str) -> str | None:
        """The file that a list names, whatever Unicode form either uses.

        Args:
            path: relative to the source.

        Returns:
            The file's path as the disk has it; None if there is none.
        """
        return self._by_composed_path.get(composed(path))

    def read(self, path: str) -> bytes:
        """The bytes of one file.

        Args:
            path: relative to the source.

        Returns:
            The bytes.

        Raises:
            ImageError: as `read_file`.
            DataError: as `read_file`.
        """
        return read_file(self.folder, path)

    @cached_property
    def _by_composed_path(self) -> dict[str, str]:
        return {composed(path): path for path in self.files}


def stem_key(path: str | PurePosixPath) -> str:
    """A path for comparisons of names: lower case, composed Unicode.

    Args:
        path: without its suffix.

    Returns:
        The key.
    """
    return composed(str(path)).lower()


def read_file(folder: Path, path: str) -> bytes:
    """The bytes of one file of a source.

    Args:
        folder: the source.
        path: relative to it.

    Returns:
        The bytes.

    Raises:
        ImageError: it is gone, may not be read, or is no file (a pipe would be waited for forever).
        DataError: the disk or network failed, which says nothing about the file.
    """
    try:
        if not stat.S_ISREG((folder / path).stat().st_mode):
            raise ImageError("is no regular file")
        return (folder / path).read_bytes()
    except OSError as error:
        if error.errno in _FAILURES_OF_THE_FILE:
            raise ImageError(f"cannot be read: {error.strerror}") from error
        raise DataError(f"Reading {folder / path} failed: {error.strerror}. Run the same command again.") from error


def paths_inside(root: str, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The paths inside a folder.

    Args:
        root: the folder, "" for all.
        paths: relative to the source.

    Yields:
        Each path, and what follows the folder in it.
    """
    prefix = f"{root}/" if root else ""
    return ((path, path[len(prefix) :]) for path in paths if path.startswith(prefix))


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
