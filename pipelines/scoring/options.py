"""Command-line options of how a model computes, the same in every program that scores."""

import argparse
from typing import Any, get_args

from bayes_pfl.config import DetectorOptions, Precision
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.untrained import method_source
from pipelines.platform.cluster import require_gpu


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """`--precision`, `--compiled` and `--deterministic`.

    Args:
        parser: gets the options.
    """
    for name, field in DetectorOptions.model_fields.items():
        if name == "precision":
            parser.add_argument("--precision", choices=get_args(Precision), help=field.description)
        else:
            parser.add_argument(f"--{name}", action="store_true", help=field.description)


def add_method(parser: argparse.ArgumentParser) -> None:
    """`--method NAME`, in place of `--model`.

    Args:
        parser: gets the option.
    """
    parser.add_argument(
        "--method",
        dest="model",
        default=argparse.SUPPRESS,
        type=method_source,
        metavar="NAME",
        help="in place of --model: a method that needs no training, such as winclip (`bayes-pfl methods` lists them)",
    )


def typed_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was typed of them.

    Args:
        args: parsed options.

    Returns:
        Values by field of `DetectorOptions`; none for what was left out.
    """
    return {name: value for name in DetectorOptions.model_fields if (value := getattr(args, name))}


def check_device(options: DetectorOptions, use_gpu: bool) -> None:
    """Refuse what the device cannot do, before anything takes time.

    Args:
        options: how the model is to compute.
        use_gpu: whether it does so on a GPU.

    Raises:
        ConfigError: there is no GPU, or tf32 is wanted without one.
    """
    require_gpu(use_gpu)
    if options.precision == "tf32" and not use_gpu:
        raise ConfigError("GPUs alone have --precision tf32: use one, or choose float32 or bfloat16.")
