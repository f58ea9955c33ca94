"""Files by path or URI (s3://, gs://, file://, ...), through fsspec -> local files, JSON, listings.

What is read by URI is copied once to the machine that reads it (`bayes_pfl.data.cache`), under a name made of URI, size
and time of change: shards and features are memory-mapped, which only a local file can be.
"""

import contextlib
import errno
import fnmatch
import hashlib
import json
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import fsspec

from bayes_pfl.data.cache import cached
from bayes_pfl.data.shards import replacing
from bayes_pfl.errors import BayesPFLError, ConfigError, DamagedError, DataError, OutputError


def is_remote(path: Path | str) -> bool:
    """Whether this is a URI rather than a path.

    Args:
        path: either.

    Returns:
        True for a URI.

    >>> is_remote("s3://bucket/shards"), is_remote("shards")
    (True, False)
    """
    return "://" in str(path)


def list_files(folder: str) -> list[str]:
    """Files directly in a folder.

    Args:
        folder: URI.

    Returns:
        Their URIs, in order.

    Raises:
        DataError: it cannot be listed.
    """
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


def local_copy(path: Path | str) -> Path:
    """A local file with the content of a path or URI.

    Args:
        path: either; a path is returned as it is.

    Returns:
        The local file.

    Raises:
        DataError: it cannot be copied.
        OutputError: there is no room for the copy.
    """
    if not is_remote(path):
        return Path(path)
    uri = str(path)
    try:
        system, remote = fsspec.core.url_to_fs(uri)
        info = system.info(remote)
        version = f"{uri}\0{_version(info)}"
        name, key = inside(remote.rsplit("/", 1)[-1]), hashlib.sha256(version.encode()).hexdigest()[:24]
        return cached(key, str(name), info.get("size") or 0, partial(_fetch, system, remote))
    except BayesPFLError:
        raise
    except Exception as error:
        raise _unreadable(uri, error) from error


def _fetch(system: fsspec.AbstractFileSystem, remote: str, target: Path) -> None:
    try:
        system.get_file(remote, str(target))
    except Exception as error:  # drivers raise errors of their own
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        raise error if is_full else _unreadable(system.unstrip_protocol(remote), error) from error


def inside(key: str) -> Path:
    """A store's key as a relative path that stays in the folder it is joined to.

    Args:
        key: parts separated by slashes.

    Returns:
        The path.

    Raises:
        DataError: the key is empty or absolute, goes up, or holds what no file name may.

    >>> inside("epoch_0001/state.safetensors").as_posix()
    'epoch_0001/state.safetensors'
    """
    path = PurePosixPath(key)
    windows = PureWindowsPath(key)
    if not path.parts or path.is_absolute() or windows.drive or windows.root or ".." in windows.parts or "\0" in key:
        raise DataError(f"{key!r} is no name inside a folder, and is not copied: rename the object in its store.")
    return Path(path)


def _unreadable(location: str, error: Exception) -> DataError:
    return DataError(f"{location} cannot be read ({error}). Check it, its credentials and the fsspec driver.")


