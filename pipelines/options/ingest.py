"""The options and settings of `bayes-pfl ingest`."""

import argparse
from typing import Literal

from pydantic import Field

from bayes_pfl.command_line import at_least
from bayes_pfl.config import Settings
from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.datasets.catalogue import DATASETS
from pipelines.options.config_files import add_settings


class IngestConfig(Settings):
    """What to take from a dataset, and how to store it."""

    layout: Literal["published", "meta", "rearranged"] | None = Field(
        default=None, description="form in which the dataset lies on disk; none: recognised by itself"
    )
    subset: Literal["complete", "paper"] = Field(
        default="complete", description="the dataset as published, or the paper's evaluation set"
    )
    splits: tuple[Literal["train", "test"], ...] = Field(default=(), description="only these splits; none: both")
    categories: tuple[str, ...] = Field(default=(), description="only these categories; none: all")
    split_names: dict[str, Literal["train", "test", "none"]] = Field(
        default={}, description="for images of your own: the split of a folder by its name; none: leave it out"
    )
    normal: tuple[str, ...] = Field(
        default=(), description="for images of your own: folders of normal images, by name or path from the source"
    )
    anomalous: tuple[str, ...] = Field(
        default=(), description="for images of your own: folders of anomalous images, each a kind of defect"
    )
    class_names: dict[str, str] = Field(
        default={}, description="what prompts call the images of a category, by category; the key '' stands for all"
    )
    label_from_masks: bool = Field(
        default=False,
        description="for images of your own: where no folder says it, an image is anomalous if its mask marks a pixel",
    )
    annotations: str | None = Field(
        default=None,
        min_length=1,
        description="for images of your own: COCO, LabelMe, CVAT or YOLO file or folder; none: found by itself",
    )
    mask_above: int | None = Field(
        default=None,
        ge=0,
        lt=65_536,
        description="a mask's pixel is anomalous above this value; none: the dataset's own, or any not black",
    )
    masks_as_stored: bool | None = Field(
        default=None,
        description="masks were drawn on pixels as stored, before EXIF turns the image; none: as the masks' sizes say",
    )
    limit: int | None = Field(
        default=None, ge=1, description="at most so many images, taken in turn from all categories, splits and labels"
    )
    max_side_px: int | None = Field(
        default=None,
        ge=16,
        description="scale larger images down to this longer side, pixels; none: keep the files as they are",
    )
    max_pixels: int = Field(default=MAX_PIXELS, ge=1, description="set larger images aside, pixels")
    bits: int | None = Field(
        default=None,
        ge=9,
        le=16,
        description="of gray images with more than 8, which are stored with 8; none: as each file says or its values",
    )
    strict: bool = Field(default=False, description="anything that the summary warns of is an error")
    name: str | None = Field(
        default=None,
        min_length=1,
        description="value of the column `dataset`; none: the dataset's name, or the folder's own",
    )
    rows_per_shard: int = Field(default=256, ge=1, description="most images in one shard")
    bytes_per_shard: int = Field(
        default=64 * 2**20, ge=1, description="most bytes in one shard, unless one image has more"
    )


SETTINGS = IngestConfig
"""What `--set` and `--settings` are about."""

EXAMPLES = """\
bayes-pfl ingest visa --source VisA_20220922 --output shards/visa
bayes-pfl ingest folder --source photos --class-name "metal plate" --output shards/plates
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl ingest`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add("dataset", metavar="DATASET", help=f"{', '.join(DATASETS)}, or folder for images of your own")
    add("--source", required=True, metavar="DIR", help="the dataset's unpacked folder")
    add("--output", required=True, metavar="DIR", help="folder or URI for the shards")
    add(
        "--layout",
        choices=("published", "meta", "rearranged"),
        help="form of the folder; default: recognised by itself",
    )
    add("--subset", choices=("complete", "paper"), help="all images, or the paper's evaluation set; default: complete")
    _add_own(parser)
    add("--categories", metavar="NAME,NAME", help="only these categories; default: all")
    add("--limit", type=at_least(1), metavar="N", help="at most N images, of every category, split and label")
    add("--max-side", type=at_least(16), metavar="PX", help="scale larger images down to this longer side, pixels")
    add(
        "--bits",
        type=at_least(9, 16),
        metavar="N",
        help="bits of gray images that have more than 8, up to 16; default: as each file or its values say",
    )
    add("--strict", action="store_true", help="fail where an image would be set aside, or the summary warns")
    add("--name", help="name of the dataset in the shards; default: the dataset's own, or the folder's")
    add_settings(parser, SETTINGS)
    add("--json", action="store_true", help="print the summary as JSON instead of text")


def _add_own(parser: argparse.ArgumentParser) -> None:
    """What folders, names and masks mean, mostly for images of one's own."""
    add = parser.add_argument
    add(
        "--split",
        action="append",
        default=[],
        metavar="train|test|NAME=SPLIT",
        help="only train or test; or, for your own images, what a folder is: valid=test, valid=train, valid=none",
    )
    add("--normal", action="append", default=[], metavar="NAME", help="folder of good images, by name or path")
    add("--anomalous", action="append", default=[], metavar="NAME", help="folder of defective images, by name or path")
    add(
        "--class-name",
        action="append",
        default=[],
        metavar="[CATEGORY=]NAME",
        help='what the images show, "metal plate", or those of one category, part_1="metal plate"; repeatable',
    )
    add("--label-from-masks", action="store_true", help="an image is defective if its mask marks something")
    add("--annotations", metavar="FILE", help="COCO, LabelMe, CVAT or YOLO file or folder; default: found by itself")
    add(
        "--mask-above",
        type=at_least(0),
        metavar="VALUE",
        help="a pixel of a mask is anomalous above this value; default: if it is not black",
    )
    add(
        "--masks-as-stored",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="masks lie on the pixels as stored, before EXIF turns the image; default: as their sizes say",
    )
