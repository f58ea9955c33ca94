"""`bayes-pfl train`: shards of an auxiliary dataset -> a trained head, data-parallel with Ray Train, recorded in MLflow."""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import FeatureShards
from bayes_pfl.config import read_config
from bayes_pfl.data.remote import Store, is_remote
from bayes_pfl.data.samples import SampleRef, global_batches, index_shards
from bayes_pfl.errors import ConfigError, DataError, OutputError, TrainingError
from bayes_pfl.methods.builder import class_names
from bayes_pfl.training.trainer import check_class_names
from pipelines.platform.cluster import require_gpu, start_ray
from pipelines.platform.mlflow_store import check_store
from pipelines.platform.settings import ClusterSettings, TrainSettings, home
from pipelines.platform.storage import absolute, dataset_manifest
from pipelines.platform.tracking import BUNDLE_ARTIFACT, UNRECORDED, Run, closing, resolved
from pipelines.training.bundles import write_bundle
from pipelines.training.loop import (
    SELECTION,
    STOP_FILE,
    checkpoint_names,
    final_head,
    newest_whole,
    training_loop,
)
from pipelines.training.progress import EpochLines, StepCounter
from pipelines.training.provenance import METRICS_FILE, images_digest, keep_history, tracked_run
from pipelines.training.report import write_training_report

FINISHED_FILE = "finished.json"
GPU_BACKEND = "cpu:gloo,cuda:nccl"
"""Sums of losses and gradients lie on the GPU, those of the validation on the CPU."""


