"""One trial of a sweep, in one process: train a combination from shared frozen features, evaluate it once for every R."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import FeatureShards, collate
from bayes_pfl.config import parse_config
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import SampleRef, global_batches
from bayes_pfl.inference.bundle import load_bundle, save_bundle
from bayes_pfl.metrics import PixelHistogram, dataset_mean, image_metrics
from bayes_pfl.training.trainer import Trainer, mean_terms
from pipelines.platform.settings import TrainSettings
from pipelines.platform.tracking import BUNDLE_ARTIFACT, Run, closing, start_run
from pipelines.sweep.search import Overrides, SweepSettings, trial_name
from pipelines.training.batches import feature_batches
from pipelines.training.loop import SELECTION
from pipelines.training.provenance import flat
from pipelines.training.validation import current_detector, predict_ref

TIMED_RUNS = 3
RESULT_FILE, STOPPED_FILE = "result.json", "stopped.json"


class TuneSettings(TrainSettings):
    """A training run and what a sweep varies of it."""

    sweep: SweepSettings = SweepSettings()
    output: str = Field("runs/sweep", description="folder for results.csv, results.json, report.html and the trials")


def trial_settings(settings: TuneSettings, overrides: Overrides) -> TuneSettings:
    """The run with some dotted settings replaced. Raises ConfigError for one that does not exist."""
    values = settings.model_dump()
    for key, value in overrides.items():
        *parents, leaf = key.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[leaf] = value
    return parse_config(TuneSettings, values, "sweep")


def trial(config: dict[str, Any], shared: dict[str, Any]) -> None:
    """Train the combination `config["overrides"]`, unless its model is there already, and write its result."""
    from ray import tune

    overrides: Overrides = config["overrides"]
    base = TuneSettings.model_validate(shared["settings"])
    settings, store, name = trial_settings(base, overrides), Store(base.output), trial_name(overrides)
    done = store.read_json(f"trials/{name}/{RESULT_FILE}")
    if done is not None and covers(done, settings.sweep):  # a search may propose a combination again
        tune.report({"epoch": settings.training.epochs - 1, SELECTION: done["rows"][-1][SELECTION]})
        return
    torch.set_num_threads(settings.cluster.threads_per_worker)
    training, validation = ([SampleRef(*ref) for ref in shared[kind]] for kind in ("training", "validation"))
    device = torch.device("cuda" if settings.cluster.use_gpu else "cpu")
    backbone = Backbone(settings.backbone).to(device)
    shards = FeatureShards(str(settings.data.features), backbone)
    steps = len(global_batches(len(training), settings.training.batch_size, 0, 0))
    trainer = Trainer(settings, backbone, device, steps, workers=1)
    tracked = start_run(settings.tracking, name, {"stage": "trial"}, shared["parent"])
    with closing(tracked):
        tracked.log_params(flat(settings.model_dump(mode="json", exclude={"sweep"})) | shared["provenance"])
        kept = _kept_bundle(store, name)
        if kept is None:
            seconds = _train(trainer, settings, training, validation, shards, tracked)
            location = _save(store, name, trainer, settings, backbone, training, tracked, seconds)
        else:
            trainer.model.load_state_dict(kept.weights)
            seconds, location = kept.record["training"]["training_seconds"], f"{store.root}/trials/{name}/bundle"
        rows = evaluate_trial(trainer, settings, validation, shards, settings.sweep.num_samples)
        for row in rows:
            tracked.log_metrics(
                {key: value for key, value in row.items() if key != "num_samples"}, step=row["num_samples"]
            )
        result = {
            "overrides": overrides,
            "rows": rows,
            "training_seconds": seconds,
            "bundle": location,
            "run_id": tracked.run_id,
        }
        store.write_json(f"trials/{name}/{RESULT_FILE}", result)
    tune.report({"epoch": settings.training.epochs - 1, SELECTION: rows[-1][SELECTION]})


def covers(result: dict[str, Any], sweep: SweepSettings) -> bool:
    """Whether a trial's result has every R of the sweep."""
    return {row["num_samples"] for row in result["rows"]} >= set(sweep.num_samples)


