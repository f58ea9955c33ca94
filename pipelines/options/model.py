"""Options of a model and of how it computes, the same in every program that scores."""

import argparse
from typing import Any, Literal, get_args

from bayes_pfl.command_line import at_least
from bayes_pfl.config import DetectorOptions, Precision
from bayes_pfl.config.untrained import method_source, untrained_config
from bayes_pfl.errors import ConfigError

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
        type=untrained_method,
        metavar="NAME",
        help="in place of --model: a method that needs no training, such as winclip (`bayes-pfl methods` lists them)",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="CLIP's weights, if the file has moved since the model was made"
    )


def untrained_method(text: str) -> str:
    """The value of `--method`.

    Args:
        text: as it was typed.

    Returns:
        The model source.

    Raises:
        argparse.ArgumentTypeError: there is no such method, or it must be trained.
    """
    try:
        untrained_config(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return method_source(text)


def number_of_samples(text: str) -> int | Literal["auto"]:
    """The value of `--num-samples`.

    Args:
        text: as it was typed.

    Returns:
        R, or `auto`.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    return "auto" if text == "auto" else at_least(1)(text)


def typed_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was typed of them.

    Args:
        args: parsed options.

    Returns:
        Values by field of `DetectorOptions`; none for what was left out.
    """
    return {name: value for name in DetectorOptions.model_fields if (value := getattr(args, name))}
