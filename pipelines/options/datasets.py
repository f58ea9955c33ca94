"""The options of `bayes-pfl datasets`."""

import argparse

from bayes_pfl.datasets.catalogue import SUBSETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bayes-pfl datasets`.

    Args:
        parser: to add them to.
    """
    parser.add_argument("action", nargs="?", choices=("list", "verify"), default="list", help="default: list")
    parser.add_argument("name", nargs="?", help="a dataset; needed by verify")
    parser.add_argument("--source", help="the dataset's unpacked folder, for verify")
    parser.add_argument("--shards", help="for verify, instead: folder or URI of shards, compared with their index")
    parser.add_argument("--layout", choices=("published", "meta", "rearranged"), help="default: recognised by itself")
    parser.add_argument("--subset", choices=SUBSETS, default="complete", help="what to compare with; default: complete")
    parser.add_argument("--json", action="store_true", help="print JSON")
