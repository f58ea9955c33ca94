"""Small files and folders by path or URI (s3://, gs://, file://, ...), the same way through fsspec."""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec

from bayes_pfl.errors import BundleError, ConfigError, DataError, OutputError
from bayes_pfl.remote import cache_folder, is_remote
from bayes_pfl.shards import MANIFEST_FOLDER, read_manifest


class Store:
    """A folder on disk or behind a URI. Raises ConfigError for a scheme without driver; writing, OutputError where it is not possible."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root).rstrip("/")
        try:
            self._system, self._path = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"{self.root} cannot be opened: {error} Check the URI, or install its fsspec driver."
            ) from error

    def read_json(self, name: str) -> Any | None:
        """What a file holds; None if it is not there or not whole."""
        try:
            return json.loads(self._system.cat_file(f"{self._path}/{name}"))
        except (OSError, ValueError):
            return None

    def write_json(self, name: str, value: Any) -> None:
        """Write a file, whole or not at all: under another name first where renaming is possible."""
        target = f"{self._path}/{name}"
        try:
            self._system.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            self._system.pipe_file(f"{target}.part", json.dumps(value).encode())
            self._system.mv(f"{target}.part", target)
        except OSError as error:
            raise self._refusal(error) from error

    def names(self) -> list[str]:
        """Names of the files and folders in it, in order; none if it does not exist."""
        try:
            self._system.invalidate_cache()
            return sorted(
                str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in self._system.ls(self._path, detail=False)
            )
        except OSError:
            return []

    def upload(self, folder: Path, name: str) -> str:
        """Copy a local folder's files in, under a name; returns where they are."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self._put(file, f"{name}/{file.relative_to(folder).as_posix()}")
        return f"{self.root}/{name}"

    def upload_files(self, files: Sequence[Path]) -> None:
        """Copy local files in, in this order, under their own names."""
        for file in files:
            self._put(file, file.name)

    def _put(self, file: Path, name: str) -> None:
        target = f"{self._path}/{name}"
        try:
            self._system.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            self._system.put_file(str(file), target)
        except OSError as error:
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
            self._system.makedirs(self._path, exist_ok=True)
            self._system.pipe_file(f"{self._path}/.writable", b"")
            self._system.rm_file(f"{self._path}/.writable")
        except OSError as error:
            raise self._refusal(error) from error

    def clear(self) -> None:
        """Remove the folder and all that is in it."""
        try:
            if self._system.exists(self._path):
                self._system.rm(self._path, recursive=True)
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> OutputError:
        reason = error.strerror or str(error)
        return OutputError(f"Cannot write {self.root}: {reason}. Check the path, its permissions and the room left.")


def absolute(path: str) -> str:
    """A path written out, because workers run in a folder of Ray's; a URI as it is."""
    return path if is_remote(path) else str(Path(path).resolve())


def local_folder(path: str, what: str) -> Path:
    """An absolute path. Raises ConfigError for a URI: `what` has to be a folder, which every machine mounts."""
    if is_remote(path):
        raise ConfigError(
            f"{what} must be a folder that every machine mounts, not the URI {path}: it is memory-mapped."
        )
    return Path(path).resolve()


def dataset_manifest(folder: str) -> dict[str, Any]:
    """What the ingest that wrote a folder of shards says of it, by path or URI. Raises DataError if there is none."""
    if not is_remote(folder):
        return read_manifest(folder)
    manifest: dict[str, Any] | None = Store(folder).read_json(f"{MANIFEST_FOLDER}/manifest.json")
    if manifest is None:
        raise DataError(
            f"{folder} has no {MANIFEST_FOLDER}/manifest.json, or it cannot be read: copy the whole folder of a finished ingest."
        )
    return manifest


def download_bundle(uri: str) -> Path:
    """A local copy of the bundle behind a URI, kept under its record's hash. Raises BundleError if there is none."""
    store = Store(uri)
    record = store.read_json("bundle.json")
    if not isinstance(record, dict) or "head_sha256" not in record:
        raise BundleError(
            f"{uri} holds no bundle, or cannot be read. Give the URI that training wrote, and its credentials."
        )
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    target = cache_folder() / "bundles" / digest[:24]
    if not (target / "bundle.json").is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            copy = Store(uri.rpartition("/")[0]).download(uri.rpartition("/")[2], Path(temporary) / "bundle")
            with contextlib.suppress(OSError):  # another process was faster, with the same content
                copy.rename(target)
    return target
