"""Options of a model and of how it computes, the same in every program that scores."""

import argparse
from typing import Any, Literal, get_args

from bayes_pfl.command_line import at_least, model_source, share
from bayes_pfl.config import NUM_SAMPLES_LIMIT, DetectorOptions, Precision
from bayes_pfl.config.untrained import method_source, untrained_config
from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.errors import ConfigError

NUM_SAMPLES = (
    "Monte Carlo samples, or auto: as many as make clear on which side of the threshold a score is; default: 10"
)
"""Help of `--num-samples`."""


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """`--use-gpu`, `--precision`, `--compiled` and `--deterministic`.

    Args:
        parser: gets the options.
    """
    parser.add_argument(
        "--use-gpu",
        action=argparse.BooleanOptionalAction,
        help="a GPU for every process; default: where there are GPUs",
    )
    for name, field in DetectorOptions.model_fields.items():
        if name == "precision":
            parser.add_argument("--precision", choices=get_args(Precision), help=f"precision {field.description}")
        else:
            parser.add_argument(f"--{name}", action="store_true", help=field.description)


def add_looking(parser: argparse.ArgumentParser, default: int | None = None) -> None:
    """`--max-pixels`, `--tile`, `--overlap` and `--roi`: how images are looked at.

    Args:
        parser: gets the options.
        default: of `--max-pixels`, where no settings have one.
    """
    add = parser.add_argument
    add(
        "--max-pixels",
        type=at_least(1),
        default=default,
        metavar="N",
        help=f"largest width x height of an image, pixels; default: {MAX_PIXELS:,}",
    )
    add("--tile", action="store_true", help="look at large images tile by tile, at their own resolution")
    add(
        "--overlap", type=share, metavar="SHARE", help="with --tile: share of a tile that the next covers; default: 0.5"
    )
    add("--roi", metavar="X,Y,W,H|MASK", help="look at this part alone: pixels, or a mask image of the images' size")


def add_model(parser: argparse.ArgumentParser, usual: str, default: str | None = None) -> None:
    """`--model SOURCE`, and `--method NAME` in its place; `--weights FILE`.

    Args:
        parser: gets the options.
        usual: model without either, for the help.
        default: of `--model`, where no settings have one.
    """
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--model",
        type=model_source,
        default=default,
        metavar="MODEL",
        help=f"folder or URI of a model, embedded, or models:/NAME@ALIAS; default: {usual}",
    )
    either.add_argument(
        "--method",
        dest="model",
        default=argparse.SUPPRESS,
        type=untrained_method,
        metavar="NAME",
        help="instead of --model: a method that needs no training, such as winclip (bayes-pfl methods lists them)",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="CLIP's weights, where the file has moved since the model was made"
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
        argparse.ArgumentTypeError: it is neither, or more than are allowed.
    """
    if text == "auto":
        return "auto"
    number = at_least(1)(text)
    if number > NUM_SAMPLES_LIMIT:
        raise argparse.ArgumentTypeError(f"{number} is too large, give {NUM_SAMPLES_LIMIT} or fewer")
    return number


def typed_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was typed of them.

    Args:
        args: parsed options.

    Returns:
        Values by field of `DetectorOptions`; none for what was left out.
    """
    return {name: value for name in DetectorOptions.model_fields if (value := getattr(args, name))}
