"""Resources that a program needs -> a local Ray, or the cluster that RAY_ADDRESS names, or a sentence why not."""

import atexit
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from bayes_pfl.errors import ConfigError, TrainingError
from bayes_pfl.machine import ImportFolders, gpu_share, gpus_here, usable_cpus, without_log_level_line
from bayes_pfl.temporary_folder import check_temporary_folder, temporary_folder
from pipelines.platform.autoscaler import wait_for_machines
from pipelines.platform.resources import check_resources, cluster_has
from pipelines.platform.settings import ClusterSettings

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # "constructor arguments in the object store", said of every actor pool
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # the programs draw their own
    "RAY_AIR_NEW_OUTPUT": "0",  # Ray Tune's tables on standard output, which is for results
}
"""Environment of Ray that keeps its own chatter off the terminal; what is set already stays."""

CONNECT_TIMEOUT_S = 10
ANSWER_S = 60.0
"""Time for a machine to start a process that looks what is installed."""
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def start_ray(cpus_needed: float = 1.0, gpus_needed: float = 0.0) -> None:
    """Start a local Ray, or join the cluster that RAY_ADDRESS names, unless this process already has one.

    Args:
        cpus_needed: CPUs that are used at once.
        gpus_needed: GPUs that are used at once.

    Raises:
        ConfigError: the machine or the cluster can never hold that; no cluster answers; Ray's temporary folder cannot
        be used.
        TrainingError: Ray does not start for another reason.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS", "")
    joining = address not in ("", "local")
    if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
        where = f"Joining the Ray cluster at {address}" if joining else "Starting Ray on this machine"
        print(f"{where} ...", file=sys.stderr, flush=True)
    import ray
    import ray.data  # sets its logger's level when it is imported

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if not ray.is_initialized():
        if joining:
            check_address(address)
            options: dict[str, Any] = {}
        else:
            cpus = max(2, usable_cpus())
            check_resources("this machine", cpus, gpus_needed, cpus_needed, gpus_needed)
            check_temporary_folder(temporary_folder())
            options = {
                "address": "local",  # also where somebody has a head running on this machine
                "num_cpus": cpus,
                "include_dashboard": False,
            }
        _init(options, address)
    present = cluster_has()
    if present["CPU"] >= cpus_needed and present["GPU"] >= gpus_needed:
        return
    if not joining:
        check_resources("this machine", present["CPU"], present["GPU"], cpus_needed, gpus_needed)
    wait_for_machines(cpus_needed, gpus_needed)


def check_address(address: str) -> None:
    """Look whether a cluster answers at its address: Ray itself would wait for a minute and abort the process.

    Args:
        address: as in RAY_ADDRESS: `HOST:PORT`, `ray://HOST:PORT`, or `auto`, which is not looked at here.

    Raises:
        ConfigError: nothing answers.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S) as connection:
            connection.sendall(HTTP2_GREETING)
            answer = connection.recv(9)  # a frame's head; a gRPC server begins with SETTINGS, type 4
        if answer[3:4] != b"\x04" and os.environ.get("RAY_USE_TLS", "0") == "0":
            raise OSError("what listens there is not Ray")
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"No Ray cluster answers at RAY_ADDRESS={address} ({error}): start it, correct the address "
            "(HOST:PORT), or unset "
            "RAY_ADDRESS to work on this machine."
        ) from error


