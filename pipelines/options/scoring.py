"""Options of the programs that score image files."""

import argparse

from bayes_pfl.command_line import at_least
from bayes_pfl.config.untrained import with_settings
from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.errors import ConfigError
from bayes_pfl.machine import MOST_THREADS, MOST_WORKERS
from pipelines.options.model import NUM_SAMPLES, add_detector_options, add_looking, add_model, number_of_samples

PART_IMAGES = 16
"""What a killed run loses at most, and what one process scores without asking Ray for help."""


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Which model, which class names, and how images are looked at.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add("--class-name", metavar="NAME", help='what the images show, e.g. "metal plate"; shards know it themselves')
    add(
        "--class-name-from",
        metavar="folder|FILE.csv",
        help="for several products: the name of the sub-folder, or a CSV file with columns path and class_name",
    )
    add_model(parser, "embedded", default="embedded")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with --method: change one of its settings; repeatable",
    )
    add("--num-samples", type=number_of_samples, default=10, metavar="R", help=NUM_SAMPLES)
    add("--seed", type=at_least(0), default=0, metavar="N", help="seed of the noise; default: 0")
    add(
        "--bits",
        type=at_least(9, 16),
        metavar="N",
        help="bits of gray images that have more than 8, up to 16; default: as each file or its values say",
    )
    add_looking(parser, default=MAX_PIXELS)
    add(
        "--workers",
        type=at_least(1, MOST_WORKERS),
        default=2,
        metavar="N",
        help=f"processes that hold the model, for more than {PART_IMAGES} images; default: 2",
    )
    add(
        "--threads",
        type=at_least(1, MOST_THREADS),
        default=1,
        metavar="N",
        help="CPU threads of a process; default: 1",
    )
    add_detector_options(parser)


def check_scoring_options(args: argparse.Namespace) -> None:
    """Refuse options that exclude each other. `--set` becomes a part of the model's name.

    Args:
        args: parsed options.

    Raises:
        ConfigError: a value is out of range, or options exclude each other.
    """
    if args.bits is not None and args.bits > 16:
        raise ConfigError(f"--bits is {args.bits}; gray of more than 8 bits has 9 to 16.")
    if args.class_name is not None and args.class_name_from is not None:
        raise ConfigError("Give --class-name or --class-name-from, not both.")
    if args.class_name is not None and not args.class_name.strip():
        raise ConfigError('--class-name is blank; say what the images show, such as "metal plate".')
    if args.overlap is not None and not args.tile:
        raise ConfigError("--overlap is of tiles: give --tile too.")
    args.model = with_settings(args.model, args.set)
