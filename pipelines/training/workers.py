"""A loop and its settings -> what it returns, run by the worker processes of Ray Train."""

import signal
import threading
from collections.abc import Callable
from typing import Any

from bayes_pfl.data.remote import Store
from bayes_pfl.errors import TrainingError
from pipelines.platform.settings import ClusterSettings
from pipelines.training.checkpoints import KEPT

GPU_BACKEND, SHARED_GPU_BACKEND = "cpu:gloo,cuda:nccl", "cpu:gloo,cuda:gloo"
"""Sums of losses and gradients lie on the GPU, those of the validation on the CPU. NCCL takes one worker a GPU."""


def backend(cluster: ClusterSettings) -> str:
    """What exchanges tensors between workers, for each kind of device.

    Args:
        cluster: what each worker reserves.

    Returns:
        torch.distributed's name.
    """
    if not cluster.use_gpu:
        return "gloo"
    return GPU_BACKEND if cluster.gpus_per_worker == 1 else SHARED_GPU_BACKEND


def run_workers(
    loop: Callable[[dict[str, Any]], str], work: dict[str, Any], cluster: ClusterSettings, store: Store
) -> None:
    """Run a loop on all workers, again after a worker or machine is lost, until it ends.

    Args:
        loop: what each worker runs; it returns why it ended early, or nothing.
        work: its argument.
        cluster: how many workers, and what each reserves.
        store: the run's folder; checkpoints that the loop reports lie in it.

    Raises:
        TrainingError: the loop ended early, or failed more often than `cluster.max_failures`.
        KeyboardInterrupt: Ctrl+C.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    folder, _, name = store.root.rpartition("/")
    workers: Any = cluster.num_workers if cluster.min_workers is None else (cluster.min_workers, cluster.num_workers)
    trainer = TorchTrainer(
        loop,  # type: ignore[arg-type]  # Ray hands back what rank 0 returns; its types do not say so
        train_loop_config=work,
        torch_config=TorchConfig(backend=backend(cluster)),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=bool(cluster.use_gpu),
            resources_per_worker={"CPU": cluster.cpus_per_worker} | ({"GPU": cluster.gpus} if cluster.use_gpu else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=folder,
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT),
        ),
    )
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        result: Any = trainer.fit()
    except TrainingFailedError as error:
        raise TrainingError(f"Training stopped: {_root_cause(error)}") from error
    except SystemExit:  # what Ray makes of Ctrl+C once the workers have ended
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt)  # Ray leaves its own behind
    if result.return_value:
        raise TrainingError(f"Training stopped: {result.return_value}")


def _root_cause(error: BaseException) -> str:
    """The message of the first worker that failed, without Ray's frames."""
    failures = getattr(error, "worker_failures", {})
    cause: BaseException = next(iter(failures.values()), error)
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__
