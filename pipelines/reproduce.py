"""`bayes-pfl reproduce`: the name of a study -> its tables and pictures, measured again."""

import argparse
import importlib
from pathlib import Path

STUDIES = {
    "uncertainty": "pipelines.study.uncertainty.study",
}
"""Module of each study; it has `run(args)`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl reproduce`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add("study", choices=STUDIES, help="uncertainty: what prompt spread, scores and thresholds are worth")
    add("--model", help="bundle by path or URI, embedded (default), or models:/NAME@ALIAS")
    add("--shards", action="extend", nargs="+", help="folders of shards; default: held-out generated categories")
    add("--output", help="folder for the results; run again, it goes on; default: runs/STUDY")
    add("--config", type=Path, help="YAML file with these and more settings")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting, dotted")
    add("--json", action="store_true", help="print the result as JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Run the study.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    return int(importlib.import_module(STUDIES[args.study]).run(args))
