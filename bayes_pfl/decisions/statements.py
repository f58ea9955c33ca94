"""What a calibration promises, as numbers and in sentences."""

import math
from collections.abc import Sequence
from typing import Any

from bayes_pfl.decisions.boundaries import Boundaries, Tally
from bayes_pfl.decisions.calibration import Calibration


def promises(boundaries: Boundaries) -> list[str]:
    """What is promised of verdicts, and what is not, in sentences.

    Args:
        boundaries: of a class.

    Returns:
        The sentences.
    """
    rule, sentences = boundaries.rule, []
    if rule.false_alarms is not None and boundaries.false_alarm_bound is not None:
        sentences.append(
            f"Of 100 good images like these at most {100 * rule.false_alarms:g} are called defective, on average over "
            f"calibrations; with {100 * rule.confidence:.10g} % confidence at most "
            f"{rounded_up(100 * boundaries.false_alarm_bound):g} of 100 with this calibration."
        )
        if rule.recall is None:
            sentences.append(
                f'"Good" says that, with {100 * rule.confidence:.10g} % confidence, more than '
                f"{100 * rule.false_alarms:g} of 100 good images score as high, "
                "and not that there is no defect."
            )
    if rule.recall is not None:
        sentences.append(
            f"Of 100 defective images like these at most {100 * (1 - rule.recall):.3g} are called good, on average "
            "over calibrations."
        )
    if rule.by_cost:
        rate = rule.defect_rate or boundaries.share_of_defects
        sentences.append(
            f"The threshold costs least on these very images if {100 * rate:.3g} of 100 images are defective; no "
            "rate is promised of others."
        )
    return [*sentences, _not_promised(boundaries)]


def rounded_up(percent: float) -> float:
    """An upper bound as it is printed, with one digit behind the point: rounded down it would not hold.

    Args:
        percent: the bound.

    Returns:
        The same or slightly more.

    >>> rounded_up(9.5059), rounded_up(9.5)
    (9.6, 9.5)
    """
    return math.ceil(10 * percent - 1e-9) / 10


def percent_interval(edges: Sequence[float]) -> str:
    """An interval of a share as it is printed, in percent, both ends rounded outward.

    Args:
        edges: lower and upper, as fractions.

    Returns:
        Text.

    >>> percent_interval([0.55199, 0.70001])
    '[55.1, 70.1]'
    """
    low, high = (100 * edge for edge in edges)
    return f"[{math.floor(10 * low + 1e-9) / 10:.1f}, {rounded_up(high):.1f}]"


def _not_promised(boundaries: Boundaries) -> str:
    missing = "how many defects are found, and nothing of " if boundaries.anomalous is None else ""
    return f"Nothing is promised of {missing}images of another product, camera or light."


def describe(calibration: Calibration) -> dict[str, Any]:
    """A calibration without its images.

    Args:
        calibration: of a model.

    Returns:
        Version, conditions, and what holds for each class, as JSON can hold it.
    """
    record = calibration.record
    classes = [
        {"class_name": each.class_name, **describe_boundaries(calibration.of(each.class_name))}
        for each in record.classes
    ]
    pooled = None if calibration.pooled is None else describe_boundaries(calibration.pooled)
    return {
        "version": calibration.version,
        "made": record.made,
        "applies_to": record.how.model_dump(),
        "classes": classes,
        "other_class_names": pooled,
    }


def describe_boundaries(boundaries: Boundaries) -> dict[str, Any]:
    """What holds for a class.

    Args:
        boundaries: its own, or of all classes together.

    Returns:
        Rule, numbers of images, thresholds, bounds and sentences, as JSON can hold it; None for an infinite threshold.
    """
    anomalous = None if boundaries.anomalous is None else _shares(boundaries.tally(boundaries.anomalous))
    return {
        "rule": {name: value for name, value in boundaries.rule if value is not None},
        "defective_above": _finite(boundaries.defective_above),
        "good_up_to": _finite(boundaries.good_up_to),
        "good_up_to_uncertainty": boundaries.most_spread,
        "region_from": boundaries.region_from,
        "false_alarms_at_most": boundaries.false_alarm_bound,
        "good_images": _shares(boundaries.tally(boundaries.images)),
        "defective_images": anomalous,
        "promises": promises(boundaries),
    }


def _shares(tally: Tally) -> dict[str, Any]:
    """Images by verdict."""
    return {
        "images": tally.images,
        "called_defective": tally.called_defective,
        "unsure": tally.unsure,
        "called_good": tally.called_good,
        "called_defective_share": list(tally.defective_share),
        "called_good_share": list(tally.good_share),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
