"""An evaluation -> `.eval_results/DATASET.yaml`, in which model repositories of the Hugging Face Hub carry results.

https://huggingface.co/docs/hub/eval-results; the entries are written and read by `huggingface_hub` itself.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml, parse_eval_result_entries

from bayes_pfl.clip.backbone import package_path
from bayes_pfl.data.remote import is_remote
from bayes_pfl.data.shards import replacing
from bayes_pfl.inference.bundle import EMBEDDED, EMBEDDED_FOLDER, Bundle
from pipelines.platform.tracking import dataset_key

HUB_FOLDER = ".eval_results"


def hub_files(result: Mapping[str, Any], date: str, hub_ids: Mapping[str, str]) -> dict[str, str]:
    """The means of every dataset.

    Args:
        result: content of metrics.json.
        date: of the evaluation, ISO 8601.
        hub_ids: ids on the Hub by name of the dataset; others keep their own name.

    Returns:
        YAML by name of the file; a dataset without a figure has none.
    """
    files: dict[str, str] = {}
    for name, dataset in result["datasets"].items():
        mean, notes = dataset["mean"], _notes(result, dataset)
        entries = [
            EvalResultEntry(
                dataset_id=hub_ids.get(name, name),
                task_id=metric,
                value=value,
                date=date,
                notes=notes + _interval(mean["intervals"].get(metric)),
            )
            for metric, value in mean["values"].items()
            if value is not None
        ]
        stem, number = dataset_key(name), 2
        while f"{stem}.yaml" in files:  # names that differ in characters which no file name has
            stem, number = f"{dataset_key(name)}-{number}", number + 1
        if entries:
            files[f"{stem}.yaml"] = yaml.safe_dump(
                eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=1000
            )
    return files


def read_hub_file(path: Path) -> list[EvalResultEntry]:
    """Results as `huggingface_hub` reads them.

    Args:
        path: the YAML file.

    Returns:
        Its entries; none of a file that is not of this form.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        return parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
        return []


def write_hub_files(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write the files below a folder. A file of another evaluation is moved to `earlier-N/`, and a line says so.

    Args:
        folder: of a model or of an evaluation.
        files: of `hub_files`.

    Returns:
        The files; one that holds the same figures of the same evaluation stays as it is, with its date.

    Raises:
        OSError: they cannot be written.
    """
    target, written = folder / HUB_FOLDER, []
    for name, text in files.items():
        target.mkdir(parents=True, exist_ok=True)
        path = target / name
        if not path.exists() or not _same(read_hub_file(path), parse_eval_result_entries(yaml.safe_load(text))):
            if path.exists():
                _put_aside(path)
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def model_folder(source: str, bundle: Bundle) -> Path | None:
    """Where a model's own results go.

    Args:
        source: what the user named as the model.
        bundle: the model.

    Returns:
        The bundle's folder; None for a model by URI, that of this package, or a folder that cannot be written.
    """
    folder = bundle.folder.resolve()
    if source == EMBEDDED or is_remote(source) or ":/" in source or not Path(source).is_dir():
        return None
    packaged = package_path(EMBEDDED_FOLDER).resolve()
    return None if folder == packaged or not os.access(folder, os.W_OK) else folder


def _notes(result: Mapping[str, Any], dataset: Mapping[str, Any]) -> str:
    """What the figures are of: equal notes and figures are of the same evaluation."""
    options = [name for name, value in result["options"].items() if value is True]
    facts = [
        f"mean over {len(dataset['categories'])} categories, {dataset['images']:,} images (digest "
        f"{result['images_digest'][:12]})",
        f"figures in [0, 1], pixels at {result['pixels_at']}",
        f"model version {result['model']['version']}, R = {result['num_samples']}, seed {result['seed']}",
        f"{result['looked_at']}, protocol {result['protocol']}",
        ", ".join([f"precision {result['options']['precision']}", *options]),
    ]
    if trained_on := result["trained_on_images_evaluated"]:
        facts.append(f"{trained_on:,} of the images were trained on: not a zero-shot result")
    if lost := len(result["not_scored"]):
        facts.append(f"{lost:,} images of the evaluation have no score")
    return "; ".join(facts)


def _interval(bounds: Mapping[str, float] | None) -> str:
    return "" if bounds is None else f"; 95 % interval over images {bounds['low']:.4f} to {bounds['high']:.4f}"


def _same(before: list[EvalResultEntry], now: list[EvalResultEntry]) -> bool:
    """Whether entries differ in nothing but their dates."""
    keys = [[(e.dataset_id, e.task_id, e.value, e.notes) for e in entries] for entries in (before, now)]
    return keys[0] == keys[1]


def _put_aside(path: Path) -> None:
    number = next(number for number in range(1, 10**6) if not (path.parent / f"earlier-{number}" / path.name).exists())
    aside = path.parent / f"earlier-{number}"
    aside.mkdir(exist_ok=True)
    path.rename(aside / path.name)
    print(f"The result of another evaluation was moved to {aside / path.name}.", file=sys.stderr)
