"""An evaluation -> run.json: model card, latency, software and date: all that differs from run to run."""

import datetime
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bayes_pfl.config import Settings
from pipelines.platform.storage import absolute
from pipelines.platform.tracking import Run, without_password
from pipelines.scoring.evaluation import ScoredSamples
from pipelines.scoring.figures import EvaluatedDataset
from pipelines.scoring.model_card import dataset_licences

SETTINGS_FILE, RUN_FILE = "settings.yaml", "run.json"
COMMAND = f"bayes-pfl evaluate --config {SETTINGS_FILE}"
PACKAGES = ("bayes-pfl", "torch", "open_clip_torch", "numpy", "pillow", "ray")
MEASURED = (
    "time in the model, from pixels at its input size to score and map with all samples; without reading and decoding "
    "files; images that are scored together count in equal shares"
)
NO_BENCHMARK = (
    "It is no benchmark: the first images of every worker are in it, and workers, Ray and other programs shared the "
    "machine."
)


def latency(scored: ScoredSamples, workers: int) -> dict[str, Any] | None:
    """Milliseconds an image, as the workers measured them while they scored.

    Args:
        scored: all images; those of chunks that were finished earlier have the times of then.
        workers: processes that held the model.

    Returns:
        Median and 95th percentile, of how many images, and on what; None where no image has a score.
    """
    times = scored.milliseconds[np.isfinite(scored.milliseconds)]
    if not times.size:
        return None
    return {
        "median_milliseconds": float(np.median(times)),
        "percentile_95_milliseconds": float(np.percentile(times, 95)),
        "images": int(times.size),
        "workers": workers,
        "machines": dict(sorted(Counter(machine for machine in scored.machines if machine).items())),
        "measured": MEASURED,
    }


def software(commit: str) -> dict[str, str]:
    """Versions that the numbers depend on.

    Args:
        commit: of this code.

    Returns:
        Versions by name.
    """
    versions = {"commit": commit, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def tracked_at(run: Run) -> dict[str, str | None]:
    """Where the run is recorded in MLflow, for people.

    Args:
        run: the run.

    Returns:
        Its id, its page, the command that shows it, and what went wrong.
    """
    if not run.run_id:
        return {"run_id": None, "page": None, "command": None, "problem": without_password(run.problem)}
    page, command = run.page(), run.command()
    return {"run_id": run.run_id, "page": page, "command": command, "problem": without_password(run.problem) or None}


def settings_text(settings: Settings) -> str:
    """All settings as YAML that makes the evaluation again, wherever it is read.

    Args:
        settings: of the evaluation.

    Returns:
        The file's content; passwords in URIs are left out.
    """
    values: dict[str, Any] = settings.model_dump(mode="json")
    values["shards"] = [absolute(path) for path in values["shards"]]
    for name in ("model", "output", "roi"):  # each may be a path, or something else
        if values[name] is not None and (name == "output" or Path(values[name]).exists()):
            values[name] = absolute(values[name])
    return f"# {COMMAND}\n" + without_password(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def run_record(
    card: Mapping[str, str],
    datasets: Sequence[EvaluatedDataset],
    times: Mapping[str, Any] | None,
    commit: str,
    run: Run,
) -> dict[str, Any]:
    """The content of run.json.

    Args:
        card: of `model_card`.
        datasets: that were evaluated.
        times: of `latency`.
        commit: of this code.
        run: in which it is recorded.

    Returns:
        What JSON holds.
    """
    licences = dataset_licences([dataset.manifest for dataset in datasets])
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": COMMAND,
        "model_card": dict(card),
        "datasets": {
            dataset.name: {
                "images": len(dataset.refs),
                "digest": dataset.manifest.get("digest"),
                "licence": licences[dataset.name],
            }
            for dataset in datasets
        },
        "latency": None if times is None else dict(times),
        "software": software(commit),
        "mlflow": tracked_at(run),
    }
