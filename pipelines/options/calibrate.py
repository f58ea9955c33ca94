"""The options of `bayes-pfl calibrate`."""

import argparse
from pathlib import Path

from bayes_pfl.command_line import share
from bayes_pfl.config import parse_config
from bayes_pfl.decisions.rules import Rule
from bayes_pfl.errors import ConfigError
from pipelines.options.scoring import add_scoring_options, check_scoring_options

EXAMPLES = """\
bayes-pfl calibrate --normal good/ --class-name "metal plate" --false-alarms 0.05 --output models/plates
bayes-pfl calibrate --normal good/ --anomalous bad/ --class-name bottle --recall 0.95 --output models/bottles
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl calibrate`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    images = "image files, folders of them, folders of shards, or CSV files with columns path, class_name, verdict"
    add("--normal", nargs="+", required=True, metavar="PATH", help=f"good images: {images}")
    add("--anomalous", nargs="+", default=[], metavar="PATH", help="defective images, in the same forms; for --recall")
    add(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the calibrated model; further classes can be added to it",
    )
    for name, field in Rule.model_fields.items():
        kind, metavar = (float, "COST") if name.startswith("cost") else (share, "SHARE")
        add(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=field.description)
    add_scoring_options(parser)
    add("--json", action="store_true", help="print the result as JSON instead of a table")


def check(args: argparse.Namespace) -> None:
    """Refuse options that exclude each other.

    Args:
        args: parsed options.

    Raises:
        ConfigError: they do.
    """
    if args.num_samples == "auto":
        raise ConfigError("--num-samples auto needs a threshold, which is made here: give a number.")
    check_scoring_options(args)
    rule_of(args)


def rule_of(args: argparse.Namespace) -> Rule:
    """The rule by which the threshold is chosen.

    Args:
        args: parsed options.

    Returns:
        The rule.

    Raises:
        ConfigError: no rule was typed, or a value is out of range.
    """
    values = {name: getattr(args, name) for name in Rule.model_fields if getattr(args, name) is not None}
    if not set(values) - {"confidence", "defect_rate"}:
        raise ConfigError(
            "Say what errors are allowed: --false-alarms 0.01 (of good images), --recall 0.95 (of defective ones), "
            "both, or --cost-miss 20 --cost-false-alarm 1."
        )
    return parse_config(Rule, values, "the command line")
