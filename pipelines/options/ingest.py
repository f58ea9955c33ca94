"""The options of `bayes-pfl ingest`."""

import argparse

from bayes_pfl.datasets.catalogue import DATASETS
from pipelines.configurations import config_file
from pipelines.ingestion.options import IngestConfig

SETTINGS = IngestConfig
"""What `--set` and `--settings` are about."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bayes-pfl ingest`.

    Args:
        parser: to add them to.
    """
    add = parser.add_argument
    add("dataset", help=f"{', '.join(DATASETS)}, or folder for images of your own")
    add("--source", required=True, help="the dataset's unpacked folder")
    add("--output", required=True, help="folder or URI for the shards")
    add("--layout", choices=("published", "meta", "rearranged"), help="default: recognised by itself")
    add("--subset", choices=("complete", "paper"), help="default: complete")
    add(
        "--split",
        action="append",
        default=[],
        metavar="train|test|NAME=SPLIT",
        help="only train or test; or, for your own images, what a folder is: valid=test, valid=train, valid=none",
    )
    add("--normal", action="append", default=[], metavar="NAME", help="a folder of normal images, by name or path")
    add("--anomalous", action="append", default=[], metavar="NAME", help="a folder of anomalous images")
    add(
        "--class-name",
        action="append",
        default=[],
        metavar="[CATEGORY=]NAME",
        help='what prompts call the images, "metal plate", or those of one category, part_1="metal plate"',
    )
    add("--label-from-masks", action="store_true", help="anomalous is what has a mask that marks something")
    add("--annotations", metavar="FILE", help="COCO, LabelMe, CVAT or YOLO file or folder; default: found by itself")
    add("--mask-above", type=int, metavar="VALUE", help="a mask's pixel is anomalous above it; default: any not black")
    add(
        "--masks-as-stored",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="masks lie on the pixels as stored, before EXIF turns the image; default: as their sizes say",
    )
    add("--categories", help="comma-separated; default: all")
    add("--limit", type=int, metavar="N", help="at most N images, of every category, split and label")
    add("--max-side", type=int, metavar="PX", help="scale larger images down to this longer side")
    add(
        "--bits", type=int, metavar="N", help="of gray images with more than 8; default: as each file or its values say"
    )
    add("--strict", action="store_true", help="fail where an image would be set aside, or the summary warns")
    add("--name", help="name of the dataset in the shards; default: its own, or the folder's")
    add("--config", type=config_file, help="YAML file with these and more options")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override one option")
    add("--json", action="store_true", help="print the summary as JSON")
