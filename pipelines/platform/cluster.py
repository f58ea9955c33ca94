"""Starting Ray the same way everywhere, or joining the cluster that RAY_ADDRESS names."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

from bayes_pfl.errors import ConfigError
from bayes_pfl.machine import ImportFolders, usable_cpus

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # "constructor arguments in the object store", said of every actor pool
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # the programs draw their own
    "RAY_AIR_NEW_OUTPUT": "0",  # Ray Tune's tables on standard output, which is for results
}
"""Environment of Ray that keeps its own chatter off the terminal; what is set already stays."""

OBJECT_STORE_BYTES = 512 * 2**20


def start_ray(cpus_needed: float = 1.0, gpus_needed: float = 0.0) -> None:
    """Start a local Ray, or join RAY_ADDRESS, unless this process already has one.

    Raises ConfigError if the machine, or the cluster, can never hold what is asked for; a local Ray is then not started.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    joining = bool(os.environ.get("RAY_ADDRESS"))
    local_cpus = max(2, usable_cpus())
    import ray
    import ray.data  # sets its logger's level when it is imported
    import ray.job_config

    logging.getLogger("ray.data").setLevel(logging.ERROR)

    if not ray.is_initialized():
        job = ray.job_config.JobConfig()
        job._py_driver_sys_path = ImportFolders()  # else workers import from the current folder, first of all
        if joining:
            with _without_its_first_line():
                ray.init(job_config=job, log_to_driver=False, logging_level=logging.ERROR)
        else:
            check_resources("this machine", local_cpus, gpus_needed, cpus_needed, gpus_needed)
            with _without_its_first_line():
                ray.init(
                    address="local",  # also where somebody has a head running on this machine
                    num_cpus=local_cpus,
                    job_config=job,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
    available = ray.cluster_resources()
    check_resources("the cluster", available.get("CPU", 0), available.get("GPU", 0), cpus_needed, gpus_needed)


@contextlib.contextmanager
def _without_its_first_line() -> Iterator[None]:
    """Hold standard error back during a block, and let all of it through but the line in which Ray announces its log level.

    Ray's core writes that line to the file descriptor itself, before any level is in force.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            os.write(2, b"".join(line for line in held if b"Set ray log level from environment variable" not in line))


def check_resources(where: str, cpus: float, gpus: float, cpus_needed: float, gpus_needed: float) -> None:
    """Raises ConfigError with what to change if `where` has fewer CPUs or GPUs than are needed at once."""
    if cpus < cpus_needed:
        raise ConfigError(
            f"This run needs {cpus_needed:g} CPUs at once but {where} has {cpus:g}: lower the number of workers "
            "(cluster.num_workers or workers), cluster.cpus_per_worker or cluster.cpus_per_loader."
        )
    if gpus < gpus_needed:
        raise ConfigError(
            f"This run needs {gpus_needed:g} GPUs but {where} has {gpus:g}: set use_gpu to false or lower the number of workers."
        )


def require_gpu(use_gpu: bool) -> None:
    """Refuse to wait for a GPU that this machine does not have; a cluster that is joined may have one elsewhere.

    Args:
        use_gpu: whether GPUs are asked for.

    Raises:
        ConfigError: there is none.
    """
    import torch

    if use_gpu and not os.environ.get("RAY_ADDRESS") and not torch.cuda.is_available():
        raise ConfigError("There is no GPU that torch can use here; leave use_gpu off, or install its driver.")
