"""What a training run records of itself: settings, code, packages, data, and every epoch's metrics."""

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import SampleRef, refs_digest
from bayes_pfl.errors import DataError
from pipelines.platform.settings import TrainSettings
from pipelines.platform.storage import dataset_manifest
from pipelines.platform.tracking import Run, start_run

RUN_FILE = "mlflow_run.json"
METRICS_FILE = "metrics.jsonl"

PACKAGES = ("bayes-pfl", "ray", "torch", "torchvision", "open_clip_torch", "timm", "pyarrow", "numpy", "mlflow")


def provenance(shards: str, training: Sequence[SampleRef], validation: Sequence[SampleRef]) -> dict[str, str | int]:
    """Git revision, Python and package versions, and digests of the dataset and of the images used."""
    about: dict[str, str | int] = {"git_revision": git_revision(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            about[f"version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            about[f"version.{package}"] = "not installed"
    try:
        manifest = dataset_manifest(shards)
        about |= {"dataset": str(manifest.get("dataset")), "dataset_digest": str(manifest.get("digest"))}
    except DataError:
        about["dataset_digest"] = "no manifest"
    about |= {"training_images": len(training), "training_images_sha256": refs_digest(training)}
    return about | {"validation_images": len(validation), "validation_images_sha256": refs_digest(validation)}


def git_revision() -> str:
    """The commit of this code, with `+changes` if files differ from it; `unknown` for an installed package."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def tracked_run(
    settings: TrainSettings,
    store: Store,
    training: Sequence[SampleRef],
    validation: Sequence[SampleRef],
    parent: str | None,
) -> Run:
    """The MLflow run of a training: the one begun before, or a new one with settings, versions and digests."""
    begun = store.read_json(RUN_FILE)
    if begun:
        return Run(settings.tracking, begun["run_id"])
    tracked = start_run(settings.tracking, settings.name(), {"stage": "train"}, parent)
    tracked.log_params(flat(settings.model_dump(mode="json")) | provenance(settings.data.train, training, validation))
    if tracked.run_id:
        store.write_json(RUN_FILE, {"run_id": tracked.run_id})
    return tracked


def keep_history(history: Sequence[dict[str, float]], file: Path, missed: Run | None) -> None:
    """Every epoch as one line of JSON; what the store of a run has `missed` is sent once more.

    Raises OutputError if the file cannot be written.
    """
    store = Store(file.parent)
    store.make()
    file.write_text("".join(json.dumps(entry) + "\n" for entry in history), encoding="utf-8")
    if missed is not None:
        for entry in history:
            metrics = {key: value for key, value in entry.items() if key not in ("epoch", "stage")}
            missed.log_metrics(metrics, int(entry["epoch"]) + 1)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
