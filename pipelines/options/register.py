"""The options of `bayes-pfl register`."""

import argparse
from pathlib import Path

from pipelines.platform.settings import TrackingSettings

MARGIN = 0.01
"""How much worse a metric may be, as a share."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `bayes-pfl register`.

    Args:
        parser: gets the options.
    """
    parser.add_argument(
        "run_id", nargs="?", metavar="RUN", help="MLflow run of a training, or the folder of a calibrated model of one"
    )
    parser.add_argument(
        "--to-version",
        type=int,
        metavar="N",
        help="go back: let the alias name this version again, instead of a new one",
    )
    parser.add_argument(
        "--name", default=TrackingSettings().model_name, help="name in the registry; default: %(default)s"
    )
    parser.add_argument("--alias", default="champion", help="alias that will name this version; default: champion")
    parser.add_argument(
        "--evaluation", metavar="DATASET", help="compare on this dataset alone; default: on all that both models have"
    )
    parser.add_argument(
        "--metrics", type=Path, metavar="FILE", help="metrics.json that `bayes-pfl evaluate` wrote for this model"
    )
    parser.add_argument(
        "--margin", type=float, default=MARGIN, help=f"how much worse a metric may be; default: {MARGIN}"
    )
    parser.add_argument("--force", action="store_true", help="register although a gate refuses; your name is recorded")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
