"""The options of `bayes-pfl score`."""

import argparse
from pathlib import Path

from pipelines.options.scoring import add_scoring_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl score`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add("images", nargs="+", help="image files, folders of them, or folders of shards, by path or URI")
    add_scoring_options(parser)
    add("--threshold", type=float, metavar="SCORE", help="scores from here on are anomalous; default: the model's own")
    add("--output", type=Path, help="folder for table, heat maps and gallery; run again, it goes on where it stopped")
    add(
        "--store-threshold",
        type=float,
        metavar="SHARE",
        help="the images are all normal: keep with the model the threshold that at most this share of them reaches",
    )
    add(
        "--false-discoveries",
        type=float,
        metavar="SHARE",
        help="select from all images together: at most this share of the selected are good; needs a calibration",
    )
    add("--review", type=Path, metavar="DIR", help="a page for a person, the most uncertain images first")
    add("--fail-above", type=float, metavar="SCORE", help="exit with 1 if an image scores higher, and name it")
    add("--coco", type=Path, metavar="FILE", help="write the regions found as COCO JSON, which labelling tools open")
    add(
        "--region-threshold",
        type=float,
        metavar="VALUE",
        help="with --coco: map value from which on; default: threshold",
    )
    add("--json", action="store_true", help="print one JSON object instead of a table")
