"""The options of `bayes-pfl tune`."""

import argparse

from pipelines.configurations import config_file
from pipelines.sweep.search import TuneSettings

SETTINGS = TuneSettings
"""What `--set` and `--settings` are about."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl tune`.

    Args:
        parser: gets the options.
    """
    parser.add_argument("--config", type=config_file, help="YAML file, e.g. configs/tune_embedded.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting, dotted")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--fresh", action="store_true", help="start over instead of finishing a sweep in the same folder"
    )
    again.add_argument(
        "--resume", action="store_true", help="finish a sweep's missing trials; it must exist (without it: if it does)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
