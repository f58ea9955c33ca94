"""A path or URI -> an absolute path, the manifest of an ingest, a local copy of a bundle."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from bayes_pfl.data.cache import cache_folder
from bayes_pfl.data.remote import Store, is_remote
from bayes_pfl.data.shards import MANIFEST_FOLDER, read_manifest
from bayes_pfl.decisions.calibration import CALIBRATION
from bayes_pfl.errors import BundleError, DataError


def absolute(path: str) -> str:
    """Write a path out, because workers run in a folder of Ray's.

    Args:
        path: a path or URI.

    Returns:
        The absolute path; a URI as it is.
    """
    return path if is_remote(path) else str(Path(path).resolve())


def check_writable(output: str) -> None:
    """See that a folder can be made and written. Nothing is left of it where it was not there, but behind a URI.

    Args:
        output: path or URI.

    Raises:
        OutputError: it cannot.
        ConfigError: there is no driver for the URI's scheme.
    """
    folder = Path(absolute(output))
    missing = [] if is_remote(output) else [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        Store(output).make()
    finally:
        for path in missing:
            with contextlib.suppress(OSError):  # it was not made, or another process writes there by now
                path.rmdir()


def dataset_manifest(folder: str) -> dict[str, Any]:
    """Read what the ingest that wrote a folder of shards says of it.

    Args:
        folder: path or URI.

    Returns:
        Content of its manifest.

    Raises:
        DataError: there is none.
    """
    if not is_remote(folder):
        return read_manifest(folder)
    manifest: dict[str, Any] | None = Store(folder).read_json(f"{MANIFEST_FOLDER}/manifest.json")
    if manifest is None:
        raise DataError(f"{folder} has no {MANIFEST_FOLDER}/manifest.json: copy the whole folder of a finished ingest.")
    return manifest


def download_bundle(uri: str) -> Path:
    """Copy the bundle behind a URI, once: it is kept under the hash of its record and calibration.

    Args:
        uri: folder of a bundle.

    Returns:
        Its local folder.

    Raises:
        BundleError: there is none, or it cannot be read.
    """
    try:
        store = Store(uri)
        record = store.read_json("bundle.json")
        calibration = store.read_json(CALIBRATION)  # it may change while the bundle stays
    except DataError as error:
        raise BundleError(str(error)) from error
    if not isinstance(record, dict) or "head_sha256" not in record:
        raise BundleError(f"{uri} holds no bundle. Give the URI that training wrote.")
    parts = [record] if calibration is None else [record, calibration]
    digest = hashlib.sha256("".join(json.dumps(part, sort_keys=True) for part in parts).encode()).hexdigest()
    target = cache_folder() / "bundles" / digest[:24]
    if not (target / "bundle.json").is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            copy = Store(uri.rpartition("/")[0]).download(uri.rpartition("/")[2], Path(temporary) / "bundle")
            with contextlib.suppress(OSError):  # another process was faster, with the same content
                copy.rename(target)
    return target
