"""`bayes-pfl train`: shards of an auxiliary dataset -> a trained head, data-parallel with Ray Train, kept in MLflow."""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import fitting_key
from bayes_pfl.config import BackboneConfig, read_config
from bayes_pfl.config.architectures import architecture
from bayes_pfl.data.remote import Store, is_remote
from bayes_pfl.data.samples import SampleRef, global_batches
from bayes_pfl.datasets.checks import counted
from bayes_pfl.errors import ConfigError, OutputError
from bayes_pfl.inference.bundle import Bundle, training_images
from bayes_pfl.methods.builder import frozen_encoder
from pipelines.platform.cluster import start_ray, with_gpus
from pipelines.platform.mlflow_store import check_store
from pipelines.platform.progress import waiting
from pipelines.platform.settings import TrainSettings, home
from pipelines.platform.tracking import BUNDLE_ARTIFACT, UNRECORDED, Run, closing
from pipelines.training.bundles import write_bundle
from pipelines.training.checkpoints import checkpoint_names, read_checkpoint, settle
from pipelines.training.images import lacking_kind, require_masks, require_selection, run_name, split_samples
from pipelines.training.initial import initial_head
from pipelines.training.loop import SELECTION, STOP_FILE, final_head, training_loop
from pipelines.training.places import with_absolute_paths
from pipelines.training.progress import EpochLines, StepCounter
from pipelines.training.provenance import METRICS_FILE, dated, keep_history, tracked_run
from pipelines.training.report import write_training_report
from pipelines.training.workers import run_workers

FINISHED_FILE = "finished.json"

FEW_STEPS = 100
"""Optimiser steps below which a training warns; the embedded head took 252."""


class Trained(NamedTuple):
    """What Ray Train ended with."""

    head: dict[str, Tensor]
    metrics: dict[str, float]
    history: list[dict[str, float]]
    tracking_problem: str


