"""The options of `bayes-pfl compare`."""

import argparse

from pipelines.options.config_files import config_file
from pipelines.options.evaluate import EvaluateSettings
from pipelines.options.model import NUM_SAMPLES, add_detector_options, number_of_samples

RESAMPLES = 10_000
"""More than evaluate's: after Holm's correction over a hundred differences a p-value must still be able to be small."""

LISTED = 20

SETTINGS = EvaluateSettings
"""What `--set` and `--settings` are about."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl compare`.

    Args:
        parser: gets the options.
    """
    source = "bundle by path or URI, embedded, models:/NAME@ALIAS, method:/NAME, or folder of a finished evaluation"
    parser.add_argument("a", metavar="A", help=source)
    parser.add_argument("b", metavar="B", help="the same")
    parser.add_argument("--shards", action="append", help="folder of shards that models are evaluated on; repeatable")
    parser.add_argument("--num-samples", type=number_of_samples, metavar="R", help=NUM_SAMPLES)
    parser.add_argument(
        "--at",
        choices=("mask", "model"),
        default="mask",
        help="measure pixels at the masks' size (default), or at that of each model's maps",
    )
    parser.add_argument("--output", help="folder for the comparison; default: comparison/ under BAYES_PFL_HOME")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help=f"resampled sets; default {RESAMPLES}")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling; default 0")
    parser.add_argument("--images", type=int, default=LISTED, metavar="N", help=f"images listed; default {LISTED}")
    add_detector_options(parser)
    parser.add_argument("--allow-overlap", action="store_true", help="evaluate images that were trained on")
    parser.add_argument("--config", type=config_file, help="YAML file with settings of evaluate, the same for both")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting of evaluate")
    parser.add_argument("--json", action="store_true", help="print comparison.json instead of tables")
