"""`bayes-pfl train`: shards of an auxiliary dataset -> a trained head, data-parallel with Ray Train, recorded in MLflow."""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from bayes_pfl.backbone import Backbone
from bayes_pfl.bundle import save_bundle
from bayes_pfl.config import DetectorConfig, read_config
from bayes_pfl.errors import ConfigError, TrainingError
from bayes_pfl.features import FeatureShards
from bayes_pfl.samples import SampleRef, global_batches, index_shards
from bayes_pfl.training import Trainer, TrainingState, mean_terms
from pipelines.batches import Plan, feature_batches, image_batches, shares
from pipelines.cluster import start_ray
from pipelines.settings import TrainSettings, home
from pipelines.tracking import BUNDLE_ARTIFACT, Run, resolved, start_run
from pipelines.validation import validate

STATE_FILE = "state.safetensors"
PROGRESS_FILE = "progress.json"
RUN_FILE = "mlflow_run.txt"
FINISHED_FILE = "finished.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl train`."""
    parser.add_argument("--config", type=Path, help="YAML file, e.g. configs/train_visa.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting, dotted")
    parser.add_argument("--fresh", action="store_true", help="start over instead of continuing a run of the same settings")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Train as configured and say where the bundle is."""
    settings = read_config(TrainSettings, args.config, args.set)
    result = train(settings, fresh=args.fresh)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"Bundle {result['bundle']} (MLflow run {result['run_id']}). Evaluate it:")
        print(f"  bayes-pfl evaluate --model {result['bundle']} --shards <shards of a dataset it has not seen>")
    return 0


def train(settings: TrainSettings, fresh: bool = False, parent_run: str | None = None) -> dict[str, Any]:
    """Train, or go on with, or report, the run that these settings name; returns bundle, run id and last metrics.

    Raises ConfigError, DataError, BackboneError or TrainingError with what to do.
    """
    settings = _absolute(settings)
    folder = home() / "training" / settings.name()
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    if (folder / FINISHED_FILE).is_file() and Path(settings.output, "bundle.json").is_file():
        result: dict[str, Any] = json.loads((folder / FINISHED_FILE).read_text(encoding="utf-8"))
        if result["bundle"] == settings.output:
            print(f"This run is finished already ({folder.name}); --fresh starts over.", file=sys.stderr)
            return result
    training, validation = split_samples(settings)
    cluster = settings.cluster
    if settings.training.batch_size % cluster.num_workers:
        raise ConfigError(
            f"training.batch_size {settings.training.batch_size} is not divisible by cluster.num_workers "
            f"{cluster.num_workers}; change one of them."
        )
    backbone_digest = Backbone(settings.backbone).digest  # also fails early if the weights are missing
    start_ray(
        cluster.num_workers * cluster.cpus_per_worker + cluster.cpus_per_loader,
        cluster.num_workers if cluster.use_gpu else 0,
    )
    folder.mkdir(parents=True, exist_ok=True)
    tracked = _tracked_run(settings, folder, training, parent_run)
    steps = len(global_batches(len(training), settings.training.batch_size, settings.training.seed, 0))
    print(
        f"Training on {len(training)} images, {len(validation)} for validation: {settings.training.epochs} epochs of "
        f"{steps} steps on {cluster.num_workers} workers.",
        file=sys.stderr,
    )
    try:
        checkpoint, metrics = _fit(settings, folder, tracked, training, validation)
        detector = settings.detector()
        detector = detector.model_copy(
            update={"backbone": detector.backbone.model_copy(update={"weights_sha256": backbone_digest})}
        )
        _write_bundle(settings, detector, checkpoint, metrics, training, tracked)
    except BaseException:
        tracked.finish(succeeded=False)
        raise
    tracked.finish()
    result = {"bundle": settings.output, "run_id": tracked.run_id, "name": folder.name, "metrics": metrics}
    (folder / FINISHED_FILE).write_text(json.dumps(result), encoding="utf-8")
    return result


def split_samples(settings: TrainSettings) -> tuple[list[SampleRef], list[SampleRef]]:
    """Training and validation samples: whole categories first, then a share of the rest chosen by content hash."""
    data = settings.data
    refs = index_shards(data.train, data.split)
    known = {ref.category for ref in refs}
    unknown = set(data.validation_categories) - known
    if unknown:
        raise ConfigError(f"data.validation_categories names {sorted(unknown)}; the shards have {sorted(known)}.")

    def is_validation(ref: SampleRef) -> bool:
        share = int(hashlib.sha256(ref.sha256.encode()).hexdigest()[:8], 16) / 16**8
        return ref.category in data.validation_categories or share < data.validation_share

    training = [ref for ref in refs if not is_validation(ref)]
    if {ref.label for ref in training} != {0, 1}:
        raise ConfigError("Training needs normal and anomalous images; choose another data.split or fewer validation categories.")
    return training, [ref for ref in refs if is_validation(ref)]


def training_loop(config: dict[str, Any]) -> None:
    """What every worker does: encode, step, and after each epoch validate, record and save a checkpoint."""
    import ray.train
    from ray.train import get_context

    settings = TrainSettings.model_validate(config["settings"])
    rank, workers = get_context().get_world_rank(), get_context().get_world_size()
    torch.set_num_threads(settings.cluster.threads_per_worker)
    device = torch.device("cuda") if settings.cluster.use_gpu else torch.device("cpu")
    training = [SampleRef(*ref) for ref in config["training"]]
    validation = [SampleRef(*ref) for ref in config["validation"]]
    options = settings.training
    epochs = [global_batches(len(training), options.batch_size, options.seed, epoch) for epoch in range(options.epochs)]
    trainer = Trainer(settings, Backbone(settings.backbone).to(device), device, sum(map(len, epochs)), workers)
    start, history = _restore(trainer)
    plan: Plan = [
        (share, epoch if options.augment else None)
        for epoch in range(start, options.epochs)
        for share in shares(epochs[epoch], rank, workers)
    ]
    tracked = Run(settings.tracking, config["run_id"]) if rank == 0 else None
    shards = FeatureShards(Path(settings.data.features), trainer.backbone) if settings.data.features else None
    if shards is not None:
        batches = feature_batches(trainer, shards, training, plan)
    else:
        batches = image_batches(trainer, training, plan, settings.cluster.cpus_per_loader)
    for epoch in range(start, options.epochs):
        began = time.monotonic()
        terms = mean_terms([trainer.step(next(batches)) for _ in epochs[epoch]])
        seconds = time.monotonic() - began
        images = sum(map(len, epochs[epoch]))
        metrics = {**terms, "images_per_second": images / seconds}
        metrics |= validate(trainer, settings, validation, shards, rank, workers)
        history.append({"epoch": epoch, **metrics})
        if tracked is not None:
            tracked.log_metrics(metrics, step=epoch + 1)
        _report(trainer, epoch, history, rank)


def _report(trainer: Trainer, epoch: int, history: list[dict[str, float]], rank: int) -> None:
    """Hand the epoch's checkpoint and metrics to Ray Train; only rank 0 writes files."""
    import ray.train

    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = None
        if rank == 0:
            state = trainer.state()
            safetensors.torch.save_file(state.tensors, Path(temporary, STATE_FILE))
            progress = {"epoch": epoch, "steps": state.steps, "history": history}
            Path(temporary, PROGRESS_FILE).write_text(json.dumps(progress), encoding="utf-8")
            checkpoint = ray.train.Checkpoint.from_directory(temporary)
        ray.train.report(history[-1], checkpoint=checkpoint, checkpoint_dir_name=f"epoch_{epoch:04d}")


