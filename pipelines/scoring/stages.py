"""Pieces of work -> results in three stages: images are made ready, a model scores them, results are collected.

On a CPU all three run image by image in the process that holds the model. On a GPU the first and the last run in tasks
on CPUs, in front of the model and behind it, so that it waits for no decoder.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image

from bayes_pfl.errors import BayesPFLError, OutputError
from bayes_pfl.inference.images import ImageLike, prepare_image
from bayes_pfl.inference.prediction import Prediction
from bayes_pfl.inference.view import WHOLE, View
from bayes_pfl.machine import describe_machine
from pipelines.scoring.actors import through_actors
from pipelines.scoring.task import ScoringTask

Rows = Mapping[str, Any]
"""A Ray Data batch of one row: one piece of work."""


class ReadyImage(NamedTuple):
    """An image that a model can score at once."""

    image: ImageLike
    class_name: str
    size: tuple[int, int]
    """Width and height of the upright image, pixels."""
    thumbnail: Image.Image | None = None
    """What a heat map is drawn over, if one is wanted."""
    remarks: str | None = None
    """What was assumed of its file."""
    sha256: str | None = None
    """Of its file."""


class TimedPrediction(NamedTuple):
    """A prediction, and what it took: from pixels at the model's size to score and map, all samples included."""

    prediction: Prediction
    milliseconds: float
    """Of images that are scored together, an equal share each."""
    machine: str
    """That it was computed on, in words."""


class Collector(Protocol):
    """Gathers the results of one piece of work."""

    def add(self, position: int, ready: ReadyImage, timed: TimedPrediction) -> None:
        """Take the prediction of an image.

        Args:
            position: of the image in its piece.
            ready: the image.
            timed: the prediction of it.

        Raises:
            BayesPFLError: the prediction cannot be used; `refuse` follows.
        """
        ...

    def refuse(self, position: int, reason: str) -> None:
        """Note an image that has no score.

        Args:
            position: of the image in its piece.
            reason: as a sentence.
        """
        ...

    def row(self) -> dict[str, Any]:
        """All results.

        Returns:
            Values by column.
        """
        ...


class ImageSource(Protocol):
    """Where the images of a piece of work come from, and what becomes of their predictions."""

    def count(self, rows: Rows) -> int:
        """Images of a piece of work.

        Args:
            rows: the piece.

        Returns:
            Their number.
        """
        ...

    def ready(self, rows: Rows, position: int) -> ReadyImage:
        """Read and decode an image.

        Args:
            rows: the piece.
            position: of the image in it.

        Returns:
            The image.

        Raises:
            BayesPFLError: it cannot be scored.
            OSError: its file cannot be read.
        """
        ...

    def collector(self, rows: Rows) -> Collector:
        """A new collector.

        Args:
            rows: the piece of work that it is for.

        Returns:
            The collector, empty.
        """
        ...


def seen_by_model(image: Image.Image, view: View, size: int) -> ImageLike:
    """What a model needs of an image: its square pixels, or all of it for tiles and regions.

    Args:
        image: upright RGB.
        view: how it is looked at.
        size: side of the model's square input, pixels.

    Returns:
        The image for `ReadyImage`.
    """
    return prepare_image(image, size) if view == WHOLE else image


class Predictor:
    """A detector and what is asked of it.

    Args:
        task: the model, and how it predicts.
    """

    def __init__(self, task: ScoringTask) -> None:
        self._task = task
        self._detector = task.load()
        self._machine = describe_machine(task.device, torch.get_num_threads())

    @property
    def images_at_once(self) -> int:
        """Images that it scores together."""
        return self._detector.images_at_once if self._task.view == WHOLE else 1

    def predict(self, images: Sequence[ReadyImage | str]) -> list[TimedPrediction | str]:
        """Predictions of images.

        Args:
            images: images, or why there is none.

        Returns:
            For each its prediction, or why there is none.
        """
        usable, step = [image for image in images if isinstance(image, ReadyImage)], self.images_at_once
        groups = (usable[start : start + step] for start in range(0, len(usable), step))
        predictions = iter([prediction for group in groups for prediction in self._predict_together(group)])
        return [image if isinstance(image, str) else next(predictions) for image in images]

    def _predict_together(self, images: Sequence[ReadyImage]) -> Sequence[TimedPrediction | str]:
        try:
            return self._timed(images)
        except BayesPFLError:  # one of them, such as a class name with too many tokens
            return [_attempt(self._timed_alone, image) for image in images]

    def _timed_alone(self, image: ReadyImage) -> TimedPrediction:
        return self._timed([image])[0]

    def _timed(self, images: Sequence[ReadyImage]) -> list[TimedPrediction]:
        """Predictions are copied to the CPU, so that what a GPU has not finished is waited for."""
        begun = time.perf_counter()
        predictions = self._task.predict_all(self._detector, [(each.image, each.class_name) for each in images])
        milliseconds = 1000 * (time.perf_counter() - begun) / len(images)
        return [TimedPrediction(prediction, milliseconds, self._machine) for prediction in predictions]


