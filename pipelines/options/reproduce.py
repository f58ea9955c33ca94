"""The options of `bayes-pfl reproduce`."""

import argparse

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

EPILOG = """\
table1 ... figure5   the paper's tables 1 to 4 and figures 4 and 5; all: each of them
uncertainty          what prompt spread, scores and thresholds are worth

  bayes-pfl reproduce all --embedded             the small CLIP inside this package, on painted images, on a CPU
  bayes-pfl reproduce table1 --data ~/datasets   the paper's: datasets in folders of their own, a GPU
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl reproduce`.

    Args:
        parser: gets the options.
    """
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    add = parser.add_argument
    add("study", choices=STUDIES, metavar="WHAT", help=", ".join(STUDIES))
    add("--data", help="folder that holds the datasets, each in a folder of its own")
    add(
        "--embedded",
        action="store_true",
        default=None,
        help="the small CLIP inside this package on painted images, and on datasets in --data if that is given",
    )
    add("--seeds", type=int, help="trainings of each model; default 5, with --embedded 2")
    add("--protocol", choices=("image", "released"), help="image score: of each image alone, or the released codes'")
    add("--model", help="a bundle: of uncertainty the model; of table1 what stands for Bayes-PFL instead of a training")
    add("--shards", action="extend", nargs="+", help="of uncertainty: shards; default: held-out generated categories")
    gpu = add("--use-gpu", action=argparse.BooleanOptionalAction, help="a GPU for every job; default: where there are")
    gpu.default = None
    add("--output", help="folder for everything; run again, it goes on; default: reproduce/ under BAYES_PFL_HOME")
    add("--config", type=config_file, help="YAML file with these and more settings")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting, dotted")
    add("--json", action="store_true", help="print the result as JSON instead of tables")
