"""Which verdicts are wrong, and how sure each is -> the error rate among the surest of them (risk-coverage curve)."""

import numpy as np
from scipy.stats import rankdata


def selective_risks(wrong: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Risk-coverage curve: the error rate among the k surest verdicts, for every k (El-Yaniv, Wiener 2010).

    Verdicts of equal confidence come in a random order: the curve is the expectation over these orders.

    Args:
        wrong: 1 where a verdict is wrong, else 0; at least one verdict.
        confidence: as many, higher is surer.

    Returns:
        Error rate at coverage k / n for k = 1 ... n.

    >>> selective_risks(np.array([1, 0, 0, 1]), np.array([0.1, 0.9, 0.5, 0.3])).round(3).tolist()
    [0.0, 0.0, 0.333, 0.5]
    """
    order = np.argsort(-confidence, kind="stable")
    _, tie = np.unique(-confidence[order], return_inverse=True)
    even = np.bincount(tie, weights=wrong[order]) / np.bincount(tie)
    return np.asarray(np.cumsum(even[tie]) / np.arange(1, len(wrong) + 1))


def aurc(wrong: np.ndarray, confidence: np.ndarray) -> float:
    """Area under the risk-coverage curve: the mean of its error rates over all n coverages.

    The curve is that of Geifman, El-Yaniv (Selective classification for deep neural networks, 2017), its area as in
    Geifman, Uziel, El-Yaniv (Bias-reduced uncertainty estimation for deep neural classifiers, 2019). In a random order
    the expectation is the error rate of all verdicts.

    Args:
        wrong: 1 where a verdict is wrong, else 0.
        confidence: as many, higher is surer.

    Returns:
        In [0, 1], lower is better.

    >>> aurc(np.array([1, 0]), np.array([0.2, 0.9])), aurc(np.array([1, 0]), np.array([0.5, 0.5]))
    (0.25, 0.5)
    """
    return float(selective_risks(wrong, confidence).mean())


def wrong_told_apart(wrong: np.ndarray, confidence: np.ndarray) -> float:
    """Probability that a right verdict is surer than a wrong one: the AUROC of confidence; 0.5 is chance.

    Args:
        wrong: 1 where a verdict is wrong, else 0.
        confidence: as many, higher is surer.

    Returns:
        In [0, 1]; NaN where all verdicts are right, or all wrong.

    >>> wrong_told_apart(np.array([1, 0, 0]), np.array([0.5, 0.9, 0.5]))
    0.75
    """
    mistakes = int(wrong.sum())
    right = len(wrong) - mistakes
    if not mistakes or not right:
        return float("nan")
    ranks = rankdata(confidence)
    return float((ranks[wrong == 0].sum() - right * (right + 1) / 2) / (right * mistakes))
