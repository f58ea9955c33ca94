"""Image scores read as probabilities of a defect -> ECE and Brier score, as they are and scaled."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from bayes_pfl.metrics.probability import (
    brier_score,
    equal_mass_bins,
    equal_width_bins,
    expected_calibration_error,
    fit_logistic,
    fit_temperature,
    log_loss,
    logits,
)
from pipelines.study.uncertainty.groups import ScoredGroup, estimates, halves, resampled_positions

FEWEST = 4
"""Images of each label without which nothing is fitted."""
SCALINGS = ("as it is", "temperature", "logistic", "share of defects")


def probabilities(groups: Sequence[ScoredGroup], splits: int, seed: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Errors of the probabilities on one half of the images, scaled by what was fitted on the other half.

    "share of defects" is the share in the fitting half, the same for every image: what a score has to beat.

    Args:
        groups: categories and pools.
        splits: number of random splits of the normal and of the anomalous images.
        seed: of splits and resampling.

    Returns:
        A row a group and scaling, and sentences about the groups that are left out.
    """
    rows: list[dict[str, Any]] = []
    left_out = []
    for group in groups:
        if group.anomalous is None or min(len(group.normal), len(group.anomalous)) < FEWEST:
            left_out.append(f"{group.name}: no probabilities: fewer than {FEWEST} images of a label.")
        else:
            rows += _measured(group, splits, seed)
    return rows, left_out


def _measured(group: ScoredGroup, splits: int, seed: int) -> list[dict[str, Any]]:
    """Rows of one group."""
    values, labels = logits(group.scores), group.labels
    normal = int((labels == 0).sum())
    random = np.random.default_rng([seed, 2])
    plain: dict[str, list[dict[str, float]]] = {scaling: [] for scaling in SCALINGS}
    drawn: dict[str, list[dict[str, float]]] = {scaling: [] for scaling in SCALINGS}
    parameters = []
    for split in range(splits):
        pairs = zip(halves(normal, seed, split), halves(len(labels) - normal, seed, split), strict=True)
        fitted, rest = (np.concatenate([good, normal + bad]) for good, bad in pairs)
        scalings = _scalings(values[fitted], labels[fitted])
        parameters.append(fit_temperature(values[fitted], labels[fitted]))
        picked = rest[resampled_positions(labels[rest], random)]
        for scaling, scale in scalings.items():
            noise = random.random(len(rest))
            plain[scaling].append(_errors(scale(values[rest]), labels[rest], noise))
            drawn[scaling].append(_errors(scale(values[picked]), labels[picked], noise))
    return [
        {
            "group": group.name,
            "scaling": scaling,
            "images": len(labels) - len(labels) // 2,
            "temperature": float(np.median(parameters)) if scaling == "temperature" else None,
            "figures": estimates(rows, drawn[scaling]),
            "reliability": _reliability(group, values, labels) if scaling == "as it is" else None,
        }
        for scaling, rows in plain.items()
    ]


def _scalings(values: np.ndarray, labels: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Logit -> logit, fitted on the images of one half."""
    temperature, (slope, offset) = fit_temperature(values, labels), fit_logistic(values, labels)
    share = logits(np.array(labels.mean()))
    return {
        "as it is": lambda new: new,
        "temperature": lambda new: new / temperature,
        "logistic": lambda new: slope * new + offset,
        "share of defects": lambda new: np.full(len(new), share),
    }


def _errors(values: np.ndarray, labels: np.ndarray, noise: np.ndarray) -> dict[str, float]:
    """Of logits: calibration errors with 15 bins, Brier score, log-loss.

    "floor": the calibration error of as many images whose labels are drawn with the very probabilities.
    """
    predicted = expit(values)
    ideal = (noise < predicted).astype(int)
    errors = {}
    for name, binned in (("width", equal_width_bins(predicted)), ("mass", equal_mass_bins(predicted))):
        errors[f"ECE, equal {name}"] = expected_calibration_error(predicted, labels, binned)
        errors[f"floor, equal {name}"] = expected_calibration_error(predicted, ideal, binned)
    return errors | {"Brier score": brier_score(predicted, labels), "log-loss": log_loss(values, labels)}


def _reliability(group: ScoredGroup, values: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    """Mean score and share of defects of all images in bins of equal mass, for the picture."""
    binned = equal_mass_bins(values)
    numbers = np.unique(binned)
    return {
        "score": [float(group.scores[binned == number].mean()) for number in numbers],
        "defective": [float(labels[binned == number].mean()) for number in numbers],
    }
