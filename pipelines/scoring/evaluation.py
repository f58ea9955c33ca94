"""Samples of shards -> image scores and pixel histograms, chunk by chunk over the actor pool."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from bayes_pfl.data.preprocess import decode_image
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.data.shards import require_row
from bayes_pfl.inference.prediction import Prediction
from bayes_pfl.metrics import BestF1, Metrics, PixelHistogram
from bayes_pfl.metrics.streaming import ImagePixels, image_pixels
from pipelines.scoring.actors import inside_region, read_row, truth_mask
from pipelines.scoring.finished_chunks import TEXTS, FinishedChunks
from pipelines.scoring.pixel_groups import GroupPixels, measure_group, pixel_columns
from pipelines.scoring.protocol import map_part
from pipelines.scoring.stages import ReadyImage, Rows, TimedPrediction, score_pieces, seen_by_model
from pipelines.scoring.task import ScoringTask

CHUNK = 16
"""Images of one category that go through an actor as one piece of work, and what a killed evaluation loses at most."""

OPEN_SHARDS = 8
"""That a process holds open: a copy of a shard that is open cannot make room for the next."""

HISTOGRAM = ("bin", "normal", "anomalous", "region_weight")


class ScoredSamples(NamedTuple):
    """Image scores by position, pixel metrics by group, why some images have no score, and whose defects vanish."""

    scores: np.ndarray
    """NaN for an image without a score."""
    uncertainties: np.ndarray
    text_scores: np.ndarray
    map_parts: np.ndarray
    """Of the map in the image score: its maximum, or what the released protocol takes."""
    pixel: dict[str, Metrics]
    problems: dict[int, str]
    """Position -> sentence."""
    vanished: list[int]
    """Positions of images with a defect that vanishes at the size of the maps."""
    defects: list[str]
    """Kind of defect of each image, "good" for a normal one; empty for an image without a score."""
    groups: dict[str, GroupPixels]
    """More of the pixels of each group."""
    pixel_f1: dict[str, BestF1 | None]
    """Where the pixels of each group have their F1-max; None where it is undefined."""
    milliseconds: np.ndarray
    """That each image took in the model; NaN for one without a score."""
    machines: list[str]
    """That each image was scored on, in words; empty for one without a score."""


class ShardImages:
    """Chunks of rows of shards as an `ImageSource`; a few shards stay open.

    Args:
        task: how images are looked at and measured.
    """

    def __init__(self, task: ScoringTask) -> None:
        self.view, self.image_size = task.view, task.image_size
        self.max_pixels, self.full_resolution = task.max_pixels, task.full_resolution
        self.method, self.released, self.top_pixels = task.bundle.config.model.method, task.released, task.top_pixels
        self._opened: dict[str, pa.Table] = {}

    def count(self, rows: Rows) -> int:
        """See `ImageSource`.

        Args:
            rows: a chunk.

        Returns:
            Its images.
        """
        return len(rows["positions"][0])

    def ready(self, rows: Rows, position: int) -> ReadyImage:
        """See `ImageSource`.

        Args:
            rows: a chunk.
            position: of the image in it.

        Returns:
            The image.

        Raises:
            ImageError: it cannot be decoded.
        """
        image = decode_image(self.read(rows, position)[0], self.max_pixels)
        seen = seen_by_model(image, self.view, self.image_size)
        return ReadyImage(seen, str(rows["class_names"][0][position]), image.size)

    def read(self, rows: Rows, position: int) -> tuple[bytes, bytes | None]:
        """Encoded image and mask.

        Args:
            rows: a chunk.
            position: of the image in it.

        Returns:
            The image, and the mask or None.

        Raises:
            DataError: the shard cannot be read, or holds another image in this row.
            OutputError: there is no room for a copy of it.
        """
        shard, row, digest = (rows[name][0][position] for name in ("shards", "rows", "sha256"))
        read = read_row(str(shard), int(row), self._opened)
        require_row(self._opened[str(shard)], str(shard), int(row), str(digest))
        while len(self._opened) > OPEN_SHARDS:
            del self._opened[next(iter(self._opened))]
        return read

    def defect(self, rows: Rows, position: int) -> str:
        """The kind of defect of an image that was read.

        Args:
            rows: a chunk.
            position: of the image in it.

        Returns:
            As its shard names it.
        """
        shard, row = str(rows["shards"][0][position]), int(rows["rows"][0][position])
        return str(self._opened[shard]["defect"][row])

    def collector(self, rows: Rows) -> "ChunkResults":
        """See `ImageSource`.

        Args:
            rows: a chunk.

        Returns:
            A collector.
        """
        return ChunkResults(self, rows)


class ChunkResults:
    """Scores of a chunk, and the histogram of its pixels.

    Args:
        source: of its images.
        rows: the chunk.
    """

    def __init__(self, source: ShardImages, rows: Rows) -> None:
        self.source, self.rows = source, rows
        self.histogram = PixelHistogram()
        count = source.count(rows)
        self.scores, self.uncertainties = np.full(count, np.nan), np.full(count, np.nan)
        self.text_scores, self.map_parts = np.full(count, np.nan), np.full(count, np.nan)
        self.vanished, self.problems = np.zeros(count, np.int64), [""] * count
        self.defects, self.pixels = [""] * count, list[ImagePixels | None]([None] * count)
        self.milliseconds, self.machines = np.full(count, np.nan), [""] * count

    def add(self, position: int, ready: ReadyImage, timed: TimedPrediction) -> None:
        """See `Collector`.

        Args:
            position: of the image in its chunk.
            ready: the image.
            timed: the prediction of it.

        Raises:
            ImageError: its mask cannot be compared with the prediction.
        """
        source, label, prediction = self.source, int(self.rows["labels"][0][position]), timed.prediction
        part = prediction.map_score
        if source.released is not None:
            prediction, part = map_part(source.method, prediction, source.released, source.top_pixels)
        if source.full_resolution:
            prediction = prediction._replace(anomaly_map=scaled_to(prediction.anomaly_map, ready.size))
        truth = truth_mask(source.read(self.rows, position)[1], label, prediction, source.max_pixels)
        inside = inside_region(source.view, truth, label, prediction)
        if truth is not None:
            self.vanished[position] = np.isnan(truth).any()
            pixels = image_pixels(prediction.anomaly_map, truth, inside[0] if inside else None)
            self.histogram.count(pixels)
            self.pixels[position] = pixels
        self.defects[position] = source.defect(self.rows, position)
        self.scores[position], self.uncertainties[position] = prediction.image_score, _spread(prediction)
        self.text_scores[position], self.map_parts[position] = prediction.text_score, part
        self.milliseconds[position], self.machines[position] = timed.milliseconds, timed.machine

    def refuse(self, position: int, reason: str) -> None:
        """See `Collector`.

        Args:
            position: of the image in its chunk.
            reason: as a sentence.
        """
        self.problems[position], self.vanished[position] = reason, 0

    def row(self) -> dict[str, Any]:
        """See `Collector`.

        Returns:
            Columns of arrays, and the problems in JSON.
        """
        return {
            "positions": np.asarray(self.rows["positions"][0], np.int64),
            "scores": self.scores,
            "uncertainties": self.uncertainties,
            "text_scores": self.text_scores,
            "map_parts": self.map_parts,
            "problems": json.dumps(self.problems),
            "defects": json.dumps(self.defects),
            "vanished": self.vanished,
            "milliseconds": self.milliseconds,
            "machines": json.dumps(self.machines),
            **pixel_columns(self.pixels),
            **{f"histogram_{name}": values for name, values in self.histogram.to_arrays().items()},
        }


def scaled_to(anomaly_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map scaled bilinearly to the size of its image.

    Args:
        anomaly_map: (height, width) float32.
        size: wanted width and height, pixels.

    Returns:
        float32 of that size.
    """
    return np.asarray(Image.fromarray(anomaly_map).resize(size, Image.Resampling.BILINEAR))


