"""Names on the command line -> the images to score: files, folders of them, or folders of shards, by path or URI."""

import csv
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bayes_pfl.data.remote import is_remote, list_files, list_tree, local_copy
from bayes_pfl.data.samples import index_shards
from bayes_pfl.data.walk import IMAGE_SUFFIXES, SkippedFile, composed, is_image, list_images, select_images
from bayes_pfl.errors import ConfigError, DataError, ImageError
from bayes_pfl.inference.view import RegionOfInterest, View
from pipelines.scoring.actors import read_row
from pipelines.scoring.lists import ListedImage, read_list

FROM_FOLDER = "folder"
"""Value of --class-name-from that takes the name of the sub-folder."""
LISTED = 5
"""Class names that a sentence lists."""


class ImageInput(NamedTuple):
    """One image to score."""

    sample_id: str
    """The file as it was named, or the shard's own sample_id."""
    class_name: str
    location: str
    """The file, or the shard: absolute path or URI, because workers run in another folder."""
    row: int | None
    """Of the shard; None for a file."""
    stamp: str
    """Changes when the content does: size and time of change, or the SHA-256 that the shard keeps."""
    label: int | None = None
    """0 (good) or 1 (defective) where a shard or a list says so, -1 where a list leaves it open."""

    def read(self) -> bytes:
        """The encoded image.

        Returns:
            Its bytes.

        Raises:
            OSError, DataError: it has gone, or cannot be read.
        """
        if self.row is not None:
            return read_row(self.location, self.row)[0]
        return local_copy(self.location).read_bytes()


class Inputs(NamedTuple):
    """The images to score, and the files beside them that are left out."""

    images: list[ImageInput]
    skipped: list[SkippedFile]


def make_view(tile: bool, overlap: float | None, region: str | None) -> View:
    """What --tile, --overlap and --roi say together.

    Args:
        tile: whether images are looked at in tiles.
        overlap: share of a tile that the next one covers too; None: the usual 0.5.
        region: `x,y,width,height`, or a mask by path or URI; None: all of the image.

    Returns:
        The way of looking.

    Raises:
        ConfigError: a value is out of range, or the mask cannot be read.

    >>> make_view(True, None, "1,2,30,40").name(112)
    'tiles of 112 px that overlap by 0.5, region 1,2,30,40'
    """
    if overlap is not None and not tile:
        raise ConfigError("--overlap is of tiles: give --tile too.")
    view = View((0.5 if overlap is None else overlap) if tile else None, _region(region))
    view.check()
    return view


def _region(text: str | None) -> RegionOfInterest | None:
    if text is None:
        return None
    if not is_remote(text) and not Path(text).is_file():
        return RegionOfInterest.from_text(text)
    try:
        return RegionOfInterest.from_mask(local_copy(text).read_bytes())
    except ImageError as error:
        raise ConfigError(f"--roi {text} cannot be used: {error}.") from error
    except OSError as error:
        raise ConfigError(f"--roi {text} cannot be read: {error.strerror or error}.") from error


def find_inputs(sources: Sequence[str], class_name: str | None, class_name_from: str | None) -> Inputs:
    """The images of files and folders in order; folders are searched for shards first, then for images at any depth.

    Class names of shards and lists that `class_name` replaces are said on stderr.

    Args:
        sources: paths and URIs; a CSV file with a column path lists images (see `read_list`).
        class_name: what all images show; None: shards, lists and `class_name_from` say it.
        class_name_from: `folder`: the name of the first sub-folder; else a CSV file with columns path and class_name.

    Returns:
        Images, and what was left out.

    Raises:
        ConfigError: a path is missing, nothing is found, or images get no class name.
        DataError: shards, URIs or folders cannot be read.
    """
    images: list[ImageInput] = []
    skipped: list[SkippedFile] = []
    own_names: Counter[str] = Counter()
    table = None if class_name_from in (None, FROM_FOLDER) else read_class_names(Path(str(class_name_from)))
    for source in sources:
        if _holds_shards(source):
            refs = index_shards(source)
            own_names.update(ref.class_name for ref in refs)
            images += [
                ImageInput(ref.sample_id, class_name or ref.class_name, ref.shard, ref.row, ref.sha256, ref.label)
                for ref in refs
            ]
            continue
        if source.lower().endswith(".csv") and Path(source).is_file():
            rows = read_list(Path(source))
            own_names.update(row.class_name for row in rows if row.class_name)
            images += [_listed(row, source, class_name) for row in rows]
            continue
        files, others = _files(source)
        skipped += others
        for file, stamp in files.items():
            name = class_name or _class_name(source, file, class_name_from, table)
            location = file if is_remote(file) else str(Path(file).resolve())
            images.append(ImageInput(printable(file), name, location, None, stamp))
    if not images:
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        raise ConfigError(f"No images found; give files ending in {endings}, or folders of them or of shards.")
    if class_name:
        _say_replaced(own_names, class_name)
    return Inputs(images, skipped)