def _train(
    trainer: Trainer,
    settings: TuneSettings,
    training: list[SampleRef],
    validation: list[SampleRef],
    shards: FeatureShards,
    tracked: Run,
) -> float:
    """All epochs; reports to Tune after each but the last. Returns seconds without the validations for early stopping."""
    from ray import tune

    options, seconds = settings.training, 0.0
    for epoch in range(options.epochs):
        began = time.monotonic()
        seed = (options.seed << 20) + epoch if options.augment else None
        plan = [(batch, seed) for batch in global_batches(len(training), options.batch_size, options.seed, epoch)]
        terms = mean_terms([trainer.step(batch) for batch in feature_batches(trainer, shards, training, plan)])
        seconds += time.monotonic() - began
        tracked.log_metrics(terms, step=epoch + 1)
        if epoch + 1 < options.epochs:
            report = {"epoch": epoch, "total": terms["total"]}
            if settings.sweep.early_stopping:
                report[SELECTION] = evaluate_trial(trainer, settings, validation, shards, (1,))[0][SELECTION]
            tune.report(report)
    return seconds


def _save(
    store: Store,
    name: str,
    trainer: Trainer,
    settings: TuneSettings,
    backbone: Backbone,
    training: list[SampleRef],
    tracked: Run,
    seconds: float,
) -> str:
    """The trained head as a bundle, beside the result and in MLflow; returns where it is."""
    config = settings.detector()
    config = config.model_copy(
        update={"backbone": config.backbone.model_copy(update={"weights_sha256": backbone.digest})}
    )
    about = {"run_id": tracked.run_id, "settings": settings.portable(), "training_seconds": seconds}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        save_bundle(folder, config, trainer.model.state_dict(), about, [ref.sha256 for ref in training])
        tracked.log_folder(folder, BUNDLE_ARTIFACT)
        return store.upload(folder, f"trials/{name}/bundle")


def _kept_bundle(store: Store, name: str) -> Any:
    """The model of a trial that was trained before, for fewer R; none if it is not there."""
    if store.read_json(f"trials/{name}/{RESULT_FILE}") is None:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        return load_bundle(store.download(f"trials/{name}/bundle", Path(temporary)))


def evaluate_trial(
    trainer: Trainer, settings: TuneSettings, refs: list[SampleRef], shards: FeatureShards, num_samples: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Validation metrics for every R from one pass with the largest, and the time of one image with each R."""
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
    for number in sorted(num_samples):
        per_category = {}
        for category in categories:
            chosen = np.array([ref.category == category for ref in refs])
            per_category[category] = (
                image_metrics(scores[number][chosen], labels[chosen]) | histograms[number, category].metrics()
            )
        values = {f"validation_{name}": value for name, value in dataset_mean(per_category).values.items()}
        seconds = _seconds_per_image(trainer, detector, refs[0], shards, number) if len(num_samples) > 1 else 0.0
        rows.append({"num_samples": number, SELECTION: float("nan")} | values | {"seconds_per_image": seconds})
    return rows


def _seconds_per_image(
    trainer: Trainer, detector: Any, ref: SampleRef, shards: FeatureShards, num_samples: int
) -> float:
    """Median of a few predictions of one image, encoder included."""
    sample = shards.load(ref)
    features, _ = collate([sample])
    size = trainer.run.backbone.image_size
    image = torch.zeros(1, 3, size, size, device=trainer.device)
    times = []
    for _ in range(TIMED_RUNS):
        began = time.monotonic()
        trainer.backbone.encode_image(image)
        detector.predict_features(features, sample.draw_key, ref.class_name, [num_samples])
        times.append(time.monotonic() - began)
    return statistics.median(times)


def result_of(store: Store, overrides: Overrides) -> dict[str, Any] | None:
    """What a trial found; None if it is not done."""
    result: dict[str, Any] | None = store.read_json(f"trials/{trial_name(overrides)}/{RESULT_FILE}")
    return result


def write_stopped(store: Store, overrides: Overrides) -> None:
    """Note that early stopping ended a trial, so that it is not begun again."""
    store.write_json(f"trials/{trial_name(overrides)}/{STOPPED_FILE}", {"overrides": overrides})
