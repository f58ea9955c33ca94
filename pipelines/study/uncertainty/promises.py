"""Conformal thresholds -> false alarms promised and found, on images like those of the calibration and on others."""

import math
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from scipy.stats import betabinom

from bayes_pfl.decisions.boundaries import Boundaries, Label
from bayes_pfl.decisions.conformal import fewest_images, share_interval
from bayes_pfl.decisions.records import ScoredImages
from bayes_pfl.decisions.rules import Rule
from pipelines.study.uncertainty.groups import ScoredGroup, chosen, halves

CONFIDENCE = 0.95
LABELS: tuple[Label, ...] = ("defective", "unsure", "good")


def promises(
    groups: Sequence[ScoredGroup], rates: Sequence[float], splits: int, seed: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """False alarms found on the other half of the normal images, over random splits, and what the threshold costs.

    Args:
        groups: categories and pools.
        rates: promised rates of false alarms.
        splits: number of random splits.
        seed: of the splits and tie-breaks.

    Returns:
        A row a group and rate, and sentences about the rates that a group's images do not allow.
    """
    rows: list[dict[str, Any]] = []
    left_out = []
    for group in groups:
        for rate in rates:
            if len(group.normal) // 2 < fewest_images(rate):
                fewest = 2 * fewest_images(rate)
                left_out.append(f"{group.name}: no rate of {rate:g}: {len(group.normal)} normal images of {fewest}.")
            else:
                rows.append({"group": group.name, "promised": rate, **_found(group, rate, splits, seed)})
    return rows, left_out


def _found(group: ScoredGroup, rate: float, splits: int, seed: int) -> dict[str, Any]:
    """One row: shares of verdicts over splits."""
    rows = []
    for split in range(splits):
        calibration, rest = halves(len(group.normal), seed, split)
        boundaries = Boundaries(chosen(group.normal, calibration), None, _rule(rate), seed)
        shares = _shares(boundaries, chosen(group.normal, rest), group.anomalous)
        if group.relit is not None:
            relit = _shares(boundaries, chosen(group.relit, rest), None)
            shares |= {f"{name}, other light": value for name, value in relit.items()}
        rows.append(shares)
    alarms = np.array([row["false alarms"] for row in rows])
    rank, bound = boundaries.alarm_rank, boundaries.false_alarm_bound
    assert rank is not None
    assert bound is not None
    beyond = len(boundaries.normal) + 1 - rank
    return {
        "calibration": len(boundaries.normal),
        "tested": len(rest),
        "lowest": float(alarms.min()),
        "highest": float(alarms.max()),
        "expected": rank / (rank + beyond),
        "bound": bound,
        "within bound": float((alarms <= bound).mean()),
        "expected within bound": float(betabinom.cdf(math.floor(bound * len(rest)), len(rest), rank, beyond)),
        **{name: float(np.mean([row[name] for row in rows])) for name in rows[0]},
    }


def elsewhere(groups: Sequence[ScoredGroup], rates: Sequence[float], seed: int) -> list[dict[str, Any]]:
    """False alarms of a group under the threshold of the normal images of all other groups.

    Args:
        groups: one a category.
        rates: promised rates of false alarms.
        seed: of the tie-breaks.

    Returns:
        A row a group and rate that the others' images allow.
    """
    rows = []
    for group in groups:
        others = [other.normal for other in groups if other.name != group.name]
        for rate in rates if others else ():
            calibration = reduce(add, others)
            if len(calibration) < fewest_images(rate):
                continue
            shares = _shares(Boundaries(calibration, None, _rule(rate), seed), group.normal, group.anomalous)
            count = len(group.normal)
            low, high = share_interval(round(shares["false alarms"] * count), count, CONFIDENCE)
            row = {"group": group.name, "promised": rate, "calibration": len(calibration), "tested": count}
            rows.append(row | shares | {"low": low, "high": high})
    return rows


def _rule(rate: float) -> Rule:
    return Rule(false_alarms=rate, confidence=CONFIDENCE)


def _shares(boundaries: Boundaries, normal: ScoredImages, anomalous: ScoredImages | None) -> dict[str, float]:
    """Shares of good images called defective or unsure; of defective ones called defective, unsure or good."""
    shares = {f"{verdict}, good": share for verdict, share in _shares_of(boundaries, normal).items()}
    if anomalous is not None:
        shares |= {f"{verdict}, defective": share for verdict, share in _shares_of(boundaries, anomalous).items()}
    names = {"defective, good": "false alarms", "defective, defective": "recall", "good, defective": "missed"}
    return {names.get(name, name): share for name, share in shares.items()}


def _shares_of(boundaries: Boundaries, images: ScoredImages) -> dict[str, float]:
    """Share of each verdict, and of those that are unsure because the prompts disagree."""
    verdicts = boundaries.verdicts(images)
    labels = [verdict.label for verdict in verdicts]
    shares = {label: labels.count(label) / len(labels) for label in LABELS}
    disagree = sum((verdict.unsure_because or "").startswith("the prompts disagree") for verdict in verdicts)
    return shares | {"prompts disagree": disagree / len(labels)}
