"""The options of `bayes-pfl score`."""

import argparse
from pathlib import Path

from bayes_pfl.command_line import share
from bayes_pfl.errors import ConfigError
from pipelines.options.scoring import add_scoring_options, check_scoring_options

EXAMPLES = """\
bayes-pfl score part.png --class-name "metal plate"
bayes-pfl score photos/ --class-name "metal plate" --output results/
bayes-pfl score photos/ --class-name bottle --method winclip
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl score`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGES", help="image files, folders of them, or folders or URIs of shards")
    add("--output", type=Path, metavar="DIR", help="folder for table, heat maps and gallery; run again, it goes on")
    add_scoring_options(parser)
    add(
        "--threshold",
        type=share,
        metavar="SCORE",
        help="an image is defective from this score on, 0 to 1; default: what the model says",
    )
    add(
        "--store-threshold",
        type=share,
        metavar="SHARE",
        help="all images are good: keep with the model the threshold that at most this share of them reaches",
    )
    add(
        "--false-discoveries",
        type=share,
        metavar="SHARE",
        help="select images: at most this share of the selected are good; the model must be calibrated",
    )
    add("--review", type=Path, metavar="DIR", help="write a page for a person, the most uncertain images first")
    add("--fail-above", type=share, metavar="SCORE", help="exit with 1 if an image scores higher, and name it")
    add("--coco", type=Path, metavar="FILE", help="write the regions found as COCO JSON, which labelling tools open")
    add(
        "--region-threshold",
        type=share,
        metavar="VALUE",
        help="with --coco: a pixel belongs to a region from this map value on; default: the threshold",
    )
    add("--json", action="store_true", help="print the result as JSON instead of a table")


def check(args: argparse.Namespace) -> None:
    """Refuse options that exclude each other.

    Args:
        args: parsed options.

    Raises:
        ConfigError: they do.
    """
    if args.region_threshold is not None and args.coco is None:
        raise ConfigError("--region-threshold is of regions: give --coco too.")
    if args.store_threshold is not None and not Path(args.model).is_dir():
        raise ConfigError(f"--store-threshold writes into the model: give --model as its folder, not {args.model}.")
    check_scoring_options(args)