def _say_replaced(own_names: Counter[str], class_name: str) -> None:
    """Name the class names of shards and lists that --class-name takes the place of."""
    if set(own_names) <= {class_name}:
        return
    names = ", ".join(f"{printable(name)} ({count:,})" for name, count in own_names.most_common(LISTED))
    more = ", ..." if len(own_names) > LISTED else ""
    print(f"--class-name {printable(class_name)} replaces the images' own class names: {names}{more}.", file=sys.stderr)


def _listed(row: ListedImage, source: str, class_name: str | None) -> ImageInput:
    """An image of a list. Raises ConfigError if nothing says what it shows."""
    name = class_name or row.class_name
    if not name:
        raise ConfigError(f"{source}: {row.path} has no class_name: fill in the column, or give --class-name.")
    stamp = list_tree(row.path).get(row.path, "") if is_remote(row.path) else _stamp(Path(row.path))
    return ImageInput(printable(row.path), name, row.path, None, stamp, row.label)


def read_class_names(path: Path) -> dict[str, str]:
    """A CSV file with columns path and class_name.

    Args:
        path: the file; paths in it are relative to its own folder, absolute, or URIs.

    Returns:
        Class names by `_table_key`.

    Raises:
        ConfigError: it cannot be read, lacks a column, or has a row without path or name.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"--class-name-from {path} cannot be read ({reason}): give `folder`, or a CSV file with columns "
            "path and class_name."
        ) from error
    names = {}
    for number, row in enumerate(rows, 2):
        image, name = (row.get("path") or "").strip(), (row.get("class_name") or "").strip()
        if not image or not name:
            raise ConfigError(
                f"{path}, line {number}: path or class_name is missing; the first line names the columns."
            )
        names[_table_key(image if is_remote(image) else str(path.parent / image))] = name
    return names


def _class_name(source: str, file: str, class_name_from: str | None, table: dict[str, str] | None) -> str:
    """The class name of a file without one on the command line. Raises ConfigError if nothing says it."""
    if table is not None:
        name = table.get(_table_key(file))
        if name is None:
            raise ConfigError(f"{printable(file)} is not in {class_name_from}: add its path and class_name.")
        return name
    if class_name_from == FROM_FOLDER:
        inner = below(source, file)
        if len(inner.parts) < 2:
            raise ConfigError(
                f"{printable(file)} lies in no sub-folder of {source}, so none says what it shows: move it, or "
                "give --class-name."
            )
        return inner.parts[0].replace("_", " ")
    raise ConfigError(
        f'Say what the images in {source} show: --class-name "metal plate", or --class-name-from folder for '
        "several products."
    )


def _table_key(file: str) -> str:
    """One name of a file, however it is written: the URI, or the resolved path in Unicode's composed form."""
    return file if is_remote(file) else composed(str(Path(file).resolve()))


def below(source: str, file: str) -> PurePosixPath:
    """The path of a file below the folder or URI that was given.

    Args:
        source: the folder or URI.
        file: that was found in it.

    Returns:
        The path; "." for the file itself.
    """
    if is_remote(source):
        return PurePosixPath(file[len(source.rstrip("/")) + 1 :])
    return PurePosixPath(Path(file).relative_to(Path(source)))


def _holds_shards(source: str) -> bool:
    if is_remote(source):
        return not is_image(source) and any("/shard-" in uri for uri in list_files(source))
    return Path(source).is_dir() and any(Path(source).glob("shard-*.arrow"))


def _files(source: str) -> tuple[dict[str, str], list[SkippedFile]]:
    """A file itself, whatever its ending, or the images in a folder, in order, with stamps; and what is left out."""
    if is_remote(source):
        stamps = list_tree(source)
        if set(stamps) == {source} or is_image(source):
            return {source: stamps.get(source, "")}, []
        chosen, skipped = select_images(sorted(stamps))
        return {uri: stamps[uri] for uri in chosen}, list(skipped)
    path = Path(source)
    if path.is_dir():
        listing = list_images(path)
        return {str(path / name): _stamp(path / name) for name in listing.files}, list(listing.skipped)
    if not path.is_file():
        raise ConfigError(f"There is no file or folder {path}.")
    return {str(path): _stamp(path)}, []


def _stamp(path: Path) -> str:
    """Size and time of change of a file. Raises DataError if it has gone in the meantime."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"Cannot read {printable(str(path))}: {error.strerror}.") from error
    return f"{status.st_size}-{status.st_mtime_ns}"


def printable(file: str) -> str:
    """The name as tables and terminals can hold it: bytes that are no UTF-8, and control characters, become a question
    mark in a box.

    Args:
        file: name of a file.

    Returns:
        Text.
    """
    text = file.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join("\ufffd" if unicodedata.category(letter) == "Cc" else letter for letter in text)
