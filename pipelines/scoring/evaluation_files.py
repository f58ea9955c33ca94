"""An evaluation's result -> its files: predictions.csv, report.html and, last, metrics.json."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bayes_pfl.config import DetectorOptions
from bayes_pfl.data.remote import Store, is_remote
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.errors import DamagedError, OutputError
from bayes_pfl.metrics import Metrics
from pipelines.platform.csv_files import write_csv
from pipelines.platform.html import ReportImage, ReportTable, metrics_table, write_report
from pipelines.scoring.evaluation import ScoredSamples

FILES = ("predictions.csv", "report.html", "metrics.json")
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
    refs: Sequence[SampleRef],
    scored: ScoredSamples,
    images: dict[str, list[ReportImage]],
) -> list[Path]:
    """Write all files of an evaluation; metrics.json comes last and says that the others are whole.

    Args:
        folder: where to write.
        result: content of metrics.json.
        refs: the samples.
        scored: their scores, in the same order.
        images: images for the report, by title.

    Returns:
        The files.
    """
    write_csv(folder / "predictions.csv", _prediction_rows(refs, scored))
    write_report(folder / "report.html", "Evaluation", _tables(result), images, _notes(result))
    temporary = folder / "metrics.json.tmp"
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / "metrics.json")
    return [folder / name for name in FILES]


def _tables(result: dict[str, Any]) -> list[ReportTable]:
    """One table for each dataset."""
    tables = []
    for name, dataset in result["datasets"].items():
        per_category = {category: Metrics.from_dict(values) for category, values in dataset["categories"].items()}
        tables.append(metrics_table(name, per_category, Metrics.from_dict(dataset["mean"])))
    return tables


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


def _prediction_rows(refs: Sequence[SampleRef], scored: ScoredSamples) -> list[dict[str, Any]]:
    """Rows of predictions.csv."""
    return [
        {
            "sample_id": ref.sample_id,
            "category": ref.category,
            "label": ref.label,
            "image_score": float(score),
            "uncertainty": None if np.isnan(uncertainty) else float(uncertainty),
        }
        for ref, score, uncertainty in zip(refs, scored.scores, scored.uncertainties, strict=True)
    ]
