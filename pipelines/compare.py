"""`bayes-pfl compare`: two models or finished evaluations on the same images -> what differs, and how surely."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bayes_pfl.config import parse_config, read_config
from bayes_pfl.data.remote import is_remote
from bayes_pfl.errors import ConfigError, DataError
from pipelines.configurations import config_file
from pipelines.evaluate import EvaluateSettings, evaluate, finished_result
from pipelines.platform.settings import home
from pipelines.platform.storage import absolute
from pipelines.scoring.comparison import Side, compared, read_side
from pipelines.scoring.comparison_files import printed, write_comparison
from pipelines.scoring.figures import Resampling
from pipelines.scoring.options import NUM_SAMPLES, add_detector_options, number_of_samples, typed_options

RESAMPLES = 10_000
"""More than evaluate's: after Holm's correction over a hundred differences a p-value must still be able to be small."""

LISTED = 20


SETTINGS = EvaluateSettings
"""What `--set` and `--settings` are about."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl compare`.

    Args:
        parser: gets the options.
    """
    source = "bundle by path or URI, embedded, models:/NAME@ALIAS, method:/NAME, or folder of a finished evaluation"
    parser.add_argument("a", metavar="A", help=source)
    parser.add_argument("b", metavar="B", help="the same")
    parser.add_argument("--shards", action="append", help="folder of shards that models are evaluated on; repeatable")
    parser.add_argument("--num-samples", type=number_of_samples, metavar="R", help=NUM_SAMPLES)
    parser.add_argument(
        "--at",
        choices=("mask", "model"),
        default="mask",
        help="measure pixels at the masks' size (default), or at that of each model's maps",
    )
    parser.add_argument("--output", help="folder for the comparison; default: comparison/ under BAYES_PFL_HOME")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help=f"resampled sets; default {RESAMPLES}")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling; default 0")
    parser.add_argument("--images", type=int, default=LISTED, metavar="N", help=f"images listed; default {LISTED}")
    add_detector_options(parser)
    parser.add_argument("--allow-overlap", action="store_true", help="evaluate images that were trained on")
    parser.add_argument("--config", type=config_file, help="YAML file with settings of evaluate, the same for both")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting of evaluate")
    parser.add_argument("--json", action="store_true", help="print comparison.json instead of tables")


def run(args: argparse.Namespace) -> int:
    """Compare and print the tables.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    result = compare(args)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print(printed(result))
        print(f"\nFiles: {result['output']}")
    return 0


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate what is not evaluated yet, and compare.

    Args:
        args: parsed options.

    Returns:
        The content of comparison.json.

    Raises:
        ConfigError: an option is out of range, or the output is a URI.
        DataError: there is nothing to evaluate, or the evaluations are of different images.
    """
    if args.resamples < 100 or args.images < 0 or args.seed < 0:
        raise ConfigError("--resamples is at least 100, --images and --seed are at least 0.")
    if args.output is not None and is_remote(args.output):
        raise ConfigError("A comparison is written to this machine: give --output a folder, and copy it afterwards.")
    output = Path(absolute(args.output or str(home() / "comparison")))
    first, second = _side(args, args.a, output / "a"), _side(args, args.b, output / "b")
    result = compared(first, second, Resampling(args.seed, args.resamples), args.images)
    images = result.pop("every_image")
    result["output"] = str(output)
    write_comparison(output, result, images)
    return result


def _side(args: argparse.Namespace, source: str, output: Path) -> Side:
    """A finished evaluation, that of an earlier run, or a new one."""
    if not is_remote(source) and (Path(source) / "metrics.json").is_file():
        return read_side(Path(absolute(source)))
    if not args.shards:
        raise DataError(f"{source} is no finished evaluation: give --shards to evaluate it on.")
    settings = read_config(EvaluateSettings, args.config, args.set)
    changes: dict[str, Any] = {"model": source, "shards": args.shards, "output": str(output), "cases": 0}
    changes |= {name: getattr(args, name) for name in ("num_samples", "use_gpu") if getattr(args, name) is not None}
    changes |= {"full_resolution": args.at == "mask", "allow_overlap": args.allow_overlap or settings.allow_overlap}
    changes["options"] = {**settings.options.model_dump(), **typed_options(args)}
    settings = parse_config(EvaluateSettings, {**settings.model_dump(), **changes}, "the command line")
    if finished_result(settings) is None:
        evaluate(settings)
    else:
        print(f"{source} was evaluated before: {output}", file=sys.stderr)
    return read_side(output)
