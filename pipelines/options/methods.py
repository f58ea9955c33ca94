"""The options of `bayes-pfl methods`."""

import argparse
from pathlib import Path

EXAMPLES = """\
bayes-pfl methods --no-times
bayes-pfl methods winclip --output models/winclip
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl methods`.

    Args:
        parser: gets the options.
    """
    parser.add_argument("method", nargs="?", metavar="METHOD", help="write a model of this one; it needs no training")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the model to write")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one setting of the method, such as backbone.name; repeatable",
    )
    parser.add_argument("--no-times", action="store_true", help="do not measure how long an image takes: list at once")
    parser.add_argument("--json", action="store_true", help="print the list as JSON instead of a table")
