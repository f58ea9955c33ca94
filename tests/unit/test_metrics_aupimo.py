"""AUPIMO against its definition, threshold by threshold and integrated numerically."""

import math

import numpy as np
import pytest
from test_metrics_streaming import smooth_maps

from bayes_pfl.metrics.aupimo import NormalImages, image_aupimo
from bayes_pfl.metrics.streaming import PixelHistogram, image_pixels


def integrated(anomalous, normal_images, points=20_001):
    """Mean over log-spaced rates of the highest recall that a threshold of no higher rate has."""
    scores = np.unique(np.concatenate([*normal_images, anomalous]))
    thresholds = np.append(scores, np.inf)
    ordered = [np.sort(image) for image in normal_images]
    rate = np.mean([1 - np.searchsorted(image, thresholds) / image.size for image in ordered], axis=0)
    recall = 1 - np.searchsorted(np.sort(anomalous), thresholds) / anomalous.size
    edges = np.geomspace(1e-5, 1e-4, points)
    wanted = np.sqrt(edges[1:] * edges[:-1])
    return float(np.mean(recall[np.searchsorted(-rate, -wanted)]))


@pytest.mark.parametrize("sizes", [(320, 320, 320), (300, 150, 600)], ids=["one size", "three sizes"])
@pytest.mark.parametrize("digits", [None, 2], ids=["fine", "tied"])
def test_equal_to_its_definition(sizes, digits):
    random = np.random.default_rng(1)
    shape = (lambda values: values) if digits is None else (lambda values: np.round(values, digits))
    normal = [shape(random.beta(2, 5, size=(size, size))) for size in sizes]
    anomalous = shape(random.beta(60, 12, size=(40, 50)))
    together = NormalImages()
    for image in normal:
        together.add(image_pixels(image, np.zeros_like(image)))
    assert together.reason() is None
    found = image_aupimo(image_pixels(anomalous, np.ones_like(anomalous)), together.rates())
    binned = [np.floor(image.ravel() * 2**20) for image in normal], np.floor(anomalous.ravel() * 2**20)
    expected = integrated(binned[1], binned[0])
    assert found == pytest.approx(expected, abs=2e-4)
    assert 0.01 < expected < 0.99, "an easy case would not show an error"


def test_all_or_nothing():
    normal = NormalImages()
    normal.add(image_pixels(np.full((400, 400), 0.5), np.zeros((400, 400))))
    for score, expected in ((0.6, 1.0), (0.5, 0.0), (0.4, 0.0)):
        image = image_pixels(np.full((3, 3), score), np.eye(3))
        assert image_aupimo(image, normal.rates()) == expected
    assert math.isnan(image_aupimo(image_pixels(np.zeros((3, 3)), np.zeros((3, 3))), normal.rates()))


def test_undefined_without_normal_pixels_enough():
    normal = NormalImages()
    assert normal.reason() == "there is no normal image"
    normal.add(image_pixels(np.full((100, 999), 0.5), np.zeros((100, 999))))
    assert normal.reason() == "normal images have 99,900 pixels, and a rate of 1e-5 needs 100,000"
    normal.add(image_pixels(np.full((10, 10), 0.5), np.zeros((10, 10))))
    assert normal.reason() is None


def test_pixels_of_single_images_add_up_to_the_histogram_of_all():
    maps, masks = smooth_maps(4, 64, -1.0, 1.0)
    together, singly = PixelHistogram(), PixelHistogram()
    inside = [np.arange(64 * 64).reshape(64, 64) % 3 > 0] * 4
    together.update(maps, masks, inside)
    for parts in zip(maps, masks, inside, strict=True):
        singly.count(image_pixels(*parts))
    for name, values in vars(together).items():
        np.testing.assert_array_equal(values, vars(singly)[name])