def _restore(trainer: Trainer) -> tuple[int, list[dict[str, float]]]:
    """Continue from the last checkpoint, if there is one; returns the next epoch and the history so far."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0, []
    with checkpoint.as_directory() as folder:
        progress = json.loads(Path(folder, PROGRESS_FILE).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(Path(folder, STATE_FILE))
    trainer.load_state(TrainingState(tensors, progress["steps"]))
    return progress["epoch"] + 1, progress["history"]


def _fit(
    settings: TrainSettings, folder: Path, tracked: Run, training: list[SampleRef], validation: list[SampleRef]
) -> tuple[Path, dict[str, float]]:
    """Run Ray Train; returns the last checkpoint's folder and its metrics."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from pipelines.progress import EpochLines

    cluster = settings.cluster
    trainer = TorchTrainer(
        training_loop,
        train_loop_config={
            "settings": settings.model_dump(mode="json"),
            "run_id": tracked.run_id,
            "training": [tuple(ref) for ref in training],
            "validation": [tuple(ref) for ref in validation],
        },
        torch_config=TorchConfig(backend="nccl" if cluster.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=cluster.num_workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker} | ({"GPU": 1} if cluster.use_gpu else {}),
        ),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        with EpochLines(folder, settings.training.epochs):
            result = trainer.fit()
    except TrainingFailedError as error:
        raise TrainingError(f"Training stopped: {_root_cause(error)}") from error
    if result.checkpoint is None:
        raise TrainingError("Training ended without a checkpoint; run it again with --fresh.")
    path = Path(result.checkpoint.path)
    return path, json.loads((path / PROGRESS_FILE).read_text(encoding="utf-8"))["history"][-1]


def _root_cause(error: BaseException) -> str:
    """The message of the first worker that failed, without Ray's frames."""
    failures = getattr(error, "worker_failures", {})
    cause: BaseException = next(iter(failures.values()), error)
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__


def _write_bundle(
    settings: TrainSettings,
    detector: DetectorConfig,
    checkpoint: Path,
    metrics: dict[str, float],
    training: list[SampleRef],
    tracked: Run,
) -> None:
    """The final head as a bundle, on disk and in MLflow."""
    tensors = safetensors.torch.load_file(checkpoint / STATE_FILE)
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    about = {"run_id": tracked.run_id, "settings": settings.model_dump(mode="json"), "last_epoch": metrics}
    output = Path(settings.output)
    save_bundle(output, detector, weights, about, [ref.sha256 for ref in training])
    tracked.log_folder(output, BUNDLE_ARTIFACT)


def _tracked_run(settings: TrainSettings, folder: Path, training: list[SampleRef], parent: str | None) -> Run:
    """The MLflow run of this training: the one begun before, or a new one with all settings."""
    file = folder / RUN_FILE
    if file.is_file():
        return Run(settings.tracking, file.read_text(encoding="ascii").strip())
    tracked = start_run(settings.tracking, folder.name, {"stage": "train"}, parent)
    tracked.log_params(_flat(settings.model_dump(mode="json")))
    digest = hashlib.sha256("".join(sorted(ref.sha256 for ref in training)).encode()).hexdigest()
    tracked.log_params({"training_images": len(training), "training_images_sha256": digest})
    file.write_text(tracked.run_id, encoding="ascii")
    return tracked


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _absolute(settings: TrainSettings) -> TrainSettings:
    """Paths written out, because workers run in a folder of Ray's."""
    features = settings.data.features and str(Path(settings.data.features).resolve())
    data = settings.data.model_copy(update={"train": str(Path(settings.data.train).resolve()), "features": features})
    return settings.model_copy(
        update={"data": data, "output": str(Path(settings.output).resolve()), "tracking": resolved(settings.tracking)}
    )
