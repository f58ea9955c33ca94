"""The options of `bayes-pfl train`."""

import argparse

from pipelines.options.config_files import add_settings
from pipelines.platform.settings import TrainSettings

SETTINGS = TrainSettings
"""What `--set` and `--settings` are about."""

EXAMPLES = """\
bayes-pfl train --config train_visa
bayes-pfl train --config train_embedded --set data.train=shards/plates --set output=runs/plates
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl train`.

    Args:
        parser: gets the options.
    """
    add_settings(parser, SETTINGS)
    parser.add_argument("--init", metavar="BUNDLE", help="model whose head is trained on (fine-tuning)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--fresh", action="store_true", help="start over instead of going on with a run of these settings"
    )
    again.add_argument(
        "--resume", action="store_true", help="refuse to start a new run; default: go on with one if it exists"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of text")
