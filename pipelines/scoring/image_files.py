"""Files of images -> what `bayes-pfl score` knows of each: score, heat map, regions, or why there is none."""

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from bayes_pfl.data.preprocess import decode, encode_png
from bayes_pfl.inference.heatmap import heat_map, overlay
from bayes_pfl.inference.outlines import outlined_regions
from bayes_pfl.inference.prediction import Prediction
from pipelines.scoring.inputs import ImageInput
from pipelines.scoring.results import ScoredImage
from pipelines.scoring.stages import ReadyImage, Rows, TimedPrediction, seen_by_model
from pipelines.scoring.task import ScoringTask

TILE_PX = 480
"""Longest side of the image and of its map as the gallery shows them beside the overlay."""
OVERLAY_PX = 1024
"""Longest side of a heat map over its image: the map itself is no finer than the model's input."""


def piece(images: Sequence[ImageInput]) -> dict[str, Any]:
    """Images as a piece of work.

    Args:
        images: of the piece.

    Returns:
        Its column.
    """
    return {"images": json.dumps(images)}


def scored_images(row: Mapping[str, Any]) -> list[ScoredImage]:
    """What came of the images of a piece.

    Args:
        row: of a `FileResults`; Ray Data turns None among numbers into NaN.

    Returns:
        One entry for each image.
    """
    columns = zip(*(row[name] for name in ScoredImage._fields), strict=True)
    return [
        ScoredImage(None, None, each.error, None)
        if each.error is not None
        else each._replace(
            image_score=_number(each.image_score),
            uncertainty=_number(each.uncertainty),
            map_maximum=_number(each.map_maximum),
            width=int(each.width or 0),
            height=int(each.height or 0),
        )
        for each in (ScoredImage(*values) for values in columns)
    ]


def _number(value: float | None) -> float | None:
    """A column's number, None for NaN: methods without a distribution have no uncertainty."""
    return None if value is None or math.isnan(value) else float(value)


class ImageFiles:
    """Pieces of `ImageInput` as an `ImageSource`.

    Args:
        task: how images are looked at, and which regions are wanted.
        overlays: whether heat maps are drawn.
    """

    def __init__(self, task: ScoringTask, overlays: bool) -> None:
        self.view, self.image_size, self.region_thresholds = task.view, task.image_size, task.region_thresholds or {}
        self.max_pixels, self.bits, self.overlays = task.max_pixels, task.bits, overlays

    def count(self, rows: Rows) -> int:
        """See `ImageSource`.

        Args:
            rows: a piece.

        Returns:
            Its images.
        """
        return len(json.loads(rows["images"][0]))

    def ready(self, rows: Rows, position: int) -> ReadyImage:
        """See `ImageSource`.

        Args:
            rows: a piece.
            position: of the image in it.

        Returns:
            The image.

        Raises:
            ImageError: it cannot be decoded.
            OSError: its file cannot be read.
        """
        given = ImageInput(*json.loads(rows["images"][0])[position])
        data = given.read()
        decoded = decode(data, self.max_pixels, bits=self.bits)
        thumbnail = None
        if self.overlays:
            thumbnail = decoded.image.copy()
            thumbnail.thumbnail((OVERLAY_PX, OVERLAY_PX))
        seen = seen_by_model(decoded.image, self.view, self.image_size)
        remarks = "; ".join(decoded.remarks) or None
        digest = hashlib.sha256(data).hexdigest()
        return ReadyImage(seen, given.class_name, decoded.image.size, thumbnail, remarks, digest)

    def collector(self, rows: Rows) -> "FileResults":
        """See `ImageSource`.

        Args:
            rows: a piece.

        Returns:
            A collector.
        """
        return FileResults(self, rows)


class FileResults:
    """What came of the images of a piece.

    Args:
        source: of the images.
        rows: the piece.
    """

    def __init__(self, source: ImageFiles, rows: Rows) -> None:
        self.source, self.rows = source, rows
        self.scored: dict[int, ScoredImage] = {}

    def add(self, position: int, ready: ReadyImage, timed: TimedPrediction) -> None:
        """See `Collector`.

        Args:
            position: of the image in its piece.
            ready: the image.
            timed: the prediction of it.
        """
        prediction = timed.prediction
        drawn = image = heat = None
        if ready.thumbnail is not None:
            drawn = encode_png(overlay(ready.thumbnail, prediction.anomaly_map))
            image, heat = _tiles(ready.thumbnail, prediction)
        regions, level = None, self.source.region_thresholds.get(ready.class_name)
        if level is not None:
            outlines = outlined_regions(prediction.anomaly_map, level, *ready.size)
            regions = json.dumps([*ready.size, outlines])
        score, uncertainty = prediction.image_score, prediction.uncertainty
        highest = float(prediction.anomaly_map.max())
        self.scored[position] = ScoredImage(
            score, uncertainty, None, drawn, regions, ready.remarks, ready.sha256, highest, *ready.size, image, heat
        )

    def refuse(self, position: int, reason: str) -> None:
        """See `Collector`.

        Args:
            position: of the image in its piece.
            reason: as a sentence.
        """
        self.scored[position] = ScoredImage(None, None, reason, None)

    def row(self) -> dict[str, Any]:
        """See `Collector`.

        Returns:
            The fields of `ScoredImage` as columns, and the number of the part where the piece has one.
        """
        scored = [self.scored[position] for position in sorted(self.scored)]
        columns = {name: [getattr(result, name) for result in scored] for name in ScoredImage._fields}
        return columns if "part" not in self.rows else {"part": int(self.rows["part"][0]), **columns}


def _tiles(thumbnail: Image.Image, prediction: Prediction) -> tuple[bytes, bytes]:
    """The image as JPEG and its map as PNG, of one size."""
    image, buffer = thumbnail.convert("RGB"), io.BytesIO()
    image.thumbnail((TILE_PX, TILE_PX))
    image.save(buffer, "JPEG", quality=85)
    heat = heat_map(prediction.anomaly_map).resize(image.size, Image.Resampling.BILINEAR)
    return buffer.getvalue(), encode_png(heat)
