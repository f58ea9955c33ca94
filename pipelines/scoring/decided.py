"""Scores of labelled images and a calibration -> what was decided, and whether it held what was promised."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayes_pfl.decisions.boundaries import Decision
from bayes_pfl.decisions.conformal import share_interval
from bayes_pfl.decisions.statements import percent_interval, rounded_up
from pipelines.platform.html import ReportTable
from pipelines.scoring.evaluation import ScoredSamples
from pipelines.scoring.figures import EvaluatedDataset
from pipelines.scoring.task import ScoringTask
from pipelines.scoring.thresholds import Labelling

CONFIDENCE = 0.95
KINDS = {0: "good_images", 1: "defective_images"}


def labelling_of(task: ScoringTask) -> Labelling:
    """What the labels of an evaluation are made by.

    Args:
        task: the model, and how it predicts.

    Returns:
        The model's calibration or threshold; nothing for the released protocol, whose scores are others.
    """
    if task.released is not None:
        return Labelling(None, None, "the released protocol's scores depend on all images of a category")
    return Labelling.make(None, task)


def decide_all(labelling: Labelling, datasets: Sequence[EvaluatedDataset], scored: ScoredSamples) -> list[Decision]:
    """A decision on every image.

    Args:
        labelling: decides.
        datasets: the images.
        scored: their scores, in the same order.

    Returns:
        One an image; without a label where it has no score.
    """
    decisions = []
    for at, ref in enumerate(ref for dataset in datasets for ref in dataset.refs):
        score, spread = (
            None if np.isnan(value) else float(value) for value in (scored.scores[at], scored.uncertainties[at])
        )
        row = {"image_score": score, "uncertainty": spread, "class_name": ref.class_name, "sha256": ref.sha256}
        decisions.append(labelling.decide(row))
    return decisions


def decisions_made(
    labelling: Labelling, datasets: Sequence[EvaluatedDataset], decisions: Sequence[Decision]
) -> dict[str, Any]:
    """For metrics.json: what was promised, and what was found.

    Args:
        labelling: what decided.
        datasets: the images.
        decisions: one an image, in order.

    Returns:
        By dataset and category, images of each kind by label, with the exact interval of the share called defective.
    """
    calibration = labelling.calibration
    made: dict[str, Any] = {
        "calibration": None if calibration is None else calibration.version,
        "threshold": labelling.threshold,
        "no_label_because": labelling.because,
        "calibration_images_evaluated": _reused(labelling, datasets),
        "datasets": {},
    }
    if labelling.because is not None:
        return made
    for dataset in datasets:
        by_category: dict[str, dict[int, list[Decision]]] = {}
        names: dict[str, str] = {}
        for ref, decision in zip(dataset.refs, decisions[dataset.positions], strict=True):
            by_category.setdefault(ref.category, {0: [], 1: []})[ref.label].append(decision)
            names[ref.category] = ref.class_name
        made["datasets"][dataset.name] = {
            category: {
                **_promised(labelling, names[category]),
                "all_classes_together": bool(labelling.pooled([names[category]])),
                **{KINDS[kind]: _counts(of_kind) for kind, of_kind in kinds.items()},
            }
            for category, kinds in sorted(by_category.items())
        }
    return made


def _promised(labelling: Labelling, class_name: str) -> dict[str, float | None]:
    boundaries = None if labelling.calibration is None else labelling.calibration.boundaries(class_name)
    return {
        "false_alarms_promised": None if boundaries is None else boundaries.rule.false_alarms,
        "false_alarms_at_most": None if boundaries is None else boundaries.false_alarm_bound,
    }


def _reused(labelling: Labelling, datasets: Sequence[EvaluatedDataset]) -> int:
    """Images that the calibration was made of."""
    if labelling.calibration is None:
        return 0
    classes = labelling.calibration.record.classes
    kinds = [images for each in classes for images in (each.normal, each.anomalous) if images is not None]
    made_of = {digest for images in kinds for digest in images.sha256}
    return sum(ref.sha256 in made_of for dataset in datasets for ref in dataset.refs)


def _counts(decisions: Sequence[Decision]) -> dict[str, Any]:
    labels = [decision.label for decision in decisions if decision.label is not None]
    defective, good = labels.count("defective"), labels.count("good")
    return {
        "images": len(labels),
        "without_label": len(decisions) - len(labels),
        "called_defective": defective,
        "unsure": labels.count("unsure"),
        "called_good": good,
        "called_defective_share": list(share_interval(defective, len(labels), CONFIDENCE)) if labels else None,
        "called_good_share": list(share_interval(good, len(labels), CONFIDENCE)) if labels else None,
    }


def decision_tables(result: Mapping[str, Any]) -> list[ReportTable]:
    """Tables of what was decided, for terminal and report, in percent.

    Args:
        result: content of metrics.json.

    Returns:
        A table a dataset; none where there are no labels.
    """
    made = result["decisions"]
    by = f"calibration {made['calibration']}" if made["calibration"] else f"threshold {made['threshold']}"
    notes = ["Intervals are exact, 95 %. Unsure images count as neither."]
    if reused := made["calibration_images_evaluated"]:
        notes.append(
            f"{reused:,} of these images made the calibration: what is found on them says nothing of what was promised."
        )
    return [
        ReportTable(f"Decisions on {name}, by {by}", [_row(*entry) for entry in categories.items()], notes)
        for name, categories in made["datasets"].items()
    ]


def _row(category: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    promised, bound = entry["false_alarms_promised"], entry["false_alarms_at_most"]
    return {
        "category": category + (" (all classes together)" if entry["all_classes_together"] else ""),
        "false alarms promised": "-" if promised is None else f"{100 * promised:g}",
        "of this calibration at most": "-" if bound is None else f"{rounded_up(100 * bound):.1f}",
        "false alarms found": _share(entry["good_images"], "called_defective"),
        "recall": _share(entry["defective_images"], "called_defective"),
        "defective called good": _share(entry["defective_images"], "called_good"),
        "unsure good": _unsure(entry["good_images"]),
        "unsure defective": _unsure(entry["defective_images"]),
    }


def _share(counts: Mapping[str, Any], label: str) -> str:
    if not counts["images"]:
        return "-"
    return f"{100 * counts[label] / counts['images']:.1f} {percent_interval(counts[f'{label}_share'])}"


def _unsure(counts: Mapping[str, Any]) -> str:
    return f"{100 * counts['unsure'] / counts['images']:.1f}" if counts["images"] else "-"
