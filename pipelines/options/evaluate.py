"""The options of `bayes-pfl evaluate`."""

import argparse

from bayes_pfl.data.preprocess import MAX_PIXELS
from pipelines.configurations import config_file
from pipelines.options.model import NUM_SAMPLES, add_detector_options, add_model, number_of_samples
from pipelines.scoring.evaluation_settings import EvaluateSettings

SETTINGS = EvaluateSettings
"""What `--set` and `--settings` are about."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl evaluate`.

    Args:
        parser: gets the options.
    """
    add_model(parser, "bundle by path or URI, embedded, or models:/NAME@ALIAS")
    parser.add_argument(
        "--shards", action="append", help="folder of shards, by path or URI; may be given several times"
    )
    parser.add_argument("--num-samples", type=number_of_samples, metavar="R", help=NUM_SAMPLES)
    parser.add_argument("--output", help="folder or URI for the results")
    parser.add_argument("--max-pixels", type=int, help=f"largest width x height of an image; default {MAX_PIXELS}")
    parser.add_argument(
        "--tile", action="store_true", help="look at large images tile by tile, at their own resolution"
    )
    parser.add_argument("--overlap", type=float, metavar="SHARE", help="with --tile: share that the next tile covers")
    parser.add_argument("--roi", metavar="X,Y,W,H|MASK", help="look at this part alone: pixels, or a mask image")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--at", choices=("model", "mask"), help="measure pixels at the size of the model's maps (default) or the masks'"
    )
    size.add_argument("--full-resolution", action="store_true", help="the same as --at mask")
    add_detector_options(parser)
    parser.add_argument(
        "--allow-overlap", action="store_true", help="evaluate images that were trained on; marks the result"
    )
    parser.add_argument("--config", type=config_file, help="YAML file with these and more settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting, dotted")
    parser.add_argument(
        "--embedded",
        action="store_true",
        help="instead: train the embedded recipe anew and measure it beside baselines on held-out generated categories",
    )
    parser.add_argument("--seeds", type=int, help="with --embedded: trainings of the full model; default 5")
    parser.add_argument("--json", action="store_true", help="print metrics.json instead of a table")
