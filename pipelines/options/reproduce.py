"""The options of `bayes-pfl reproduce`."""

import argparse

from bayes_pfl.command_line import at_least
from pipelines.options.config_files import config_file

TABLES = "pipelines.reproduction.study"
STUDIES = {
    **dict.fromkeys(("table1", "table2", "table3", "table4", "figure4", "figure5", "all"), TABLES),
    "uncertainty": "pipelines.study.uncertainty.study",
}
"""Module of each study; it has `run(args)`."""

OF_TABLES = ("data", "embedded", "seeds", "protocol", "use_gpu")
OF_UNCERTAINTY = ("shards",)
"""Options that belong to one kind of study alone."""

EXAMPLES = """\
bayes-pfl reproduce all --embedded
bayes-pfl reproduce table1 --data ~/datasets
bayes-pfl reproduce uncertainty
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl reproduce`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add(
        "study",
        choices=STUDIES,
        metavar="WHAT",
        help="table1, table2, table3, table4, figure4 or figure5 of the paper; all: each of them; uncertainty: what "
        "prompt spread, scores and thresholds are worth",
    )
    add("--data", metavar="DIR", help="folder that holds the datasets, each in a folder of its own")
    add(
        "--embedded",
        action="store_true",
        default=None,
        help="on a CPU: the small CLIP inside this package, on painted images and the datasets of --data if given",
    )
    add("--seeds", type=at_least(1), metavar="N", help="trainings of each model; default: 5, with --embedded 2")
    add(
        "--protocol",
        choices=("image", "released"),
        help="image score: of each image alone, or as the released code has it; default: image",
    )
    add(
        "--model",
        metavar="MODEL",
        help="with uncertainty: the model that is measured; with table1: a model that stands for Bayes-PFL's training",
    )
    add(
        "--shards",
        action="extend",
        nargs="+",
        metavar="DIR",
        help="with uncertainty: folders or URIs of shards; default: held-out generated categories",
    )
    gpu = add(
        "--use-gpu", action=argparse.BooleanOptionalAction, help="a GPU for every job; default: where there are GPUs"
    )
    gpu.default = None
    add("--output", metavar="DIR", help="folder for everything; default: reproduce/ under BAYES_PFL_HOME")
    add("--config", type=config_file, metavar="FILE", help="YAML file of settings")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting; repeatable")
    add("--json", action="store_true", help="print the result as JSON instead of tables")
