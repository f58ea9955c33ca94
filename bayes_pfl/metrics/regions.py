"""One map and its mask -> scores of normal and of anomalous pixels, and the latter's regions."""

from collections.abc import Iterable, Iterator
from itertools import repeat, zip_longest
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import ndimage

from bayes_pfl.errors import DataError

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
"""Pixels that touch by a side or a corner belong to one region, as in the published evaluations."""


class PixelSplit(NamedTuple):
    """The pixels of one image by class; `region_area[i]` is the size in pixels of i's region."""

    normal: Float[np.ndarray, " normal"]
    anomalous: Float[np.ndarray, " anomalous"]
    region_area: Int[np.ndarray, " anomalous"]


def split_pixels(
    maps: Iterable[np.ndarray],
    masks: Iterable[np.ndarray],
    inside: Iterable[np.ndarray] | None = None,
) -> Iterator[PixelSplit]:
    """The pixels of each pair; a mask is anomalous where it is not 0, and NaN where a pixel is of neither class.

    Images may differ in size.

    Args:
        maps: scores (height, width) of each image.
        masks: the same shapes.
        inside: the same shapes, True where pixels count; None: everywhere.

    Yields:
        The pixels of one image, by class.

    Raises:
        DataError: a map is not two-dimensional or its mask has another shape, a mask holds values
            between 0 and 1, or there are more maps than masks or the reverse.
    """
    counted = repeat(None) if inside is None else iter(inside)
    for index, (scores, mask) in enumerate(zip_longest(maps, masks)):
        if scores is None or mask is None:
            raise DataError(f"Map {index} and mask {index} must both be there: give each map its mask.")
        yield _split(index, np.asarray(scores), np.asarray(mask), next(counted))


def as_floats(scores: Shaped[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """float32 as it is, half precision widened to it, everything else as float64: order is kept.

    Args:
        scores: numbers of any type.

    Returns:
        The same shape.
    """
    if scores.dtype == np.float32:
        return scores
    return scores.astype(np.float32 if scores.dtype == np.float16 else np.float64)


def _split(index: int, scores: np.ndarray, mask: np.ndarray, inside: np.ndarray | None) -> PixelSplit:
    if scores.ndim != 2 or mask.shape != scores.shape:
        raise DataError(
            f"Map {index} has shape {scores.shape} and its mask {mask.shape}: "
            "resize the mask to the map's height and width."
        )
    ignored = np.isnan(mask) if mask.dtype.kind == "f" else np.zeros(mask.shape, bool)
    anomalous = (mask != 0) & ~ignored
    if mask.dtype.kind == "f" and not np.array_equal(anomalous[~ignored], mask[~ignored]):
        raise DataError(f"Mask {index} holds values between 0 and 1: binarize it first.")
    scores = as_floats(scores)
    normal = ~(anomalous | ignored)
    if inside is not None:
        anomalous, normal = anomalous & inside, normal & inside
    if not anomalous.any():
        none = scores[:0, 0]
        return PixelSplit(scores[normal], none, none.astype(np.int64))
    return PixelSplit(scores[normal], scores[anomalous], _region_area(anomalous))


def _region_area(anomalous: Bool[np.ndarray, "height width"]) -> Int[np.ndarray, " anomalous"]:
    """The area of each anomalous pixel's region, pixels in row-major order."""
    # Labelling costs more than all else here, and defects are small: label their bounding box.
    rows = np.flatnonzero(anomalous.any(axis=1))
    columns = np.flatnonzero(anomalous.any(axis=0))
    box = anomalous[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    labels, _ = ndimage.label(box, structure=EIGHT_NEIGHBOURS)
    labels = labels[box]
    area: np.ndarray = np.bincount(labels)[labels]
    return area
