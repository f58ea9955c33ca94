"""The mergeable histogram against the exact metrics, and its indifference to order."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bayes_pfl.errors import DataError
from bayes_pfl.metrics import PixelHistogram, pixel_metrics
from bayes_pfl.metrics.streaming import BINS


def smooth_maps(count: int, size: int, logit: float, spread: float, seed: int = 0):
    """Blurred noise with raised ellipses, as probabilities; the ellipses are the masks."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    maps, masks = [], []
    for _ in range(count):
        noise = ndimage.gaussian_filter(rng.standard_normal((size, size)), 3)
        mask = np.zeros((size, size), dtype=bool)
        for _ in range(3):
            cy, cx = rng.uniform(10, size - 10, 2)
            ry, rx = rng.uniform(4, size / 8, 2)
            mask |= ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        signal = noise / noise.std() + 1.5 * ndimage.gaussian_filter(mask * 1.0, 2)
        maps.append((1 / (1 + np.exp(-(logit + spread * signal)))).astype(np.float32))
        masks.append(mask)
    return maps, masks


def counted(maps, masks) -> PixelHistogram:
    histogram = PixelHistogram()
    histogram.update(maps, masks)
    return histogram


def same_bits(a: PixelHistogram, b: PixelHistogram) -> bool:
    left, right = vars(a), vars(b)
    return all(np.array_equal(left[name], right[name]) for name in left | right)


@pytest.mark.parametrize(
    ("logit", "spread"),
    [(-1.0, 1.0), (-4.0, 1.0), (-6.0, 2.0), (2.0, 1.0), (0.0, 0.1)],
    ids=["wide", "low", "sharp", "high", "narrow"],
)
def test_off_by_at_most_2e_5(logit, spread):
    maps, masks = smooth_maps(24, 224, logit, spread)
    exact, found = pixel_metrics(maps, masks), counted(maps, masks).metrics()
    assert dict(found.values) == pytest.approx(dict(exact.values), abs=2e-5)
    assert 0.05 < exact["pixel_ap"] < 0.95, "an easy case would not show an error"


@pytest.mark.parametrize("levels", [2, 255, 4095])
def test_quantized_maps_are_exact(levels):
    maps, masks = smooth_maps(4, 96, -1.0, 1.0)
    maps = [np.round(m * levels) / levels for m in maps]
    exact = pixel_metrics(maps, masks)
    assert dict(counted(maps, masks).metrics().values) == pytest.approx(dict(exact.values), abs=1e-9)


def test_maps_clipped_at_one_keep_their_ties():
    maps, masks = smooth_maps(24, 224, -1.0, 1.0)
    maps = [np.clip(2 * m, 0, 1) for m in maps]
    exact = pixel_metrics(maps, masks)
    assert dict(counted(maps, masks).metrics().values) == pytest.approx(dict(exact.values), abs=2e-5)


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(6)), st.integers(1, 5))
def test_any_division_among_workers_merged_in_any_order_gives_the_same_bits(order, cut):
    maps, masks = smooth_maps(6, 32, -1.0, 1.0)
    whole = counted(maps, masks)
    workers = [counted([maps[i] for i in part], [masks[i] for i in part]) for part in (order[:cut], order[cut:], [])]
    forward = functools.reduce(PixelHistogram.merge, workers)
    backward = functools.reduce(PixelHistogram.merge, workers[::-1])
    assert same_bits(forward, whole)
    assert same_bits(backward, whole)
    assert forward.metrics() == whole.metrics()


def test_merge_leaves_its_parts_alone():
    maps, masks = smooth_maps(2, 32, -1.0, 1.0)
    a, b = counted(maps[:1], masks[:1]), counted(maps[1:], masks[1:])
    a.merge(b)
    assert same_bits(a, counted(maps[:1], masks[:1]))
    assert same_bits(b, counted(maps[1:], masks[1:]))


def test_memory_does_not_grow_with_the_number_of_maps():
    for histogram in (PixelHistogram(), counted(*smooth_maps(9, 64, -1.0, 1.0))):
        assert sum(array.nbytes for array in vars(histogram).values()) == 24 * BINS


def test_arrays_round_trip(tmp_path):
    histogram = counted(*smooth_maps(2, 32, -1.0, 1.0))
    np.savez(tmp_path / "part.npz", **histogram.to_arrays())
    with np.load(tmp_path / "part.npz") as arrays:
        again = PixelHistogram.from_arrays(arrays)
    assert same_bits(histogram, again)
    again.update(*smooth_maps(1, 32, -1.0, 1.0))
    assert not same_bits(histogram, again)
    assert same_bits(PixelHistogram(), PixelHistogram.from_arrays(PixelHistogram().to_arrays()))


def test_damaged_arrays_are_refused():
    arrays = counted(*smooth_maps(1, 32, -1.0, 1.0)).to_arrays()
    with pytest.raises(DataError, match="region_weight"):
        PixelHistogram.from_arrays({k: v for k, v in arrays.items() if k != "region_weight"})
    with pytest.raises(DataError, match="length"):
        PixelHistogram.from_arrays(arrays | {"normal": np.zeros(3)})
    with pytest.raises(DataError, match="beyond"):
        PixelHistogram.from_arrays(arrays | {"bin": arrays["bin"] + BINS})


def test_both_ends_of_the_range_are_counted():
    ends = np.array([[0.0, 1.0, -1e-8, 1 + 1e-7]])
    histogram = counted([ends], [np.array([[0, 1, 0, 1]])])
    assert histogram.normal[0] == 2
    assert histogram.anomalous[-1] == 2
    assert set(histogram.metrics().values.values()) == {1.0}


@pytest.mark.parametrize("value", [1.5, -0.2, np.nan, np.inf])
@pytest.mark.parametrize("anomalous", [0, 1])
def test_scores_that_are_no_probabilities_are_refused(value, anomalous):
    with pytest.raises(DataError, match="within"):
        counted([np.array([[value, 0.5]])], [np.array([[anomalous, 1 - anomalous]])])


@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        ([], "no pixel"),
        ([np.zeros((2, 2))], "no anomalous pixel, so no region"),
        ([np.ones((2, 2))], "no normal pixel"),
    ],
)
def test_one_class_is_undefined_with_a_reason(masks, reason):
    found = counted([np.eye(2)] * len(masks), masks).metrics()
    assert all(math.isnan(value) for value in found.values.values())
    assert found.undefined == pixel_metrics([np.eye(2)] * len(masks), masks).undefined
    assert reason in found.undefined["pixel_pro"]


def test_rounding_below_zero_is_counted_in_the_lowest_bin():
    mask = np.array([[0, 1]])
    below = counted([np.array([[-9.9e-7, 0.5]])], [mask])
    assert same_bits(below, counted([np.array([[0.0, 0.5]])], [mask]))
    assert below.metrics()["pixel_auroc"] == 1
