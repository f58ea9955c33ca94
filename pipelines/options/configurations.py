"""The options of `bayes-pfl configs`."""

import argparse

from pipelines.options.config_files import config_file

EXAMPLES = """\
bayes-pfl configs
bayes-pfl configs train_visa > mine.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl configs`.

    Args:
        parser: gets the options.
    """
    parser.add_argument("config", nargs="?", type=config_file, metavar="NAME", help="print this one; default: list all")
    parser.add_argument("--json", action="store_true", help="print the list as JSON instead of text")
