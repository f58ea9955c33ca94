"""What a cluster has against what a program needs."""

from bayes_pfl.errors import ConfigError


def cluster_has() -> dict[str, float]:
    """CPUs and GPUs of the cluster that this process has joined.

    Returns:
        `CPU` and `GPU`, as they are now.
    """
    import ray

    present = ray.cluster_resources()
    return {kind: float(present.get(kind, 0)) for kind in ("CPU", "GPU")}


def check_resources(where: str, cpus: float, gpus: float, cpus_needed: float, gpus_needed: float) -> None:
    """Compare what is there with what is needed at once.

    Args:
        where: the machine or cluster, for the sentence.
        cpus: CPUs that it has.
        gpus: GPUs that it has.
        cpus_needed: CPUs that are used at once.
        gpus_needed: GPUs that are used at once.

    Raises:
        ConfigError: it has fewer; with what to change.
    """
    if cpus < cpus_needed:
        raise ConfigError(
            f"This run needs {cpus_needed:g} CPUs at once but {where} has {cpus:g}: lower the number of workers "
            "(cluster.num_workers or workers), cluster.cpus_per_worker or cluster.cpus_per_loader."
        )
    if gpus < gpus_needed:
        raise ConfigError(
            f"This run needs {gpus_needed:g} GPUs but {where} has {gpus:g}: set use_gpu to false or lower the number "
            "of workers."
        )
