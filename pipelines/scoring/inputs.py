"""What is to be scored: image files, folders of them, or folders of shards, by path or URI, as one list."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bayes_pfl.data.remote import is_remote, list_files, local_copy
from bayes_pfl.data.samples import index_shards
from bayes_pfl.errors import ConfigError
from pipelines.scoring.actors import read_row

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class Item(NamedTuple):
    """One image to score."""

    sample_id: str
    """The file as it was named, or the shard's own sample_id."""
    class_name: str
    place: str
    """The file, or the shard: absolute path or URI, because workers run in another folder."""
    row: int | None
    """Of the shard; None for a file."""
    stamp: str
    """Changes when the content does: a file's size and time of change, or the SHA-256 that the shard keeps."""

    def read(self) -> bytes:
        """The encoded image. Raises OSError or DataError if it has gone."""
        if self.row is not None:
            return read_row(self.place, self.row)[0]
        return local_copy(self.place).read_bytes()


def find_items(given: Sequence[str], class_name: str | None) -> list[Item]:
    """The images of files and folders in order; folders are searched for shards first, then for images at any depth.

    Raises ConfigError if a path is missing, nothing is found, or images without a class name of their own get none;
    DataError for shards or URIs that cannot be read.
    """
    items: list[Item] = []
    for source in given:
        if _holds_shards(source):
            items += [
                Item(ref.sample_id, class_name or ref.class_name, ref.shard, ref.row, ref.sha256)
                for ref in index_shards(source)
            ]
            continue
        files = _files(source)
        if files and not class_name:
            raise ConfigError(f'Say what the images in {source} show: --class-name "metal plate".')
        items += [Item(_printable(file), class_name or "", *_place(file)) for file in files]
    if not items:
        raise ConfigError(
            f"No images found; give files ending in {', '.join(ENDINGS)}, or folders of them or of shards."
        )
    return items


def _holds_shards(source: str) -> bool:
    if is_remote(source):
        return not source.lower().endswith(ENDINGS) and any("/shard-" in uri for uri in list_files(source))
    return Path(source).is_dir() and any(Path(source).glob("shard-*.arrow"))


def _files(source: str) -> list[str]:
    """A file itself, whatever its ending, or the images in a folder, sorted."""
    if is_remote(source):
        return [source] if source.lower().endswith(ENDINGS) else [uri for uri in list_files(source) if _is_image(uri)]
    path = Path(source)
    if path.is_dir():
        return [str(file) for file in sorted(path.rglob("*")) if _is_image(file.name) and file.is_file()]
    if not path.is_file():
        raise ConfigError(f"There is no file or folder {path}.")
    return [str(path)]


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def _printable(file: str) -> str:
    """The name as tables and terminals can hold it: bytes that are no UTF-8 become a question mark in a box."""
    return file.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _place(file: str) -> tuple[str, None, str]:
    if is_remote(file):
        return file, None, ""
    path = Path(file).resolve()
    about = path.stat()
    return str(path), None, f"{about.st_size}-{about.st_mtime_ns}"
