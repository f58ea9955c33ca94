"""The options of `bayes-pfl register`."""

import argparse
from pathlib import Path

from bayes_pfl.command_line import at_least
from pipelines.platform.settings import TrackingSettings

MARGIN = 0.01
"""How much worse a metric may be, as a share."""

EXAMPLES = """\
bayes-pfl register RUN_ID --alias champion
bayes-pfl register --to-version 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl register`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add(
        "run_id",
        nargs="?",
        metavar="RUN",
        help="id of the MLflow run of a training, or the folder of a calibrated model of one",
    )
    add("--to-version", type=at_least(1), metavar="N", help="go back: the alias names this version again")
    add("--name", default=TrackingSettings().model_name, help="name in the registry; default: %(default)s")
    add("--alias", default="champion", metavar="NAME", help="alias that names the version; default: champion")
    add("--evaluation", metavar="DATASET", help="compare on this dataset alone; default: on all that both models have")
    add("--metrics", type=Path, metavar="FILE", help="metrics.json of bayes-pfl evaluate for this model")
    add(
        "--margin",
        type=float,
        default=MARGIN,
        metavar="SHARE",
        help=f"how much worse a metric may be than the present version's; default: {MARGIN}",
    )
    add("--force", action="store_true", help="register although a check refuses; your name is recorded")
    add("--json", action="store_true", help="print the result as JSON instead of text")