def _init(options: dict[str, Any], address: str) -> None:
    """`ray.init`, quiet, with workers that import from where this process does. Raises TrainingError if it fails."""
    import ray
    import ray.job_config

    job = ray.job_config.JobConfig()
    job._py_driver_sys_path = ImportFolders()  # else workers import from the current folder, first of all
    try:
        with without_log_level_line():
            ray.init(job_config=job, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # a bare one where its own processes take too long to start
        where = (
            f"The cluster at RAY_ADDRESS={address} cannot be joined"
            if address
            else "Ray does not start on this machine"
        )
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise TrainingError(
            f"{where}: {lines[0].rstrip('.')}. Run it again where the machine was busy; else look into "
            "session_latest/logs of Ray's temporary folder."
        ) from error
    if options and sys.stderr.isatty():
        atexit.unregister(_say_that_it_ends)
        atexit.register(_say_that_it_ends)


def _say_that_it_ends() -> None:
    """It takes 3 to 5 s until the last of Ray's processes is gone."""
    import ray

    if ray.is_initialized():
        print("Ending Ray ...", file=sys.stderr, flush=True)


def gpus_in_reach() -> float:
    """GPUs that a program may use: this machine's, or those of the cluster that RAY_ADDRESS names.

    Returns:
        Their number, without those that an autoscaler may bring.

    Raises:
        ConfigError: no cluster answers.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return gpus_here()
    start_ray(0)
    return cluster_has()["GPU"]


def with_gpus(cluster: ClusterSettings, workers: int) -> ClusterSettings:
    """The settings with `use_gpu` decided: GPUs are used where there are some, and shared where there are too few.

    Args:
        cluster: the settings.
        workers: workers, or trials, that need one at once.

    Returns:
        A copy whose `use_gpu` is true or false.

    Raises:
        ConfigError: GPUs are asked for and there is none.
    """
    require_gpu(bool(cluster.use_gpu))
    if cluster.use_gpu is not None:
        return cluster
    gpus = gpus_in_reach()
    if not gpus:
        return cluster.model_copy(update={"use_gpu": False})
    share = min(cluster.gpus_per_worker, gpu_share(gpus, workers))
    if share < cluster.gpus_per_worker:
        print(f"{workers} workers share {gpus:g} GPUs: each gets {share:g} of one.", file=sys.stderr)
    return cluster.model_copy(update={"use_gpu": True, "gpus_per_worker": share})


def require_gpu(use_gpu: bool) -> None:
    """Refuse to wait for a GPU that this machine does not have; a cluster that is joined may have one elsewhere.

    Args:
        use_gpu: whether GPUs are asked for.

    Raises:
        ConfigError: there is none.
    """
    if use_gpu and not os.environ.get("RAY_ADDRESS") and not gpus_here():
        raise ConfigError("There is no GPU that torch can use here; leave use_gpu off, or install its driver.")


class ClusterMachine(NamedTuple):
    """A machine of the cluster."""

    address: str
    versions: dict[str, str]
    """Of Python and of each package; empty where the machine did not say."""
    silence: str = ""
    """Why it did not, in a few words."""


def cluster_machines(packages: Sequence[str]) -> list[ClusterMachine]:
    """Join the cluster and ask every machine for its versions.

    Args:
        packages: names of distributions.

    Returns:
        The machines that are alive, by address.

    Raises:
        ConfigError: no cluster answers.
    """
    start_ray(0)
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def installed() -> dict[str, str]:  # sent by value: this project may be what a machine lacks
        import importlib.metadata
        import platform

        versions = {"Python": platform.python_version()}
        for package in packages:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = "not installed"
        return versions

    look = ray.remote(num_cpus=0, max_retries=0)(installed)
    nodes = sorted((node["NodeManagerAddress"], node["NodeID"]) for node in ray.nodes() if node["Alive"])
    answers = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(id_, soft=False)).remote() for _, id_ in nodes
    ]
    ray.wait(answers, num_returns=len(answers), timeout=ANSWER_S)
    return [_answered(address, answer) for (address, _), answer in zip(nodes, answers, strict=True)]


def _answered(address: str, answer: Any) -> ClusterMachine:
    """What a machine answered, or why it did not."""
    import ray

    try:
        return ClusterMachine(address, ray.get(answer, timeout=0))
    except ray.exceptions.GetTimeoutError:
        return ClusterMachine(address, {}, f"no answer within {ANSWER_S:g} s")
    except ray.exceptions.RayError as error:
        return ClusterMachine(address, {}, f"cannot say what is installed: {type(error).__name__}")
