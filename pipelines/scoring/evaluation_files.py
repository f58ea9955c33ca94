"""An evaluation's result -> its files: tables, images, how it was made, the report and, last, metrics.json."""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bayes_pfl.config import DetectorOptions
from bayes_pfl.data.remote import Store, is_remote
from bayes_pfl.decisions.boundaries import Decision
from bayes_pfl.errors import DamagedError, OutputError
from pipelines.platform.csv_files import write_csv
from pipelines.platform.html import ReportImage
from pipelines.platform.tracking import Run, dataset_key
from pipelines.scoring.evaluation import ScoredSamples
from pipelines.scoring.evaluation_report import ReportContent
from pipelines.scoring.evaluation_tables import metric_rows
from pipelines.scoring.figures import EvaluatedDataset
from pipelines.scoring.hub_results import HUB_FOLDER, write_hub_files
from pipelines.scoring.images_file import IMAGES_FILE, image_columns, write_images
from pipelines.scoring.run_record import RUN_FILE, SETTINGS_FILE

FILES = ("predictions.csv", "metrics.csv", IMAGES_FILE, SETTINGS_FILE, RUN_FILE, "report.html", "metrics.json")
"""What an evaluation writes beside the files for the model hub, in this order."""


def keep_earlier(store: Store, result: dict[str, Any]) -> None:
    """Move another evaluation's files, or files of something else by the same names, into `earlier-N/` there.

    Args:
        store: the output.
        result: content of the new metrics.json; files of an equal result stay.

    Raises:
        OutputError: the output is a URI that holds such files: nothing is moved there.
    """
    names = set(store.names())
    if not names & set(FILES):
        return
    try:
        earlier = None if (Path(store.root) / "metrics.json").is_dir() else store.read_json("metrics.json")
    except DamagedError:
        earlier = None  # moved aside as another evaluation's
    same = ("model", "num_samples", "seed", "datasets", "looked_at")
    newer = {
        "protocol": "image",
        "top_pixels": None,
        "full_resolution": False,
        "options": DetectorOptions().model_dump(),
    }
    if (
        isinstance(earlier, dict)
        and all(earlier.get(key) == result[key] for key in same)
        and all(earlier.get(key, default) == result[key] for key, default in newer.items())
    ):
        return
    if is_remote(store.root):
        raise OutputError(
            f"{store.root} holds the result of another evaluation, or files of its names: choose another --output."
        )
    move_aside(Path(store.root), (*FILES, HUB_FOLDER))


def move_aside(folder: Path, names: Sequence[str]) -> None:
    """Move files that would be replaced into `earlier-N/` of the same folder, and say so.

    Args:
        folder: where they lie.
        names: of files and folders; those that are not there are passed over.
    """
    present = [name for name in names if (folder / name).exists()]
    if not present:
        return
    number = next(number for number in range(1, 10**6) if not (folder / f"earlier-{number}").exists())
    earlier = folder / f"earlier-{number}"
    earlier.mkdir()
    for name in present:
        (folder / name).rename(earlier / name)
    print(f"An earlier result, {', '.join(present)}, was moved to {earlier}.", file=sys.stderr)


class FinishedEvaluation(NamedTuple):
    """What an evaluation found, and how."""

    result: dict[str, Any]
    """Content of metrics.json."""
    record: dict[str, Any]
    """Content of run.json."""
    settings: str
    """Content of settings.yaml."""
    datasets: Sequence[EvaluatedDataset]
    scored: ScoredSamples
    """Scores of their images, in the same order."""
    images: dict[str, list[ReportImage]]
    """For the report, by heading."""
    decisions: Sequence[Decision]
    """One an image, in the same order."""
    hub: dict[str, str]
    """Content of the files for the model hub, by name."""

    def write(self, folder: Path) -> list[Path]:
        """Write all files of the evaluation; metrics.json comes last and says that the others are whole.

        Args:
            folder: where to write.

        Returns:
            The files.

        Raises:
            OutputError: the report cannot be written.
        """
        write_csv(folder / "predictions.csv", _prediction_rows(self.datasets, self.scored, self.decisions))
        write_csv(folder / "metrics.csv", metric_rows(self.result))
        write_images(folder / IMAGES_FILE, self.datasets, self.scored)
        (folder / SETTINGS_FILE).write_text(self.settings, encoding="utf-8")
        _write_json(folder / RUN_FILE, self.record)
        hub = write_hub_files(folder, self.hub)
        content = ReportContent(self.result, self.record, self.settings, self.datasets, self.scored, self.images)
        content.write(folder / "report.html")
        _write_json(folder / "metrics.json", self.result)
        return [*hub, *(folder / name for name in FILES)]


def write_evaluation(finished: FinishedEvaluation, store: Store, tracked: Run) -> None:
    """All files into the output, and into MLflow.

    Args:
        finished: the evaluation.
        store: the output.
        tracked: the run that gets them.

    Raises:
        OutputError: the output is a URI with the result of another evaluation.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if is_remote(store.root) else Path(store.root)
        keep_earlier(store, finished.result)
        files = finished.write(folder)
        if is_remote(store.root):
            for file in files:
                store.put(file, str(file.relative_to(folder)))
        _record(tracked, finished.result, folder, [file for file in files if file.name != IMAGES_FILE])


def write_beside(folder: Path | None, hub: dict[str, str]) -> None:
    """The files for the model hub, beside the model that they are of.

    Args:
        folder: of the model; None where there is none to write into.
        hub: texts by file name.
    """
    if folder is None:
        return
    try:
        write_hub_files(folder, hub)
    except OSError as error:
        reason = error.strerror or error
        print(f"Not written beside the model: {folder}/{HUB_FOLDER} ({reason}); the output has it.", file=sys.stderr)


def _record(tracked: Run, result: dict[str, Any], folder: Path, files: list[Path]) -> None:
    """Keep metrics and files in MLflow."""
    metrics = {
        f"{dataset_key(name)}.{metric}": value
        for name, dataset in result["datasets"].items()
        for metric, value in dataset["mean"]["values"].items()
        if value is not None
    }
    if result["num_samples"] != "auto":
        metrics |= {f"{dataset_key(name)}.num_samples": float(result["num_samples"]) for name in result["datasets"]}
    tracked.log_metrics(metrics)
    for file in files:
        tracked.log_file(file, str("evaluation" / file.relative_to(folder).parent))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _prediction_rows(
    datasets: Sequence[EvaluatedDataset], scored: ScoredSamples, decisions: Sequence[Decision]
) -> list[dict[str, Any]]:
    """Rows of predictions.csv."""
    pixel, rows = image_columns(datasets, scored), list[dict[str, Any]]()
    for ref in (ref for dataset in datasets for ref in dataset.refs):
        at = len(rows)
        row = {"sample_id": ref.sample_id, "category": ref.category, "label": ref.label}
        row |= {"image_score": float(scored.scores[at]), "uncertainty": _number(scored.uncertainties[at])}
        row |= {"pred_label": decisions[at].label, "p_value": decisions[at].p_value}
        row |= {"defect": scored.defects[at], "sha256": ref.sha256}
        rows.append(row | {name: _number(values[at]) for name, values in pixel.items()})
    return rows


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