def score_piece(source: ImageSource, predictor: Predictor, rows: Rows) -> dict[str, Any]:
    """All three stages of one piece of work, here; memory holds as many images as are scored together.

    Args:
        source: of the images.
        predictor: holds the model.
        rows: the piece of work.

    Returns:
        The collector's row.
    """
    collector, count, step = source.collector(rows), source.count(rows), predictor.images_at_once
    for start in range(0, count, step):
        positions = range(start, min(start + step, count))
        ready = [_attempt(source.ready, rows, position) for position in positions]
        _collect(collector, positions, ready, predictor.predict(ready))
    return collector.row()


class PieceScorer:
    """One actor of a pool: all three stages."""

    def __init__(self, source: ImageSource, task: ScoringTask) -> None:
        self._source, self._predictor = source, Predictor(task)

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        return _columns(score_piece(self._source, self._predictor, rows))


class ReadyScorer:
    """One actor of a pool on GPUs: the stage in the middle."""

    def __init__(self, task: ScoringTask) -> None:
        self._predictor = Predictor(task)

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        outcomes = self._predictor.predict(rows["ready"][0])
        # Nobody behind it looks at these maps: they need not travel.
        small = [
            each
            if isinstance(each, str)
            else each._replace(prediction=each.prediction._replace(uncertainty_map=np.empty(0)))
            for each in outcomes
        ]
        return {**rows, **_columns({"outcomes": small})}


def score_pieces(
    source: ImageSource, task: ScoringTask, work: Sequence[Mapping[str, Any]], actors: int
) -> Iterator[dict[str, Any]]:
    """Pieces of work through a pool of actors; on GPUs, whole images are decoded in front of it.

    Args:
        source: of the images.
        task: the model, and how it predicts.
        work: the pieces.
        actors: how many hold the model.

    Yields:
        Rows of the source's collectors, as they come.

    Raises:
        BayesPFLError: the model cannot be loaded.
    """
    gpu = task.device != "cpu"
    if not gpu or task.view != WHOLE:
        yield from through_actors(work, PieceScorer, {"source": source, "task": task}, actors, gpu)
        return
    yield from through_actors(work, ReadyScorer, {"task": task}, actors, gpu, *around_gpu(source))


def around_gpu(source: ImageSource) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The stages in front of `ReadyScorer` and behind it.

    Args:
        source: of the images.

    Returns:
        Functions of a Ray Data batch of one row.
    """
    return partial(_make_ready, source=source), partial(_collected, source=source)


def _make_ready(rows: dict[str, np.ndarray], source: ImageSource) -> dict[str, Any]:
    ready = [_attempt(source.ready, rows, position) for position in range(source.count(rows))]
    return {**rows, **_columns({"ready": ready})}


def _collected(rows: dict[str, np.ndarray], source: ImageSource) -> dict[str, Any]:
    collector, ready = source.collector(rows), rows["ready"][0]
    _collect(collector, range(len(ready)), ready, rows["outcomes"][0])
    return _columns(collector.row())


def _collect(
    collector: Collector,
    positions: Sequence[int],
    ready: Sequence[ReadyImage | str],
    outcomes: Sequence[TimedPrediction | str],
) -> None:
    """Hand outcomes to a collector; one that cannot be used is refused."""
    for position, image, outcome in zip(positions, ready, outcomes, strict=True):
        if isinstance(outcome, str) or isinstance(image, str):
            collector.refuse(position, str(outcome))
            continue
        problem = _attempt(collector.add, position, image, outcome)
        if problem is not None:
            collector.refuse(position, problem)


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, or the sentence with which it refuses: no image ends the work on the others."""
    try:
        return function(*arguments)
    except OutputError:  # no room for a copy of a file by URI, which is nothing of this image
        raise
    except BayesPFLError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as a Ray Data batch; lists of objects stay as they are."""
    columns: dict[str, Any] = {}
    for name, value in row.items():
        columns[name] = np.empty(1, object) if name in ("ready", "outcomes") else [value]
        columns[name][0] = value
    return columns
