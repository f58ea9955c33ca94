"""A training run -> its record: settings, code, packages, data, and the metrics of every epoch."""

import datetime
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
    """Git revision, Python and package versions, and digests of the dataset and of the images used.

    Args:
        shards: folder or URI of the training images.
        training: samples trained on.
        validation: samples kept for validation.

    Returns:
        Values by name, as MLflow's parameters.
    """
    record: dict[str, str | int] = {"git_revision": git_revision(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            record[f"version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            record[f"version.{package}"] = "not installed"
    record |= training_dataset(shards)
    record |= {"training_images": len(training), "training_images_sha256": refs_digest(training)}
    return record | {"validation_images": len(validation), "validation_images_sha256": refs_digest(validation)}


def training_dataset(shards: str) -> dict[str, str]:
    """The dataset that shards were made of.

    Args:
        shards: folder or URI.

    Returns:
        Its name and digest; of shards without a manifest, that there is none.
    """
    try:
        manifest = dataset_manifest(shards)
        return {"dataset": str(manifest.get("dataset")), "dataset_digest": str(manifest.get("digest"))}
    except DataError:
        return {"dataset_digest": "no manifest"}


def dated(shards: str) -> dict[str, str]:
    """What a bundle records of its training beside settings: the dataset, and when it ended.

    Args:
        shards: folder or URI of the training images.

    Returns:
        `dataset`, `dataset_digest` and `made`, ISO 8601.
    """
    return training_dataset(shards) | {"made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}


def git_revision() -> str:
    """The commit of this code.

    Returns:
        The hash, with `+changes` if files differ from it; `unknown` where this file is not part of the repository that
        it lies in (a package installed inside somebody else's).
    """
    folder, name = Path(__file__).parent, Path(__file__).name
    try:
        _git(folder, "ls-files", "--error-unmatch", name)
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+changes" if changes else "")


def tracked_run(
    settings: TrainSettings,
    name: str,
    store: Store,
    training: Sequence[SampleRef],
    validation: Sequence[SampleRef],
    parent: str | None,
) -> Run:
    """The MLflow run of a training: the one begun before, or a new one with settings, versions and digests.

    Args:
        settings: the run.
        name: name of the run, by what decides its result.
        store: the run's folder.
        training: samples trained on.
        validation: samples kept for validation.
        parent: id of the run that this one belongs to, if any.

    Returns:
        The run.
    """
    begun = store.read_json(RUN_FILE)
    if begun:
        return Run(settings.tracking, begun["run_id"])
    tracked = start_run(settings.tracking, name, {"stage": "train"}, parent)
    tracked.log_params(flat(settings.model_dump(mode="json")) | provenance(settings.data.train, training, validation))
    if tracked.run_id:
        store.write_json(RUN_FILE, {"run_id": tracked.run_id})
    return tracked


def keep_history(history: Sequence[dict[str, float]], file: Path, missed: Run | None) -> None:
    """Write the metrics of every epoch as lines of JSON.

    Args:
        history: one entry for each epoch.
        file: where to write.
        missed: a run whose server did not answer in the meantime: all is sent to it once more.

    Raises:
        OutputError: the file cannot be written.
    """
    store = Store(file.parent)
    store.make()
    temporary = file.with_name(f"{file.name}.tmp")
    temporary.write_text("".join(json.dumps(entry) + "\n" for entry in history), encoding="utf-8")
    temporary.replace(file)
    if missed is not None:
        for entry in history:
            metrics = {key: value for key, value in entry.items() if key not in ("epoch", "stage")}
            missed.log_metrics(metrics, int(entry["epoch"]) + 1)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names.

    Args:
        values: settings, nested.
        prefix: put before each name.

    Returns:
        Values by dotted name.

    >>> flat({"model": {"num_prompts": 3}})
    {'model.num_prompts': 3}
    """
    dotted: dict[str, Any] = {}
    for key, value in values.items():
        dotted |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return dotted


def _git(folder: Path, *arguments: str) -> str:
    """What a command of git prints about a folder."""
    answer = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return answer.stdout.strip()
