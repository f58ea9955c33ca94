"""The options of `bayes-pfl import`."""

import argparse
from pathlib import Path

from bayes_pfl.command_line import at_least

EXAMPLES = """\
bayes-pfl import train_visa.pth --backbone ViT-L-14-336 --output models/visa
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl import`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add("weights", type=Path, metavar="FILE", help="the authors' .pth file, such as train_visa.pth or epoch_15.pth")
    add("--backbone", metavar="NAME", help="open_clip architecture or JSON file; default: as published")
    add("--pretrained", metavar="TAG|FILE", help="CLIP's weights, an open_clip tag or a file; default: as published")
    add("--image-size", type=at_least(1), metavar="PX", help="side of the input image, pixels; default: as published")
    add(
        "--released-draws",
        action="store_true",
        help="Bayes-PFL: draw noise in the order of the images and keep the first one's states, as the released code",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the model to write")
    add("--json", action="store_true", help="print the result as JSON instead of text")
