"""What a run must record to be done again: code, packages, data."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bayes_pfl.errors import DataError
from bayes_pfl.remote import is_remote
from bayes_pfl.samples import SampleRef, refs_digest
from bayes_pfl.shards import read_manifest

PACKAGES = ("bayes-pfl", "ray", "torch", "torchvision", "open_clip_torch", "timm", "pyarrow", "numpy", "mlflow")


def provenance(shards: str, training: Sequence[SampleRef], validation: Sequence[SampleRef]) -> dict[str, str | int]:
    """Git revision, Python and package versions, and digests of the dataset and of the images used."""
    about: dict[str, str | int] = {"git_revision": git_revision(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            about[f"version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            about[f"version.{package}"] = "not installed"
    if not is_remote(shards):
        try:
            manifest = read_manifest(shards)
            about |= {"dataset": str(manifest.get("dataset")), "dataset_digest": str(manifest.get("digest"))}
        except DataError:
            about["dataset_digest"] = "no manifest"
    about |= {"training_images": len(training), "training_images_sha256": refs_digest(training)}
    return about | {"validation_images": len(validation), "validation_images_sha256": refs_digest(validation)}


def git_revision() -> str:
    """The commit of this code, with `+changes` if files differ from it; `unknown` for an installed package."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")
