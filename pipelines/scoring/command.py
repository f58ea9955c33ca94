"""What the commands share that score image files: their options, and the task that these describe."""

import argparse
from collections.abc import Sequence

from bayes_pfl.config import DetectorOptions
from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.errors import ClassNameError, ConfigError, DataError
from bayes_pfl.inference.bundle import Bundle, load_bundle
from bayes_pfl.inference.untrained import with_settings
from bayes_pfl.inference.view import View
from bayes_pfl.machine import gpus_here
from bayes_pfl.methods.builder import class_names
from pipelines.platform.cluster import gpus_in_reach
from pipelines.scoring.inputs import ImageInput, make_view
from pipelines.scoring.options import (
    NUM_SAMPLES,
    add_detector_options,
    add_model,
    choose_actors,
    number_of_samples,
    typed_options,
)
from pipelines.scoring.pool import PART_IMAGES
from pipelines.scoring.task import ScoringTask


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Which model, which class names, and how images are looked at.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add("--class-name", help='what the images show, e.g. "metal plate"; shards know it themselves')
    add(
        "--class-name-from",
        metavar="folder|FILE.csv",
        help="for several products: the name of the sub-folder, or a CSV file with columns path and class_name",
    )
    add_model(parser, "bundle by path or URI, embedded (default), or models:/NAME@ALIAS", default="embedded")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="with --method: one of its settings, dotted")
    add("--num-samples", type=number_of_samples, default=10, metavar="R", help=NUM_SAMPLES)
    add("--seed", type=int, default=0, help="of the noise; default 0")
    add("--max-pixels", type=int, default=MAX_PIXELS, help=f"largest width x height of an image; default {MAX_PIXELS}")
    add(
        "--bits", type=int, metavar="N", help="of gray images with more than 8; default: as each file or its values say"
    )
    add("--tile", action="store_true", help="look at large images tile by tile, at their own resolution")
    add("--overlap", type=float, metavar="SHARE", help="with --tile: share of a tile that the next covers; default 0.5")
    add("--roi", metavar="X,Y,W,H|MASK", help="look at this part alone: pixels, or a mask image of the images' size")
    add("--workers", type=int, default=2, help=f"processes that hold the model, for more than {PART_IMAGES} images")
    add("--threads", type=int, default=1, help="CPU threads of a worker; default 1")
    add_detector_options(parser)


def check_scoring_options(args: argparse.Namespace) -> View:
    """Refuse options that make no sense, before anything takes time. `--set` becomes a part of the model's name.

    Args:
        args: parsed options.

    Returns:
        The way of looking.

    Raises:
        ConfigError: a value is out of range, or options exclude each other.
    """
    number = 1 if args.num_samples == "auto" else args.num_samples
    if min(number, args.workers, args.threads, args.max_pixels) < 1 or args.seed < 0:
        raise ConfigError("--num-samples, --workers, --threads and --max-pixels are at least 1, --seed at least 0.")
    if args.bits is not None and not 9 <= args.bits <= 16:
        raise ConfigError(f"--bits is {args.bits}; gray of more than 8 bits has 9 to 16.")
    if args.class_name is not None and args.class_name_from is not None:
        raise ConfigError("Give --class-name or --class-name-from, not both.")
    if args.class_name is not None and not args.class_name.strip():
        raise ConfigError('--class-name is blank; say what the images show, such as "metal plate".')
    view = make_view(args.tile, args.overlap, args.roi)
    args.model = with_settings(args.model, args.set)
    return view


def make_task(args: argparse.Namespace, view: View, images: Sequence[ImageInput]) -> ScoringTask:
    """The model, and how it predicts; sets `args.workers` to the number of processes that will hold it.

    Args:
        args: parsed options.
        view: the way of looking.
        images: to score.

    Returns:
        The task.

    Raises:
        BundleError: the model is missing or damaged.
        ConfigError: there is no GPU where one is wanted.
        DataError: no image has a class name that fits.
    """
    options = DetectorOptions(**typed_options(args))
    gpus = gpus_here if len(images) <= PART_IMAGES else gpus_in_reach  # a few images need no cluster
    actors = choose_actors(options, args.use_gpu, args.workers, gpus)
    args.workers = actors.number
    bundle = load_bundle(args.model, args.weights)
    _check_class_names(bundle, images)
    number, seed, threads = args.num_samples, args.seed, args.threads
    return ScoringTask(
        bundle, number, seed, threads, actors.device, args.max_pixels, view, bits=args.bits, options=options
    )


def _check_class_names(bundle: Bundle, images: Sequence[ImageInput]) -> None:
    """Refuse at once if no image has a class name that fits; else the images whose name does not fit are listed."""
    names = class_names(bundle.config)
    problem = ""
    for name in dict.fromkeys(image.class_name for image in images):
        try:
            names.tokens(name)
        except ClassNameError as error:
            problem = problem or str(error)
        else:
            return
    raise nothing_scored(problem)


def nothing_scored(reason: str) -> DataError:
    """The error where no image could be scored.

    Args:
        reason: of the first.

    Returns:
        The error.
    """
    return DataError(f"None of the images could be scored. The first: {reason.rstrip('.')}.")
