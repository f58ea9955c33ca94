"""`bayes-pfl evaluate`: shards of datasets a model has not seen -> metrics per category and dataset, table and report."""

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from tqdm import tqdm

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import Settings, parse_config, read_config
from bayes_pfl.data.preprocess import decode_image, decode_mask
from bayes_pfl.data.remote import Store, is_remote
from bayes_pfl.data.samples import SampleRef, index_shards
from bayes_pfl.errors import DataError
from bayes_pfl.inference.bundle import Bundle, load_bundle, training_images
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.builder import class_names
from bayes_pfl.metrics import Metrics, PixelHistogram, dataset_mean, image_metrics
from bayes_pfl.training.trainer import check_class_names
from pipelines.embedded_study import run as run_study
from pipelines.platform.cluster import start_ray
from pipelines.platform.html import Case, metrics_table, table, write_report
from pipelines.platform.settings import TrackingSettings
from pipelines.platform.storage import absolute, dataset_manifest
from pipelines.platform.tracking import Run, dataset_key, run_of_model, start_run
from pipelines.scoring.actors import read_row, score_rows


class EvaluateSettings(Settings):
    """What is evaluated on what."""

    model: str = Field("embedded", description="bundle by path or URI, embedded, or models:/NAME@ALIAS")
    shards: tuple[str, ...] = Field((), description="folders of shards by path or URI, one dataset each")
    split: str | None = Field("test", description="split that is evaluated; none: all")
    categories: tuple[str, ...] | None = Field(None, description="only these categories; none: all")
    num_samples: int = Field(10, ge=1, description="R, Monte Carlo samples")
    seed: int = Field(0, ge=0, description="of the draws")
    workers: int = Field(2, ge=1, description="actors that hold a model")
    threads: int = Field(1, ge=1, description="torch threads of an actor")
    use_gpu: bool = Field(False, description="one GPU for every actor")
    cases: int = Field(4, ge=0, description="best and worst images shown in the report, each")
    allow_overlap: bool = Field(False, description="evaluate images that were trained on, and mark the result")
    output: str = Field(
        "runs/evaluation", description="folder or URI for metrics.json, predictions.csv and report.html"
    )
    tracking: TrackingSettings = TrackingSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl evaluate`."""
    parser.add_argument("--model", help="bundle by path or URI, embedded, or models:/NAME@ALIAS")
    parser.add_argument(
        "--shards", action="append", help="folder of shards, by path or URI; may be given several times"
    )
    parser.add_argument("--num-samples", type=int, metavar="R", help="Monte Carlo samples; default 10")
    parser.add_argument("--output", help="folder or URI for the results")
    parser.add_argument(
        "--allow-overlap", action="store_true", help="evaluate images that were trained on; marks the result"
    )
    parser.add_argument("--config", type=Path, help="YAML file with these and more settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting, dotted")
    parser.add_argument(
        "--embedded",
        action="store_true",
        help="instead: train the embedded recipe anew and measure it beside baselines on held-out generated categories",
    )
    parser.add_argument("--seeds", type=int, help="with --embedded: trainings of the full model; default 5")
    parser.add_argument("--json", action="store_true", help="print metrics.json instead of a table")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table."""
    if args.embedded:
        return run_study(args)
    settings = read_config(EvaluateSettings, args.config, args.set)
    given = {"model": args.model, "shards": args.shards, "num_samples": args.num_samples, "output": args.output}
    changes = {key: value for key, value in given.items() if value is not None}
    changes |= {"allow_overlap": True} if args.allow_overlap else {}
    settings = parse_config(EvaluateSettings, {**settings.model_dump(), **changes}, "the command line")
    result = evaluate(settings)
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    for name, dataset in result["datasets"].items():
        print(f"\n{name}")
        print(table(table_rows(dataset), decimals=1))
    print(f"\nReport: {result['report']}" + (f" (also in MLflow run {result['run_id']})" if result["run_id"] else ""))
    return 0


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Score every image, measure per category, average per dataset as the paper does; writes and returns metrics.json.

    Raises DataError without shards, or if images were trained on and `allow_overlap` is off; OutputError if the output
    cannot be written.
    """
    if not settings.shards:
        raise DataError("Nothing to evaluate: give --shards with a folder that `bayes-pfl ingest` wrote.")
    bundle = load_bundle(settings.model)
    indexed = {
        folder: index_shards(folder, settings.split, settings.categories) for folder in map(absolute, settings.shards)
    }
    every = [ref for refs in indexed.values() for ref in refs]
    check_class_names(class_names(bundle.config), every)
    overlap = overlapping(bundle, every)
    if overlap and not settings.allow_overlap:
        raise DataError(
            f"{len(overlap)} of these images were trained on, {overlap[0]} among them: figures on them say nothing about "
            "unseen data. Choose other shards, or --allow-overlap to get a marked result."
        )
    manifests = {folder: dataset_manifest(folder) for folder in indexed}
    if len({manifest["dataset"] for manifest in manifests.values()}) < len(settings.shards):
        raise DataError(
            "Two of these folders hold the same dataset: evaluate them one by one, or name one by --name at ingestion."
        )
    store = Store(absolute(settings.output))
    store.make()
    start_ray(settings.workers, settings.workers if settings.use_gpu else 0)
    total = sum(map(len, indexed.values()))
    print(f"Scoring {total} images with R = {settings.num_samples} on {settings.workers} workers.", file=sys.stderr)
    datasets: dict[str, Any] = {}
    cases: dict[str, list[Case]] = {}
    predictions: list[dict[str, Any]] = []
    with tqdm(total=total, unit="image", disable=None) as bar:
        for folder, refs in indexed.items():
            manifest = manifests[folder]
            scored = _score(settings, bundle, refs, manifest, bar)
            datasets[manifest["dataset"]] = scored
            predictions += scored.pop("predictions")
            cases |= _cases(settings, bundle, refs, scored, manifest["dataset"])
    result: dict[str, Any] = {
        "model": {"source": settings.model, "version": bundle.version, "backbone": bundle.config.backbone.name},
        "num_samples": settings.num_samples,
        "seed": settings.seed,
        "trained_on_images_evaluated": len(overlap),
        "datasets": {name: {k: v for k, v in scored.items() if k != "scores"} for name, scored in datasets.items()},
    }
    result["report"] = f"{store.root}/report.html"
    tracked, own = _tracked(settings, bundle, whole=not overlap and settings.categories is None)
    result["run_id"] = tracked.run_id
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if is_remote(store.root) else Path(store.root)
        files = _write(place, result, predictions, cases)
        if is_remote(store.root):
            store.upload_files(files)
        _record(tracked, result, files)
    if own:
        tracked.finish()
    return result


def overlapping(bundle: Bundle, refs: Sequence[SampleRef]) -> list[str]:
    """Ids of the samples whose very bytes the model was trained on."""
    seen = training_images(bundle)
    return [ref.sample_id for ref in refs if ref.sha256 in seen]


def table_rows(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows for `report.table`: each category, then the mean, as percentages."""
    named = [*dataset["categories"].items(), ("mean", dataset["mean"])]
    return [
        {
            "category": name,
            **{key: None if value is None else 100 * value for key, value in entry["values"].items()},
        }
        for name, entry in named
    ]


def _score(
    settings: EvaluateSettings, bundle: Bundle, refs: list[SampleRef], manifest: dict[str, Any], bar: Any
) -> dict[str, Any]:
    """Metrics of one dataset, with the scores by position."""
    scores, uncertainties = np.full(len(refs), np.nan), np.full(len(refs), np.nan)
    histograms: dict[str, PixelHistogram] = {}
    rows = score_rows(
        bundle, refs, [settings.num_samples], settings.seed, settings.workers, settings.threads, settings.use_gpu
    )
    for row in rows:
        positions = np.asarray(row["positions"])
        scores[positions], uncertainties[positions] = row["scores"], row["uncertainties"]
        category = refs[positions[0]].category
        arrays = {
            name: np.asarray(row[f"histogram_{name}"]) for name in ("bin", "normal", "anomalous", "region_weight")
        }
        histogram = PixelHistogram.from_arrays(arrays)
        histograms[category] = histograms[category].merge(histogram) if category in histograms else histogram
        bar.update(len(positions))
    per_category: dict[str, Metrics] = {}
    for category in sorted(histograms):
        chosen = [position for position, ref in enumerate(refs) if ref.category == category]
        labels = np.array([refs[position].label for position in chosen])
        measured = []
        if "image" in manifest["metrics"]:
            measured.append(image_metrics(scores[chosen], labels))
        if "pixel" in manifest["metrics"]:
            measured.append(histograms[category].metrics())
        per_category[category] = measured[0] if len(measured) == 1 else measured[0] | measured[1]
    predictions = [
        {
            "sample_id": ref.sample_id,
            "category": ref.category,
            "label": ref.label,
            "image_score": float(score),
            "uncertainty": float(uncertainty),
        }
        for ref, score, uncertainty in zip(refs, scores, uncertainties, strict=True)
    ]
    return {
        "images": len(refs),
        "categories": {name: metrics.as_dict() for name, metrics in per_category.items()},
        "mean": dataset_mean(per_category).as_dict(),
        "predictions": predictions,
        "scores": scores,
    }


def _cases(
    settings: EvaluateSettings, bundle: Bundle, refs: list[SampleRef], scored: dict[str, Any], dataset: str
) -> dict[str, list[Case]]:
    """The images the model ranks worst and best, predicted once more: the same draws give the same maps."""
    if settings.cases == 0:
        return {}
    scores = scored["scores"]
    signed = np.where(np.array([ref.label for ref in refs]) == 1, scores, -scores)
    ranks = np.empty(len(refs))
    for label in (0, 1):  # within each kind, so that worst and best show both
        chosen = np.flatnonzero([ref.label == label for ref in refs])
        if len(chosen):
            ranks[chosen] = np.argsort(np.argsort(signed[chosen])) / len(chosen)
    order = np.argsort(ranks, kind="stable")
    count = min(settings.cases, len(refs) // 2)
    detector = Detector(bundle, Backbone(bundle.config.backbone), _device(settings))
    return {
        f"{dataset}: worst": [_case(settings, detector, refs[position]) for position in order[:count]],
        f"{dataset}: best": [_case(settings, detector, refs[position]) for position in order[::-1][:count]],
    }


def _device(settings: EvaluateSettings) -> Any:
    import torch

    return torch.device("cuda" if settings.use_gpu and torch.cuda.is_available() else "cpu")


def _case(settings: EvaluateSettings, detector: Detector, ref: SampleRef) -> Case:
    image, mask = read_row(ref.shard, ref.row)
    prediction = detector.predict([image], [ref.class_name], settings.num_samples, settings.seed)[0]
    truth = None if mask is None else decode_mask(mask)
    return Case(
        ref.sample_id,
        decode_image(image),
        prediction.anomaly_map,
        truth,
        ref.label,
        prediction.image_score,
        prediction.uncertainty,
    )


def _write(
    output: Path, result: dict[str, Any], predictions: list[dict[str, Any]], cases: dict[str, list[Case]]
) -> list[Path]:
    """All files of the evaluation, returned; metrics.json comes last and says that the others are whole."""
    with tempfile.NamedTemporaryFile("w", dir=output, delete=False, newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(predictions[0]))
        writer.writeheader()
        writer.writerows(predictions)
    Path(file.name).replace(output / "predictions.csv")
    tables = []
    for name, dataset in result["datasets"].items():
        per_category = {category: Metrics.from_dict(values) for category, values in dataset["categories"].items()}
        tables.append(metrics_table(name, per_category, Metrics.from_dict(dataset["mean"])))
    model = result["model"]
    notes = [
        f"Model {model['source']} (version {model['version']}, backbone {model['backbone']}), R = {result['num_samples']}."
    ]
    if result["trained_on_images_evaluated"]:
        notes.append(
            f"{result['trained_on_images_evaluated']} of these images were trained on: not a zero-shot result."
        )
    write_report(output / "report.html", "Evaluation", tables, cases, notes)
    temporary = output / "metrics.json.tmp"
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(output / "metrics.json")
    return [output / name for name in ("predictions.csv", "report.html", "metrics.json")]


def _tracked(settings: EvaluateSettings, bundle: Bundle, whole: bool) -> tuple[Run, bool]:
    """The run that trained the model, or a new one of its own, and whether it is new.

    `bayes-pfl register` compares what the training run has: figures of some categories, or on images that were trained
    on, are not `whole` and stay out of it.
    """
    trained = run_of_model(settings.tracking, settings.model, bundle.record) if whole else None
    if trained is not None:
        return trained, False
    return start_run(settings.tracking, "evaluate", {"stage": "evaluate", "model": bundle.version}), True


def _record(tracked: Run, result: dict[str, Any], files: list[Path]) -> None:
    """Keep metrics and files in MLflow."""
    metrics = {
        f"{dataset_key(name)}.{metric}": value
        for name, dataset in result["datasets"].items()
        for metric, value in dataset["mean"]["values"].items()
        if value is not None
    }
    tracked.log_metrics(metrics)
    for file in files:
        tracked.log_file(file, "evaluation")
