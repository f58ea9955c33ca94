"""`bayes-pfl tune`: a sweep over B, K, R and any other setting with Ray Tune; R never causes a training.

Every combination of the other settings is trained once, from frozen features that all trials share, and its model is
evaluated once with the largest R, which yields every smaller R (draws are nested).
"""

import argparse
import csv
import hashlib
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from bayes_pfl.backbone import Backbone
from bayes_pfl.bundle import save_bundle
from bayes_pfl.config import Settings, parse_config, read_config
from bayes_pfl.errors import ConfigError, TrainingError
from bayes_pfl.features import FeatureShards
from bayes_pfl.metrics import PixelHistogram, dataset_mean, image_metrics
from bayes_pfl.samples import SampleRef, global_batches
from bayes_pfl.shards import write_json
from bayes_pfl.training import Trainer
from pipelines.batches import feature_batches
from pipelines.cluster import start_ray
from pipelines.features import FeatureSettings, compute_features
from pipelines.report import Table, table, write_report
from pipelines.settings import TrainSettings
from pipelines.tracking import BUNDLE_ARTIFACT, closing, resolved, start_run
from pipelines.train import split_samples
from pipelines.validation import current_detector, predict_ref

METRIC = "validation_pixel_ap"


class SweepSettings(Settings):
    """What is varied."""

    grid: dict[str, tuple[Any, ...]] = Field(
        {"model.num_prompts": (1, 3), "model.flow_length": (0, 10)}, description="dotted setting -> values; all combinations"
    )
    random_trials: int | None = Field(None, ge=1, description="so many combinations drawn at random; none: all of them")
    num_samples: tuple[int, ...] = Field((1, 3, 5, 10), min_length=1, description="values of R; none of them causes a training")
    cpus_per_trial: float = Field(1.0, gt=0, description="logical CPUs of one trial; as many run at once as fit")
    early_stopping: bool = Field(False, description="stop weak trials early (ASHA) by validation pixel AP")
    seed: int = Field(0, ge=0, description="of the random choice")


