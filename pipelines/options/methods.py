"""The options of `bayes-pfl methods`."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `bayes-pfl methods`.

    Args:
        parser: gets the options.
    """
    parser.add_argument("method", nargs="?", help="one that needs no training: write a model of it to --output")
    parser.add_argument("--output", type=Path, help="folder of the model to write")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one of its settings, such as backbone.name"
    )
    parser.add_argument("--no-times", action="store_true", help="list at once, without measuring how long images take")
    parser.add_argument("--json", action="store_true", help="print JSON")
