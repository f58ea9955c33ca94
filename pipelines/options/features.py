"""The options and settings of `bayes-pfl features`."""

import argparse

from pydantic import Field

from bayes_pfl.config import DetectorConfig, DetectorOptions
from bayes_pfl.machine import MOST_THREADS, MOST_WORKERS
from pipelines.options.config_files import add_settings
from pipelines.options.model import add_detector_options


class FeatureSettings(DetectorConfig):
    """Which features of which images: `model` and `backbone` as in a training configuration, `scoring` is ignored."""

    shards: str = Field("shards/train", description="folder or URI of shards")
    split: str | None = Field("test", description="split that is encoded; none: all")
    output: str = Field("features/train", description="folder or URI for the features")
    views: int = Field(0, ge=0, description="seeded augmented views of each image, beside the plain one")
    mosaic_probability: float = Field(
        0.0, ge=0, le=1, description="share of the anomalous images that become a mosaic, in augmented views"
    )
    dtype: str = Field("float16", description="float16, bfloat16 or float32")
    workers: int = Field(2, ge=1, le=MOST_WORKERS, description="actors that hold a backbone")
    threads: int = Field(1, ge=1, le=MOST_THREADS, description="torch threads of an actor")
    use_gpu: bool | None = Field(None, description="one GPU for every actor; none: where there are GPUs")
    options: DetectorOptions = DetectorOptions()


SETTINGS = FeatureSettings
"""What `--set` and `--settings` are about."""

EXAMPLES = """\
bayes-pfl features --shards shards/visa --output features/visa --set backbone.name=ViT-L-14-336
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl features`.

    Args:
        parser: gets the options.
    """
    parser.add_argument("--shards", metavar="DIR", help="folder or URI of shards")
    parser.add_argument("--output", metavar="DIR", help="folder or URI for the features")
    add_detector_options(parser)
    add_settings(parser, SETTINGS)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON instead of text")