class TuneSettings(TrainSettings):
    """A training run and what a sweep varies of it."""

    sweep: SweepSettings = SweepSettings()
    output: str = Field("runs/sweep", description="folder for results.csv, results.json, report.html and the trials")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl tune`."""
    parser.add_argument("--config", type=Path, help="YAML file, e.g. configs/tune_embedded.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting, dotted")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    """Sweep and print the results, best first."""
    settings = read_config(TuneSettings, args.config, args.set)
    results = tune(settings)
    if args.json:
        print(json.dumps(results))
    else:
        print(table(_printable(results["rows"])))
        print(f"\nBest: {results['best']['bundle']} with R = {results['best']['num_samples']}. Report: {results['report']}")
    return 0


def tune(settings: TuneSettings) -> dict[str, Any]:
    """Run the trials that have no result yet, then gather all; a sweep that was stopped goes on when it is run again.

    Raises ConfigError for a setting that does not exist or no validation images, TrainingError if a trial failed.
    """
    settings = _absolute(settings)
    output = Path(settings.output)
    combinations = combine(settings.sweep)
    for overrides in combinations:
        trial_settings(settings, overrides)  # every value is valid before anything starts
    training, validation = split_samples(settings)
    if not validation:
        raise ConfigError("A sweep needs validation images: set data.validation_categories or data.validation_share.")
    missing = [overrides for overrides in combinations if not _result_file(output, overrides).is_file()]
    print(
        f"{len(combinations)} trainings give {len(combinations) * len(settings.sweep.num_samples)} combinations; "
        f"{len(combinations) - len(missing)} are done already.",
        file=sys.stderr,
    )
    tracked = start_run(settings.tracking, "sweep", {"stage": "tune"})
    with closing(tracked):
        if missing:
            settings = _with_features(settings, output)
            start_ray(settings.sweep.cpus_per_trial)
            _run_trials(settings, missing, training, validation, tracked.run_id)
        results = _gather(settings, combinations)
        tracked.log_folder(output / "results", "sweep")
    return results


def combine(sweep: SweepSettings) -> list[dict[str, Any]]:
    """All combinations of the grid, or `random_trials` of them."""
    every = [dict(zip(sweep.grid, values, strict=True)) for values in itertools.product(*sweep.grid.values())]
    if sweep.random_trials is None or sweep.random_trials >= len(every):
        return every
    chosen = np.random.default_rng(sweep.seed).choice(len(every), sweep.random_trials, replace=False)
    return [every[index] for index in sorted(chosen)]


def trial_settings(settings: TuneSettings, overrides: dict[str, Any]) -> TuneSettings:
    """The run with some dotted settings replaced. Raises ConfigError for one that does not exist."""
    values = settings.model_dump()
    for key, value in overrides.items():
        *parents, leaf = key.split(".")
        inner = values
        for parent in parents:
            inner = inner.get(parent, {})
        inner[leaf] = value
    return parse_config(TuneSettings, values, "sweep.grid")


def trial(config: dict[str, Any]) -> None:
    """One trial, in one process: train one combination, reporting every epoch, then evaluate it for all R."""
    from ray import tune as ray_tune

    overrides = config["overrides"]
    settings = trial_settings(TuneSettings.model_validate(config["settings"]), overrides)
    torch.set_num_threads(settings.cluster.threads_per_worker)
    training = [SampleRef(*ref) for ref in config["training"]]
    validation = [SampleRef(*ref) for ref in config["validation"]]
    device = torch.device("cuda" if settings.cluster.use_gpu else "cpu")
    backbone = Backbone(settings.backbone).to(device)
    assert settings.data.features is not None
    shards = FeatureShards(Path(settings.data.features), backbone)
    name = _trial_name(overrides)
    tracked = start_run(settings.tracking, name, {"stage": "trial"}, config["parent"])
    with closing(tracked):
        tracked.log_params(overrides)
        began = time.monotonic()
        options = settings.training
        batches = [global_batches(len(training), options.batch_size, options.seed, epoch) for epoch in range(options.epochs)]
        trainer = Trainer(settings, backbone, device, sum(map(len, batches)), workers=1)
        for epoch, positions in enumerate(batches):
            plan = [(batch, epoch if options.augment else None) for batch in positions]
            terms = [trainer.step(batch) for batch in feature_batches(trainer, shards, training, plan)]
            loss = float(np.mean([step["total"] for step in terms]))
            tracked.log_metrics({"total": loss}, step=epoch + 1)
            report = {"epoch": epoch, "total": loss}
            if settings.sweep.early_stopping:
                report |= _evaluate(trainer, settings, validation, shards, (1,))[0]
            if epoch + 1 < options.epochs:
                ray_tune.report(report)
        seconds = time.monotonic() - began
        rows = _evaluate(trainer, settings, validation, shards, settings.sweep.num_samples)
        for row in rows:
            tracked.log_metrics({key: value for key, value in row.items() if key != "num_samples"}, step=row["num_samples"])
        folder = Path(settings.output) / "trials" / name
        weights = trainer.state().tensors
        head = {key.removeprefix("model."): value for key, value in weights.items() if key.startswith("model.")}
        about = {"run_id": tracked.run_id, "settings": settings.model_dump(mode="json")}
        save_bundle(folder / "bundle", settings.detector(), head, about, [ref.sha256 for ref in training])
        tracked.log_folder(folder / "bundle", BUNDLE_ARTIFACT)
        result = {"overrides": overrides, "rows": rows, "training_seconds": seconds, "bundle": str(folder / "bundle")}
        write_json(_result_file(Path(settings.output), overrides), result)
    ray_tune.report({"epoch": options.epochs - 1, "total": loss, METRIC: rows[-1][METRIC]})


def _evaluate(
    trainer: Trainer, settings: TuneSettings, refs: list[SampleRef], shards: FeatureShards, num_samples: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Validation metrics for every R from one pass with the largest."""
    detector = current_detector(trainer, settings)
    categories = sorted({ref.category for ref in refs})
    histograms = {(number, category): PixelHistogram() for number in num_samples for category in categories}
    scores = {number: np.zeros(len(refs)) for number in num_samples}
    for position, ref in enumerate(refs):
        nested, mask = predict_ref(detector, ref, list(num_samples), shards)
        for number, prediction in nested.items():
            scores[number][position] = prediction.image_score
            if mask is not None:
                histograms[number, ref.category].update([prediction.anomaly_map], [mask])
    labels = np.array([ref.label for ref in refs])
    rows = []
    for number in num_samples:
        per_category = {}
        for category in categories:
            chosen = np.array([ref.category == category for ref in refs])
            per_category[category] = image_metrics(scores[number][chosen], labels[chosen]) | histograms[number, category].metrics()
        mean = dataset_mean(per_category).values
        rows.append({"num_samples": number} | {f"validation_{name}": value for name, value in mean.items() if np.isfinite(value)})
    return rows


def _run_trials(
    settings: TuneSettings,
    missing: list[dict[str, Any]],
    training: list[SampleRef],
    validation: list[SampleRef],
    parent: str,
) -> None:
    """Ray Tune over the missing combinations; results are files, so nothing of Tune's own state is needed to go on."""
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    stop_early = ASHAScheduler(time_attr="epoch", metric=METRIC, mode="max", max_t=settings.training.epochs)
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(
            ray_tune.with_parameters(trial), {"CPU": settings.sweep.cpus_per_trial, "GPU": float(settings.cluster.use_gpu)}
        ),
        param_space={
            "overrides": ray_tune.grid_search(missing),
            "settings": settings.model_dump(mode="json"),
            "training": [tuple(ref) for ref in training],
            "validation": [tuple(ref) for ref in validation],
            "parent": parent,
        },
        tune_config=ray_tune.TuneConfig(scheduler=stop_early if settings.sweep.early_stopping else FIFOScheduler()),
        run_config=ray_tune.RunConfig(name=f"tune-{time.time_ns()}", storage_path=str(Path(settings.output) / "ray"), verbose=0),
    )
    outcome = tuner.fit()
    if outcome.num_errors:
        raise TrainingError(
            f"{outcome.num_errors} of {len(missing)} trials failed: {outcome.errors[0]}. The others are kept; run the sweep again."
        )


def _gather(settings: TuneSettings, combinations: list[dict[str, Any]]) -> dict[str, Any]:
    """results.json, results.csv and report.html from the trials' files, best first."""
    output = Path(settings.output)
    rows = []
    for overrides in combinations:
        file = _result_file(output, overrides)
        if not file.is_file():
            continue  # stopped early
        result = json.loads(file.read_text(encoding="utf-8"))
        shared = {"training_seconds": result["training_seconds"], "bundle": result["bundle"]}
        rows += [{**overrides, **row, **shared} for row in result["rows"]]
    if not rows:
        raise TrainingError("No trial has finished; run the sweep again.")
    rows.sort(key=lambda row: -row[METRIC])
    folder = output / "results"
    folder.mkdir(parents=True, exist_ok=True)
    results = {"rows": rows, "best": rows[0], "metric": METRIC, "report": str(folder / "report.html")}
    write_json(folder / "results.json", results)
    temporary = folder / "results.csv.tmp"
    with temporary.open("w", newline="", encoding="utf-8") as file_:
        writer = csv.DictWriter(file_, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(folder / "results.csv")
    notes = [f"Chosen by {METRIC} on validation images, which no trial was trained on."]
    write_report(folder / "report.html", "Sweep", [Table("Combinations, best first", _printable(rows))], {}, notes)
    return results


def _printable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    hidden = {"bundle"}
    return [
        {key.removeprefix("validation_"): round(value, 4) if isinstance(value, float) else value for key, value in row.items() if key not in hidden}
        for row in rows
    ]


def _with_features(settings: TuneSettings, output: Path) -> TuneSettings:
    """Frozen features that all trials share, computed unless the settings name some."""
    if settings.data.features is not None:
        return settings
    features = str(output / "features")
    workers = max(1, int(settings.cluster.num_workers))
    compute_features(
        FeatureSettings(
            backbone=settings.backbone,
            shards=settings.data.train,
            split=settings.data.split,
            output=features,
            dtype="float32",
            views=4 if settings.training.augment else 0,
            workers=workers,
            use_gpu=settings.cluster.use_gpu,
        )
    )
    return settings.model_copy(update={"data": settings.data.model_copy(update={"features": features})})


def _absolute(settings: TuneSettings) -> TuneSettings:
    features = settings.data.features and str(Path(settings.data.features).resolve())
    data = settings.data.model_copy(update={"train": str(Path(settings.data.train).resolve()), "features": features})
    output = str(Path(settings.output).resolve())
    return settings.model_copy(update={"data": data, "output": output, "tracking": resolved(settings.tracking)})


def _trial_name(overrides: dict[str, Any]) -> str:
    readable = "-".join(f"{key.split('.')[-1]}_{value}" for key, value in overrides.items())
    return f"{readable}-{hashlib.sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()[:6]}"


def _result_file(output: Path, overrides: dict[str, Any]) -> Path:
    return output / "trials" / _trial_name(overrides) / "result.json"
