"""Pixels of single images in the chunks of an evaluation -> AUPIMO, figures by defect and by image, level counts.

Chunks hold the pixels of each image apart, in files. A group (a category of a dataset) is measured when all of its
chunks are there, in two passes over those files. In memory are one image, six histograms of 25 MB and 4.6 KB an image.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bayes_pfl.metrics import Metrics, PixelHistogram
from bayes_pfl.metrics.aupimo import NormalImages, image_aupimo
from bayes_pfl.metrics.levels import LevelCounts, choose_levels, level_counts
from bayes_pfl.metrics.streaming import ImagePixels, image_average_precision

DEFECTS_AT_ONCE = 4
"""Kinds of defect that have a histogram at the same time; more of them take more passes."""

Rows = Callable[[], Iterator[Mapping[str, Any]]]
"""The rows of all chunks of a group, once more with every call."""


class GroupPixels(NamedTuple):
    """What is known of the pixels of a group beside its histogram's metrics; arrays are in the order of `positions`."""

    positions: np.ndarray
    aupimo: Metrics
    by_defect: dict[str, Metrics]
    """Pixel metrics of the normal images and those with one kind of defect."""
    image_ap: np.ndarray
    """Pixel AP of each image; NaN for one without anomalous pixels."""
    image_aupimo: np.ndarray
    counts: LevelCounts
    """Zeros for an image whose pixels are not measured."""


def pixel_columns(images: Sequence[ImagePixels | None]) -> dict[str, np.ndarray]:
    """Pixels of a chunk's images as columns of a row: arrays one behind the other, and how long each is.

    Args:
        images: None for an image whose pixels are not measured.

    Returns:
        Arrays by name.
    """
    empty = ImagePixels(*(np.zeros(0, kind) for kind in (np.uint32, np.uint32, np.uint32, np.uint32, np.int64)))
    whole = [empty if image is None else image for image in images]
    columns = {f"pixels_{name}": np.concatenate([getattr(each, name) for each in whole]) for name in empty._fields}
    sizes = {"normal": [each.normal.size for each in whole], "anomalous": [each.anomalous.size for each in whole]}
    return columns | {f"pixels_{name}_sizes": np.array(size, np.int64) for name, size in sizes.items()}


def images_of_row(row: Mapping[str, Any]) -> Iterator[ImagePixels]:
    """The inverse of `pixel_columns`.

    Args:
        row: with its columns.

    Yields:
        The pixels of each image; none of one whose pixels are not measured.
    """
    ends = {name: np.cumsum(row[f"pixels_{name}_sizes"]) for name in ("normal", "anomalous")}
    for position in range(len(row["positions"])):
        parts = []
        for name in ImagePixels._fields:
            sizes = "normal" if name.startswith("normal") else "anomalous"
            end, size = int(ends[sizes][position]), int(row[f"pixels_{sizes}_sizes"][position])
            parts.append(np.asarray(row[f"pixels_{name}"])[end - size : end])
        yield ImagePixels(*parts)


def measure_group(rows: Rows, labels: Mapping[int, int], defects: Mapping[int, str]) -> GroupPixels:
    """Measure a group whose chunks are all there.

    Args:
        rows: of its chunks.
        labels: of its images, by position.
        defects: kind of defect of its images, by position.

    Returns:
        Its figures.
    """
    normal, everything = NormalImages(), PixelHistogram()
    for position, image in _images(rows):
        everything.count(image)
        if labels[position] == 0:
            normal.add(image)
    kinds = sorted({defects[position] for position, label in labels.items() if label == 1 and defects[position]})
    by_defect = {}
    for start in range(0, len(kinds), DEFECTS_AT_ONCE):
        by_defect.update(_defect_metrics(rows, labels, defects, kinds[start : start + DEFECTS_AT_ONCE]))
    levels, rates = choose_levels(everything), normal.rates()
    single = [
        (position, image_average_precision(image), image_aupimo(image, rates), *level_counts(image, levels))
        for position, image in _images(rows)
    ]
    positions, precision, aupimo, *counts = (np.array(column) for column in zip(*single, strict=True))
    reason = normal.reason()
    if reason is not None:
        aupimo = np.full(len(aupimo), np.nan)
    kind_of = np.array([defects[position] if labels[position] == 1 else "" for position in positions])
    return GroupPixels(
        positions,
        _mean_aupimo(aupimo, reason),
        {kind: metrics | _mean_aupimo(aupimo[kind_of == kind], reason) for kind, metrics in by_defect.items()},
        precision,
        aupimo,
        LevelCounts(*counts),
    )


def _images(rows: Rows) -> Iterator[tuple[int, ImagePixels]]:
    for row in rows():
        yield from zip((int(position) for position in row["positions"]), images_of_row(row), strict=True)


def _defect_metrics(
    rows: Rows, labels: Mapping[int, int], defects: Mapping[int, str], kinds: Sequence[str]
) -> dict[str, Metrics]:
    """Pixel metrics of some kinds of defect, in one pass."""
    normal, histograms = PixelHistogram(), {kind: PixelHistogram() for kind in kinds}
    for position, image in _images(rows):
        if labels[position] == 0:
            normal.count(image)
        elif defects[position] in histograms:
            histograms[defects[position]].count(image)
    return {kind: histograms[kind].merge(normal).metrics() for kind in kinds}


def _mean_aupimo(figures: np.ndarray, reason: str | None) -> Metrics:
    """The mean over anomalous images; NaN stands for the others."""
    anomalous = figures[np.isfinite(figures)]
    if reason is None and not anomalous.size:
        reason = "there is no anomalous pixel"
    value = math.nan if reason is not None else float(np.mean(anomalous))
    return Metrics({"pixel_aupimo": value}, {} if reason is None else {"pixel_aupimo": reason})
