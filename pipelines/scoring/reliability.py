"""Image scores read as probabilities of a defect -> how far they are off: a diagram, Brier score, calibration error."""

from html import escape

import numpy as np

from bayes_pfl.decisions.conformal import share_interval
from bayes_pfl.metrics.probability import brier_score, equal_mass_bins, expected_calibration_error
from pipelines.scoring.report_charts import ANOMALOUS, HEIGHT, MARGIN, WIDTH, LabelledScores, drawing, line

BINS = 10
CONFIDENCE = 0.95
NO_PROBABILITIES = "Image scores rank images. They are not probabilities of a defect."


def reliability(title: str, scored: LabelledScores) -> list[str]:
    """A section on what a score says of the share of anomalous images.

    Args:
        title: heading of the section.
        scored: image scores and labels of a dataset.

    Returns:
        Lines of HTML; without a diagram where scores are outside [0, 1] or images of one kind alone.
    """
    lines, (scores, labels) = [f"<h3>{escape(title)}</h3>"], scored
    if not scores.size or len(np.unique(labels)) < 2:
        return [*lines, f"<p>{NO_PROBABILITIES} How far they are off needs images of both kinds.</p>"]
    if scores.min() < 0 or scores.max() > 1:
        low, high = float(scores.min()), float(scores.max())
        return [*lines, f"<p>{NO_PROBABILITIES} They run from {low:.3g} to {high:.3g}.</p>"]
    share = float(labels.mean())
    error = expected_calibration_error(scores, labels, equal_mass_bins(scores, BINS))
    return [
        *lines,
        f"<p>{NO_PROBABILITIES} Read as such, they have a Brier score of {brier_score(scores, labels):.3f}; always "
        f"saying the share of anomalous images ({100 * share:.1f} %) has {share * (1 - share):.3f}. The expected "
        f"calibration error is {error:.3f}. <code>bayes-pfl calibrate</code> gives verdicts stated error rates.</p>",
        f'<div class="charts">{_diagram(scores, labels)}</div>',
        f'<p class="note">Each point is about a {BINS}th of the {scores.size:,} images, by score. The bar is the exact '
        "95 % interval of the share. Points on the dashed line would be probabilities.</p>",
    ]


def _diagram(scores: np.ndarray, labels: np.ndarray) -> str:
    binned, content = equal_mass_bins(scores, BINS), [line((0, 1), (0, 1))]
    for number in np.unique(binned):
        chosen = binned == number
        anomalous, total = int(labels[chosen].sum()), int(chosen.sum())
        x, y = float(scores[chosen].mean()), anomalous / total
        low, high = share_interval(anomalous, total, CONFIDENCE)
        across, up = MARGIN + (WIDTH - 2 * MARGIN) * x, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * y
        content.append(line((x, x), (low, high), ANOMALOUS, dashed=False))
        content.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3.5" fill="{ANOMALOUS}"/>')
    return drawing("Reliability", "mean score", "share anomalous", content)
