"""One combination of settings -> its model and its metrics for every R, in one process, from shared frozen features.

A trial leaves one of these files in `trials/NAME/`: `result.json`; `stopped.json` where early stopping ended it; or
`failed.json` where it would fail again. A sweep that goes on begins only trials without any of them.
"""

import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import FeatureShards, collate
from bayes_pfl.config import parse_config
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import SampleRef, global_batches
from bayes_pfl.errors import BayesPFLError
from bayes_pfl.inference.bundle import Bundle, load_bundle
from bayes_pfl.metrics import Metrics, PixelHistogram, dataset_mean, metrics_by_category
from bayes_pfl.training.trainer import Trainer
from pipelines.options.tune import SweepSettings, TuneSettings
from pipelines.platform.tracking import BUNDLE_ARTIFACT, Run, closing, start_run
from pipelines.sweep.resampled import ResampledPixels
from pipelines.sweep.search import Overrides, trial_name
from pipelines.training.batches import feature_epochs
from pipelines.training.bundles import write_bundle
from pipelines.training.loop import SELECTION
from pipelines.training.provenance import dated, flat
from pipelines.training.validation import by_category, current_detector, predict_ref

TIMED_RUNS = 3
RESULT_FILE, STOPPED_FILE, FAILED_FILE = "result.json", "stopped.json", "failed.json"
RESAMPLED_FILE = "resampled.json"
"""Beside a result: the pixel AP on resampled sets of the validation images, by R."""


def trial_settings(settings: TuneSettings, overrides: Overrides) -> TuneSettings:
    """The run of one combination.

    Args:
        settings: the sweep.
        overrides: values by dotted setting.

    Returns:
        The sweep's run with these values.

    Raises:
        ConfigError: a setting does not exist, or does not take the value.
    """
    values = settings.model_dump()
    for key, value in overrides.items():
        *parents, leaf = key.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[leaf] = value
    return parse_config(TuneSettings, values, "sweep")


def trial(config: dict[str, Any], shared: dict[str, Any]) -> None:
    """Train a combination, unless its model is there already, and write its result, or why there can be none.

    Args:
        config: `overrides`, the combination.
        shared: what all trials have in common: settings, references, provenance, id of the sweep's run.
    """
    from ray import tune

    overrides: Overrides = config["overrides"]
    base = TuneSettings.model_validate(shared["settings"])
    store, last_epoch = Store(base.output), base.training.epochs - 1
    outcome = outcome_of(store, overrides)
    if outcome.is_done(base.sweep):  # a search may propose a combination again
        tune.report({"epoch": last_epoch, SELECTION: outcome.selection})
        return
    try:
        rows = _train_and_evaluate(overrides, trial_settings(base, overrides), store, shared)
    except BayesPFLError as error:  # the same images and settings fail again
        store.write_json(_file(overrides, FAILED_FILE), {"overrides": overrides, "error": str(error)})
        tune.report({"epoch": last_epoch, SELECTION: math.nan})
        return
    tune.report({"epoch": last_epoch, SELECTION: rows[-1][SELECTION]})


class Outcome(NamedTuple):
    """What a trial left behind; nothing, if it has not come to an end."""

    result: dict[str, Any] | None
    stopped: bool
    failure: dict[str, Any] | None

    def is_done(self, sweep: SweepSettings) -> bool:
        """Whether it is not to be begun again.

        Args:
            sweep: says which R are wanted.

        Returns:
            True if it has every R, or was stopped early, or failed for good.
        """
        if self.result is None:
            return self.stopped or self.failure is not None
        return {row["num_samples"] for row in self.result["rows"]} >= set(sweep.num_samples)

    @property
    def selection(self) -> float:
        """The figure that trials are compared by; NaN without a result."""
        return math.nan if self.result is None else float(self.result["rows"][-1][SELECTION])


def outcome_of(store: Store, overrides: Overrides) -> Outcome:
    """Read what a trial left behind.

    Args:
        store: the sweep's folder.
        overrides: the combination.

    Returns:
        Its outcome.
    """
    result, stopped, failure = (
        store.read_json(_file(overrides, name)) for name in (RESULT_FILE, STOPPED_FILE, FAILED_FILE)
    )
    return Outcome(result, stopped is not None, failure)


def resampled_figures(store: Store, overrides: Overrides) -> dict[str, list[float]]:
    """The pixel AP of a trial on resampled sets of the validation images.

    Args:
        store: the sweep's folder.
        overrides: the combination.

    Returns:
        Figures by R, as text; none of a trial of an earlier version.
    """
    figures: dict[str, list[float]] = store.read_json(_file(overrides, RESAMPLED_FILE)) or {}
    return figures


def write_stopped(store: Store, overrides: Overrides) -> None:
    """Note that early stopping ended a trial, so that it is not begun again.

    Args:
        store: the sweep's folder.
        overrides: the combination.
    """
    store.write_json(_file(overrides, STOPPED_FILE), {"overrides": overrides})


def bundle_name(overrides: Overrides) -> str:
    """Where the model of a trial lies.

    Args:
        overrides: the combination.

    Returns:
        Folder, relative to the sweep's.
    """
    return _file(overrides, "bundle")


def _file(overrides: Overrides, name: str) -> str:
    return f"trials/{trial_name(overrides)}/{name}"