def chunks(groups: Sequence[str]) -> list[list[int]]:
    """Positions cut into pieces of one group.

    Args:
        groups: group of each image, such as its category.

    Returns:
        At most `CHUNK` positions in each piece.
    """
    by_group: dict[str, list[int]] = {}
    for position, group in enumerate(groups):
        by_group.setdefault(group, []).append(position)
    return [
        positions[start : start + CHUNK] for positions in by_group.values() for start in range(0, len(positions), CHUNK)
    ]


def score_samples(
    task: ScoringTask,
    refs: Sequence[SampleRef],
    groups: Sequence[str],
    finished: FinishedChunks,
    actors: int,
    advance: Callable[[int], object],
) -> ScoredSamples:
    """Score all samples, those of chunks that are finished already excepted.

    Args:
        task: the model, and how it predicts.
        refs: the samples.
        groups: group of each sample: one pixel histogram is made for each group.
        finished: where chunks are kept.
        actors: size of the pool.
        advance: called with numbers of images that are done.

    Returns:
        Scores, pixel metrics, problems, and whose defects vanish.
    """
    scores, uncertainties, text, maps, milliseconds = (np.full(len(refs), np.nan) for _ in range(5))
    defects, machines = ([""] * len(refs) for _ in range(2))
    result = ScoredSamples(scores, uncertainties, text, maps, {}, {}, [], defects, {}, {}, milliseconds, machines)
    missing, histograms, pieces = Counter(groups), dict[str, PixelHistogram](), dict[str, list[list[int]]]()
    for row in _rows(task, refs, groups, finished, actors):
        positions = row["positions"]
        scores[positions], uncertainties[positions] = row["scores"], row["uncertainties"]
        text[positions], maps[positions] = row["text_scores"], row["map_parts"]
        milliseconds[positions] = row["milliseconds"]
        problems = zip(positions, json.loads(row["problems"]), strict=True)
        result.problems.update({int(position): problem for position, problem in problems if problem})
        result.vanished.extend(np.asarray(positions)[np.asarray(row["vanished"]) != 0].tolist())
        columns = positions, json.loads(row["defects"]), json.loads(row["machines"])
        for position, defect, machine in zip(*columns, strict=True):
            defects[int(position)], machines[int(position)] = defect, machine
        group = groups[positions[0]]
        pieces.setdefault(group, []).append(positions.tolist())
        if group not in histograms:
            histograms[group] = PixelHistogram()
        histograms[group].add({name: row[f"histogram_{name}"] for name in HISTOGRAM})
        missing[group] -= len(positions)
        if not missing[group]:  # chunks come group by group, so few histograms are in memory
            result.groups[group] = _measured(sorted(pieces.pop(group)), finished, refs, defects)
            result.pixel_f1[group] = histograms[group].best_f1()
            result.pixel[group] = histograms.pop(group).metrics() | result.groups[group].aupimo
        advance(len(positions))
    return result


