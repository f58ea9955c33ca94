"""`bayes-pfl calibrate`: a model and images known to be good -> a copy of it that decides, with stated error rates."""

import argparse
import datetime
import json
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from bayes_pfl.config import parse_config
from bayes_pfl.data.walk import skipped_summary
from bayes_pfl.datasets.checks import counted
from bayes_pfl.decisions.calibration import (
    Calibration,
    CalibrationFile,
    ClassCalibration,
    already_calibrated,
    class_key,
    with_classes,
)
from bayes_pfl.decisions.conformal import fewest_images
from bayes_pfl.decisions.rules import Rule
from bayes_pfl.decisions.statements import describe
from bayes_pfl.errors import ConfigError, DataError
from pipelines.calibration.model import PICTURE, earlier_calibration, write_model
from pipelines.calibration.picture import draw_scores
from pipelines.calibration.scores import CalibrationScores, score_images, sorted_scores
from pipelines.platform.html import table
from pipelines.scoring.command import add_scoring_options, check_scoring_options, make_task
from pipelines.scoring.inputs import ImageInput, Inputs, find_inputs
from pipelines.scoring.task import ScoringTask

LISTED = 10
"""Images named on the terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl calibrate`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    images = "image files, folders of them, folders of shards, or CSV files with columns path, class_name, verdict"
    add("--normal", nargs="+", required=True, metavar="PATH", help=f"good images: {images}")
    add("--anomalous", nargs="+", default=[], metavar="PATH", help="defective images, the same way: for the recall")
    for name, field in Rule.model_fields.items():
        metavar = "COST" if name.startswith("cost") else "SHARE"
        add(f"--{name.replace('_', '-')}", type=float, metavar=metavar, help=field.description)
    add("--output", type=Path, required=True, help="folder of the calibrated model; further classes can be added to it")
    add_scoring_options(parser)
    add("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Score the images, make the thresholds, write the model and say what it promises.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    rule = _rule(args)
    view = check_scoring_options(args)
    if args.num_samples == "auto":
        raise ConfigError("--num-samples auto needs a threshold, which is made here: give a number.")
    normal = _of_kind(find_inputs(args.normal, args.class_name, args.class_name_from), 0)
    anomalous = (
        _of_kind(find_inputs(args.anomalous, args.class_name, args.class_name_from), 1) if args.anomalous else []
    )
    _check_numbers(_counts(normal), _counts(anomalous), rule)  # before anything is scored
    task = make_task(args, view, [*normal, *anomalous])
    output = args.output.expanduser().resolve()
    assert task.how_scored is not None
    earlier = earlier_calibration(output, task.how_scored)
    _refuse_other_rule(earlier, _counts(normal), rule)
    print(
        f"Scoring {counted(len(normal), 'good image')} and {counted(len(anomalous), 'defective one')}: model version "
        f"{task.bundle.version}, R = {args.num_samples}, {task.looked_at}.",
        file=sys.stderr,
    )
    rows = score_images(task, [*normal, *anomalous], args.workers)
    scores = sorted_scores(rows, len(normal), task.bundle)
    _say_left_out(scores.left_out)
    readable = [{name: len(images) for name, images in kind.items()} for kind in (scores.normal, scores.anomalous)]
    _check_numbers(readable[0], readable[1], rule)
    record = _record(task, rule, scores, earlier, args.seed)
    calibration = Calibration(record)
    write_model(output, task.bundle, record, earlier, draw_scores(calibration))
    described = {**describe(calibration), "output": str(output), "left_out": scores.left_out}
    print(json.dumps(described) if args.json else _text(described))
    return 0


def _rule(args: argparse.Namespace) -> Rule:
    """What was typed of it. Raises ConfigError with the options' names."""
    values = {name: getattr(args, name) for name in Rule.model_fields if getattr(args, name) is not None}
    if not set(values) - {"confidence", "defect_rate"}:
        raise ConfigError(
            "Say what errors are allowed: --false-alarms 0.01 (of good images), --recall 0.95 (of defective ones), "
            "both, or --cost-miss 20 --cost-false-alarm 1."
        )
    return parse_config(Rule, values, "the command line")


def _of_kind(inputs: Inputs, label: int) -> list[ImageInput]:
    """The images that are not of the other kind, as shards and lists say; what is left out is said."""
    for line in skipped_summary(inputs.skipped):
        print(f"left out: {line}", file=sys.stderr)
    fitting = [image for image in inputs.images if image.label in (None, label)]
    if others := len(inputs.images) - len(fitting):
        kind = ("good", "defective")[label]
        print(f"left out: {counted(others, 'image')} that the shards or lists do not call {kind}", file=sys.stderr)
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
                instead = f" (or a rate of {rate_for(count):g})" if rate is not None and count else ""
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


def rate_for(images: int) -> float:
    """The strictest rate that a number of images can hold: 1 / (n + 1), rounded up to four digits.

    Args:
        images: n.

    Returns:
        The rate.

    >>> rate_for(40)
    0.0244
    """
    return -(-10_000 // (images + 1)) / 10_000


def _counts(images: Sequence[ImageInput]) -> Counter[str]:
    """Images by class name as the text encoder reads it."""
    return Counter(class_key(image.class_name) for image in images)


def _say_left_out(lines: Sequence[str]) -> None:
    for line in lines[:LISTED]:
        print(f"left out: {line}", file=sys.stderr)
    if len(lines) > LISTED:
        print(f"left out: {len(lines) - LISTED:,} more", file=sys.stderr)


def _record(
    task: ScoringTask, rule: Rule, scores: CalibrationScores, earlier: CalibrationFile | None, seed: int
) -> CalibrationFile:
    """The calibration, with what the output holds already."""
    classes = [
        ClassCalibration(class_name=name, rule=rule, normal=images, anomalous=scores.anomalous.get(name))
        for name, images in scores.normal.items()
    ]
    if earlier is not None:
        return with_classes(earlier, classes)
    assert task.how_scored is not None
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return CalibrationFile(made=now, seed=seed, how=task.how_scored, classes=tuple(classes))


def _text(described: dict[str, Any]) -> str:
    """A table of the classes, what is promised, and where it is."""
    rows = [_row(each["class_name"], each) for each in described["classes"]]
    if described["other_class_names"]:
        rows.append(_row("(other names)", described["other_class_names"]))
    lines = [table(rows, decimals=4), ""]
    promises = {sentence: None for each in described["classes"] for sentence in each["promises"]}
    lines += list(promises)
    lines.append("Scores between good up to and defective above are called unsure.")
    if described["other_class_names"]:
        lines.append("A class name that was not calibrated takes all of these images together, which promises less.")
    lines.append(f"The calibrated model is in {described['output']}; the scores are drawn in {PICTURE}.")
    return "\n".join(lines)


def _row(name: str, each: dict[str, Any]) -> dict[str, Any]:
    good, bad = each["good_images"], each["defective_images"]
    row = {
        "class_name": name,
        "good images": good["images"],
        "good up to": each["good_up_to"],
        "defective above": each["defective_above"],
        "unsure": f"{100 * good['unsure'] / good['images']:.1f} %",
    }
    if bad is not None:
        low, high = (100 * edge for edge in bad["called_defective_share"])
        share = 100 * bad["called_defective"] / bad["images"]
        row |= {"defective images": bad["images"], "recall": f"{share:.1f} % [{low:.1f}, {high:.1f}]"}
    return row
