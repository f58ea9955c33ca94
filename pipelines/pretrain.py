"""`bayes-pfl pretrain`: the embedded CLIP from nothing, data-parallel with Ray Train, resumable, recorded in MLflow."""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from bayes_pfl.config import Settings, read_config
from bayes_pfl.embedded_training.pretraining import Losses, Pretraining, PretrainingConfig, export_weights, validate
from bayes_pfl.errors import TrainingError
from bayes_pfl.synthetic.batches import training_batch, validation_set
from pipelines.platform.cluster import start_ray
from pipelines.platform.settings import ClusterSettings, TrackingSettings, home
from pipelines.platform.tracking import Run, closing, resolved, start_run

STATE_FILE = "state.pt"
WEIGHTS_FILE = "bayes-pfl-embedded.safetensors"
CURVE_FILE = "curve.json"
RUN_FILE = "mlflow_run.txt"


class PretrainSettings(Settings):
    """A pretraining run: the options, and where it happens."""

    pretraining: PretrainingConfig = PretrainingConfig()
    cluster: ClusterSettings = ClusterSettings(num_workers=1)
    tracking: TrackingSettings = TrackingSettings()
    output: str = Field("runs/embedded", description="folder of the resulting weights and their curve")

    def name(self) -> str:
        """Name of the run: a hash of everything that decides its result, so that the same run is found again."""
        decisive = self.model_copy(update={"tracking": TrackingSettings(), "output": ""})
        return f"pretrain-{hashlib.sha256(decisive.model_dump_json().encode()).hexdigest()[:12]}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl pretrain`."""
    parser.add_argument("--config", type=Path, help="YAML file, e.g. configs/pretrain_embedded.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting, dotted")
    parser.add_argument("--fresh", action="store_true", help="start over instead of going on with the same run")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Pretrain as configured and say where the weights are."""
    settings = read_config(PretrainSettings, args.config, args.set)
    result = pretrain(settings, fresh=args.fresh)
    if args.json:
        print(json.dumps(result))
    else:
        last = ", ".join(f"{name} {result['metrics'][name]:.3f}" for name in ("image_auroc", "pixel_auroc", "pixel_ap"))
        print(f"Weights {result['weights']} (SHA-256 {result['sha256'][:12]}..., MLflow run {result['run_id']}).")
        print(f"On the validation categories: {last}")
    return 0


def pretrain(settings: PretrainSettings, fresh: bool = False) -> dict[str, Any]:
    """Run, or go on with, the pretraining these settings name; returns weights, their SHA-256, run id and last metrics.

    Raises ConfigError if the cluster is too small, TrainingError if the run cannot go on.
    """
    output = Path(settings.output).resolve()
    settings = settings.model_copy(update={"output": str(output), "tracking": resolved(settings.tracking)})
    folder = home() / "training" / settings.name()
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    cluster = settings.cluster
    start_ray(cluster.num_workers * cluster.cpus_per_worker, cluster.num_workers if cluster.use_gpu else 0)
    tracked = _tracked_run(settings, folder)
    with closing(tracked):
        checkpoint = _fit(settings, folder, tracked)
        pretraining = Pretraining(settings.pretraining)
        pretraining.restore(checkpoint / STATE_FILE)
        digest = export_weights(pretraining.model.clip, output / WEIGHTS_FILE)
        (output / CURVE_FILE).write_text(json.dumps(pretraining.curve, indent=1) + "\n", encoding="utf-8")
        tracked.log_folder(output, "embedded")
    return {
        "weights": str(output / WEIGHTS_FILE),
        "sha256": digest,
        "run_id": tracked.run_id,
        "name": folder.name,
        "metrics": pretraining.curve[-1],
    }


def training_loop(config: dict[str, Any]) -> None:
    """What every worker does: render, step, and every so often validate, record and save a checkpoint."""
    from ray.train import get_context
    from ray.train.torch import prepare_model

    settings = PretrainSettings.model_validate(config["settings"])
    options = settings.pretraining
    rank, workers = get_context().get_world_rank(), get_context().get_world_size()
    torch.set_num_threads(settings.cluster.threads_per_worker)
    device = torch.device("cuda") if settings.cluster.use_gpu else torch.device("cpu")
    pretraining = Pretraining(options, device)
    _restore(pretraining)
    model = prepare_model(pretraining.model) if workers > 1 else pretraining.model
    tracked = Run(settings.tracking, config["run_id"]) if rank == 0 else None
    held = validation_set(options.validation_images, options.image_size, options.seed) if rank == 0 else None
    parts: list[Losses] = []
    began = time.monotonic()
    while pretraining.step < options.steps:
        step = pretraining.step
        batch = training_batch(options.batch_options(), options.side(step), options.seed, step, rank)
        parts.append(pretraining.train_step(model, batch))
        if pretraining.step % options.report_every and pretraining.step < options.steps:
            continue
        entry = _means(parts)
        images = 2 * options.pairs * len(parts) * workers
        entry |= {"step": pretraining.step, "images_per_second": images / (time.monotonic() - began)}
        if held is not None:
            entry |= validate(pretraining.model, held)
        pretraining.curve.append(entry)
        if tracked is not None:
            tracked.log_metrics(entry, step=pretraining.step)
        _report(pretraining, rank)
        parts, began = [], time.monotonic()


def _means(parts: list[Losses]) -> dict[str, float]:
    """Each part of the loss, averaged over steps, by its name."""
    columns = zip(Losses._fields, zip(*parts, strict=True), strict=True)
    return {name: float(torch.stack(values).mean()) for name, values in columns}


def _report(pretraining: Pretraining, rank: int) -> None:
    """Hand the checkpoint and the newest figures to Ray Train; only rank 0 writes files."""
    import ray.train

    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = None
        if rank == 0:
            pretraining.save(Path(temporary, STATE_FILE))
            checkpoint = ray.train.Checkpoint.from_directory(temporary)
        name = f"step_{pretraining.step:06d}"
        ray.train.report(pretraining.curve[-1], checkpoint=checkpoint, checkpoint_dir_name=name)


def _restore(pretraining: Pretraining) -> None:
    """Continue from the last checkpoint, if there is one."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            pretraining.restore(Path(folder, STATE_FILE))


def _fit(settings: PretrainSettings, folder: Path, tracked: Run) -> Path:
    """Run Ray Train; returns the last checkpoint's folder."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    cluster = settings.cluster
    print(
        f"Pretraining for {settings.pretraining.steps} steps on {cluster.num_workers} workers; "
        f"figures go to MLflow run {tracked.run_id}, checkpoints to {folder}.",
        file=sys.stderr,
    )
    trainer = TorchTrainer(
        training_loop,
        train_loop_config={"settings": settings.model_dump(mode="json"), "run_id": tracked.run_id},
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
        result = trainer.fit()
    except TrainingFailedError as error:
        raise TrainingError(f"Pretraining stopped: {error}. Run the same command to go on.") from error
    if result.checkpoint is None:
        raise TrainingError("Pretraining ended without a checkpoint; run it again with --fresh.")
    return Path(result.checkpoint.path)


def _tracked_run(settings: PretrainSettings, folder: Path) -> Run:
    """The MLflow run of this pretraining: the one begun before, or a new one with all settings."""
    file = folder / RUN_FILE
    if file.is_file():
        return Run(settings.tracking, file.read_text(encoding="ascii").strip())
    tracked = start_run(settings.tracking, folder.name, {"stage": "pretrain"})
    tracked.log_params(settings.pretraining.model_dump(mode="json"))
    file.write_text(tracked.run_id, encoding="ascii")
    return tracked
