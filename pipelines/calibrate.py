"""`bayes-pfl calibrate`: a model and images known to be good -> a copy of it that decides, with stated error rates."""

import argparse
import datetime
import json
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from bayes_pfl.data.walk import skipped_summary
from bayes_pfl.datasets.checks import counted
from bayes_pfl.datasets.output import claim
from bayes_pfl.decisions.calibration import (
    Calibration,
    CalibrationFile,
    ClassCalibration,
    already_calibrated,
    class_key,
    read_calibration,
    with_classes,
)
from bayes_pfl.decisions.conformal import fewest_images, strictest_rate
from bayes_pfl.decisions.rules import Rule
from bayes_pfl.decisions.statements import describe
from bayes_pfl.errors import DataError
from pipelines.calibration.folders import check_inside, check_typed
from pipelines.calibration.model import check_output, earlier_calibration, write_model
from pipelines.calibration.picture import draw_scores
from pipelines.calibration.scores import CalibrationScores, score_images, sorted_scores
from pipelines.calibration.text import calibration_text
from pipelines.options.calibrate import rule_of
from pipelines.scoring.command import make_task
from pipelines.scoring.inputs import ImageInput, find_inputs, make_view
from pipelines.scoring.lists import UNDECIDED
from pipelines.scoring.task import ScoringTask

LISTED = 10
"""Images named on the terminal."""


def run(args: argparse.Namespace) -> int:
    """Score the images, make the thresholds, write the model and say what it promises.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    rule = rule_of(args)
    view = make_view(args.tile, args.overlap, args.roi)
    check_typed(args.normal, args.anomalous)
    normal, anomalous = _of_kind(args, args.normal, 0), _of_kind(args, args.anomalous, 1)
    _check_numbers(_counts(normal), _counts(anomalous), rule)  # before anything is scored
    task = make_task(args, view, [*normal, *anomalous])
    output, how = args.output.expanduser().resolve(), task.how_scored
    assert how is not None
    check_output(output, [*args.normal, *args.anomalous])
    _refuse_other_rule(earlier_calibration(output, how), _counts(normal), rule)
    print(
        f"Scoring {counted(len(normal), 'good image')} and {counted(len(anomalous), 'defective one')}: model version "
        f"{task.bundle.version}, R = {args.num_samples}, {task.looked_at}.",
        file=sys.stderr,
    )
    rows = score_images(task, [*normal, *anomalous], args.workers)
    scores = sorted_scores(rows, len(normal), task.bundle)
    _say_left_out(scores.left_out)
    readable = [{name: len(images) for name, images in kind.items()} for kind in (scores.normal, scores.anomalous)]
    nobody = dict.fromkeys([*_counts(normal), *_counts(anomalous)], 0)
    _check_numbers(nobody | readable[0], nobody | readable[1], rule)
    with claim(output):
        record = _record(task, rule, scores, earlier_calibration(output, how))
        calibration = Calibration(record)
        write_model(output, task.bundle, record, draw_scores(calibration))
    described = {**describe(calibration), "output": str(output), "left_out": scores.left_out}
    print(json.dumps(described) if args.json else calibration_text(calibration, described, task.bundle.kind))
    return 0


def _of_kind(args: argparse.Namespace, sources: Sequence[str], label: int) -> list[ImageInput]:
    """The images that are not of the other kind, as shards and lists say; what is left out is said."""
    if not sources:
        return []
    inputs = find_inputs(sources, args.class_name, args.class_name_from)
    for source in sources:
        check_inside(source, inputs.images, label)
    for line in skipped_summary(inputs.skipped):
        print(f"left out: {line}", file=sys.stderr)
    fitting = [image for image in inputs.images if image.label in (None, label)]
    if others := len(inputs.images) - len(fitting):
        kind = ("good", "defective")[label]
        print(f"left out: {counted(others, 'image')} that the shards or lists do not call {kind}", file=sys.stderr)
    if any(image.label == UNDECIDED for image in inputs.images):
        print(
            "Some rows have no verdict. What is promised needs images in no particular order: look at all of a lot, "
            "and not at its unsure images alone.",
            file=sys.stderr,
        )
    return fitting


def _check_numbers(normal: Mapping[str, int], anomalous: Mapping[str, int], rule: Rule) -> None:
    """Refuse what cannot hold the rule. Raises DataError with every class that lacks images.

    Args:
        normal: number of good images by class name.
        anomalous: number of defective ones.
        rule: what is asked.
    """
    kinds = [("good", normal, rule.false_alarms)]
    if rule.recall is not None or rule.by_cost:
        kinds.append(("defective", anomalous, None if rule.recall is None else 1 - rule.recall))
    lacking = []
    for kind, counts, rate in kinds:
        fewest = 1 if rate is None else fewest_images(rate)
        for name in dict.fromkeys([*normal, *anomalous]):
            count = counts.get(name, 0)
            if count < fewest:
                holds = strictest_rate(count)
                option = f"--false-alarms {holds:g}" if kind == "good" else f"--recall {round(1 - holds, 4):g}"
                instead = f" (or {option})" if rate is not None and count else ""
                lacking.append(f'"{name}" has {count:,} {kind} images and needs {fewest:,}{instead}')
    if not normal:
        lacking.append("there are no good images")
    if lacking:
        raise DataError(f"Too few images for what is asked: {'; '.join(lacking)}. Nothing was written.")


def _refuse_other_rule(earlier: CalibrationFile | None, names: Collection[str], rule: Rule) -> None:
    """Refuse a class that the output has with another rule, before anything is scored."""
    for each in () if earlier is None else earlier.classes:
        if class_key(each.class_name) in names and each.rule != rule:
            raise already_calibrated(each.class_name)


def _counts(images: Sequence[ImageInput]) -> Counter[str]:
    """Images by class name as the text encoder reads it."""
    return Counter(class_key(image.class_name) for image in images)


def _say_left_out(lines: Sequence[str]) -> None:
    for line in lines[:LISTED]:
        print(f"left out: {line}", file=sys.stderr)
    if len(lines) > LISTED:
        print(f"left out: {len(lines) - LISTED:,} more", file=sys.stderr)


def _record(
    task: ScoringTask, rule: Rule, scores: CalibrationScores, earlier: CalibrationFile | None
) -> CalibrationFile:
    """The calibration, with what the output holds already, or else with the other classes of a calibrated model."""
    classes = [
        ClassCalibration(class_name=name, rule=rule, normal=images, anomalous=scores.anomalous.get(name))
        for name, images in scores.normal.items()
    ]
    if earlier is not None:
        return with_classes(earlier, classes)
    assert task.how_scored is not None
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    classes += _taken_along(task, [each.class_name for each in classes])
    return CalibrationFile(made=now, seed=task.seed, how=task.how_scored, classes=tuple(classes))


def _taken_along(task: ScoringTask, names: Sequence[str]) -> list[ClassCalibration]:
    """Other classes of a model that is calibrated already; what is done with them is said."""
    calibration = read_calibration(task.bundle.folder)
    if calibration is None or task.how_scored is None:
        return []
    others = [each for each in calibration.record.classes if class_key(each.class_name) not in names]
    reason = calibration.differences(task.how_scored)
    if others:
        what = "Taken along from the model" if reason is None else f"Not taken along ({reason})"
        print(f"{what}: {', '.join(each.class_name for each in others)}.", file=sys.stderr)
    return others if reason is None else []
