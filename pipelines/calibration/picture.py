"""Scores of a calibration -> a picture: a strip for each class, with its thresholds."""

import io
import math
import warnings

import numpy as np

from bayes_pfl.decisions.boundaries import Boundaries
from bayes_pfl.decisions.calibration import Calibration

STRIP_INCHES = 0.7
MOST_STRIPS = 40
"""Classes in the picture, so that it stays one that can be looked at."""


def draw_scores(calibration: Calibration) -> bytes:
    """Every image a dot at its score, good ones blue, defective ones red above them; the band of unsure scores shaded.

    Args:
        calibration: of a model.

    Returns:
        PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = calibration.names[:MOST_STRIPS]
    figure = Figure(figsize=(8, 1.4 + STRIP_INCHES * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for row, name in enumerate(names):
        _strip(axes, row, calibration.of(name))
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("image score: good below the band, unsure inside it, defective above")
    more = len(calibration.names) - len(names)
    axes.set_title("Calibration images" + (f"; {more:,} more classes" if more else ""), loc="left")
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # of letters that the font does not have
        figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _strip(axes: object, row: int, boundaries: Boundaries) -> None:
    """One class."""
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    scores = np.array(boundaries.images.scores)
    axes.plot(scores, row + 0.15 + _spread(len(scores)), "o", color="#2b6cb0", markersize=3, alpha=0.6)
    if boundaries.anomalous is not None:
        defects = np.array(boundaries.anomalous.scores)
        axes.plot(defects, row - 0.2 + _spread(len(defects)), "o", color="#c53030", markersize=3, alpha=0.6)
    low, high = axes.get_xlim()
    left, right = (min(max(value, low), high) for value in (boundaries.good_up_to, boundaries.defective_above))
    axes.fill_betweenx([row - 0.4, row + 0.4], left, right, color="#d69e2e", alpha=0.25, linewidth=0)
    if math.isfinite(boundaries.defective_above):
        axes.vlines(boundaries.defective_above, row - 0.4, row + 0.4, color="#c53030", linewidth=1.5)
    axes.set_xlim(low, high)


def _spread(count: int) -> np.ndarray:
    """Heights that keep dots of equal score apart."""
    return np.random.default_rng(0).uniform(-0.12, 0.12, count)
