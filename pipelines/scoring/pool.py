"""Image files -> scores, part by part: here if they are few, over Ray if they are many."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipelines.options.scoring import PART_IMAGES
from pipelines.platform.cluster import start_ray
from pipelines.scoring.image_files import ImageFiles, piece, scored_images
from pipelines.scoring.inputs import ImageInput
from pipelines.scoring.results import ScoredImage
from pipelines.scoring.stages import Predictor, score_piece, score_pieces
from pipelines.scoring.task import ScoringTask


def make_parts(images: Sequence[ImageInput]) -> list[list[int]]:
    """The parts that images are scored in.

    Args:
        images: all of them.

    Returns:
        Positions of each part's images.
    """
    count = len(images)
    return [list(range(start, min(start + PART_IMAGES, count))) for start in range(0, count, PART_IMAGES)]


def score_parts(
    task: ScoringTask,
    images: Sequence[ImageInput],
    todo: Sequence[int],
    workers: int,
    advance: Callable[[int], Any],
    overlays: bool = False,
) -> Iterator[tuple[int, list[ScoredImage]]]:
    """Score parts of images.

    Args:
        task: the model, and how it predicts.
        images: all of them.
        todo: numbers of the parts to do, of `make_parts`.
        workers: processes that hold the model, for more than `PART_IMAGES` images.
        advance: called with the number of images that were just scored.
        overlays: whether heat maps are drawn.

    Yields:
        Number and scores of each part, as they are done.
    """
    source, parts = ImageFiles(task, overlays), make_parts(images)
    if sum(len(parts[number]) for number in todo) <= PART_IMAGES:
        if todo:
            print("Loading the model ...", file=sys.stderr, flush=True)
        predictor = Predictor(task.on_this_machine()) if todo else None  # a cluster would only cost its start
        for number in todo:
            assert predictor is not None
            yield number, _score_here(source, predictor, [images[at] for at in parts[number]], advance)
        return
    start_ray(workers, workers if task.device == "cuda" else 0)
    work = [{"part": number, **piece([images[at] for at in parts[number]])} for number in todo]
    for row in score_pieces(source, task, work, workers):
        advance(len(row["image_score"]))
        yield int(row["part"]), scored_images(row)


def _score_here(
    source: ImageFiles, predictor: Predictor, images: Sequence[ImageInput], advance: Callable[[int], Any]
) -> list[ScoredImage]:
    """Scores of a few images, in this process."""
    scored: list[ScoredImage] = []
    for start in range(0, len(images), predictor.images_at_once):
        group = images[start : start + predictor.images_at_once]
        rows = {name: [value] for name, value in piece(group).items()}
        scored += scored_images(score_piece(source, predictor, rows))
        advance(len(group))
    return scored
