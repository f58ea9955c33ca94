"""Images, bundle -> the bundle's reference window, from which the endpoint measures drift."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bayes_pfl import Detector
from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.data.walk import SkippedFile, list_images, skipped_summary
from bayes_pfl.errors import DataError, ImageError, OutputError
from bayes_pfl.inference.bundle import load_bundle
from serve.models.drift import FEWEST, REFERENCE, Reference, last_embeddings, make_reference, write_reference
from serve.waiting import waiting

PROGRESS_IMAGES = 100
"""Images between two lines of progress."""


def run(args: argparse.Namespace) -> int:
    """Score the images and write the window into the bundle.

    Args:
        args: checked options.

    Returns:
        Exit code.

    Raises:
        BayesPFLError: what the user can mend.
    """
    files, skipped = image_files(args.images)
    with waiting(f"Loading {args.model} and scoring {len(files):,} images"):
        window, broken = measure(args.model, files, args.class_name, args.num_samples, args.weights)
    write(args.model, window)
    for line in (*broken, *skipped_summary(skipped)):
        print(f"left out: {line}", file=sys.stderr)
    print(f"{window.images} images: median score {window.deciles[4]:.4f}, written to {args.model / REFERENCE}")
    return 0


def image_files(paths: Sequence[Path]) -> tuple[list[Path], list[SkippedFile]]:
    """Files, and the images in folders as ingestion and scoring find them.

    Args:
        paths: files, whatever their ending, and folders.

    Returns:
        The images, and what was left out of folders.

    Raises:
        DataError: a folder cannot be read.
    """
    files: list[Path] = []
    skipped: list[SkippedFile] = []
    for path in paths:
        if path.is_dir():
            listing = list_images(path)
            files += [path / name for name in listing.files]
            skipped += listing.skipped
        else:
            files.append(path)
    return files, skipped


def measure(
    folder: Path, files: Sequence[Path], class_name: str, num_samples: int, weights: str | None = None
) -> tuple[Reference, list[str]]:
    """The window of these images. Says on standard error how far it is.

    Args:
        folder: of the bundle.
        files: images.
        class_name: what they show.
        num_samples: R, prompts drawn from each learned distribution.
        weights: file of CLIP's weights; None: where the bundle says.

    Returns:
        The window, and a line for every image that cannot be read.

    Raises:
        BundleError: the bundle is damaged.
        BackboneError: the model has no room for the class name.
        DataError: fewer than 50 images can be read.
    """
    bundle = load_bundle(folder, weights)
    detector = Detector(bundle, Backbone(bundle.backbone), torch.device("cpu"))
    scores, embeddings, broken = [], [], []
    for number, file in enumerate(files):
        if number and number % PROGRESS_IMAGES == 0:
            print(f"{number} of {len(files)} images", file=sys.stderr)
        try:
            prediction = detector.predict([file.read_bytes()], [class_name], num_samples)[0]
        except (ImageError, OSError) as error:
            broken.append(f"{file}: {error}")
            continue
        scores.append(prediction.image_score)
        embeddings.append(last_embeddings(detector)[0])
    if len(scores) < FEWEST:
        raise DataError(f"Only {len(scores)} images could be read; a window needs at least {FEWEST}.")
    return make_reference(np.array(scores), np.array(embeddings)), broken


def write(folder: Path, window: Reference) -> None:
    """Put the window into the bundle.

    Args:
        folder: of the bundle.
        window: goes there.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        write_reference(folder, window)
    except OSError as error:
        raise OutputError(f"Cannot write into {folder}: {os.strerror(error.errno or 0)}. Make it writable.") from error