class Store:
    """A folder on disk or behind a URI.

    Args:
        root: path or URI.

    Raises:
        ConfigError: there is no driver for the URI's scheme.
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
        """What a JSON file holds.

        Args:
            name: path inside the folder.

        Returns:
            Its content; None if there is no such file.

        Raises:
            DamagedError: the file is there and holds no JSON.
            DataError: it cannot be read, or the store does not answer.
        """
        try:
            content = self._system.cat_file(f"{self._path}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # drivers raise errors of their own
            raise _unreadable(f"{self.root}/{name}", error) from error
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DamagedError(
                f"{self.root}/{name} is damaged ({error}): restore it from a copy, or delete it to have it made anew."
            ) from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, whole or not at all.

        Args:
            name: path inside the folder.
            value: what JSON can hold.

        Raises:
            OutputError: it cannot be written.
        """
        with self._replacing(name) as part:
            self._system.pipe_file(part, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def sizes(self) -> dict[str, int | None]:
        """Files directly in the folder.

        Returns:
            Bytes by name, None where the store does not tell; no names if the folder does not exist.

        Raises:
            DataError: it cannot be listed.
        """
        return {_last(entry["name"]): entry["size"] for entry in self._entries() if entry["type"] == "file"}

    def names(self) -> list[str]:
        """Files and folders directly in the folder.

        Returns:
            Names in order; none if the folder does not exist.

        Raises:
            DataError: it cannot be listed.
        """
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
        """Copy a local folder's files in.

        Args:
            folder: local.
            name: of the folder inside this one.

        Returns:
            Path or URI of the copy.

        Raises:
            OutputError: it cannot be written.
        """
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(file, f"{name}/{file.relative_to(folder).as_posix()}")
        return f"{self.root}/{name}"

    def upload_files(self, files: Sequence[Path]) -> None:
        """Copy local files in, in this order, under their own names.

        Args:
            files: local.

        Raises:
            OutputError: one cannot be written.
        """
        for file in files:
            self.put(file, file.name)

    def put(self, file: Path, name: str) -> None:
        """Copy a local file in, whole or not at all.

        Args:
            file: local.
            name: path inside the folder.

        Raises:
            OutputError: it cannot be written.
        """
        with self._replacing(name) as part:
            self._system.put_file(str(file), part)

    @contextlib.contextmanager
    def _replacing(self, name: str) -> Iterator[str]:
        """Another name, which becomes this one when all is written: not every store hides a file until it is whole."""
        target = f"{self._path}/{name}"
        part = f"{target}.{uuid.uuid4().hex[:8]}.part"
        try:
            self._make_folder(target.rsplit("/", 1)[0])
            yield part
            self._system.mv(part, target)
        except Exception as error:
            raise self._refusal(error) from error

    def download(self, name: str, folder: Path) -> Path:
        """Copy a folder's files out; the empty objects by which object stores mark a folder are none.

        Args:
            name: of the folder inside this one.
            folder: local, made if it is not there; nothing is written outside of it, whatever objects are called.

        Returns:
            The local folder.

        Raises:
            DataError: they cannot be read, or an object's name leads out of the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        root = f"{self._path}/{name}"
        try:
            files = [file for file in self._system.find(root) if file != root and not file.endswith("/")]
            targets = {file: folder / inside(file[len(root) + 1 :]) for file in files}
            for file, target in targets.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                self._system.get_file(file, str(target))
        except DataError:
            raise
        except Exception as error:  # drivers raise errors of their own
            raise _unreadable(f"{self.root}/{name}", error) from error
        return folder

    def make(self) -> None:
        """Make the folder if it is not there, and write a file to see that it can be written.

        Raises:
            OutputError: it cannot.
        """
        try:
            self._make_folder(self._path)
            self._system.pipe_file(trial := f"{self._path}/.writable-{uuid.uuid4().hex[:8]}", b"")
            self._system.rm_file(trial)
        except Exception as error:
            raise self._refusal(error) from error

    def _make_folder(self, path: str) -> None:
        # A path without a slash in front begins with a bucket: it has no folders, and a missing bucket is a mistake.
        if path.startswith("/"):
            self._system.makedirs(path, exist_ok=True)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there.

        Args:
            name: path inside the folder.

        Raises:
            OutputError: it cannot be deleted.
        """
        try:
            if self._system.exists(f"{self._path}/{name}"):
                self._system.rm_file(f"{self._path}/{name}")
        except Exception as error:
            raise self._refusal(error) from error

    def clear(self, *patterns: str) -> None:
        """Delete what a program wrote; what else lies in the folder stays, and the folder with it.

        Args:
            patterns: names of the files and folders to delete, as of a shell (`epoch_*`).

        Raises:
            OutputError: one cannot be deleted.
        """
        names = self.names()
        ours = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
        try:
            for name in ours:
                self._system.rm(f"{self._path}/{name}", recursive=True)
            if len(ours) == len(names) and self._path.startswith("/") and self._system.exists(self._path):
                self._system.rmdir(self._path)
        except Exception as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> OutputError:
        reason = getattr(error, "strerror", None) or str(error)
        return OutputError(f"Cannot write {self.root}: {reason}. Check the path, its permissions and the room left.")


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


@contextlib.contextmanager
def landing(folder: Path | str, name: str) -> Iterator[Path]:
    """A local file to write, which then lies in a folder or behind a URI, whole or not at all.

    Args:
        folder: path or URI.
        name: of the file in it.

    Yields:
        The local file to write.

    Raises:
        OutputError: it cannot be written.
    """
    if not is_remote(folder):
        with replacing(Path(folder, name)) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory(prefix="bayes-pfl-") as staging:
        yield Path(staging, name)
        Store(folder).put(Path(staging, name), name)
