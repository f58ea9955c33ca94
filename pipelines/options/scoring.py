"""Options of the programs that score image files."""

import argparse

from bayes_pfl.command_line import at_least
from bayes_pfl.data.preprocess import MAX_PIXELS
from pipelines.options.model import NUM_SAMPLES, add_detector_options, add_model, number_of_samples

PART_IMAGES = 16
"""What a killed run loses at most, and what one process scores without asking Ray for help."""


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Which model, which class names, and how images are looked at.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add("--class-name", help='what the images show, e.g. "metal plate"; shards know it themselves')
    add(
        "--class-name-from",
        metavar="folder|FILE.csv",
        help="for several products: the name of the sub-folder, or a CSV file with columns path and class_name",
    )
    add_model(parser, "bundle by path or URI, embedded (default), or models:/NAME@ALIAS", default="embedded")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="with --method: one of its settings, dotted")
    add("--num-samples", type=number_of_samples, default=10, metavar="R", help=NUM_SAMPLES)
    add("--seed", type=at_least(0), default=0, help="of the noise; default 0")
    add(
        "--max-pixels",
        type=at_least(1),
        default=MAX_PIXELS,
        help=f"largest width x height of an image; default {MAX_PIXELS}",
    )
    add(
        "--bits", type=int, metavar="N", help="of gray images with more than 8; default: as each file or its values say"
    )
    add("--tile", action="store_true", help="look at large images tile by tile, at their own resolution")
    add("--overlap", type=float, metavar="SHARE", help="with --tile: share of a tile that the next covers; default 0.5")
    add("--roi", metavar="X,Y,W,H|MASK", help="look at this part alone: pixels, or a mask image of the images' size")
    add(
        "--workers",
        type=at_least(1),
        default=2,
        help=f"processes that hold the model, for more than {PART_IMAGES} images",
    )
    add("--threads", type=at_least(1), default=1, help="CPU threads of a worker; default 1")
    add_detector_options(parser)
