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
from bayes_pfl.errors import BayesPFLError
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.prediction import Prediction
from bayes_pfl.inference.view import WHOLE, View
from bayes_pfl.metrics import PixelHistogram
from pipelines.scoring.actors import inside_region, load_detector, read_row, through_actors, truth_mask

CHUNK = 16
"""Images of one category that go through an actor as one piece of work, and what a killed evaluation loses at most."""

HISTOGRAM = ("bin", "normal", "anomalous", "region_weight")


class ScoringTask(NamedTuple):
    """What is asked of the actors: the model, and how it predicts."""

    bundle: Bundle
    num_samples: int
    seed: int
    threads: int
    device: str
    max_pixels: int
    view: View = WHOLE
    """How images are looked at."""
    region_threshold: float | None = None
    """Map value from which a pixel belongs to a region; None: no regions are wanted."""
    full_resolution: bool = False
    """Whether maps are scaled up to the images before pixels are counted."""
    bits: int | None = None
    """Of gray images with more than 8; None: as each file or its values say."""
    options: DetectorOptions = DetectorOptions()
    """How the model computes."""

    @property
    def looked_at(self) -> str:
        """The way of looking in words: what a threshold belongs to."""
        return self.view.name(self.bundle.config.backbone.image_size)

    def predict(self, detector: Detector, image: Image.Image, class_name: str) -> Prediction:
        """The prediction of one image.

        Args:
            detector: the model.
            image: its pixels.
            class_name: what it shows.

        Returns:
            The numbers of `Detector.predict_view`.

        Raises:
            ClassNameError: the name is blank or too long.
            ImageError: the image is too narrow for tiles, or the region does not fit it.
        """
        return detector.predict_view(image, class_name, self.view, self.num_samples, self.seed)

    def predict_all(
        self, detector: Detector, images: Sequence[Image.Image], class_names: Sequence[str]
    ) -> list[Prediction]:
        """Predictions of several images; whole ones go together where the detector scores them so.

        Args:
            detector: the model.
            images: their pixels.
            class_names: what they show.

        Returns:
            One for each image.

        Raises:
            ClassNameError: as `predict`, and `ImageError`.
        """
        if self.view == WHOLE and len(images) > 1:
            return detector.predict(images, class_names, self.num_samples, self.seed)
        return [self.predict(detector, *pair) for pair in zip(images, class_names, strict=True)]


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


class ChunkScorer:
    """One actor's detector; a call scores one chunk."""

    def __init__(self, task: ScoringTask) -> None:
        self._task = task
        self._detector = load_detector(task.bundle, task.threads, task.device, task.options)
        self._opened: dict[str, pa.Table] = {}

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        columns = ("shards", "rows", "class_names", "labels")
        shards, numbers, names, labels = (rows[name][0].tolist() for name in columns)
        histogram = PixelHistogram()
        scores, uncertainties, problems, vanished = [], [], [], []
        for shard, row, name, label in zip(shards, numbers, names, labels, strict=True):
            score, uncertainty, problem, lost = np.nan, np.nan, "", False
            try:
                image, mask = read_row(shard, row, self._opened)
                pixels = decode_image(image, self._task.max_pixels)
                prediction = self._task.predict(self._detector, pixels, name)
                if self._task.full_resolution:
                    prediction = prediction._replace(anomaly_map=scaled_to(prediction.anomaly_map, pixels.size))
                truth = truth_mask(mask, label, prediction, self._task.max_pixels)
                inside = inside_region(self._task.view, truth, label, prediction)
                if truth is not None:
                    lost = bool(np.isnan(truth).any())
                    histogram.update([prediction.anomaly_map], [truth], inside)
                score, uncertainty = prediction.image_score, _spread(prediction)
            except BayesPFLError as error:  # one image never ends an evaluation: it is listed
                problem = str(error)
            scores.append(score)
            uncertainties.append(uncertainty)
            problems.append(problem)
            vanished.append(lost)
        output: dict[str, Any] = {
            "positions": [np.asarray(rows["positions"][0], np.int64)],
            "scores": [np.array(scores)],
            "uncertainties": [np.array(uncertainties)],
            "problems": [json.dumps(problems)],
            "vanished": [np.array(vanished, np.int64)],
        }
        for name, values in histogram.to_arrays().items():
            output[f"histogram_{name}"] = [values]
        return output


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
            Rows of `ChunkScorer` by their first position.
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
            row: a row of `ChunkScorer`.
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
    for row in through_actors(work, ChunkScorer, {"task": task}, actors, task.device == "cuda"):
        arrays = {name: value if name == "problems" else np.asarray(value) for name, value in row.items()}
        finished.add(arrays)
        yield arrays


def _spread(prediction: Prediction) -> float:
    """The uncertainty as a column of numbers holds it: NaN where the method has none."""
    return np.nan if prediction.uncertainty is None else prediction.uncertainty
