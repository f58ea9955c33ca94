"""The options of `bayes-pfl datasets`."""

import argparse

from bayes_pfl.datasets.catalogue import SUBSETS

EXAMPLES = """\
bayes-pfl datasets
bayes-pfl datasets verify visa --source VisA_20220922
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl datasets`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add("action", nargs="?", choices=("list", "verify"), default="list", help="what to do; default: list")
    add("name", nargs="?", metavar="DATASET", help="the dataset to verify")
    add("--source", metavar="DIR", help="with verify: the dataset's unpacked folder")
    add("--shards", metavar="DIR", help="with verify, instead of --source: folder or URI of shards, compared by index")
    add(
        "--layout",
        choices=("published", "meta", "rearranged"),
        help="form of the folder; default: recognised by itself",
    )
    add("--subset", choices=SUBSETS, default="complete", help="what to compare with; default: complete")
    add("--json", action="store_true", help="print the result as JSON instead of a table")
