"""Scores in (0, 1) read as probabilities of a defect -> how far they are off, and the scalings that mend them."""

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import expit, logit

NEAREST = 1e-6
"""To 0 and 1 that a score is taken for: the logit of these is infinite."""
SHARPEST = 100.0
"""1 / T of temperature scaling is between its reciprocal and it, also where the labels are separated."""


def logits(scores: np.ndarray) -> np.ndarray:
    """log(s / (1 - s)) of scores.

    Args:
        scores: in [0, 1].

    Returns:
        Finite values in the same order.
    """
    return np.asarray(logit(np.clip(scores, NEAREST, 1 - NEAREST)))


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared difference of probability and label (Brier 1950).

    Args:
        probabilities: of label 1.
        labels: 0 or 1.

    Returns:
        In [0, 1], lower is better.

    >>> brier_score(np.array([0.0, 0.5]), np.array([0, 1]))
    0.125
    """
    return float(np.mean((probabilities - labels) ** 2))


def log_loss(values: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood of labels, from logits.

    Args:
        values: logits of label 1.
        labels: 0 or 1.

    Returns:
        In nats.
    """
    return float(np.mean(np.logaddexp(0, values) - labels * values))


def equal_width_bins(probabilities: np.ndarray, bins: int = 15) -> np.ndarray:
    """The interval of [0, 1], cut into equal ones, that each probability is in.

    Args:
        probabilities: in [0, 1].
        bins: their number.

    Returns:
        Numbers from 0.

    >>> equal_width_bins(np.array([0.0, 0.5, 1.0]), 2).tolist()
    [0, 1, 1]
    """
    return np.asarray(np.minimum((probabilities * bins).astype(int), bins - 1))


def equal_mass_bins(probabilities: np.ndarray, bins: int = 15) -> np.ndarray:
    """Which share of the ranked probabilities each is in; equal ones are in the same.

    Args:
        probabilities: any values.
        bins: number of shares.

    Returns:
        Numbers from 0.

    >>> equal_mass_bins(np.array([0.9, 0.91, 0.1, 0.92]), 2).tolist()
    [0, 1, 0, 1]
    """
    below = np.searchsorted(np.sort(probabilities), probabilities, side="left")
    return np.asarray(below * bins // len(probabilities))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, binned: np.ndarray) -> float:
    """ECE = sum over bins of n_b / n * |mean label - mean probability| (Naeini et al. 2015; Guo et al. 2017).

    Of the probability of label 1, not of the likelier label. Few images make it larger than it is.

    Args:
        probabilities: of label 1.
        labels: 0 or 1.
        binned: bin of each image, of `equal_width_bins` or `equal_mass_bins`.

    Returns:
        In [0, 1], 0 where every bin is right on average.

    >>> p, y = np.array([0.25, 0.25, 0.25, 0.25]), np.array([0, 0, 0, 1])
    >>> expected_calibration_error(p, y, equal_width_bins(p))
    0.0
    """
    return float(np.abs(np.bincount(binned, weights=labels - probabilities)).sum() / len(labels))


def fit_temperature(values: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 that makes sigmoid(logit / T) likeliest (Guo, Pleiss, Sun, Weinberger 2017); the order stays.

    The log-loss is convex in 1 / T, so that its minimum is where the derivative is 0, or at a limit.

    Args:
        values: logits of label 1.
        labels: 0 or 1.

    Returns:
        T in [1 / SHARPEST, SHARPEST].
    """

    def slope(inverse: float) -> float:
        return float(np.mean(values * (expit(inverse * values) - labels)))

    low, high = 1 / SHARPEST, SHARPEST
    if slope(low) >= 0:
        return 1 / low
    return 1 / high if slope(high) <= 0 else 1 / float(brentq(slope, low, high))


def fit_logistic(values: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The a and b that make sigmoid(a logit + b) likeliest (Platt 1999).

    Labels are softened as Platt's: (N1 + 1) / (N1 + 2) and 1 / (N0 + 2), so that separated labels have a minimum too.

    Args:
        values: logits of label 1.
        labels: 0 or 1, both of them.

    Returns:
        a and b.
    """
    positive = labels.sum()
    targets = np.where(labels == 1, (positive + 1) / (positive + 2), 1 / (len(labels) - positive + 2))
    centre, scale = values.mean(), values.std() or 1.0
    scaled = (values - centre) / scale

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        line = parameters[0] * scaled + parameters[1]
        rest = expit(line) - targets
        return float(np.mean(np.logaddexp(0, line) - targets * line)), np.array([np.mean(rest * scaled), np.mean(rest)])

    slope, offset = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return float(slope / scale), float(offset - slope * centre / scale)
