"""The options of `bayes-pfl train`."""

import argparse

from pipelines.options.config_files import config_file
from pipelines.platform.settings import TrainSettings

SETTINGS = TrainSettings
"""What `--set` and `--settings` are about."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl train`.

    Args:
        parser: gets the options.
    """
    parser.add_argument("--config", type=config_file, help="YAML file, e.g. configs/train_visa.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting, dotted")
    parser.add_argument("--init", metavar="BUNDLE", help="go on from the head of a model (fine-tuning)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--fresh", action="store_true", help="start over instead of continuing a run of the same settings"
    )
    again.add_argument(
        "--resume",
        action="store_true",
        help="continue a run of the same settings, which must exist (without it: if it does)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
