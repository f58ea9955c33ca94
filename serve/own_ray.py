"""A Ray of this machine's own, or a cluster: how the endpoint's program starts it, sees that it runs, and ends it."""

import logging
import os
from pathlib import Path
from typing import Any

from bayes_pfl.errors import ConfigError
from bayes_pfl.machine import ImportFolders, usable_cpus, without_log_level_line
from serve.http.closing import STOP_FILE_VARIABLE
from serve.http.proxy import CALLBACK, CALLBACK_VARIABLE

OBJECT_STORE_BYTES = 200 * 2**20
MESSAGE_BYTES = 512 * 2**20
HOME_VARIABLE = "BAYES_PFL_HOME"
"""Where the programs keep runs and the local registry; models:/ sources are looked up there."""
NEEDED = ("raylet", "gcs_server")
"""Ray's processes that nothing replaces."""


def set_environment(stop_file: Path) -> None:
    """Set what Ray's processes inherit; what the user has set stays.

    Args:
        stop_file: has Ray's proxy stop when it is there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # By default Ray's processes give way to all others of the machine; here somebody waits for an answer.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Replicas run in another folder; what is relative to this one must be said in full.
    os.environ[HOME_VARIABLE] = str(Path(os.environ.get(HOME_VARIABLE) or "runs").resolve())
    os.environ.setdefault(CALLBACK_VARIABLE, CALLBACK)
    os.environ[STOP_FILE_VARIABLE] = str(stop_file)
    # Deployments call each other over gRPC, not by actor calls: a fifth less CPU time in proxy and ingress.
    os.environ.setdefault("RAY_SERVE_USE_GRPC_BY_DEFAULT", "1")
    # Ray allows 4 MiB a message otherwise: less than four maps of 518 px.
    os.environ.setdefault("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", str(MESSAGE_BYTES))


def start_ray(address: str) -> None:
    """Start a Ray of this machine's own, or join a cluster that is there.

    Args:
        address: `local`, or of the cluster.

    Raises:
        ConfigError: neither can be had.
    """
    import ray
    import ray.job_config
    import ray.serve  # sets the level of its logger when it is imported

    job = ray.job_config.JobConfig()
    job._py_driver_sys_path = ImportFolders()  # else replicas import from the current folder, first of all
    here: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "num_cpus": max(2, usable_cpus()),
    }
    try:
        with without_log_level_line():
            ray.init(
                address=address,
                job_config=job,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(here if address == "local" else {}),
            )
    except Exception as error:  # a bare one where its own processes take too long to start
        where = "Ray does not start here" if address == "local" else f"The Ray cluster {address} cannot be joined"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(
            f"{where}: {reason}. Start it again where the machine was busy; else look into session_latest/logs of "
            "Ray's temporary folder."
        ) from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)


def ended_processes() -> list[str]:
    """Ray's own processes that this program has started and that run no more.

    Returns:
        Their kinds; of `NEEDED` alone.
    """
    import ray

    node = ray._private.worker._global_node
    return [] if node is None else [kind for kind, _ in node.dead_processes() if kind in NEEDED]


def shut_down(address: str) -> None:
    """End the application; a Ray of this program's own ends as a whole.

    Args:
        address: as it was started.
    """
    import ray
    from ray import serve

    if address != "local":
        serve.shutdown()
    ray.shutdown()
