"""Files by path or URI (s3://, gs://, file://, ...), through fsspec; what is read by URI is copied once to the machine that reads it.

Shards and features are memory-mapped, which only a local file can be. Copies lie under BAYES_PFL_CACHE, else in the
temporary folder, in a place named by URI, size and time of change: a file that changes is copied anew.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec

from bayes_pfl.data.shards import replacing
from bayes_pfl.errors import ConfigError, DataError, OutputError


def is_remote(path: Path | str) -> bool:
    """Whether this is a URI rather than a path."""
    return "://" in str(path)


def list_files(folder: str) -> list[str]:
    """URIs of the files directly in a folder named by URI, in order. Raises DataError if it cannot be listed."""
    try:
        system, root = fsspec.core.url_to_fs(folder)
        return sorted(
            system.unstrip_protocol(entry["name"]) for entry in system.ls(root, detail=True) if entry["type"] == "file"
        )
    except Exception as error:  # drivers raise errors of their own
        raise _unreadable(folder, error) from error


def list_tree(folder: str) -> dict[str, str]:
    """Files at any depth of a folder named by URI.

    Args:
        folder: URI; of a file, the file itself is listed.

    Returns:
        By URI, in order: a stamp that changes when the file does.

    Raises:
        DataError: it cannot be listed.
    """
    try:
        system, root = fsspec.core.url_to_fs(folder)
        entries = system.find(root, detail=True)
        return {system.unstrip_protocol(name): _version(info) for name, info in sorted(entries.items())}
    except Exception as error:  # drivers raise errors of their own
        raise _unreadable(folder, error) from error


def _version(info: dict[str, Any]) -> str:
    """What a driver says of a file that changes when the file does."""
    return " ".join(str(info.get(key)) for key in ("size", "mtime", "LastModified", "etag", "ETag", "updated"))


def cache_folder() -> Path:
    """Where copies lie on this machine: BAYES_PFL_CACHE, else a folder of this user's in the temporary one."""
    return Path(os.environ.get("BAYES_PFL_CACHE") or Path(tempfile.gettempdir()) / f"bayes-pfl-cache-{os.getuid()}")


def local_copy(path: Path | str) -> Path:
    """A local file with the content of a path or URI. Raises DataError if it cannot be copied."""
    if not is_remote(path):
        return Path(path)
    uri = str(path)
    try:
        system, remote = fsspec.core.url_to_fs(uri)
        about = system.info(remote)
        version = [uri, *(str(about.get(key)) for key in ("size", "mtime", "LastModified", "etag", "ETag", "updated"))]
        target = (
            cache_folder() / hashlib.sha256("\0".join(version).encode()).hexdigest()[:24] / remote.rsplit("/", 1)[-1]
        )
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as temporary:
                system.get_file(remote, str(temporary))
        return target
    except Exception as error:
        raise _unreadable(uri, error) from error


def _unreadable(place: str, error: Exception) -> DataError:
    return DataError(f"{place} cannot be read ({error}). Check it, its credentials and the fsspec driver.")


class Store:
    """A folder on disk or behind a URI.

    Raises ConfigError for a scheme without driver; listing, DataError and writing, OutputError where it is not possible.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root).rstrip("/")
        try:
            self._system, self._path = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"{self.root} cannot be opened: {error} Check the URI, or install its fsspec driver."
            ) from error

    def read_json(self, name: str) -> Any | None:
        """What a file holds; None if it is not there, not whole or cannot be read."""
        try:
            return json.loads(self._system.cat_file(f"{self._path}/{name}"))
        except Exception:  # drivers raise errors of their own
            return None

    def write_json(self, name: str, value: Any) -> None:
        """Write a file, whole or not at all."""
        with self._replacing(name) as part:
            self._system.pipe_file(part, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def sizes(self) -> dict[str, int]:
        """Bytes of the files directly in it, by name; none if it does not exist."""
        return {_last(entry["name"]): entry["size"] for entry in self._entries() if entry["type"] == "file"}

    def names(self) -> list[str]:
        """Names of the files and folders in it, in order; none if it does not exist."""
        return sorted(_last(entry["name"]) for entry in self._entries())

    def _entries(self) -> list[dict[str, Any]]:
        try:
            self._system.invalidate_cache()
            return list(self._system.ls(self._path, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except Exception as error:
            raise _unreadable(self.root, error) from error

    def upload(self, folder: Path, name: str) -> str:
        """Copy a local folder's files in, under a name; returns where they are."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(file, f"{name}/{file.relative_to(folder).as_posix()}")
        return f"{self.root}/{name}"

    def upload_files(self, files: Sequence[Path]) -> None:
        """Copy local files in, in this order, under their own names."""
        for file in files:
            self.put(file, file.name)

    def put(self, file: Path, name: str) -> None:
        """Copy a local file in, whole or not at all."""
        with self._replacing(name) as part:
            self._system.put_file(str(file), part)

    @contextlib.contextmanager
    def _replacing(self, name: str) -> Iterator[str]:
        """Another name, which becomes this one when all is written: not every store shows a file only once it is whole."""
        target = f"{self._path}/{name}"
        part = f"{target}.{uuid.uuid4().hex[:8]}.part"
        try:
            self._make_folder(target.rsplit("/", 1)[0])
            yield part
            self._system.mv(part, target)
        except Exception as error:
            raise self._refusal(error) from error

    def download(self, name: str, folder: Path) -> Path:
        """Copy a folder's files out, into a local folder, which is returned."""
        folder.mkdir(parents=True, exist_ok=True)
        root = f"{self._path}/{name}"
        for file in self._system.find(root):
            target = folder / file[len(root) + 1 :]
            target.parent.mkdir(parents=True, exist_ok=True)
            self._system.get_file(file, str(target))
        return folder

    def make(self) -> None:
        """See to it that the folder is there and can be written."""
        try:
            self._make_folder(self._path)
            self._system.pipe_file(f"{self._path}/.writable", b"")
            self._system.rm_file(f"{self._path}/.writable")
        except Exception as error:
            raise self._refusal(error) from error

    def _make_folder(self, path: str) -> None:
        # A path without a slash in front begins with a bucket: it has no folders, and a missing bucket is a mistake.
        if path.startswith("/"):
            self._system.makedirs(path, exist_ok=True)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        try:
            if self._system.exists(f"{self._path}/{name}"):
                self._system.rm_file(f"{self._path}/{name}")
        except Exception as error:
            raise self._refusal(error) from error

    def clear(self) -> None:
        """Remove the folder and all that is in it."""
        try:
            if self._system.exists(self._path):
                self._system.rm(self._path, recursive=True)
        except Exception as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> OutputError:
        reason = getattr(error, "strerror", None) or str(error)
        return OutputError(f"Cannot write {self.root}: {reason}. Check the path, its permissions and the room left.")


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


@contextlib.contextmanager
def landing(folder: Path | str, name: str) -> Iterator[Path]:
    """A local file to write, which then lies in a folder or behind a URI under a name, whole or not at all. Raises OutputError."""
    if not is_remote(folder):
        with replacing(Path(folder, name)) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory(prefix="bayes-pfl-") as staging:
        yield Path(staging, name)
        Store(folder).put(Path(staging, name), name)
