"""How a model is to compute -> the processes that hold it, before anything takes time."""

import os
from collections.abc import Callable
from typing import NamedTuple

from bayes_pfl.config import DetectorOptions
from bayes_pfl.errors import ConfigError
from pipelines.platform.cluster import gpus_in_reach, require_gpu


class Actors(NamedTuple):
    """Processes that hold a model."""

    number: int
    use_gpu: bool

    @property
    def device(self) -> str:
        """What each of them computes on."""
        return "cuda" if self.use_gpu else "cpu"

    @property
    def gpus(self) -> int:
        """GPUs of all of them."""
        return self.number if self.use_gpu else 0


def choose_actors(
    options: DetectorOptions, use_gpu: bool | None, workers: int, gpus: Callable[[], float] = gpus_in_reach
) -> Actors:
    """What the work is shared out to, before anything takes time.

    Args:
        options: how the model is to compute.
        use_gpu: whether it does so on a GPU; None: where there is one, on as many as there are.
        workers: processes that are wanted.
        gpus: says how many GPUs there are.

    Returns:
        The processes; not more than there are GPUs, but where GPUs of a cluster are asked for: it may grow.

    Raises:
        ConfigError: there is no GPU, or tf32 is wanted without one.
    """
    require_gpu(bool(use_gpu))
    present = int(gpus()) if use_gpu is not False else 0
    fewer = min(workers, present) if use_gpu is None or not os.environ.get("RAY_ADDRESS") else workers
    actors = Actors(fewer, True) if present else Actors(workers, bool(use_gpu))
    if options.precision == "tf32" and not actors.use_gpu:
        raise ConfigError("GPUs alone have --precision tf32: use one, or choose float32 or bfloat16.")
    return actors
