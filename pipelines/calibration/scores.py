"""Calibration images -> their scores by class name, each image once, kept in the cache so that a run goes on."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bayes_pfl.data.cache import cache_folder
from bayes_pfl.datasets.output import claim
from bayes_pfl.decisions.calibration import class_key
from bayes_pfl.decisions.records import ScoredImages
from bayes_pfl.errors import DataError
from bayes_pfl.inference.bundle import Bundle, training_images
from pipelines.platform.progress import progress
from pipelines.scoring.inputs import ImageInput
from pipelines.scoring.plan import ScoringPlan
from pipelines.scoring.pool import make_parts, score_parts
from pipelines.scoring.results import Results
from pipelines.scoring.task import ScoringTask

Row = Mapping[str, Any]


class CalibrationScores(NamedTuple):
    """Scored images by class name, and what was left out."""

    normal: dict[str, ScoredImages]
    """By class name as the text encoder reads it."""
    anomalous: dict[str, ScoredImages]
    left_out: list[str]
    """Lines for people."""


def score_images(task: ScoringTask, images: Sequence[ImageInput], workers: int) -> list[Row]:
    """Score images, or take their scores from an earlier run: killed, it goes on; with another rule, nothing is left.

    Args:
        task: the model, and how it predicts.
        images: of any kind.
        workers: processes that hold the model.

    Returns:
        Rows of `results.PART`, in order.

    Raises:
        OutputError: the cache cannot be written, or another run scores the same images now.
    """
    plan = ScoringPlan.make(task, images)
    contents = [_content(image) for image in images]
    digest = hashlib.sha256(json.dumps([plan._asdict(), contents], sort_keys=True).encode()).hexdigest()
    folder = cache_folder() / "calibrations" / digest[:24]
    with claim(folder):
        results = Results(folder, plan, images, make_parts(images))
        todo = results.begin()
        left = sum(len(results.parts[number]) for number in todo)
        with progress(len(images), "image", len(images) - left) as advance:
            for number, scored in score_parts(task, images, todo, workers, advance):
                results.add(number, scored)
        return list(results.rows().to_pylist())


def sorted_scores(rows: Iterable[Row], normal: int, bundle: Bundle) -> CalibrationScores:
    """Scores by kind and class name.

    Args:
        rows: of the good images, then of the defective ones.
        normal: how many are of good images.
        bundle: the model; images that it was trained on are refused.

    Returns:
        The scores; an image that cannot be read, or that is in it twice, is left out and listed.

    Raises:
        DataError: images are good and defective at once, or the model was trained on them.
    """
    kinds: tuple[dict[str, list[Row]], dict[str, list[Row]]] = ({}, {})
    seen: dict[str, tuple[int, str]] = {}
    left_out, both, trained_on = [], [], training_images(bundle)
    for position, row in enumerate(rows):
        kind = int(position >= normal)
        if row["image_score"] is None:
            left_out.append(f"{row['sample_id']}: {row['error']}")
            continue
        earlier = seen.get(row["sha256"])
        if earlier is None:
            seen[row["sha256"]] = kind, row["sample_id"]
            kinds[kind].setdefault(class_key(row["class_name"]), []).append(row)
        elif earlier[0] != kind:
            both.append(row["sample_id"])
        else:
            left_out.append(f"{row['sample_id']}: the same file as {earlier[1]}, which counts once")
    if both:
        raise DataError(f"{len(both):,} of these images are good and defective at once, such as {both[0]}.")
    if learned := [digest for digest in seen if digest in trained_on]:
        raise DataError(
            f"The model was trained on {len(learned):,} of these images, such as {seen[learned[0]][1]}: they score "
            "better than others will. Give images that it has not seen."
        )
    tables = [{name: _table(rows) for name, rows in by_class.items()} for by_class in kinds]
    return CalibrationScores(tables[0], tables[1], left_out)


def _content(image: ImageInput) -> str:
    """SHA-256 of an image's file, or that it cannot be read."""
    try:
        return image.stamp if image.row is not None else hashlib.sha256(image.read()).hexdigest()
    except (OSError, DataError):
        return "unreadable"


def _table(rows: Sequence[Row]) -> ScoredImages:
    """The images' scores, whatever the order in which they were named."""
    rows = sorted(rows, key=lambda row: row["sha256"])
    uncertainties = [row["uncertainty"] for row in rows]
    return ScoredImages(
        sha256=tuple(row["sha256"] for row in rows),
        scores=tuple(row["image_score"] for row in rows),
        map_maxima=tuple(row["map_maximum"] for row in rows),
        uncertainties=None if None in uncertainties else tuple(uncertainties),
    )
