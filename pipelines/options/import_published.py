"""The options of `bayes-pfl import`."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `bayes-pfl import`.

    Args:
        parser: gets the options.
    """
    parser.add_argument("weights", type=Path, help="the authors' .pth file, such as train_visa.pth or epoch_15.pth")
    parser.add_argument(
        "--backbone", help="open_clip architecture or JSON file; default: what the method was published with"
    )
    parser.add_argument("--pretrained", help="CLIP weights: open_clip tag or file; default as published")
    parser.add_argument("--image-size", type=int, metavar="PX", help="side of the input image; default as published")
    parser.add_argument(
        "--released-draws",
        action="store_true",
        help="Bayes-PFL: draw noise in the images' order and keep the first one's states, as the released code does",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundle to write")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
