"""Intervals of AUROC against scikit-learn and a bootstrap written out."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bayes_pfl.errors import DataError
from bayes_pfl.metrics import image_auroc_interval, pixel_auroc_interval


def scores_and_labels(count, shift, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    return np.round(random.normal(size=count) + shift * labels, 1), labels


def test_the_value_is_the_auroc_ties_included():
    scores, labels = scores_and_labels(200, 1.0)
    interval = image_auroc_interval(scores, labels, resamples=10)
    assert interval.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_the_interval_is_that_of_a_bootstrap_written_out():
    scores, labels = scores_and_labels(120, 0.7)
    random = np.random.default_rng(1)
    normal, anomalous = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    drawn = []
    for _ in range(2000):
        chosen = np.concatenate([random.choice(normal, normal.size), random.choice(anomalous, anomalous.size)])
        drawn.append(roc_auc_score(labels[chosen], scores[chosen]))
    found = image_auroc_interval(scores, labels, resamples=4000)
    assert np.allclose([found.low, found.high], np.percentile(drawn, [2.5, 97.5]), atol=0.01)
    assert found.low < found.value < found.high


def test_pixels_of_one_image_are_drawn_together():
    random = np.random.default_rng(2)
    masks = [np.pad(np.ones((4, 4)), 6) if i % 2 else np.zeros((16, 16)) for i in range(30)]
    maps = [random.uniform(size=(16, 16)) + 0.3 * mask + random.normal() for mask in masks]
    found = pixel_auroc_interval(maps, masks)
    exact = roc_auc_score(np.ravel(masks), np.ravel(maps))
    assert found.value == pytest.approx(exact, abs=1e-3)
    drawn = []
    for _ in range(500):
        chosen = [*random.choice(range(0, 30, 2), 15), *random.choice(range(1, 30, 2), 15)]
        drawn.append(roc_auc_score(np.ravel([masks[i] for i in chosen]), np.ravel([maps[i] for i in chosen])))
    assert np.allclose([found.low, found.high], np.percentile(drawn, [2.5, 97.5]), atol=0.02)


def test_the_same_seed_gives_the_same_interval_and_separation_leaves_no_width():
    scores, labels = scores_and_labels(50, 1.0)
    assert image_auroc_interval(scores, labels, seed=3) == image_auroc_interval(scores, labels, seed=3)
    assert tuple(image_auroc_interval(labels + 0.0, labels)) == (1.0, 1.0, 1.0)


def test_one_kind_of_image_has_no_auroc():
    with pytest.raises(DataError, match="only one kind"):
        image_auroc_interval([0.1, 0.2], [0, 0])
