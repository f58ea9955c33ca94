"""Intervals of every figure: against sets written out and measured exactly, over simulated datasets, and one-sided ones."""

import numpy as np
import pytest
from scipy.stats import norm
from test_metrics_streaming import smooth_maps

from bayes_pfl.metrics import image_metrics, pixel_metrics
from bayes_pfl.metrics.aupimo import NormalImages, image_aupimo
from bayes_pfl.metrics.levels import LEVELS, LevelCounts, choose_levels, level_counts
from bayes_pfl.metrics.resampling import (
    image_replicates,
    image_weights,
    interval,
    mean_replicates,
    pixel_replicates,
    too_few,
)
from bayes_pfl.metrics.streaming import PixelHistogram, image_pixels


def counted(maps, masks) -> LevelCounts:
    images, histogram = [image_pixels(*pair) for pair in zip(maps, masks, strict=True)], PixelHistogram()
    for image in images:
        histogram.count(image)
    levels = choose_levels(histogram)
    return LevelCounts(*(np.stack(parts) for parts in zip(*(level_counts(i, levels) for i in images), strict=True)))


def exact_aupimo(maps, masks, labels) -> float:
    normal, images = NormalImages(), [image_pixels(*pair) for pair in zip(maps, masks, strict=True)]
    for image, label in zip(images, labels, strict=True):
        if label == 0:
            normal.add(image)
    return float(np.nanmean([image_aupimo(image, normal.rates()) for image in images]))


def coarse_maps(count: int, levels: int, seed: int = 0):
    """Maps with few distinct scores, half of them of normal images, and their masks and labels."""
    maps, masks = smooth_maps(count, 40, 0.0, 1.0, seed)
    labels = np.arange(count) % 2
    return [np.round(m * levels) / levels for m in maps], [m * k for m, k in zip(masks, labels, strict=True)], labels


def repeated(values, weights):
    """Values of a set of images, as often as each was drawn."""
    return [value for value, times in zip(values, weights, strict=True) for _ in range(int(times))]


def test_every_set_has_the_exact_figures_of_its_images():
    maps, masks, labels = coarse_maps(12, 200)
    scores = np.round(np.random.default_rng(0).random(12) + 0.2 * labels, 1)
    weights = image_weights([f"{n:03d}" for n in range(12)], labels, 5, 6)
    image = image_replicates(scores, labels, weights)
    pixel = pixel_replicates(counted(maps, masks), labels, weights, aupimo=True)
    for number, times in enumerate(weights):
        assert (times[labels == 0].sum(), times[labels == 1].sum()) == (6, 6)
        expected = image_metrics(*(np.array(repeated(each, times)) for each in (scores, labels))).values
        drawn = repeated(maps, times), repeated(masks, times)
        expected = (
            expected | pixel_metrics(*drawn).values | {"pixel_aupimo": exact_aupimo(*drawn, repeated(labels, times))}
        )
        found = {name: values[number] for name, values in {**image, **pixel}.items()}
        assert found == pytest.approx(expected, abs=1e-6)
    assert len({tuple(row) for row in weights}) == 7


def test_levels_cost_an_interval_little():
    maps, masks = smooth_maps(24, 96, -2.0, 1.0)
    labels = np.arange(24) % 2
    masks = [mask & bool(label) for mask, label in zip(masks, labels, strict=True)]
    maps = [m + 0.4 * (1 - m) * k * m for m, k in zip(maps, masks, strict=True)]
    counts = counted(maps, masks)
    assert counts.normal.shape[1] <= LEVELS
    weights = image_weights([str(n) for n in range(24)], labels, 0, 25)
    found = pixel_replicates(counts, labels, weights, aupimo=True)
    exact = {name: [] for name in found}
    for times in weights:
        drawn = repeated(maps, times), repeated(masks, times)
        values = pixel_metrics(*drawn).values | {"pixel_aupimo": exact_aupimo(*drawn, repeated(labels, times))}
        for name, value in values.items():
            exact[name].append(value)
    for name, values in exact.items():
        moved, expected = found[name] - found[name][0], np.array(values) - values[0]
        np.testing.assert_allclose(moved, expected, atol=2e-3, err_msg=name)
        assert np.ptp(expected) > 0.01, "a narrow spread would not show an error"


def test_an_interval_corrects_the_bias_of_its_sets():
    drawn = np.sort(np.random.default_rng(0).normal(0.6, 0.1, 4000))
    unbiased, biased = interval(0.5, np.append(np.median(drawn), drawn)), interval(0.6, np.append(drawn[1000], drawn))
    assert unbiased == pytest.approx(np.quantile(drawn, [0.025, 0.975]) + 0.5 - np.median(drawn), abs=1e-3)
    ranks = norm.cdf(2 * norm.ppf(0.25) + norm.ppf([0.025, 0.975]))
    assert biased == pytest.approx(np.quantile(drawn, ranks) + 0.6 - drawn[1000], abs=1e-3)
    assert interval(0.7, np.full(50, 0.7)) == (0.7, 0.7)


