"""Files by URI (s3://, gs://, file://, ...), through fsspec: copied once to the machine that reads them.

Shards and features are memory-mapped, which only a local file can be. Copies lie under BAYES_PFL_CACHE, else in the
temporary folder, in a place named by URI, size and time of change: a file that changes is copied anew.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import fsspec

from bayes_pfl.errors import DataError
from bayes_pfl.shards import replacing


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
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"{folder} cannot be read ({error}). Check the URI, its credentials and the fsspec driver."
        ) from error


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
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"{uri} cannot be read ({error}). Check the URI, its credentials and the fsspec driver."
        ) from error