def run(args: argparse.Namespace) -> int:
    """Train as configured and say where the bundle is.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    settings = read_config(TrainSettings, args.config, args.set)
    if args.init is not None:
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"init": args.init})})
    result = train(settings, fresh=args.fresh, resume=args.resume)
    code = UNRECORDED if result["tracking_problem"] else 0
    if args.json:
        print(json.dumps(result))
        return code
    recorded = (
        f"MLflow run {result['run_id']}"
        if not result["tracking_problem"]
        else f"not all in MLflow: {result['tracking_problem']}"
    )
    print(f"Bundle {result['bundle']} ({recorded}).")
    print(f"Every epoch: {result['metrics_file']}; curves and heat maps: {result['report']}")
    print("Evaluate it:")
    print(f"  bayes-pfl evaluate --model {result['bundle']} --shards <shards of a dataset it has not seen>")
    return code


def train(
    settings: TrainSettings, fresh: bool = False, parent_run: str | None = None, resume: bool = False
) -> dict[str, Any]:
    """Train, or go on with, or report, the run that these settings and images name.

    Args:
        settings: the run.
        fresh: start over instead of going on.
        parent_run: id of the MLflow run that this one belongs to.
        resume: go on with a run that must exist.

    Returns:
        Bundle, run id, last metrics and files, as they are kept in `FINISHED_FILE`.

    Raises:
        ConfigError, DataError, BackboneError, OutputError, TrainingError: with what to do.
    """
    settings = with_absolute_paths(settings)
    cluster = with_gpus(settings.cluster, settings.cluster.num_workers)
    settings = settings.model_copy(update={"cluster": cluster})
    training, validation = split_samples(settings)
    name = run_name(settings, training, validation)
    store = Store(f"{settings.cluster.storage or home() / 'training'}/{name}")
    finished: dict[str, Any] | None = None if fresh else store.read_json(FINISHED_FILE)
    if finished and finished["bundle"] == settings.output and Store(settings.output).read_json("bundle.json"):
        print(f"This run is finished already ({name}); --fresh starts over.", file=sys.stderr)
        return finished
    if resume and not checkpoint_names(store):
        raise ConfigError(
            f"There is no run of these settings to resume in {store.root}; leave --resume out to begin one."
        )
    _check(settings, name, training, validation)
    _announce(settings, training, validation)
    backbone, start = _load(settings)
    if fresh:
        store.clear("*")  # the folder has this very run's name
    store.make()
    store.remove(STOP_FILE)
    settle(store, read_checkpoint)
    fewest = cluster.min_workers or cluster.num_workers
    start_ray(fewest * cluster.cpus_per_worker + cluster.cpus_per_loader, fewest * cluster.gpus)
    metrics_file = home() / "training" / name / METRICS_FILE
    with waiting("Opening the run in MLflow"):
        tracked = tracked_run(settings, name, store, training, validation, parent_run)
    with closing(tracked):
        with tracked.system_metrics():
            outcome = _fit(settings, store, tracked, training, validation, metrics_file)
        with waiting("Writing the bundle, the curves and heat maps of a few images"):
            report = _write_results(
                settings, name, tracked, backbone, start, outcome, training, validation, metrics_file
            )
    result = {
        "bundle": settings.output,
        "run_id": tracked.run_id,
        "name": name,
        "metrics": outcome.metrics,
        "metrics_file": str(metrics_file),
        "report": str(report / "report.html"),
        "tracking_problem": tracked.problem,
    }
    store.write_json(FINISHED_FILE, result)
    return result


def _write_results(
    settings: TrainSettings,
    name: str,
    tracked: Run,
    backbone: Backbone,
    start: Bundle | None,
    outcome: Trained,
    training: list[SampleRef],
    validation: list[SampleRef],
    metrics_file: Path,
) -> Path:
    """The bundle, the metrics of every epoch and the report, here and in MLflow; returns the report's folder."""
    with tempfile.TemporaryDirectory() as temporary:
        bundle = Path(temporary) / "bundle" if is_remote(settings.output) else Path(settings.output)
        record = {"run": name, "run_id": tracked.run_id, "settings": settings.portable(), "last_epoch": outcome.metrics}
        record |= dated(settings.data.train)
        if start is not None:
            record["initial_head"] = start.version
        earlier = training_images(start) if start is not None else ()
        write_bundle(bundle, settings, backbone, outcome.head, record, training, earlier)
        if is_remote(settings.output):
            Store(settings.output.rpartition("/")[0]).upload(bundle, settings.output.rpartition("/")[2])
        tracked.log_folder(bundle, BUNDLE_ARTIFACT)
        keep_history(outcome.history, metrics_file, tracked if outcome.tracking_problem else None)
        report = write_training_report(
            metrics_file.with_name("report"),
            f"Training on {settings.data.train}",
            bundle,
            backbone,
            outcome.history,
            validation or training,
        )
        tracked.log_folder(report, "training")
    return report


def _check(settings: TrainSettings, name: str, training: list[SampleRef], validation: list[SampleRef]) -> None:
    """Refuse what the index of the images and the output's folder show to be wrong, before anything is loaded."""
    options, cluster = settings.training, settings.cluster
    smallest = min(options.batch_size, len(training))
    if smallest < cluster.num_workers:
        raise ConfigError(
            f"A batch of {smallest} images cannot be shared by {cluster.num_workers} workers: raise "
            "training.batch_size or lower cluster.num_workers."
        )
    require_masks(training)
    for option in ("patience_epochs", "keep_best"):
        if getattr(options, option):
            require_selection(validation, settings.backbone.image_size, f"training.{option}")
    _check_output(settings.output, name)
    check_store(settings.tracking)


def _load(settings: TrainSettings) -> tuple[Backbone, Bundle | None]:
    """The backbone, and the head to go on from; raises what is wrong with them before Ray starts."""
    with waiting(f"Loading CLIP {settings.backbone.name}"):
        backbone = Backbone(settings.backbone)
    start = initial_head(settings, backbone)
    if settings.data.features is not None:
        fitting_key(settings.data.features, backbone, frozen_encoder(settings.model, backbone).kind)
    return backbone, start


