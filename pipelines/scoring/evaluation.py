"""Samples of shards -> image scores and pixel histograms, chunk by chunk over the actor pool."""

import hashlib
import json
from collections import Counter
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
from bayes_pfl.data.shards import replacing, require_row
from bayes_pfl.inference.prediction import Prediction
from bayes_pfl.metrics import Metrics, PixelHistogram
from pipelines.scoring.actors import inside_region, read_row, truth_mask
from pipelines.scoring.protocol import map_part
from pipelines.scoring.stages import ReadyImage, Rows, score_pieces, seen_by_model
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
        part = prediction.map_score
        if source.released is not None:
            prediction, part = map_part(source.method, prediction, source.released, source.top_pixels)
        if source.full_resolution:
            prediction = prediction._replace(anomaly_map=scaled_to(prediction.anomaly_map, ready.size))
        truth = truth_mask(source.read(self.rows, position)[1], label, prediction, source.max_pixels)
        inside = inside_region(source.view, truth, label, prediction)
        if truth is not None:
            self.vanished[position] = np.isnan(truth).any()
            self.histogram.update([prediction.anomaly_map], [truth], inside)
        self.scores[position], self.uncertainties[position] = prediction.image_score, _spread(prediction)
        self.text_scores[position], self.map_parts[position] = prediction.text_score, part

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
        question += [task.num_samples, task.seed, task.max_pixels, task.looked_at, task.full_resolution, "parts"]
        question += [] if task.released is None else [task.released.model_dump(), task.top_pixels]
        question += [task.options.model_dump()] if task.options != DetectorOptions() else []
        question += [[ref.sha256, ref.class_name, ref.category, ref.label] for ref in refs]
        self.folder = parent / hashlib.sha256(json.dumps(question).encode()).hexdigest()[:16]

    def positions(self) -> dict[int, list[int]]:
        """Which images an earlier, unfinished run has scored.

        Returns:
            Positions of each chunk's images, by the first of them.
        """
        chunks = (
            self._columns(path, ("positions",))["positions"] for path in sorted(self.folder.glob("chunk-*.arrow"))
        )
        return {int(positions[0]): positions.tolist() for positions in chunks}

    def row(self, first: int) -> dict[str, Any]:
        """One chunk of an earlier run.

        Args:
            first: position of its first image.

        Returns:
            The row of `ChunkResults`.
        """
        return self._columns(self._path(first), None)

    def _path(self, first: int) -> Path:
        return self.folder / f"chunk-{first:08d}.arrow"

    @staticmethod
    def _columns(path: Path, names: Sequence[str] | None) -> dict[str, Any]:
        """Columns of a chunk's file, all of them for None."""
        with pa.memory_map(str(path)) as source:
            schema = pa.ipc.open_file(source).schema
            fields = [schema.get_field_index(name) for name in names or schema.names]
            table = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields)).read_all()
            return {
                name: table[name][0].as_py() if name == "problems" else np.array(table[name][0].values)
                for name in table.column_names
            }

    def add(self, row: dict[str, Any]) -> None:
        """Keep a chunk, whole or not at all.

        Args:
            row: a row of `ChunkResults`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        columns = {name: pa.array([value]) for name, value in row.items()}
        with (
            replacing(self._path(int(row["positions"][0]))) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
        ):
            table = pa.table(columns)
            with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
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
        Scores, pixel metrics, problems, and whose defects vanish.
    """
    scores, uncertainties, text, maps = (np.full(len(refs), np.nan) for _ in range(4))
    result = ScoredSamples(scores, uncertainties, text, maps, {}, {}, [])
    missing, histograms = Counter(groups), dict[str, PixelHistogram]()
    for row in _rows(task, refs, groups, finished, actors):
        positions = row["positions"]
        scores[positions], uncertainties[positions] = row["scores"], row["uncertainties"]
        text[positions], maps[positions] = row["text_scores"], row["map_parts"]
        problems = zip(positions, json.loads(row["problems"]), strict=True)
        result.problems.update({int(position): problem for position, problem in problems if problem})
        result.vanished.extend(np.asarray(positions)[np.asarray(row["vanished"]) != 0].tolist())
        group = groups[positions[0]]
        if group not in histograms:
            histograms[group] = PixelHistogram()
        histograms[group].add({name: row[f"histogram_{name}"] for name in HISTOGRAM})
        missing[group] -= len(positions)
        if not missing[group]:  # chunks come group by group, so few histograms are in memory
            result.pixel[group] = histograms.pop(group).metrics()
        advance(len(positions))
    return result


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
        arrays = {name: value if name == "problems" else np.asarray(value) for name, value in row.items()}
        finished.add(arrays)
        yield arrays


def _spread(prediction: Prediction) -> float:
    """The uncertainty as a column of numbers holds it: NaN where the method has none."""
    return np.nan if prediction.uncertainty is None else prediction.uncertainty
