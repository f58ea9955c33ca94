"""The options of `bayes-pfl generate`."""

import argparse

from bayes_pfl.command_line import at_least
from bayes_pfl.synthetic.splits import SPLITS

EXAMPLES = """\
bayes-pfl generate --output images --categories plate --normal 4 --defective 3
bayes-pfl generate --list
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl generate`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add("--output", metavar="DIR", help="folder to create")
    add(
        "--categories",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help=f"categories, or sets of them: all, {', '.join(SPLITS)}; default: all",
    )
    add("--defects", nargs="+", metavar="KIND", help="only these kinds of defects; default: all that the set allows")
    add("--seed", type=at_least(0), default=7, metavar="N", help="the same seed paints the same images; default: 7")
    add("--size", type=int, default=128, metavar="PX", help="side of the images, pixels; default: 128")
    add("--normal", type=int, default=20, metavar="N", help="good images a category, in train/ and test/; default: 20")
    add("--defective", type=int, default=20, metavar="N", help="defective images a category; default: 20")
    add("--list", action="store_true", help="list the categories and their kinds of defects, and stop")
    add("--json", action="store_true", help="print the result as JSON instead of text")