def _measured(
    pieces: list[list[int]], finished: FinishedChunks, refs: Sequence[SampleRef], defects: list[str]
) -> GroupPixels:
    """More of the pixels of a group, from the files of its chunks."""
    positions = [position for piece in pieces for position in piece]
    return measure_group(
        lambda: (finished.row(piece[0]) for piece in pieces),
        {position: refs[position].label for position in positions},
        {position: defects[position] for position in positions},
    )


def _rows(
    task: ScoringTask, refs: Sequence[SampleRef], groups: Sequence[str], finished: FinishedChunks, actors: int
) -> Iterator[dict[str, Any]]:
    """Rows of all chunks: the finished ones, then the others as they come."""
    earlier, pieces = finished.positions(), chunks(groups)
    yield from (finished.row(piece[0]) for piece in pieces if earlier.get(piece[0]) == piece)
    work = [
        {
            "positions": positions,
            "shards": [refs[position].shard for position in positions],
            "rows": [refs[position].row for position in positions],
            "sha256": [refs[position].sha256 for position in positions],
            "class_names": [refs[position].class_name for position in positions],
            "labels": [refs[position].label for position in positions],
        }
        for positions in pieces
        if earlier.get(positions[0]) != positions
    ]
    if not work:
        return
    for row in score_pieces(ShardImages(task), task, work, actors):
        arrays = {name: value if name in TEXTS else np.asarray(value) for name, value in row.items()}
        finished.add(arrays)
        yield arrays


def _spread(prediction: Prediction) -> float:
    """The uncertainty as a column of numbers holds it: NaN where the method has none."""
    return np.nan if prediction.uncertainty is None else prediction.uncertainty
