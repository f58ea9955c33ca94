"""A calibration -> what is printed of it: a table of the classes, what is promised of each, and what to beware of."""

from collections.abc import Mapping
from typing import Any

from bayes_pfl.decisions.calibration import Calibration
from bayes_pfl.decisions.statements import percent_interval
from bayes_pfl.metrics.bootstrap import image_auroc_interval
from pipelines.calibration.model import PICTURE
from pipelines.platform.html import table

Entry = Mapping[str, Any]
"""What `describe_boundaries` says of a class."""


def calibration_text(calibration: Calibration, described: Entry, kind: str) -> str:
    """Text for a terminal.

    Args:
        calibration: that was made.
        described: what `describe` says of it, and `output`.
        kind: what must be said of the model, or nothing.

    Returns:
        Lines.
    """
    entries = {each["class_name"]: each for each in described["classes"]}
    others = described["other_class_names"]
    rows = [_row(name, each) for name, each in entries.items()]
    lines = [table([*rows, *([_row("(other names)", others)] if others else [])], decimals=4), ""]
    by_promise: dict[str, list[str]] = {}
    for name, each in entries.items():
        for sentence in [*each["promises"], *_escapes(each), *_undecided(each)]:
            by_promise.setdefault(sentence, []).append(name)
    for sentence, names in by_promise.items():
        lines.append(sentence if len(names) == len(entries) else f"{', '.join(names)}: {sentence}")
    if any(each["good_up_to"] != each["defective_above"] for each in entries.values()):
        lines.append("Scores between good up to and defective above are called unsure.")
    lines += _of_other_names(described)
    lines += _at_chance(calibration)
    lines.append(f"The calibrated model is in {described['output']}; the scores are drawn in {PICTURE}.")
    return "\n".join([*lines, *([f"Model: {kind}."] if kind else [])])


def _escapes(each: Entry) -> list[str]:
    """How many defective images are called good: measured, where nothing is promised."""
    bad = each["defective_images"]
    if bad is None:
        return []
    escaped, interval = 100 * bad["called_good"] / bad["images"], percent_interval(bad["called_good_share"])
    return [f"Of 100 defective images like these about {escaped:.0f} {interval} are called good (escapes)."]


def _undecided(each: Entry) -> list[str]:
    """That most good images get no verdict."""
    good = each["good_images"]
    if 2 * good["unsure"] <= good["images"]:
        return []
    lower = "" if each["rule"].get("recall") is None else " A lower --recall leaves fewer unsure."
    unsure = f"{100 * good['unsure'] / good['images']:.0f} of 100 good images are unsure"
    return [f"Beware: this threshold decides almost nothing: {unsure}.{lower}"]


def _of_other_names(described: Entry) -> list[str]:
    if described["other_class_names"]:
        return [
            "A class name that was not calibrated takes all of these images together: its rate holds for images of "
            "these products, as many of each as here."
        ]
    if len(described["classes"]) > 1:
        return ["Rules differ: a class name that was not calibrated has no verdict."]
    return []


def _at_chance(calibration: Calibration) -> list[str]:
    """Classes whose defective images score like the good ones."""
    lines = []
    for name in calibration.names:
        boundaries = calibration.of(name)
        if boundaries.anomalous is None:
            continue
        good, bad = boundaries.images.scores, boundaries.anomalous.scores
        auroc = image_auroc_interval([*good, *bad], [0] * len(good) + [1] * len(bad))
        if auroc.low <= 0.5:
            lines.append(
                f'Beware: on "{name}" these scores do not tell defective images from good ones (AUROC '
                f"{auroc.value:.2f} [{auroc.low:.2f}, {auroc.high:.2f}], chance is 0.5). No threshold "
                "makes up for that."
            )
    return lines


def _row(name: str, each: Entry) -> dict[str, Any]:
    good, bad = each["good_images"], each["defective_images"]
    row = {
        "class_name": name,
        "good up to": each["good_up_to"],
        "defective above": each["defective_above"],
        "good images": good["images"],
        "- called defective": _share(good, "called_defective"),
        "- unsure": _share(good, "unsure"),
    }
    if bad is not None:
        interval = percent_interval(bad["called_defective_share"])
        row |= {
            "defective images": bad["images"],
            "- called defective (recall)": f"{_share(bad, 'called_defective')} {interval}",
            "- called good": f"{_share(bad, 'called_good')} {percent_interval(bad['called_good_share'])}",
        }
    return row


def _share(counts: Entry, label: str) -> str:
    return f"{100 * counts[label] / counts['images']:.1f} %"
