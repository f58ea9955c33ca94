"""Outlines of regions: drawn again they give the very pixels, whatever the shape; boxes and areas agree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon

from bayes_pfl.inference.outlines import outlined_regions, polygons_of


def painted(polygons, rows, columns):
    """How many polygons cover each pixel's centre."""
    y, x = np.mgrid[:rows, :columns] + 0.5
    centres = np.stack([x.ravel(), y.ravel()], 1)
    cover = np.zeros(rows * columns, int)
    for corners in polygons:
        cover += Polygon([*corners, corners[0]], closed=True).contains_points(centres)
    return cover.reshape(rows, columns)


def shoelace(corners):
    x, y = np.array(corners, float).T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


@settings(max_examples=80, deadline=None)
@given(bits=st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=9))
def test_polygons_cover_the_mask_exactly_once(bits):
    width = min(map(len, bits))
    mask = np.array([row[:width] for row in bits])
    polygons = polygons_of(mask)
    assert np.array_equal(painted(polygons, *mask.shape), mask.astype(int))
    assert sum(map(shoelace, polygons)) == mask.sum()


def test_a_ring_in_a_ring_has_no_hole_filled():
    mask = np.zeros((9, 9), bool)
    mask[0:9, 0:9] = True
    mask[1:8, 1:8] = False
    mask[2:7, 2:7] = True
    mask[4, 4] = False
    assert np.array_equal(painted(polygons_of(mask), 9, 9), mask.astype(int))


def test_regions_are_in_pixels_of_the_image():
    anomaly_map = np.zeros((10, 20), np.float32)
    anomaly_map[2:4, 3:6] = 0.7
    anomaly_map[4, 6] = 0.9  # touches by a corner
    anomaly_map[8, 0] = 0.5
    first, second = outlined_regions(anomaly_map, 0.5, 40, 50)
    assert (first.box, second.box) == ((6, 10, 8, 15), (0, 40, 2, 5))
    assert (first.area, second.area) == (7 * 2 * 5, 2 * 5)
    assert first.score == pytest.approx(0.9)
    assert len(first.polygons) == 2
    assert sum(shoelace(np.reshape(polygon, (-1, 2))) for polygon in first.polygons) == first.area
    assert outlined_regions(anomaly_map, 0.95, 40, 50) == []