def test_intervals_hold_the_true_figure_about_as_often_as_they_say():
    random, repeats = np.random.default_rng(7), 400
    labels = np.repeat([0, 1], 60)
    large = np.repeat([0, 1], 100_000)
    truth = image_metrics(random.normal(size=200_000) + large, large).values
    held = dict.fromkeys(truth, 0)
    for number in range(repeats):
        scores = random.normal(size=120) + labels
        drawn = image_replicates(scores, labels, image_weights([f"{number}-{n}" for n in range(120)], labels, 0, 400))
        for name, value in image_metrics(scores, labels).values.items():
            low, high = interval(value, drawn[name])
            held[name] += low <= truth[name] <= high
    # 95 % of 400 are 380; three standard deviations of a binomial are 13.
    assert held["image_auroc"] / repeats == pytest.approx(0.95, abs=0.033)
    assert held["image_ap"] / repeats == pytest.approx(0.95, abs=0.033)
    assert 0.8 < held["image_f1_max"] / repeats < 0.95, "docs/scoring.md says that those of F1-max hold it less often"


def test_intervals_of_pixels_hold_the_true_figure_because_whole_images_are_drawn():
    random, repeats, held, levels = np.random.default_rng(8), 300, 0, 64
    anomalous = np.arange(40) < 10

    def scores(count):
        """Images of 10 anomalous and 30 normal pixels; what an image adds to all of its pixels is its own."""
        pixels = random.normal(size=(count, 40)) + random.normal(size=(count, 1)) + anomalous
        return np.clip((pixels + 6) * levels / 12, 0, levels - 1).astype(int)

    def counts(pixels):
        at_level = np.eye(levels)[pixels]
        return at_level[:, ~anomalous].sum(1), at_level[:, anomalous].sum(1)

    large = scores(40_000)
    truth = image_metrics(large.ravel(), np.tile(anomalous, len(large)).astype(int))["image_auroc"]
    for number in range(repeats):
        normal, defective = counts(scores(50))
        weights = image_weights([f"{number}-{n}" for n in range(50)], np.ones(50, int), 0, 300)
        level_counts = LevelCounts(normal, defective, defective / 10)
        drawn = pixel_replicates(level_counts, np.ones(50, int), weights, aupimo=False)["pixel_auroc"]
        low, high = interval(drawn[0], drawn)
        held += low <= truth <= high
    assert held / repeats == pytest.approx(0.95, abs=0.038)


def test_draws_follow_seed_and_keys_not_order():
    keys, labels = [f"{n * 37 % 100:02d}" for n in range(30)], np.arange(30) % 2
    weights, order = image_weights(keys, labels, 3, 50), np.random.default_rng(0).permutation(30)
    shuffled = image_weights([keys[n] for n in order], labels[order], 3, 50)
    np.testing.assert_array_equal(shuffled, weights[:, order])
    assert not np.array_equal(weights, image_weights(keys, labels, 4, 50))
    assert not np.array_equal(weights, image_weights([f"x{key}" for key in keys], labels, 3, 50))


def test_one_kind_alone_has_no_figure_and_few_images_no_interval():
    maps, masks, _ = coarse_maps(6, 50)
    for labels in ([0] * 6, [1] * 6):
        weights = image_weights([str(n) for n in range(6)], labels, 0, 5)
        assert image_replicates(np.arange(6), labels, weights) == {}
    empty = [np.zeros_like(mask) for mask in masks]
    assert pixel_replicates(counted(maps, empty), [0] * 6, weights, aupimo=False) == {}
    assert too_few([0] * 9) is None
    assert too_few([0] * 5 + [1] * 5) is None
    assert too_few([0] * 9 + [1]) == "1 anomalous image is too few to resample: an interval needs 5"
    assert too_few([0] * 4 + [1] * 9) == "4 normal images are too few to resample: an interval needs 5"
    assert interval(np.nan, np.array([np.nan, np.nan])) is None


def test_the_mean_of_sets_leaves_out_what_a_category_lacks():
    left, right = {"a": np.array([0.2, 0.4]), "b": np.array([1.0, 0.0])}, {"a": np.array([0.6, 0.6])}
    mean = mean_replicates([left, right])
    assert {name: values.tolist() for name, values in mean.items()} == {"a": [0.4, 0.5], "b": [1.0, 0.0]}
