"""Risk-coverage curves, calibration errors and scalings against brute force and by hand."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from bayes_pfl.metrics.probability import (
    SHARPEST,
    brier_score,
    equal_mass_bins,
    equal_width_bins,
    expected_calibration_error,
    fit_logistic,
    fit_temperature,
    log_loss,
    logits,
)
from bayes_pfl.metrics.selective import aurc, selective_risks, wrong_told_apart


def test_aurc_by_hand():
    wrong, confidence = np.array([0, 1, 0, 1]), np.array([0.9, 0.8, 0.7, 0.1])
    assert selective_risks(wrong, confidence) == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert aurc(wrong, confidence) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_ties_are_the_mean_over_all_orders():
    wrong, confidence = np.array([1, 0, 0, 1, 0]), np.array([0.5, 0.5, 0.2, 0.2, 0.9])
    curves = []
    for order in itertools.permutations(range(5)):
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order)):
            curves.append(np.cumsum(wrong[list(order)]) / np.arange(1, 6))
    assert len(curves) == 4
    assert selective_risks(wrong, confidence) == pytest.approx(np.mean(curves, axis=0))


def test_no_order_is_better_than_the_oracle_and_a_random_order_has_the_error_rate():
    wrong = np.array([1, 0, 0, 1, 0])
    areas = [aurc(wrong, np.array(order)) for order in itertools.permutations(range(5))]
    assert min(areas) == pytest.approx(aurc(wrong, -wrong))
    assert np.mean(areas) == pytest.approx(wrong.mean())
    assert aurc(wrong, np.zeros(5)) == pytest.approx(wrong.mean())


def test_right_and_wrong_are_told_apart_as_by_another_library():
    random = np.random.default_rng(0)
    wrong, confidence = random.integers(0, 2, 60), random.integers(0, 9, 60)
    assert wrong_told_apart(wrong, confidence) == pytest.approx(roc_auc_score(1 - wrong, confidence))
    assert np.isnan(wrong_told_apart(np.zeros(3), np.arange(3)))


def test_ece_by_hand_with_bins_of_equal_width_and_of_equal_mass():
    probabilities, labels = np.array([0.1, 0.3, 0.6, 0.9]), np.array([0, 1, 1, 1])
    wide = equal_width_bins(probabilities, 2)
    assert wide.tolist() == [0, 0, 1, 1]
    assert expected_calibration_error(probabilities, labels, wide) == pytest.approx(0.5 * 0.3 + 0.5 * 0.25)
    crowded = np.array([0.1, 0.11, 0.12, 0.9])
    assert equal_mass_bins(crowded, 2).tolist() == [0, 0, 1, 1]
    assert equal_mass_bins(np.array([0.5, 0.5, 0.5, 0.9]), 2).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("binned", [equal_width_bins, equal_mass_bins])
def test_ece_by_brute_force(binned):
    random = np.random.default_rng(1)
    probabilities, labels = random.random(300), random.integers(0, 2, 300)
    bins, total = binned(probabilities), 0.0
    for number in range(15):
        inside = bins == number
        if inside.any():
            total += inside.mean() * abs(labels[inside].mean() - probabilities[inside].mean())
    assert set(bins) <= set(range(15))
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(total)


@pytest.mark.parametrize("binned", [equal_width_bins, equal_mass_bins])
def test_perfect_calibration_has_no_error(binned):
    probabilities = np.repeat([0.25, 0.5, 0.75], 4)
    labels = np.array([1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0])
    assert expected_calibration_error(probabilities, labels, binned(probabilities)) == 0
    assert brier_score(probabilities, labels) == pytest.approx((2 * 0.1875 + 0.25) / 3)


@pytest.mark.parametrize("sharpness", [0.05, 0.4, 1.0, 6.0])
def test_temperature_keeps_the_order_and_is_the_likeliest(sharpness):
    random = np.random.default_rng(2)
    values = random.normal(0.3, 1, 200)
    labels = (random.random(200) < 1 / (1 + np.exp(-sharpness * values))).astype(int)
    temperature = fit_temperature(values, labels)
    assert np.array_equal(np.argsort(values / temperature), np.argsort(values))
    assert log_loss(values / temperature, labels) <= log_loss(values, labels)
    best = minimize_scalar(lambda t: log_loss(values / t, labels), bounds=(1 / SHARPEST, SHARPEST), method="bounded")
    assert log_loss(values / temperature, labels) <= best.fun + 1e-9


def test_temperature_is_bounded_where_labels_are_separated_or_turned_around():
    values, labels = np.array([-1.0, -0.5, 0.5, 1.0]), np.array([0, 0, 1, 1])
    assert fit_temperature(values, labels) == pytest.approx(1 / SHARPEST)
    assert fit_temperature(values, 1 - labels) == pytest.approx(SHARPEST)


def test_logistic_scaling_is_that_of_another_library():
    """Softened labels are weighted labels of both kinds."""
    random = np.random.default_rng(3)
    values = random.normal(2, 0.1, 150)
    labels = (random.random(150) < 1 / (1 + np.exp(-10 * (values - 2.05)))).astype(int)
    positive = labels.sum()
    soft = np.where(labels == 1, (positive + 1) / (positive + 2), 1 / (150 - positive + 2))
    model = LogisticRegression(C=1e10, tol=1e-10, max_iter=10_000)
    model.fit(np.tile(values, 2)[:, None] * 10, np.repeat([1, 0], 150), sample_weight=np.concatenate([soft, 1 - soft]))
    slope, offset = fit_logistic(values, labels)
    assert slope == pytest.approx(model.coef_[0, 0] * 10, rel=1e-2)
    assert offset == pytest.approx(model.intercept_[0], rel=1e-2)


def test_logits_are_finite_and_in_order():
    values = logits(np.array([0.0, 0.2, 0.5, 1.0]))
    assert np.isfinite(values).all()
    assert (np.diff(values) > 0).all()
    assert values[2] == 0
