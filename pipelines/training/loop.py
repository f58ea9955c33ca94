"""Settings and samples -> checkpoints: stages, epochs and validation, as each worker of Ray Train runs them."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import FeatureShards
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import SampleRef, global_batches
from bayes_pfl.errors import BayesPFLError, TrainingError
from bayes_pfl.training.trainer import Trainer, TrainingState, head_weights, mean_terms
from pipelines.platform.settings import TrainSettings
from pipelines.platform.tracking import Run
from pipelines.training.batches import epoch_plan, feature_batches, image_batches
from pipelines.training.checkpoints import (
    BEST_FILE,
    PREFIX,
    PROGRESS_FILE,
    STATE_FILE,
    load_newest,
    read_checkpoint,
)
from pipelines.training.initial import initial_head
from pipelines.training.validation import validate

STOP_FILE = "stopped.json"
"""Why a training ended that would end so again; the next `bayes-pfl train` deletes it."""
SELECTION = "validation_pixel_ap"
"""What the best epoch is chosen by, on images of the auxiliary dataset that are not trained on."""


def training_loop(config: dict[str, Any]) -> str:
    """Train, or go on from the last checkpoint, until all stages are done.

    An error that the same images and settings cause again is no failure to Ray, which would start the workers anew.
    Where one worker alone meets it (a damaged image, say), it is written to `STOP_FILE` first: the others wait for
    this worker in a collective, so all are started anew once, read it, and end.

    Args:
        config: settings, references, run id and the driver's handles, as `pipelines.train` writes them.

    Returns:
        Why training ended early, as a sentence; empty after the last epoch.
    """
    from ray.train import get_context

    store = Store(config["store"])
    reason = store.read_json(STOP_FILE)
    if reason is not None:
        return str(reason["error"])
    try:
        _all_stages(_Loop(config))
    except TrainingError as error:  # a loss is the same for all workers
        return str(error)
    except BayesPFLError as error:
        if get_context().get_world_size() > 1:
            store.write_json(STOP_FILE, {"error": str(error)})
            raise
        return str(error)
    return ""


def _all_stages(loop: "_Loop") -> None:
    options = loop.settings.training
    if loop.trainer.second_stage_start is None:
        loop.epochs(options.epochs)
        if options.second_stage_epochs:
            loop.begin_second_stage()
    if loop.trainer.second_stage_start is not None:
        first_stage = sum(entry["stage"] == 1 for entry in loop.history)
        loop.epochs(first_stage + options.second_stage_epochs)


class _Loop:
    """One worker's part of a run, and how far it has come."""

    def __init__(self, config: dict[str, Any]) -> None:
        from ray.train import get_context

        settings = self.settings = TrainSettings.model_validate(config["settings"])
        self.storage: str = config["store"]
        self.rank, self.workers = get_context().get_world_rank(), get_context().get_world_size()
        torch.set_num_threads(settings.cluster.threads_per_worker)
        self.training = [SampleRef(*ref) for ref in config["training"]]
        self.validation = [SampleRef(*ref) for ref in config["validation"]]
        device = torch.device("cuda") if settings.cluster.use_gpu else torch.device("cpu")
        steps_per_epoch = len(global_batches(len(self.training), settings.training.batch_size, 0, 0))
        self.trainer = Trainer(settings, Backbone(settings.backbone).to(device), device, steps_per_epoch, self.workers)
        start = initial_head(settings, self.trainer.backbone)
        if start is not None:
            self.trainer.model.load_state_dict(start.weights)
        folder, kind = settings.data.features, self.trainer.method.feature_kind
        self.shards = FeatureShards(folder, self.trainer.backbone, kind) if folder else None
        self.history: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] = {}
        self.tracked = Run(settings.tracking, config["run_id"]) if self.rank == 0 else None
        self.counter = config["counter"] if self.rank == 0 else None
        self._restore()
        if self.counter is not None:
            self.counter.begin.remote(len(self.history), self.workers)

    def begin_second_stage(self) -> None:
        """Go on from the best head of the first stage, if it was kept, with the second stage's optimiser."""
        if self.best:
            self.trainer.model.load_state_dict(self.best)
        self.trainer.begin_second_stage()

    def epochs(self, stop: int) -> None:
        """Epochs up to `stop` (exclusive) of the stage that is on; fewer where patience ends."""
        options, count = self.settings.training, len(self.training)
        numbers = range(len(self.history), stop)
        plan = (batch for epoch in numbers for batch in epoch_plan(count, options, epoch, self.rank, self.workers))
        if self.shards is not None:
            batches = feature_batches(self.trainer, self.shards, self.training, plan)
        else:
            batches = image_batches(self.trainer, self.training, plan, self.settings.cluster.cpus_per_loader)
        for epoch in numbers:
            if self._out_of_patience():
                return
            began = time.monotonic()
            sizes = [len(batch) for batch in global_batches(count, options.batch_size, options.seed, epoch)]
            terms = []
            for _ in sizes:
                terms.append(self.trainer.step(next(batches)))
                if self.counter is not None:
                    self.counter.put.remote(self.trainer.steps)
            speed = sum(sizes) / (time.monotonic() - began)
            facts = {"images_per_second": speed, "workers": self.workers, **self._gpu_memory()}
            self._end_epoch(epoch, {**mean_terms(terms), **facts})

    def _end_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Validate, record, keep the best head, and hand a checkpoint to Ray Train."""
        stage = 1 if self.trainer.second_stage_start is None else 2
        metrics |= validate(self.trainer, self.settings, self.validation, self.shards, self.rank, self.workers)
        self.history.append({"epoch": epoch, "stage": stage, **metrics})
        if self.settings.training.keep_best and stage == 1 and best_epoch(self.history) == epoch:
            self.best = {name: value.detach().cpu().clone() for name, value in self.trainer.model.state_dict().items()}
        if self.tracked is not None:
            self.tracked.log_metrics(metrics, step=epoch + 1)
        self._report(epoch)

    def _gpu_memory(self) -> dict[str, float]:
        """Most memory that this worker has had on its GPU so far, GiB; nothing on a CPU."""
        if self.trainer.device.type != "cuda":
            return {}
        return {"gpu_memory_gib": torch.cuda.max_memory_allocated() / 2**30}

    def _out_of_patience(self) -> bool:
        patience = self.settings.training.patience_epochs
        if not patience or not self.history or self.trainer.second_stage_start is not None:
            return False
        return len(self.history) - 1 - best_epoch(self.history) >= patience

    def _report(self, epoch: int) -> None:
        """The barrier of the epoch; only rank 0 writes files."""
        import ray.train

        with tempfile.TemporaryDirectory() as temporary:
            checkpoint = None
            if self.tracked is not None:
                state = self.trainer.state()
                safetensors.torch.save_file(state.tensors, Path(temporary, STATE_FILE))
                if self.best:
                    safetensors.torch.save_file(self.best, Path(temporary, BEST_FILE))
                progress = {
                    "steps": state.steps,
                    "second_stage_start": state.second_stage_start,
                    "history": self.history,
                    "tracking_problem": self.tracked.problem,
                }
                Path(temporary, PROGRESS_FILE).write_text(json.dumps(progress), encoding="utf-8")
                checkpoint = ray.train.Checkpoint.from_directory(temporary)
            ray.train.report(self.history[-1], checkpoint=checkpoint, checkpoint_dir_name=f"{PREFIX}{epoch:04d}")

    def _restore(self) -> None:
        """Continue from the newest checkpoint that is whole, if there is one."""
        newest = load_newest(Store(self.storage), read_checkpoint)
        if newest is not None:
            progress, tensors, self.best = newest[1]
            self.trainer.load_state(TrainingState(tensors, progress["steps"], progress["second_stage_start"]))
            self.history = progress["history"]


def best_epoch(history: list[dict[str, float]]) -> int:
    """The first-stage epoch with the highest validation pixel AP.

    Args:
        history: one entry for each finished epoch.

    Returns:
        Its number, the earliest of equals; the last epoch's where none is measured.
    """
    measured = [entry for entry in history if entry["stage"] == 1 and SELECTION in entry]
    if not measured:
        return int(history[-1]["epoch"])
    return int(max(measured, key=lambda entry: (entry[SELECTION], -entry["epoch"]))["epoch"])


def final_head(store: Store, keep_best: bool) -> tuple[dict[str, torch.Tensor], dict[str, float], dict[str, Any]]:
    """The head that a finished run ends with.

    Args:
        store: the run's folder.
        keep_best: whether the best first-stage epoch counts instead of the last (`training.keep_best`).

    Returns:
        State dict of the head, metrics of its epoch, and the whole progress.

    Raises:
        TrainingError: there is no checkpoint.
    """
    newest = load_newest(store, read_checkpoint)
    if newest is None:
        raise TrainingError("Training ended without a checkpoint; run it again with --fresh.")
    progress, tensors, best = newest[1]
    history = progress["history"]
    if keep_best and progress["second_stage_start"] is None and best:
        return best, history[best_epoch(history)], progress
    return head_weights(tensors), history[-1], progress