def _train_and_evaluate(
    overrides: Overrides, settings: TuneSettings, store: Store, shared: dict[str, Any]
) -> list[dict[str, Any]]:
    """The rows of the result, one for each R, once all is written."""
    torch.set_num_threads(settings.cluster.threads_per_worker)
    training, validation = ([SampleRef(*ref) for ref in shared[kind]] for kind in ("training", "validation"))
    device = torch.device("cuda" if settings.cluster.use_gpu else "cpu")
    backbone = Backbone(settings.backbone).to(device)
    steps = len(global_batches(len(training), settings.training.batch_size, 0, 0))
    trainer = Trainer(settings, backbone, device, steps, workers=1)
    shards = FeatureShards(str(settings.data.features), backbone, trainer.method.feature_kind)
    earlier = _earlier_bundle(store, overrides)
    if earlier is None:
        tracked = start_run(settings.tracking, trial_name(overrides), {"stage": "trial"}, shared["parent"])
    else:  # the run that has the bundle: `register` finds it there
        tracked = Run(settings.tracking, earlier.record["training"]["run_id"])
    with closing(tracked):
        if earlier is None:
            tracked.log_params(flat(settings.model_dump(mode="json", exclude={"sweep"})) | shared["provenance"])
            seconds = _train(trainer, settings, training, validation, shards, tracked)
            _save(store, overrides, trainer, settings, training, tracked, seconds)
        else:
            trainer.model.load_state_dict(earlier.weights)
            seconds = earlier.record["training"]["training_seconds"]
        pixels = ResampledPixels(validation)
        rows = evaluate_trial(trainer, settings, validation, shards, settings.sweep.num_samples, pixels)
        for row in rows:
            tracked.log_metrics(
                {key: value for key, value in row.items() if key != "num_samples"}, step=row["num_samples"]
            )
        result = {"overrides": overrides, "rows": rows, "training_seconds": seconds, "run_id": tracked.run_id}
        figures = {number: np.round(each, 6).tolist() for number, each in pixels.pixel_ap().items()}
        store.write_json(_file(overrides, RESAMPLED_FILE), figures)
        store.write_json(_file(overrides, RESULT_FILE), result)
    return rows


def _train(
    trainer: Trainer,
    settings: TuneSettings,
    training: list[SampleRef],
    validation: list[SampleRef],
    shards: FeatureShards,
    tracked: Run,
) -> float:
    """All epochs; reports to Tune after each but the last. Returns seconds, without the validations."""
    from ray import tune

    seconds, began = 0.0, time.monotonic()
    for epoch, terms in enumerate(feature_epochs(trainer, shards, training)):
        seconds += time.monotonic() - began
        tracked.log_metrics(terms, step=epoch + 1)
        if epoch + 1 < settings.training.epochs:
            report = {"epoch": epoch, "total": terms["total"], "run_id": tracked.run_id}
            if settings.sweep.early_stopping:
                report[SELECTION] = evaluate_trial(trainer, settings, validation, shards, (1,))[0][SELECTION]
            tune.report(report)
        began = time.monotonic()
    return seconds


def _save(
    store: Store,
    overrides: Overrides,
    trainer: Trainer,
    settings: TuneSettings,
    training: list[SampleRef],
    tracked: Run,
    seconds: float,
) -> None:
    """The trained head as a bundle, beside the result and in MLflow."""
    record = {"run_id": tracked.run_id, "settings": settings.portable(), "training_seconds": seconds}
    record |= dated(settings.data.train)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        write_bundle(folder, settings, trainer.backbone, trainer.model.state_dict(), record, training)
        tracked.log_folder(folder, BUNDLE_ARTIFACT)
        store.upload(folder, bundle_name(overrides))


def _earlier_bundle(store: Store, overrides: Overrides) -> Bundle | None:
    """The model of a trial that was trained before, for fewer R; None if it is not there."""
    if outcome_of(store, overrides).result is None:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        return load_bundle(store.download(bundle_name(overrides), Path(temporary)))


def evaluate_trial(
    trainer: Trainer,
    settings: TuneSettings,
    refs: list[SampleRef],
    shards: FeatureShards,
    num_samples: tuple[int, ...],
    resampled: ResampledPixels | None = None,
) -> list[dict[str, Any]]:
    """Validation metrics for every R from one pass with the largest, and the time of one image with each R.

    Args:
        trainer: holds the trained head.
        settings: the trial's run.
        refs: validation images.
        shards: frozen features of them.
        num_samples: numbers of samples R.
        resampled: gets all predictions, if they are to be resampled.

    Returns:
        One row for each R, smallest first: metrics in [0, 1], `seconds_per_image`.
    """
    detector = current_detector(trainer, settings)
    pixel: dict[int, dict[str, Metrics]] = {number: {} for number in num_samples}
    scores = {number: np.zeros(len(refs)) for number in num_samples}
    for category, positions in by_category(refs).items():  # the histograms of one category in memory at a time
        histograms = {number: PixelHistogram() for number in num_samples}
        for position in positions:
            nested, mask = predict_ref(detector, refs[position], list(num_samples), shards)
            for number, prediction in nested.items():
                scores[number][position] = prediction.image_score
                if mask is not None:
                    histograms[number].update([prediction.anomaly_map], [mask])
                    if resampled is not None:
                        resampled.add(number, position, prediction.anomaly_map, mask)
        for number, histogram in histograms.items():
            pixel[number][category] = histogram.metrics()
    rows = []
    for number in sorted(num_samples):
        measured = metrics_by_category(
            [ref.category for ref in refs], [ref.label for ref in refs], scores[number], pixel[number]
        )
        values = {f"validation_{name}": value for name, value in dataset_mean(measured).values.items()}
        timed = resampled is not None or len(num_samples) > 1
        seconds = _seconds_per_image(trainer, detector, refs[0], shards, number) if timed else 0.0
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
