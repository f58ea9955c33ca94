"""What the commands share that score image files: their options, and the task that these describe."""

import argparse
import os
from collections.abc import Sequence

from bayes_pfl.clip.loading import require_weights_file
from bayes_pfl.config import DetectorOptions
from bayes_pfl.errors import ClassNameError, DataError
from bayes_pfl.inference.bundle import Bundle, load_bundle
from bayes_pfl.inference.view import View
from bayes_pfl.machine import gpus_here
from bayes_pfl.methods.builder import class_names
from pipelines.options.model import typed_options
from pipelines.options.scoring import PART_IMAGES
from pipelines.platform.cluster import gpus_in_reach
from pipelines.scoring.inputs import ImageInput
from pipelines.scoring.options import choose_actors
from pipelines.scoring.task import ScoringTask


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
        BackboneError: its file of CLIP's weights is not there.
        ConfigError: there is no GPU where one is wanted.
        DataError: no image has a class name that fits.
    """
    options = DetectorOptions(**typed_options(args))
    gpus = gpus_here if len(images) <= PART_IMAGES else gpus_in_reach  # a few images need no cluster
    actors = choose_actors(options, args.use_gpu, args.workers, gpus)
    args.workers = actors.number
    bundle = load_bundle(args.model, args.weights)
    require_weights(bundle)
    _check_class_names(bundle, images)
    number, seed, threads = args.num_samples, args.seed, args.threads
    return ScoringTask(
        bundle, number, seed, threads, actors.device, args.max_pixels, view, bits=args.bits, options=options
    )


def require_weights(bundle: Bundle) -> None:
    """Look for the model's file of CLIP's weights before anything starts; a cluster's machines look for it themselves.

    Args:
        bundle: the model.

    Raises:
        BackboneError: there is no such file.
    """
    if not os.environ.get("RAY_ADDRESS"):
        require_weights_file(bundle.backbone)


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
