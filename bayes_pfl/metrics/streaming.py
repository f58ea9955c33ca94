"""Maps and masks, one by one -> pixel metrics in fixed memory: counts per score bin, which add up across workers."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from bayes_pfl.errors import DataError
from bayes_pfl.metrics.curve import (
    PIXEL_METRICS,
    BestF1,
    Curve,
    average_precision,
    best_f1,
    one_class_reason,
    read_off,
    undefined,
)
from bayes_pfl.metrics.regions import PixelSplit, split_pixels
from bayes_pfl.metrics.result import Metrics

BINS = 1 << 20
"""Bins of equal width over [0, 1].

With 65,536, AP and F1-max were up to 2e-4 off on maps that use a tenth of [0, 1] or less: AP
because a bin is taken for a tie, F1-max because it is a maximum over bin edges only.
"""

ROUNDING = 1e-6
"""Scores this far outside [0, 1] are the rounding of an average or a blur, and are clamped."""

REGION_UNIT = 1 << 40
"""What the pixels of one region weigh together.

Weights are integers because integers add up to the same sum in any order, which floats do not.
Rounding misjudges a region of 2^20 pixels by 5e-7 of its weight; 2^23 regions fill 64 bits.
"""


class ImagePixels(NamedTuple):
    """Pixels of one image in the bins of `PixelHistogram` that it uses, bins in rising order.

    normal: pixels in each of `normal_bins`.
    anomalous: pixels in each of `anomalous_bins`.
    region_weight: sum over a bin's anomalous pixels of REGION_UNIT / (area of its region).
    """

    normal_bins: Shaped[np.ndarray, " normal"]
    normal: Shaped[np.ndarray, " normal"]
    anomalous_bins: Shaped[np.ndarray, " anomalous"]
    anomalous: Shaped[np.ndarray, " anomalous"]
    region_weight: Int[np.ndarray, " anomalous"]


def image_pixels(anomaly_map: np.ndarray, mask: np.ndarray, inside: np.ndarray | None = None) -> ImagePixels:
    """The pixels of one map, counted.

    Args:
        anomaly_map: probabilities (height, width).
        mask: the same shape; anomalous where not 0, of neither class where NaN.
        inside: the same shape, True where pixels count; None: everywhere.

    Returns:
        Its counts, with bins of 4 bytes.

    Raises:
        DataError: map and mask do not fit each other, or a score is not within [0, 1].
    """
    (pixels,) = split_pixels([anomaly_map], [mask], None if inside is None else [inside])
    return _image_pixels(pixels)


def _image_pixels(pixels: PixelSplit) -> ImagePixels:
    normal_bins, normal = np.unique(_bins(pixels.normal).astype(np.uint32), return_counts=True)
    bins, place_of, anomalous = np.unique(
        _bins(pixels.anomalous).astype(np.uint32), return_inverse=True, return_counts=True
    )
    weight = np.zeros(bins.size, np.int64)
    np.add.at(weight, place_of, np.rint(REGION_UNIT / pixels.region_area).astype(np.int64))
    return ImagePixels(normal_bins, normal.astype(np.uint32), bins, anomalous.astype(np.uint32), weight)


def image_average_precision(image: ImagePixels) -> float:
    """Average precision of one image's pixels.

    Args:
        image: its pixels.

    Returns:
        A figure in [0, 1]; NaN where a kind of pixel is missing.
    """
    if not image.normal.size or not image.anomalous.size:
        return math.nan
    below = np.concatenate(([0], np.cumsum(image.normal, dtype=np.int64)))
    falling = image.anomalous_bins[::-1]
    alarms_above, alarms = (
        (below[-1] - below[np.searchsorted(image.normal_bins, falling, side)]).astype(float)
        for side in ("right", "left")
    )
    hits = np.cumsum(image.anomalous[::-1], dtype=np.int64).astype(float)
    return average_precision(Curve(hits, alarms_above, alarms, None, int(below[-1])))


class PixelHistogram:
    """Counts of normal and anomalous pixels per bin; 25 MB whatever the number of maps: hold few of them at a time.

    Merging in any order, and any division of the maps among workers, gives the same bits. The
    metrics differ from the exact ones only by the order of pixels inside a bin: by at most 2e-5
    for a million pixels that use a tenth of [0, 1] or more, and not at all where no bin holds two
    different scores. Few pixels belong into `pixel_metrics`: there one pixel's place in the order
    moves F1-max by as much as 1 / (number of anomalous pixels).

    normal, anomalous: pixels in each bin.
    region_weight: sum over a bin's anomalous pixels of REGION_UNIT / (area of its region).

    >>> import numpy as np
    >>> mask = np.array([[0, 0, 0], [0, 1, 1], [0, 0, 0]])
    >>> maps = np.array([[0.1, 0.1, 0.1], [0.1, 0.9, 0.4], [0.1, 0.6, 0.1]])
    >>> left, right = PixelHistogram(), PixelHistogram()
    >>> left.update([maps], [mask])
    >>> right.update([maps.T], [mask.T])
    >>> round(left.merge(right).metrics()["pixel_auroc"], 3)
    0.929
    """

    def __init__(self) -> None:
        self.normal = np.zeros(BINS, dtype=np.int64)
        self.anomalous = np.zeros(BINS, dtype=np.int64)
        self.region_weight = np.zeros(BINS, dtype=np.int64)

    def update(
        self,
        maps: Iterable[np.ndarray],
        masks: Iterable[np.ndarray],
        inside: Iterable[np.ndarray] | None = None,
    ) -> None:
        """Count the pixels of more maps.

        Args:
            maps: probabilities (height, width) of each image.
            masks: the same shapes; anomalous where not 0.
            inside: the same shapes, True where pixels count; None: everywhere.

        Raises:
            DataError: a map and its mask do not fit each other, or a score is not within [0, 1];
                the maps before it are counted.
        """
        for pixels in split_pixels(maps, masks, inside):
            normal, anomalous = _bins(pixels.normal), _bins(pixels.anomalous)
            weight = np.rint(REGION_UNIT / pixels.region_area).astype(np.int64)
            np.add.at(self.normal, normal, 1)
            np.add.at(self.anomalous, anomalous, 1)
            np.add.at(self.region_weight, anomalous, weight)

    def count(self, image: ImagePixels) -> None:
        """Count the pixels of one more map.

        Args:
            image: of `image_pixels`.
        """
        self.normal[image.normal_bins] += image.normal
        self.anomalous[image.anomalous_bins] += image.anomalous
        self.region_weight[image.anomalous_bins] += image.region_weight

    def merge(self, other: "PixelHistogram") -> "PixelHistogram":
        """A histogram of the maps of both; neither is changed.

        Args:
            other: counts of other maps.

        Returns:
            The sum.
        """
        both = PixelHistogram()
        both.normal = self.normal + other.normal
        both.anomalous = self.anomalous + other.anomalous
        both.region_weight = self.region_weight + other.region_weight
        return both

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add the maps of another histogram to this one; only the bins that the other uses are touched.

        Args:
            arrays: of the other's `to_arrays`.

        Raises:
            DataError: an array is missing, their lengths differ, or a bin is out of range; nothing is added.
        """
        names = ("bin", *vars(self))
        if missing := [name for name in names if name not in arrays]:
            raise DataError(f"The histogram has no {', '.join(missing)}: write it with to_arrays.")
        used = np.asarray(arrays["bin"])
        if any(np.shape(arrays[name]) != used.shape for name in names):
            raise DataError("The histogram's arrays differ in length: write them with to_arrays.")
        if used.size and not 0 <= used.min() <= used.max() < BINS:
            raise DataError(f"The histogram has bins beyond {BINS}: count its maps anew.")
        for name, counts in vars(self).items():
            counts[used] += arrays[name]

    def metrics(self) -> Metrics:
        """pixel_auroc, pixel_pro, pixel_ap and pixel_f1_max of everything counted so far.

        Returns:
            Figures in [0, 1] by name; NaN with a reason where one class is missing.
        """
        normal, anomalous = int(self.normal.sum()), int(self.anomalous.sum())
        if reason := one_class_reason("pixel", anomalous, normal):
            return undefined(PIXEL_METRICS, reason)
        return read_off(PIXEL_METRICS, self._curve(normal))

    def best_f1(self) -> BestF1 | None:
        """The threshold of pixel_f1_max, the lower edge of its bin, and the F1 of calling every pixel anomalous.

        Returns:
            Both; None where one class is missing.
        """
        normal = int(self.normal.sum())
        if one_class_reason("pixel", int(self.anomalous.sum()), normal):
            return None
        return best_f1(self._curve(normal), np.flatnonzero(self.anomalous)[::-1] / BINS)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The bins in use as arrays of one length, to send to another process or to save.

        Returns:
            `bin`, `normal`, `anomalous` and `region_weight`.
        """
        used = np.flatnonzero(self.normal | self.anomalous)
        return {"bin": used} | {name: counts[used] for name, counts in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "PixelHistogram":
        """The inverse of `to_arrays`.

        Args:
            arrays: of `to_arrays`.

        Returns:
            The histogram.

        Raises:
            DataError: an array is missing, their lengths differ, or a bin is out of range.
        """
        histogram = cls()
        histogram.add(arrays)
        return histogram

    def _curve(self, normal_total: int) -> Curve:
        used = np.flatnonzero(self.anomalous)[::-1]
        alarms = np.cumsum(self.normal[::-1])[BINS - 1 - used].astype(float)
        covered = np.cumsum(self.region_weight[used]).astype(float)
        return Curve(
            hits=np.cumsum(self.anomalous[used]).astype(float),
            alarms_above=alarms - self.normal[used],
            alarms=alarms,
            overlap=covered / covered[-1],
            normal=normal_total,
        )


def _bins(scores: Float[np.ndarray, " pixels"]) -> Int[np.ndarray, " pixels"]:
    # Written so that NaN, which compares false, is refused too.
    if scores.size and not (scores.min() >= -ROUNDING and scores.max() <= 1 + ROUNDING):
        raise DataError(
            f"Scores from {scores.min():.4g} to {scores.max():.4g} are no probabilities: "
            "PixelHistogram needs maps within [0, 1]; pixel_metrics takes any finite scores."
        )
    return np.clip((scores * BINS).astype(np.int64), 0, BINS - 1)
