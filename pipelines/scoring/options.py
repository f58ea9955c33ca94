"""Command-line options of how a model computes, the same in every program that scores."""

import argparse
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

from bayes_pfl.config import DetectorOptions, Precision
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.untrained import method_source
from pipelines.platform.cluster import gpus_in_reach, require_gpu

NUM_SAMPLES = "Monte Carlo samples, or auto: as many as each score needs to be clear of the threshold; default 10"
"""Help of `--num-samples`."""


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """`--use-gpu`, `--precision`, `--compiled` and `--deterministic`.

    Args:
        parser: gets the options.
    """
    parser.add_argument(
        "--use-gpu",
        action=argparse.BooleanOptionalAction,
        help="one GPU for every worker; default: where there are GPUs",
    )
    for name, field in DetectorOptions.model_fields.items():
        if name == "precision":
            parser.add_argument("--precision", choices=get_args(Precision), help=field.description)
        else:
            parser.add_argument(f"--{name}", action="store_true", help=field.description)


def add_model(parser: argparse.ArgumentParser, description: str, default: str | None = None) -> None:
    """`--model SOURCE`, and `--method NAME` in its place; `--weights FILE`.

    Args:
        parser: gets the options.
        description: help of `--model`.
        default: model without either.
    """
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--model", default=default, help=description)
    either.add_argument(
        "--method",
        dest="model",
        default=argparse.SUPPRESS,
        type=method_source,
        metavar="NAME",
        help="in place of --model: a method that needs no training, such as winclip (`bayes-pfl methods` lists them)",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="CLIP's weights, if the file has moved since the model was made"
    )


def number_of_samples(text: str) -> int | Literal["auto"]:
    """The value of `--num-samples`.

    Args:
        text: as it was typed.

    Returns:
        R, or `auto`.

    Raises:
        ValueError: it is neither; argparse says so.
    """
    return "auto" if text == "auto" else int(text)


def typed_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was typed of them.

    Args:
        args: parsed options.

    Returns:
        Values by field of `DetectorOptions`; none for what was left out.
    """
    return {name: value for name in DetectorOptions.model_fields if (value := getattr(args, name))}


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
