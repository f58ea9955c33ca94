"""`bayes-pfl reference`: images, bundle -> the bundle's reference window, from which the endpoint measures drift."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bayes_pfl import Detector
from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.command_line import CommandParser
from bayes_pfl.data.walk import SkippedFile, list_images, skipped_summary
from bayes_pfl.errors import BayesPFLError, BundleError, DataError, ImageError, OutputError
from bayes_pfl.inference.bundle import load_bundle
from serve.models.drift import FEWEST, REFERENCE, Reference, last_embeddings, make_reference, write_reference

PROGRESS_IMAGES = 100
"""Images between two lines of progress."""


def main(arguments: list[str] | None = None) -> int:
    """Score the images and write the window into the bundle.

    Args:
        arguments: options; None: those of this process.

    Returns:
        Exit code: 0, or 2 for what the user can mend.
    """
    parser = CommandParser(
        prog="bayes-pfl reference",
        description="Keep with a model how usual images score, so that the endpoint can measure drift.",
    )
    parser.add_argument(
        "images", nargs="+", type=Path, help="image files, or folders of them: such as the endpoint usually sees"
    )
    parser.add_argument("--model", required=True, type=Path, metavar="FOLDER", help="the bundle that gets the window")
    parser.add_argument("--weights", metavar="FILE", help="CLIP's weights, if the file has moved")
    parser.add_argument("--class-name", default="object", help="what the images show (default: %(default)s)")
    parser.add_argument(
        "--num-samples", type=int, default=10, help="as the endpoint's clients use it (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    try:
        files, skipped = image_files(args.images)
        window, broken = measure(args.model, files, args.class_name, args.num_samples, args.weights)
        write(args.model, window)
    except BayesPFLError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
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
        DataError: a path is not there, or a folder cannot be read.
    """
    files: list[Path] = []
    skipped: list[SkippedFile] = []
    for path in paths:
        if path.is_dir():
            listing = list_images(path)
            files += [path / name for name in listing.files]
            skipped += listing.skipped
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"There is no {path}; give image files or folders of them.")
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
        BundleError: the folder holds no bundle.
        BackboneError: the model has no room for the class name.
        DataError: fewer than 50 images can be read.
    """
    if not folder.is_dir():
        raise BundleError(
            f"There is no folder {folder}; give the bundle that training wrote, or that of a method without training: "
            "`bayes-pfl methods NAME --output FOLDER` writes it."
        )
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


if __name__ == "__main__":
    sys.exit(main())
