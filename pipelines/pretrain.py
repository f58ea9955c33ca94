"""`bayes-pfl pretrain`: painted images and captions -> the embedded CLIP's weights, data-parallel, kept in MLflow."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bayes_pfl.config import read_config
from bayes_pfl.data.remote import Store
from bayes_pfl.embedded_training.pretraining import Losses, Pretraining, export_weights, validate
from bayes_pfl.errors import BayesPFLError, OutputError, TrainingError
from bayes_pfl.synthetic.batches import training_batch, validation_set
from pipelines.options.pretrain import PretrainSettings
from pipelines.platform.cluster import start_ray, with_gpus
from pipelines.platform.mlflow_store import check_store
from pipelines.platform.settings import below_home, home
from pipelines.platform.tracking import Run, closing, resolved, start_run
from pipelines.training.checkpoints import load_newest, settle
from pipelines.training.workers import run_workers

PREFIX = "step_"
STATE_FILE = "state.pt"
WEIGHTS_FILE = "bayes-pfl-embedded.safetensors"
CURVE_FILE = "curve.json"
OWNER_FILE = "run.json"
"""Beside the weights: the run that they are of."""
RUN_FILE = "mlflow_run.txt"


def run(args: argparse.Namespace) -> int:
    """Pretrain as configured and say where the weights are.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    settings = read_config(PretrainSettings, args.config, args.set)
    result = pretrain(settings, fresh=args.fresh)
    if args.json:
        print(json.dumps(result))
    else:
        last = ", ".join(
            f"{name} {100 * result['metrics'][name]:.1f} %" for name in ("image_auroc", "pixel_auroc", "pixel_ap")
        )
        print(f"Weights {result['weights']} (SHA-256 {result['sha256'][:12]}..., MLflow run {result['run_id']}).")
        print(f"On the validation categories: {last}")
    return 0


def pretrain(settings: PretrainSettings, fresh: bool = False) -> dict[str, Any]:
    """Run, or go on with, the pretraining that these settings name.

    Args:
        settings: the run.
        fresh: start over instead of going on.

    Returns:
        Weights and their SHA-256, run id, name of the run, last metrics.

    Raises:
        ConfigError: the cluster is too small, or has no GPU.
        OutputError: the output holds the weights of another run.
        TrainingError: the run cannot go on.
    """
    output = Path(below_home(settings.output)).resolve()
    cluster = with_gpus(settings.cluster, settings.cluster.num_workers)
    changes = {"output": str(output), "tracking": resolved(settings.tracking), "cluster": cluster}
    settings = settings.model_copy(update=changes)
    folder = home() / "training" / settings.name()
    _check_output(output, folder.name)
    check_store(settings.tracking)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    store = Store(folder)
    store.make()
    settle(store, _read_state, PREFIX)
    start_ray(cluster.num_workers * cluster.cpus_per_worker, cluster.num_workers * cluster.gpus)
    tracked = _tracked_run(settings, folder)
    with closing(tracked):
        pretraining = _fit(settings, store, tracked)
        digest = export_weights(pretraining.model.clip, output / WEIGHTS_FILE)
        Store(output).write_json(OWNER_FILE, {"run": folder.name})
        (output / CURVE_FILE).write_text(json.dumps(pretraining.curve, indent=1) + "\n", encoding="utf-8")
        tracked.log_folder(output, "embedded")
    return {
        "weights": str(output / WEIGHTS_FILE),
        "sha256": digest,
        "run_id": tracked.run_id,
        "name": folder.name,
        "metrics": pretraining.curve[-1],
    }


def training_loop(config: dict[str, Any]) -> str:
    """What every worker does: render, step, and every so often validate, record and save a checkpoint.

    Args:
        config: settings, run id and the run's folder, as `pretrain` writes them.

    Returns:
        Why it ended early, as a sentence; empty after the last step.
    """
    try:
        _all_steps(config)
    except BayesPFLError as error:  # the same settings fail again: nothing that Ray should start anew
        return str(error)
    return ""


def _all_steps(config: dict[str, Any]) -> None:
    from ray.train import get_context
    from ray.train.torch import prepare_model

    settings = PretrainSettings.model_validate(config["settings"])
    options = settings.pretraining
    rank, workers = get_context().get_world_rank(), get_context().get_world_size()
    torch.set_num_threads(settings.cluster.threads_per_worker)
    pretraining = Pretraining(options, torch.device("cuda") if settings.cluster.use_gpu else torch.device("cpu"))
    newest = load_newest(Store(config["store"]), _read_state, PREFIX)
    if newest is not None:
        pretraining.load_state(newest[1])
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
        name = f"{PREFIX}{pretraining.step:06d}"
        ray.train.report(pretraining.curve[-1], checkpoint=checkpoint, checkpoint_dir_name=name)


def _read_state(folder: Path) -> dict[str, Any]:
    """The state in a local copy of a checkpoint. Raises ValueError if it is not whole."""
    try:
        state: dict[str, Any] = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    except Exception as error:  # what a cut archive ends in depends on where it was cut
        raise ValueError(f"{STATE_FILE} is damaged") from error
    return state


def _check_output(output: Path, name: str) -> None:
    """Refuse to replace the weights of another run, or to write among other files. Raises OutputError."""
    names = Store(output).names()
    if names and WEIGHTS_FILE not in names:
        raise OutputError(f"{output} holds {names[0]} and no weights of a pretraining: choose another output.")
    if not names:
        return
    owner = Store(output).read_json(OWNER_FILE)
    other = owner.get("run") if isinstance(owner, dict) else None
    if other != name:
        raise OutputError(
            f"{output} holds the weights of another run ({other or 'of an earlier version'}): choose another output, "
            "or move them away."
        )


def _fit(settings: PretrainSettings, store: Store, tracked: Run) -> Pretraining:
    """Run the loop on all workers; returns what the last checkpoint holds."""
    print(
        f"Pretraining for {settings.pretraining.steps} steps on {settings.cluster.num_workers} workers; "
        f"figures go to MLflow run {tracked.run_id}, checkpoints to {store.root}.",
        file=sys.stderr,
    )
    work = {"settings": settings.model_dump(mode="json"), "run_id": tracked.run_id, "store": store.root}
    run_workers(training_loop, work, settings.cluster.model_copy(update={"min_workers": None}), store)
    newest = load_newest(store, _read_state, PREFIX)
    if newest is None:
        raise TrainingError("Pretraining ended without a checkpoint; run it again with --fresh.")
    pretraining = Pretraining(settings.pretraining)
    pretraining.load_state(newest[1])
    return pretraining


def _tracked_run(settings: PretrainSettings, folder: Path) -> Run:
    """The MLflow run of this pretraining: the one begun before, or a new one with all settings."""
    file = folder / RUN_FILE
    if file.is_file():
        return Run(settings.tracking, file.read_text(encoding="ascii").strip())
    tracked = start_run(settings.tracking, folder.name, {"stage": "pretrain"})
    tracked.log_params(settings.pretraining.model_dump(mode="json"))
    file.write_text(tracked.run_id, encoding="ascii")
    return tracked