def _check_output(output: str, name: str) -> None:
    """Refuse to replace the model of another run, or anything else. Raises OutputError."""
    store = Store(output)
    record = store.read_json("bundle.json")
    if not isinstance(record, dict):
        if store.names() or Path(output).is_file():
            raise OutputError(f"{output} holds something that is no model of this run: choose another output.")
        return
    training = record.get("training")
    other = training.get("run") if isinstance(training, dict) else None
    if other != name:
        raise OutputError(
            f"{output} holds {f'the model of another run ({other})' if other else 'another model'}: choose another "
            "output, or move that model away."
        )


def _announce(settings: TrainSettings, training: list[SampleRef], validation: list[SampleRef]) -> None:
    options, data = settings.training, settings.data
    batches = global_batches(len(training), options.batch_size, options.seed, 0)
    print(
        f"Training on {len(training)} images: {counted(options.epochs + options.second_stage_epochs, 'epoch')} of "
        f"{counted(len(batches), 'step')} on {counted(settings.cluster.num_workers, 'worker')}.",
        file=sys.stderr,
    )
    _say_sizes(settings.backbone)
    total = (options.epochs + options.second_stage_epochs) * len(batches)
    if total < FEW_STEPS:
        print(
            f"These are {total} optimiser steps, which is few: a new head needs some hundreds. Raise training.epochs, "
            "lower training.batch_size, or go on from a trained head (--init).",
            file=sys.stderr,
        )
    left_over = len(training) - sum(map(len, batches))
    if left_over:
        print(
            f"Each epoch leaves out {left_over} of them, in turn: they do not fill a batch of {options.batch_size}.",
            file=sys.stderr,
        )
    if validation:
        if lacking := lacking_kind(validation):
            print(
                f"The validation cannot measure anything, because {lacking}: choose other data.validation_categories "
                "or a larger data.validation_share.",
                file=sys.stderr,
            )
        chosen = [*data.validation_categories]
        if data.validation_share:
            chosen.append(f"{100 * data.validation_share:g} % of the {'other ' if chosen else ''}images")
        print(
            f"Validation on {len(validation)} images of the same dataset, never trained on: {', '.join(chosen)}.",
            file=sys.stderr,
        )
    if options.keep_best or options.patience_epochs:
        print(f"The head is chosen by {SELECTION} on them; no other dataset is looked at.", file=sys.stderr)


def _say_sizes(backbone: BackboneConfig) -> None:
    """Image size and layers; and where the configuration has others than the architecture, as those of another one."""
    own = architecture(backbone.name)
    given, usual = (", ".join(map(str, layers)) for layers in (backbone.feature_layers, own.quarters if own else ()))
    packaged = backbone.name.startswith("package:")
    name = "The embedded CLIP" if packaged else backbone.name
    line = f"{name} sees images at {backbone.image_size} px and gives layers {given}."
    if own and not packaged and (backbone.image_size, backbone.feature_layers) != (own.image_size, own.quarters):
        line += (
            f" So the configuration says; its own are {own.image_size} px and layers {usual}: "
            "--set backbone.image_size and backbone.feature_layers."
        )
    print(line, file=sys.stderr)


def _fit(
    settings: TrainSettings,
    store: Store,
    tracked: Run,
    training: list[SampleRef],
    validation: list[SampleRef],
    metrics_file: Path,
) -> Trained:
    """Run the loop on all workers and read what it ended with; the file gets the metrics of each epoch."""
    import ray

    options = settings.training
    counter = ray.remote(num_cpus=0)(StepCounter).remote()
    work = {
        "settings": settings.model_dump(mode="json"),
        "run_id": tracked.run_id,
        "counter": counter,
        "store": store.root,
        "training": [tuple(ref) for ref in training],
        "validation": [tuple(ref) for ref in validation],
    }
    steps = len(global_batches(len(training), options.batch_size, options.seed, 0))
    epochs, workers = options.epochs + options.second_stage_epochs, settings.cluster.num_workers
    with EpochLines(store, epochs, steps, workers, counter, partial(keep_history, file=metrics_file, missed=None)):
        try:
            run_workers(training_loop, work, settings.cluster, store)
        except KeyboardInterrupt:
            print("Stopped. The same command goes on after the last finished epoch.", file=sys.stderr)
            raise
    head, metrics, progress = final_head(store, options.keep_best)
    return Trained(head, metrics, progress["history"], progress["tracking_problem"])
