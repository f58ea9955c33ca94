"""The options of `bayes-pfl calibrate`."""

import argparse
from pathlib import Path

from bayes_pfl.decisions.rules import Rule
from pipelines.options.scoring import add_scoring_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl calibrate`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    images = "image files, folders of them, folders of shards, or CSV files with columns path, class_name, verdict"
    add("--normal", nargs="+", required=True, metavar="PATH", help=f"good images: {images}")
    add("--anomalous", nargs="+", default=[], metavar="PATH", help="defective images, the same way: for the recall")
    for name, field in Rule.model_fields.items():
        metavar = "COST" if name.startswith("cost") else "SHARE"
        add(f"--{name.replace('_', '-')}", type=float, metavar=metavar, help=field.description)
    add("--output", type=Path, required=True, help="folder of the calibrated model; further classes can be added to it")
    add_scoring_options(parser)
    add("--json", action="store_true", help="print one JSON object instead of a table")
