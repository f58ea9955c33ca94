"""Paired differences: against sets written out, under no difference, and with a known one."""

import numpy as np
import pytest
from scipy.stats import kstest, norm

from bayes_pfl.metrics import image_metrics
from bayes_pfl.metrics.paired import difference, holm, placements
from bayes_pfl.metrics.resampling import image_replicates, image_weights, interval


def two_models(random, count, gain):
    """Scores of two models that find the same images hard; the first tells more of them."""
    labels = np.arange(count) % 2
    hard = random.normal(size=count)
    scores = [hard + random.normal(size=count) * 0.7 + labels * (1 + extra) for extra in (gain, 0)]
    return scores, labels


def measured(scores, labels, keys, sets=500):
    weights = image_weights(keys, labels, 0, sets)
    values = [image_metrics(each, labels)["image_auroc"] for each in scores]
    return difference(tuple(values), tuple(image_replicates(each, labels, weights)["image_auroc"] for each in scores))


def test_the_same_sets_are_measured_for_both_so_hard_images_cancel_out():
    scores, labels = two_models(np.random.default_rng(0), 120, 0.3)
    keys = [str(n) for n in range(120)]
    found = measured(scores, labels, keys)
    weights = image_weights(keys, labels, 0, 500)
    drawn = []
    for times in weights:
        rows = np.repeat(np.arange(120), times.astype(int))
        first, second = (image_metrics(each[rows], labels[rows])["image_auroc"] for each in scores)
        drawn.append(first - second)
    expected = interval(drawn[0], np.array(drawn))
    assert (found.value, found.low, found.high) == pytest.approx((drawn[0], *expected), abs=1e-9)
    alone = [interval(drawn[0], image_replicates(each, labels, weights)["image_auroc"]) for each in scores]
    unpaired = np.hypot(*(high - low for low, high in alone))
    assert found.high - found.low < 0.85 * unpaired


def test_the_p_value_is_where_the_interval_reaches_zero():
    for shift in (0.05, 0.5, 2.0, 3.0):
        drawn = np.append(shift, np.random.default_rng(1).normal(shift + 0.2, 1, 20_000))
        found = difference((shift, 0.0), (drawn, np.zeros_like(drawn)))
        z0 = norm.ppf(np.mean(drawn[1:] < shift))
        assert found.p_value == pytest.approx(2 * norm.cdf(-abs(norm.ppf(np.mean(drawn[1:] < 0)) - 2 * z0)), rel=1e-3)
        assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)


def test_without_a_difference_p_values_are_even_and_with_one_small():
    random, none, real = np.random.default_rng(3), [], []
    for number in range(200):
        keys = [f"{number}-{n}" for n in range(100)]
        none.append(measured(*two_models(random, 100, 0.0), keys, sets=300).p_value)
        real.append(measured(*two_models(random, 100, 0.8), keys, sets=300).p_value)
    assert np.mean(np.array(none) < 0.05) == pytest.approx(0.05, abs=0.046)  # three standard deviations
    assert kstest(none, "uniform").pvalue > 1e-3
    assert np.mean(np.array(real) < 0.05) > 0.5


def test_a_model_against_itself_differs_in_nothing():
    scores, labels = two_models(np.random.default_rng(0), 40, 0.0)
    assert measured([scores[0]] * 2, labels, [str(n) for n in range(40)]) == (0.0, 0.0, 0.0, 1.0)
    assert difference((np.nan, 0.5), (np.full(9, np.nan), np.full(9, 0.5))) is None


def test_holm_corrects_no_more_than_needed():
    assert holm([0.005, 0.9, 0.02, 0.02]) == pytest.approx([0.02, 0.9, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_placements_average_to_the_auroc():
    random = np.random.default_rng(5)
    labels = random.integers(0, 2, 60)
    scores = np.round(random.normal(size=60) + labels, 1)
    auroc = image_metrics(scores, labels)["image_auroc"]
    for label in (0, 1):
        assert placements(scores, labels)[labels == label].mean() == pytest.approx(auroc, abs=1e-12)
    assert np.isnan(placements([0.1, 0.2], [1, 1])).all()
