"""An evaluation's result -> its files: two tables, the images, the report and, last, metrics.json."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bayes_pfl.config import DetectorOptions
from bayes_pfl.data.remote import Store, is_remote
from bayes_pfl.decisions.boundaries import Decision
from bayes_pfl.errors import DamagedError, OutputError
from pipelines.platform.csv_files import write_csv
from pipelines.platform.html import ReportImage, write_report
from pipelines.scoring.decided import decision_tables
from pipelines.scoring.evaluation import ScoredSamples
from pipelines.scoring.evaluation_tables import metric_rows, report_tables
from pipelines.scoring.figures import EvaluatedDataset
from pipelines.scoring.images_file import IMAGES_FILE, image_columns, write_images
from pipelines.scoring.report_charts import PICKER, LabelledScores, charts

FILES = ("predictions.csv", "metrics.csv", IMAGES_FILE, "report.html", "metrics.json")
"""What an evaluation writes, in this order."""


def keep_earlier(store: Store, result: dict[str, Any]) -> None:
    """Move another evaluation's files into `earlier-N/` of the same folder.

    Args:
        store: the output.
        result: content of the new metrics.json; files of an equal result stay.

    Raises:
        OutputError: the output is a URI that holds the result of another evaluation: nothing is moved there.
    """
    try:
        earlier = store.read_json("metrics.json")
    except DamagedError:
        earlier = {}  # moved aside as another evaluation's
    same = ("model", "num_samples", "seed", "datasets", "looked_at")
    newer = {
        "protocol": "image",
        "top_pixels": None,
        "full_resolution": False,
        "options": DetectorOptions().model_dump(),
    }
    if earlier is None or (
        isinstance(earlier, dict)
        and all(earlier.get(key) == result[key] for key in same)
        and all(earlier.get(key, default) == result[key] for key, default in newer.items())
    ):
        return
    if is_remote(store.root):
        raise OutputError(f"{store.root} holds the result of another evaluation: choose another --output.")
    folder = Path(store.root)
    number = next(number for number in range(1, 10**6) if not (folder / f"earlier-{number}").exists())
    kept_in = folder / f"earlier-{number}"
    kept_in.mkdir()
    for name in FILES:
        if (folder / name).exists():
            (folder / name).rename(kept_in / name)
    print(f"The result of another evaluation was moved to {kept_in}.", file=sys.stderr)


def write_evaluation(
    folder: Path,
    result: dict[str, Any],
    datasets: Sequence[EvaluatedDataset],
    scored: ScoredSamples,
    images: dict[str, list[ReportImage]],
    decisions: Sequence[Decision],
) -> list[Path]:
    """Write all files of an evaluation; metrics.json comes last and says that the others are whole.

    Args:
        folder: where to write.
        result: content of metrics.json.
        datasets: the samples.
        scored: their scores, in the same order.
        images: images for the report, by title.
        decisions: one an image, in the same order.

    Returns:
        The files.
    """
    write_csv(folder / "predictions.csv", _prediction_rows(datasets, scored, decisions))
    write_csv(folder / "metrics.csv", metric_rows(result))
    write_images(folder / IMAGES_FILE, datasets, scored)
    sections = [line for dataset in datasets for line in _charts(dataset, scored)]
    script = PICKER if sections else ""
    tables, notes = [*report_tables(result), *decision_tables(result)], _notes(result)
    write_report(folder / "report.html", "Evaluation", tables, images, notes, sections, script)
    temporary = folder / "metrics.json.tmp"
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / "metrics.json")
    return [folder / name for name in FILES]


def _charts(dataset: EvaluatedDataset, scored: ScoredSamples) -> list[str]:
    """Curves and a threshold picker of a dataset whose image scores are measured."""
    if "image" not in dataset.manifest["metrics"]:
        return []
    categories, labels = (np.array([getattr(ref, name) for ref in dataset.refs]) for name in ("category", "label"))
    scores = scored.scores[dataset.positions]
    usable = np.isfinite(scores)
    groups = {
        str(category): LabelledScores(scores[chosen], labels[chosen])
        for category in np.unique(categories)
        for chosen in [usable & (categories == category)]
    }
    return charts(f"{dataset.name}: image scores", groups)


def _notes(result: dict[str, Any]) -> list[str]:
    """What a reader of the report must know beside the tables."""
    model = result["model"]
    notes = [
        f"Model {model['source']} (version {model['version']}, backbone {model['backbone']}), "
        f"R = {result['num_samples']}."
    ]
    notes.append(f"Looked at: {result['looked_at']}.")
    if result["trained_on_images_evaluated"]:
        notes.append(
            f"{result['trained_on_images_evaluated']} of these images were trained on: not a zero-shot result."
        )
    return notes + [f"Not scored: {problem['sample_id']}: {problem['error']}" for problem in result["not_scored"]]


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
