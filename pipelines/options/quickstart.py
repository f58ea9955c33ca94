"""The options of `bayes-pfl quickstart`."""

import argparse

EXAMPLES = """\
bayes-pfl quickstart
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl quickstart`.

    Args:
        parser: gets the options.
    """
    parser.add_argument("--fresh", action="store_true", help="start over instead of going on where a run stopped")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of text")
