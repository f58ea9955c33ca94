"""The options of `bayes-pfl compare`."""

import argparse

from bayes_pfl.command_line import at_least, model_source
from pipelines.options.config_files import add_settings
from pipelines.options.evaluate import EvaluateSettings
from pipelines.options.model import NUM_SAMPLES, add_detector_options, number_of_samples

RESAMPLES = 10_000
"""More than evaluate's: after Holm's correction over a hundred differences a p-value must still be able to be small."""

LISTED = 20

SETTINGS = EvaluateSettings
"""What `--set` and `--settings` are about."""

EXAMPLES = """\
bayes-pfl compare runs/visa models:/bayes-pfl@champion --shards shards/mvtec
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl compare`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    source = "folder or URI of a model, embedded, models:/NAME@ALIAS, method:/NAME, or folder of a finished evaluation"
    add("a", type=model_source, metavar="A", help=source)
    add("b", type=model_source, metavar="B", help="the other one, in the same form")
    add("--shards", action="append", metavar="DIR", help="folder or URI of shards to evaluate models on; repeatable")
    add(
        "--weights", metavar="FILE", help="CLIP's weights, where the file has moved since A and B, or one, were trained"
    )
    add("--num-samples", type=number_of_samples, metavar="R", help=NUM_SAMPLES)
    add(
        "--at",
        choices=("mask", "model"),
        default="mask",
        help="measure pixels at the masks' size, or at that of each model's maps; default: mask",
    )
    add("--output", metavar="DIR", help="folder for the comparison; default: comparison/ under BAYES_PFL_HOME")
    add(
        "--resamples",
        type=at_least(100),
        default=RESAMPLES,
        metavar="N",
        help=f"resampled sets of images behind every interval; default: {RESAMPLES}",
    )
    add("--seed", type=at_least(0), default=0, metavar="N", help="seed of the resampling; default: 0")
    add("--images", type=at_least(0), default=LISTED, metavar="N", help=f"images that are listed; default: {LISTED}")
    add_detector_options(parser)
    add("--allow-overlap", action="store_true", help="evaluate images that were trained on, and mark the result")
    add_settings(parser, SETTINGS)
    add("--json", action="store_true", help="print comparison.json instead of tables")
