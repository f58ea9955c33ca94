"""Pixels of a mask that are NaN are of neither class, in the exact metrics and in the histograms."""

import numpy as np
import pytest

from bayes_pfl.errors import DataError
from bayes_pfl.metrics import PixelHistogram, pixel_metrics


def test_ignored_pixels_change_no_figure_whatever_their_score():
    rng = np.random.default_rng(4)
    mask = np.zeros((30, 40), np.float32)
    mask[5:9, 6:15] = 1
    scores = rng.random((30, 40)) * 0.5 + mask * 0.3
    ignored = np.zeros(mask.shape, bool)
    ignored[20:25, 20:30] = True
    figures = []
    for value in (0.0, 1.0):
        marked = np.where(ignored, np.nan, mask)
        shown = np.where(ignored, value, scores)
        histogram = PixelHistogram()
        histogram.update([shown], [marked])
        assert histogram.normal.sum() == (~ignored & (mask == 0)).sum()
        figures += [pixel_metrics([shown], [marked]), histogram.metrics()]
    rows = [[figure[name] for name in ("pixel_auroc", "pixel_pro", "pixel_ap", "pixel_f1_max")] for figure in figures]
    assert rows[0] == rows[2]
    assert rows[1] == rows[3]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-3)


def test_values_between_0_and_1_are_refused_beside_ignored_ones():
    with pytest.raises(DataError, match="binarize"):
        pixel_metrics([np.zeros((1, 3))], [np.array([[np.nan, 0.5, 1]])])
