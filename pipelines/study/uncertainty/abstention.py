"""Verdicts at a conformal threshold -> how many errors are avoided by abstaining, by what."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bayes_pfl.decisions.boundaries import Boundaries
from bayes_pfl.decisions.conformal import fewest_images
from bayes_pfl.decisions.rules import Rule
from bayes_pfl.metrics.selective import aurc, selective_risks, wrong_told_apart
from pipelines.study.uncertainty.groups import ScoredGroup, chosen, estimates, halves, resampled_positions

SPREAD, DISTANCE, BOTH = "prompt spread", "distance", "distance / spread"
COVERAGES = np.linspace(0.05, 1, 20)


class Verdicts(NamedTuple):
    """Verdicts of one split on images that did not choose the threshold."""

    wrong: np.ndarray
    """1 where a verdict is wrong."""
    strata: np.ndarray
    """Images that are resampled among themselves: 2 c + label of those of category c."""
    confidence: dict[str, np.ndarray]
    """By what one may abstain; higher is surer."""

    @property
    def called_good(self) -> np.ndarray:
        """True where the verdict is "good"."""
        return self.wrong == self.strata % 2

    def at(self, positions: np.ndarray) -> "Verdicts":
        """Some of them.

        Args:
            positions: of those.

        Returns:
            Them.
        """
        confidence = {name: values[positions] for name, values in self.confidence.items()}
        return Verdicts(self.wrong[positions], self.strata[positions], confidence)


def abstention(
    groups: Sequence[ScoredGroup], false_alarms: float, splits: int, seed: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Risk-coverage curves and their areas, by group and pooled over the groups of a dataset, each at its threshold.

    In every split a random half of the normal images chooses the threshold; the others and all anomalous images get
    verdicts. A verdict is "defective" where the conformal p-value is at most the rate, else "good".

    Args:
        groups: one a category.
        false_alarms: wanted rate.
        splits: number of random splits.
        seed: of splits and resampling.

    Returns:
        A row a group or pool, and sentences about the groups that are left out.
    """
    fewest = 2 * fewest_images(false_alarms)
    usable = [group for group in groups if group.anomalous is not None and len(group.normal) >= fewest]
    left_out = [
        f"{group.name}: no verdicts at a rate of {false_alarms:g}: {len(group.normal)} normal images of {fewest}"
        f"{', no anomalous ones' if group.anomalous is None else ''}."
        for group in groups
        if group not in usable
    ]
    verdicts = {
        group.name: [verdicts_of(group, false_alarms, seed, split, at) for split in range(splits)]
        for at, group in enumerate(usable)
    }
    for dataset in dict.fromkeys(group.dataset for group in usable):
        members = [verdicts[group.name] for group in usable if group.dataset == dataset]
        if len(members) > 1:
            verdicts[f"{dataset}, pooled"] = [_together(parts) for parts in zip(*members, strict=True)]
    return [{"group": name, **_measured(by_split, seed)} for name, by_split in verdicts.items()], left_out


def verdicts_of(group: ScoredGroup, false_alarms: float, seed: int, split: int, stratum: int) -> Verdicts:
    """Verdicts of one random split.

    Args:
        group: images of a category.
        false_alarms: wanted rate.
        seed: of the study.
        split: its number.
        stratum: number of the group.

    Returns:
        Of the normal images that are not in the calibration half, and of all anomalous ones.
    """
    assert group.anomalous is not None
    calibration, rest = halves(len(group.normal), seed, split)
    boundaries = Boundaries(chosen(group.normal, calibration), None, Rule(false_alarms=false_alarms), seed)
    measured = [chosen(group.normal, rest), group.anomalous]
    called = np.array([verdict.label == "defective" for part in measured for verdict in boundaries.verdicts(part)])
    labels = np.repeat([0, 1], [len(part) for part in measured])
    scores = np.array([score for part in measured for score in part.scores])
    distance = np.abs(scores - boundaries.defective_above)
    confidence = {DISTANCE: distance}
    if all(part.uncertainties is not None for part in measured):
        spread = np.array([value for part in measured for value in part.uncertainties or ()])
        confidence |= {SPREAD: -spread, BOTH: distance / np.maximum(spread, np.finfo(float).tiny)}
    return Verdicts((called != labels).astype(int), 2 * stratum + labels, confidence)


def _together(parts: Sequence[Verdicts]) -> Verdicts:
    """Verdicts of several categories, of the same split."""
    return Verdicts(
        np.concatenate([part.wrong for part in parts]),
        np.concatenate([part.strata for part in parts]),
        {name: np.concatenate([part.confidence[name] for part in parts]) for name in parts[0].confidence},
    )


def _measured(by_split: Sequence[Verdicts], seed: int) -> dict[str, Any]:
    """Means over splits, intervals, and mean curves."""
    random = np.random.default_rng([seed, 1])
    resampled = [verdicts.at(resampled_positions(verdicts.strata, random)) for verdicts in by_split]
    plain, drawn = [list(map(_figures, verdicts)) for verdicts in (by_split, resampled)]
    orders = [*by_split[0].confidence, "oracle"]
    return {
        "images": len(by_split[0].wrong),
        "figures": estimates(plain, drawn),
        "coverages": COVERAGES.tolist(),
        "curves": {
            name: np.mean([_curve(verdicts, name) for verdicts in by_split], axis=0).tolist() for name in orders
        },
    }


def _figures(verdicts: Verdicts) -> dict[str, float]:
    """Error rate (AURC of a random order), AURC by what one abstains, differences, AUROC of right verdicts."""
    wrong, error_rate, good = verdicts.wrong, float(verdicts.wrong.mean()), verdicts.called_good
    areas = {name: aurc(wrong, confidence) for name, confidence in verdicts.confidence.items()}
    figures = {"error rate": error_rate, "oracle": aurc(wrong, -wrong), **areas}
    for name, area in areas.items():
        figures[f"{name} - random"] = area - error_rate
        figures[f"{name}: right told from wrong"] = wrong_told_apart(wrong, verdicts.confidence[name])
        figures[f"{name}: the same of those called good"] = wrong_told_apart(
            wrong[good], verdicts.confidence[name][good]
        )
        if name != DISTANCE:
            figures[f"{name} - distance"] = area - areas[DISTANCE]
    return figures


def _curve(verdicts: Verdicts, order: str) -> np.ndarray:
    """Error rates at `COVERAGES`."""
    confidence = -verdicts.wrong if order == "oracle" else verdicts.confidence[order]
    risks = selective_risks(verdicts.wrong, confidence)
    return np.asarray(risks[np.maximum(0, np.ceil(COVERAGES * len(risks) - 1e-9).astype(int) - 1)])
