"""Samples of shards -> image scores and pixel histograms, chunk by chunk over the actor pool."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from bayes_pfl.config import DetectorOptions
from bayes_pfl.data.preprocess import decode_image
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.data.shards import replacing
from bayes_pfl.inference.prediction import Prediction
from bayes_pfl.metrics import PixelHistogram
from pipelines.scoring.actors import inside_region, read_row, truth_mask
from pipelines.scoring.stages import ReadyImage, Rows, score_pieces, seen_by_model
from pipelines.scoring.task import ScoringTask

CHUNK = 16
"""Images of one category that go through an actor as one piece of work, and what a killed evaluation loses at most."""

HISTOGRAM = ("bin", "normal", "anomalous", "region_weight")


class ScoredSamples(NamedTuple):
    """Image scores by position, histograms by group, why some images have no score, and whose defects vanish."""

    scores: np.ndarray
    """NaN for an image without a score."""
    uncertainties: np.ndarray
    histograms: dict[str, PixelHistogram]
    problems: dict[int, str]
    """Position -> sentence."""
    vanished: list[int]
    """Positions of images with a defect that vanishes at the size of the maps."""


class ShardImages:
    """Chunks of rows of shards as an `ImageSource`; shards stay open.

    Args:
        task: how images are looked at and measured.
    """

    def __init__(self, task: ScoringTask) -> None:
        self.view, self.image_size = task.view, task.image_size
        self.max_pixels, self.full_resolution = task.max_pixels, task.full_resolution
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
            DataError: the shard cannot be read.
        """
        return read_row(str(rows["shards"][0][position]), int(rows["rows"][0][position]), self._opened)

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
        self.vanished, self.problems = np.zeros(count, np.int64), [""] * count

    def add(self, position: int, ready: ReadyImage, prediction: Prediction) -> None:
        """See `Collector`.

        Args:
            position: of the image in its chunk.
            ready: the image.
            prediction: of it.

        Raises:
            ImageError: its mask cannot be compared with the prediction.
        """
        source, label = self.source, int(self.rows["labels"][0][position])
        if source.full_resolution:
            prediction = prediction._replace(anomaly_map=scaled_to(prediction.anomaly_map, ready.size))
        truth = truth_mask(source.read(self.rows, position)[1], label, prediction, source.max_pixels)
        inside = inside_region(source.view, truth, label, prediction)
        if truth is not None:
            self.vanished[position] = np.isnan(truth).any()
            self.histogram.update([prediction.anomaly_map], [truth], inside)
        self.scores[position], self.uncertainties[position] = prediction.image_score, prediction.uncertainty

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
            "problems": json.dumps(self.problems),
            "vanished": self.vanished,
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


class FinishedChunks:
    """Chunks that an evaluation has scored, as Arrow files in a folder that its question names."""

    def __init__(self, parent: Path, task: ScoringTask, refs: Sequence[SampleRef]) -> None:
        question = [task.bundle.record["head_sha256"], task.bundle.config.model_dump_json()]
        question += [task.num_samples, task.seed, task.max_pixels, task.looked_at, task.full_resolution, "vanished"]
        question += [task.options.model_dump()] if task.options != DetectorOptions() else []
        question += [[ref.sha256, ref.class_name, ref.category, ref.label] for ref in refs]
        self.folder = parent / hashlib.sha256(json.dumps(question).encode()).hexdigest()[:16]

    def read(self) -> dict[int, dict[str, Any]]:
        """What an earlier, unfinished run left.

        Returns:
            Rows of `ChunkResults` by their first position.
        """
        rows = {}
        for path in sorted(self.folder.glob("chunk-*.arrow")):
            with pa.memory_map(str(path)) as source:
                table = pa.ipc.open_file(source).read_all()
                row = {name: np.array(table[name][0].values) for name in table.column_names if name != "problems"}
                rows[int(row["positions"][0])] = {**row, "problems": table["problems"][0].as_py()}
        return rows

    def add(self, row: dict[str, Any]) -> None:
        """Keep a chunk, whole or not at all.

        Args:
            row: a row of `ChunkResults`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        columns = {name: pa.array([value]) for name, value in row.items()}
        with (
            replacing(self.folder / f"chunk-{int(row['positions'][0]):08d}.arrow") as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
        ):
            table = pa.table(columns)
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)

    def remove(self) -> None:
        """Delete the folder, once the results are written."""
        Store(self.folder).clear("chunk-*.arrow", ".chunk-*.part")


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
        Scores, histograms, problems, and whose defects vanish.
    """
    result = ScoredSamples(np.full(len(refs), np.nan), np.full(len(refs), np.nan), {}, {}, [])
    for row in _rows(task, refs, groups, finished, actors):
        positions = row["positions"]
        result.scores[positions], result.uncertainties[positions] = row["scores"], row["uncertainties"]
        problems = zip(positions, json.loads(row["problems"]), strict=True)
        result.problems.update({int(position): problem for position, problem in problems if problem})
        result.vanished.extend(np.asarray(positions)[np.asarray(row["vanished"]) != 0].tolist())
        histogram = PixelHistogram.from_arrays({name: row[f"histogram_{name}"] for name in HISTOGRAM})
        group = groups[positions[0]]
        earlier = result.histograms.get(group)
        result.histograms[group] = histogram if earlier is None else earlier.merge(histogram)
        advance(len(positions))
    return result


def _rows(
    task: ScoringTask, refs: Sequence[SampleRef], groups: Sequence[str], finished: FinishedChunks, actors: int
) -> Iterator[dict[str, Any]]:
    """Rows of all chunks: the finished ones, then the others as they come."""
    earlier = finished.read()
    yield from earlier.values()
    work = [
        {
            "positions": positions,
            "shards": [refs[position].shard for position in positions],
            "rows": [refs[position].row for position in positions],
            "class_names": [refs[position].class_name for position in positions],
            "labels": [refs[position].label for position in positions],
        }
        for positions in chunks(groups)
        if positions[0] not in earlier
    ]
    if not work:
        return
    for row in score_pieces(ShardImages(task), task, work, actors):
        arrays = {name: value if name == "problems" else np.asarray(value) for name, value in row.items()}
        finished.add(arrays)
        yield arrays