class Trained(NamedTuple):
    """What Ray Train ended with."""

    head: dict[str, Tensor]
    metrics: dict[str, float]
    history: list[dict[str, float]]
    tracking_problem: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl train`.

    Args:
        parser: gets the options.
    """
    parser.add_argument("--config", type=Path, help="YAML file, e.g. configs/train_visa.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting, dotted")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--fresh", action="store_true", help="start over instead of continuing a run of the same settings"
    )
    again.add_argument(
        "--resume",
        action="store_true",
        help="continue a run of the same settings, which must exist (without it: if it does)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Train as configured and say where the bundle is.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    settings = read_config(TrainSettings, args.config, args.set)
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
    print(f"Bundle {result['bundle']} ({recorded}; every epoch in {result['metrics_file']}). Evaluate it:")
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
    settings = _absolute(settings)
    training, validation = split_samples(settings)
    name = settings.name(images_digest(training, validation, settings.data.features))
    store = Store(f"{settings.cluster.storage or home() / 'training'}/{name}")
    finished: dict[str, Any] | None = None if fresh else store.read_json(FINISHED_FILE)
    if finished and finished["bundle"] == settings.output and Store(settings.output).read_json("bundle.json"):
        print(f"This run is finished already ({name}); --fresh starts over.", file=sys.stderr)
        return finished
    if resume and not checkpoint_names(store):
        raise ConfigError(
            f"There is no run of these settings to resume in {store.root}; leave --resume out to begin one."
        )
    backbone = _check(settings, name, training, validation)
    if fresh:
        store.clear("*")  # the folder has this very run's name
    store.make()
    store.remove(STOP_FILE)
    _say_which_checkpoint(store)
    cluster = settings.cluster
    fewest = cluster.min_workers or cluster.num_workers
    start_ray(fewest * cluster.cpus_per_worker + cluster.cpus_per_loader, fewest if cluster.use_gpu else 0)
    tracked = tracked_run(settings, name, store, training, validation, parent_run)
    _announce(settings, training, validation)
    with closing(tracked):
        with tracked.system_metrics():
            outcome = _fit(settings, name, store, tracked, training, validation)
        metrics_file = _write_results(settings, name, tracked, backbone, outcome, training, validation)
    result = {
        "bundle": settings.output,
        "run_id": tracked.run_id,
        "name": name,
        "metrics": outcome.metrics,
        "metrics_file": str(metrics_file),
        "tracking_problem": tracked.problem,
    }
    store.write_json(FINISHED_FILE, result)
    return result


def _write_results(
    settings: TrainSettings,
    name: str,
    tracked: Run,
    backbone: Backbone,
    outcome: Trained,
    training: list[SampleRef],
    validation: list[SampleRef],
) -> Path:
    """The bundle, the metrics of every epoch and the report, here and in MLflow; returns the file of metrics."""
    with tempfile.TemporaryDirectory() as temporary:
        bundle = Path(temporary) / "bundle" if is_remote(settings.output) else Path(settings.output)
        record = {"run": name, "run_id": tracked.run_id, "settings": settings.portable(), "last_epoch": outcome.metrics}
        write_bundle(bundle, settings, backbone, outcome.head, record, training)
        if is_remote(settings.output):
            Store(settings.output.rpartition("/")[0]).upload(bundle, settings.output.rpartition("/")[2])
        tracked.log_folder(bundle, BUNDLE_ARTIFACT)
        metrics_file = home() / "training" / name / METRICS_FILE
        keep_history(outcome.history, metrics_file, tracked if outcome.tracking_problem else None)
        report = write_training_report(
            Path(temporary) / "training", bundle, backbone, outcome.history, validation or training
        )
        tracked.log_folder(report, "training")
    return metrics_file


def _say_which_checkpoint(store: Store) -> None:
    """Name the checkpoints that cannot be read, and the one that training goes on from. Raises TrainingError without any."""
    names = checkpoint_names(store)
    newest = newest_whole(store) if names else None
    if names and newest is None:
        raise TrainingError(
            f"No checkpoint in {store.root} can be read ({', '.join(names)}): delete these folders, or add --fresh."
        )
    if names and newest != names[0]:
        damaged = ", ".join(names[: names.index(str(newest))])
        print(f"{store.root}: {damaged} is damaged; going on from {newest}.", file=sys.stderr)


def split_samples(settings: TrainSettings) -> tuple[list[SampleRef], list[SampleRef]]:
    """The samples of a run: whole validation categories first, then a share of the rest chosen by content hash.

    Args:
        settings: the run.

    Returns:
        Training samples and validation samples.

    Raises:
        ConfigError: a validation category does not exist, or normal or anomalous images are missing.
        DataError: there are no shards.
    """
    data = settings.data
    refs = index_shards(data.train, data.split)
    categories = {ref.category for ref in refs}
    unknown = set(data.validation_categories) - categories
    if unknown:
        raise ConfigError(f"data.validation_categories names {sorted(unknown)}; the shards have {sorted(categories)}.")

    def is_validation(ref: SampleRef) -> bool:
        share = int(hashlib.sha256(ref.sha256.encode()).hexdigest()[:8], 16) / 16**8
        return ref.category in data.validation_categories or share < data.validation_share

    training = [ref for ref in refs if not is_validation(ref)]
    if {ref.label for ref in training} != {0, 1}:
        raise ConfigError(
            "Training needs normal and anomalous images; choose another data.split or fewer validation categories."
        )
    check_class_names(class_names(settings), refs)
    return training, [ref for ref in refs if is_validation(ref)]


def _check(settings: TrainSettings, name: str, training: list[SampleRef], validation: list[SampleRef]) -> Backbone:
    """Everything that can be found wrong before Ray starts; returns the backbone."""
    options, cluster = settings.training, settings.cluster
    smallest = min(options.batch_size, len(training))
    if smallest < cluster.num_workers:
        raise ConfigError(
            f"A batch of {smallest} images cannot be shared by {cluster.num_workers} workers: raise training.batch_size "
            "or lower cluster.num_workers."
        )
    if (options.patience_epochs or options.keep_best) and {ref.label for ref in validation} != {0, 1}:
        raise ConfigError(
            "training.patience_epochs and training.keep_best choose by validation images, normal and anomalous: "
            "set data.validation_categories or data.validation_share."
        )
    require_gpu(cluster.use_gpu)
    check_store(settings.tracking)
    check_masks(settings.data.train)
    _check_output(settings.output, name)
    backbone = Backbone(settings.backbone)
    if settings.data.features is not None:
        FeatureShards(settings.data.features, backbone)
    return backbone


def check_masks(shards: str) -> None:
    """Refuse shards of a dataset without masks: the loss needs them.

    Args:
        shards: folder or URI of an ingest.

    Raises:
        DataError: the ingest says that the dataset has no masks.
    """
    metrics = dataset_manifest(shards).get("metrics")
    if metrics is not None and "pixel" not in metrics:
        raise DataError(f"{shards} is a dataset without masks, which training needs: choose another data.train.")


def _check_output(output: str, name: str) -> None:
    """Refuse to replace the model of another run. Raises OutputError."""
    record = Store(output).read_json("bundle.json")
    if not isinstance(record, dict):
        return
    training = record.get("training")
    other = training.get("run") if isinstance(training, dict) else None
    if other != name:
        raise OutputError(
            f"{output} holds the model of another run ({other or 'of an earlier version'}): choose another output, or move it."
        )


def _announce(settings: TrainSettings, training: list[SampleRef], validation: list[SampleRef]) -> None:
    options, data = settings.training, settings.data
    batches = global_batches(len(training), options.batch_size, options.seed, 0)
    print(
        f"Training on {len(training)} images: {options.epochs + options.second_stage_epochs} epochs of {len(batches)} "
        f"steps on {settings.cluster.num_workers} workers.",
        file=sys.stderr,
    )
    left_over = len(training) - sum(map(len, batches))
    if left_over:
        print(
            f"Each epoch leaves out {left_over} of them, in turn: they do not fill a batch of {options.batch_size}.",
            file=sys.stderr,
        )
    if validation:
        whole = ", ".join(data.validation_categories) or "no whole category"
        print(
            f"Validation on {len(validation)} images of the same dataset, never trained on: {whole}, and "
            f"{100 * data.validation_share:g} % of the other images.",
            file=sys.stderr,
        )
    if options.keep_best or options.patience_epochs:
        print(f"The head is chosen by {SELECTION} on them; no other dataset is looked at.", file=sys.stderr)


def _fit(
    settings: TrainSettings,
    name: str,
    store: Store,
    tracked: Run,
    training: list[SampleRef],
    validation: list[SampleRef],
) -> Trained:
    """Run Ray Train and read what it ended with."""
    import ray
    from ray.train.v2.api.exceptions import TrainingFailedError

    options = settings.training
    counter = ray.remote(num_cpus=0)(StepCounter).remote() if sys.stderr.isatty() else None
    work = {
        "settings": settings.model_dump(mode="json"),
        "run_id": tracked.run_id,
        "counter": counter,
        "store": store.root,
        "training": [tuple(ref) for ref in training],
        "validation": [tuple(ref) for ref in validation],
    }
    trainer = _torch_trainer(settings.cluster, name, store, work)
    steps = len(global_batches(len(training), options.batch_size, options.seed, 0))
    try:
        with EpochLines(store, options.epochs + options.second_stage_epochs, steps, counter):
            result: Any = trainer.fit()
    except TrainingFailedError as error:
        raise TrainingError(f"Training stopped: {_root_cause(error)}") from error
    if result.return_value:
        raise TrainingError(f"Training stopped: {result.return_value}")
    if result.checkpoint is None:
        raise TrainingError("Training ended without a checkpoint; run it again with --fresh.")
    with result.checkpoint.as_directory() as folder:
        head, metrics, progress = final_head(Path(folder), options.keep_best)
    if options.keep_best and not any(SELECTION in entry for entry in progress["history"]):
        print(f"{SELECTION} is undefined on the validation images: the last epoch is kept.", file=sys.stderr)
    return Trained(head, metrics, progress["history"], progress["tracking_problem"])


def _torch_trainer(cluster: ClusterSettings, name: str, store: Store, work: dict[str, Any]) -> Any:
    """Ray Train's trainer of `training_loop` with `work`; its checkpoints lie in the store."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    workers: Any = cluster.num_workers if cluster.min_workers is None else (cluster.min_workers, cluster.num_workers)
    return TorchTrainer(
        training_loop,  # type: ignore[arg-type]  # Ray hands back what rank 0 returns; its types do not say so
        train_loop_config=work,
        torch_config=TorchConfig(backend=GPU_BACKEND if cluster.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker} | ({"GPU": 1} if cluster.use_gpu else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=store.root.rpartition("/")[0],
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )


def _root_cause(error: BaseException) -> str:
    """The message of the first worker that failed, without Ray's frames."""
    failures = getattr(error, "worker_failures", {})
    cause: BaseException = next(iter(failures.values()), error)
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__


def _absolute(settings: TrainSettings) -> TrainSettings:
    features = settings.data.features and absolute(settings.data.features)
    data = settings.data.model_copy(update={"train": absolute(settings.data.train), "features": features})
    storage = settings.cluster.storage and absolute(settings.cluster.storage).rstrip("/")
    cluster = settings.cluster.model_copy(update={"storage": storage})
    changes = {
        "data": data,
        "cluster": cluster,
        "output": absolute(settings.output).rstrip("/"),
        "tracking": resolved(settings.tracking),
    }
    return settings.model_copy(update=changes)
