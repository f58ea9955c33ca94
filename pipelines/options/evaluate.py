"""The options and settings of `bayes-pfl evaluate`: which model, which images, looked at how."""

import argparse
from typing import Literal

from pydantic import Field

from bayes_pfl.command_line import at_least
from bayes_pfl.config import DetectorOptions, NumSamples, Settings, read_config
from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.errors import ConfigError
from bayes_pfl.machine import MOST_THREADS, MOST_WORKERS
from pipelines.options.config_files import add_settings
from pipelines.options.model import NUM_SAMPLES, add_detector_options, add_looking, add_model, number_of_samples
from pipelines.platform.settings import TrackingSettings

Protocol = Literal["image", "released"]
"""`image`: the score of each image alone; `released`: that of the released code."""


class EvaluateSettings(Settings):
    """What is evaluated on what."""

    model: str = Field("embedded", description="bundle by path or URI, embedded, or models:/NAME@ALIAS")
    weights: str | None = Field(None, description="file of CLIP's weights; none: where the bundle says")
    images: tuple[str, ...] = Field(
        (), description="folders of images with good and defective ones in folders of their own, a dataset each"
    )
    class_name: str | None = Field(None, min_length=1, description="what the images of `images` show")
    shards: tuple[str, ...] = Field((), description="folders of shards by path or URI, one dataset each")
    split: str | None = Field("test", description="split that is evaluated; none: all")
    categories: tuple[str, ...] | None = Field(None, description="only these categories; none: all")
    num_samples: NumSamples = Field(10, description="R, Monte Carlo samples, or auto")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="of the noise")
    workers: int = Field(2, ge=1, le=MOST_WORKERS, description="actors that hold a model")
    threads: int = Field(1, ge=1, le=MOST_THREADS, description="torch threads of an actor")
    use_gpu: bool | None = Field(None, description="one GPU for every actor; none: where there are GPUs")
    options: DetectorOptions = DetectorOptions()
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="largest width x height of an image, pixels")
    tile: bool = Field(False, description="look at images tile by tile, at their own resolution")
    overlap: float | None = Field(None, ge=0, lt=1, description="share of a tile that the next covers; none: 0.5")
    roi: str | None = Field(None, description="region alone: x,y,width,height in pixels, or a mask image; none: all")
    full_resolution: bool = Field(False, description="measure pixels at the masks' own size, not at the model's")
    protocol: Protocol = Field(
        "image",
        description="image score: of each image alone, or released: as the released code, which scales the parts of "
        "Bayes-PFL's and CLIP-AD's over all test images of a category",
    )
    top_pixels: int = Field(
        2000, ge=1, description="values of a map that Bayes-PFL's released score averages; 20 for small defects"
    )
    resamples: int = Field(2000, ge=100, le=1_000_000, description="resampled sets of images behind every interval")
    cases: int = Field(
        4, ge=0, description="images of each kind shown in the report: missed, false alarm, uncertain, best"
    )
    allow_overlap: bool = Field(False, description="evaluate images that were trained on, and mark the result")
    output: str | None = Field(
        None,
        description="folder or URI for metrics.json, predictions.csv and report.html; "
        "none: evaluation/ under BAYES_PFL_HOME",
    )
    hub_datasets: dict[str, str] = Field(
        {}, description="ids of datasets on the Hugging Face Hub by name, for .eval_results; others keep their name"
    )
    tracking: TrackingSettings = TrackingSettings()


SETTINGS = EvaluateSettings
"""What `--set` and `--settings` are about."""

EXAMPLES = """\
bayes-pfl evaluate photos/ --class-name "metal plate"
bayes-pfl evaluate --model runs/visa --shards shards/mvtec
bayes-pfl evaluate --method winclip --shards shards/mvtec --shards shards/btad
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl evaluate`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGES", help="folders of images with folders such as good and bad in them")
    add("--class-name", metavar="NAME", help='what these images show, e.g. "metal plate"; shards know it themselves')
    add_model(parser, "embedded")
    add("--shards", action="append", metavar="DIR", help="folder or URI of shards, a dataset each; repeatable")
    add("--num-samples", type=number_of_samples, metavar="R", help=NUM_SAMPLES)
    add("--output", metavar="DIR", help="folder or URI for the results; default: evaluation/ under BAYES_PFL_HOME")
    add_looking(parser)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--at",
        choices=("model", "mask"),
        help="measure pixels at the size of the model's maps, or at that of the masks; default: model",
    )
    size.add_argument("--full-resolution", action="store_true", help="the same as --at mask")
    add_detector_options(parser)
    add("--allow-overlap", action="store_true", help="evaluate images that were trained on, and mark the result")
    add_settings(parser, SETTINGS)
    add(
        "--embedded",
        action="store_true",
        help="instead: train the embedded model anew and measure it beside baselines on held-out painted categories",
    )
    add("--seeds", type=at_least(1), metavar="N", help="with --embedded: trainings of the full model; default: 5")
    add("--json", action="store_true", help="print metrics.json instead of a table")


def check(args: argparse.Namespace) -> None:
    """Refuse options that would change nothing.

    Args:
        args: parsed options.

    Raises:
        ConfigError: there are such.
    """
    if args.embedded:
        used = ("command", "embedded", "seeds", "shards", "output", "config", "set", "json")
        others = [name for name, value in vars(args).items() if name not in used and value not in (None, [])]
        others = [name for name in others if name == "use_gpu" or getattr(args, name) is not False]
        if others:
            word = "folders of images" if others[0] == "images" else f"--{others[0].replace('_', '-')}"
            raise ConfigError(f"--embedded measures painted images with models of its own: leave out {word}.")
        return
    if args.seeds is not None:
        raise ConfigError("--seeds are of trainings: give --embedded too, or leave it out.")
    settings = read_config(EvaluateSettings, args.config, args.set)
    if (args.class_name or settings.class_name) and not (args.images or settings.images):
        raise ConfigError("--class-name is of folders of images, and shards know theirs: leave it out.")
