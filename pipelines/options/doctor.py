"""The options of `bayes-pfl doctor`."""

import argparse

EXAMPLES = """\
bayes-pfl doctor
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl doctor`.

    Args:
        parser: gets the options.
    """
    parser.add_argument("--json", action="store_true", help="print the findings as JSON instead of text")
