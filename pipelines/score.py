"""`bayes-pfl score`: images, folders or shards -> scores, heat maps and a gallery; here if few, over Ray if many."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bayes_pfl.data.walk import counts_by_reason, skipped_summary
from bayes_pfl.datasets.checks import counted
from bayes_pfl.datasets.output import claim
from pipelines.options.scoring import PART_IMAGES
from pipelines.platform.html import table
from pipelines.platform.progress import progress
from pipelines.scoring.coco import check_coco, coco_document, count_regions, explain_regions, write_coco
from pipelines.scoring.command import make_task, nothing_scored
from pipelines.scoring.gallery import labels_in_words
from pipelines.scoring.inputs import ImageInput, find_inputs, make_view
from pipelines.scoring.plan import ScoringPlan
from pipelines.scoring.pool import make_parts, score_parts
from pipelines.scoring.results import (
    PART,
    Results,
    ScoredImage,
    complete,
    part_row,
    regions_of,
    summarise,
)
from pipelines.scoring.review import check_review, write_review
from pipelines.scoring.task import ScoringTask
from pipelines.scoring.thresholds import (
    Labelling,
    check_auto,
    keep_threshold,
    label_threshold,
    remind_of_view,
    scores_of_files,
)

LISTED = 10
"""Images named on the terminal; the table on disk has all."""

PRINTED = ("sample_id", "class_name", "image_score", "pred_label", "p_value", "selected", "uncertainty", "read_as")


def run(args: argparse.Namespace) -> int:
    """Score and print; an image that cannot be read is listed and the others are scored.

    Args:
        args: parsed options.

    Returns:
        Exit code: 1 if an image scores above --fail-above.
    """
    view = make_view(args.tile, args.overlap, args.roi)
    inputs = find_inputs(args.images, args.class_name, args.class_name_from)
    task = make_task(args, view, inputs.images)
    typed = [f"--{name.replace('_', '-')}" for name in ("threshold", "fail_above") if getattr(args, name) is not None]
    remind_of_view(typed, task)
    threshold = label_threshold(args.threshold, task)
    check_auto(task, threshold)
    task = task._replace(threshold=threshold)
    labelling = Labelling.make(args.threshold, task).selecting(args.false_discoveries)
    if args.coco is not None:
        check_coco(args.coco)
        names = {image.class_name for image in inputs.images}
        task = task._replace(region_thresholds=labelling.region_thresholds(args.region_threshold, names, task))
    for line in skipped_summary(inputs.skipped):
        print(f"left out: {line}", file=sys.stderr)
    if args.review is not None:
        check_review(args.review.expanduser().resolve(), args.output, inputs.images)
        args.output = args.output or args.review  # heat maps lie there
    if args.output is None:
        rows, summary, regions = _score_only(args, task, inputs.images, labelling)
    else:
        rows, summary, regions = _score_into(args.output.expanduser().resolve(), args, task, inputs.images, labelling)
    summary = {**summary, "left_out": counts_by_reason(inputs.skipped)}
    if args.coco is not None:
        write_coco(args.coco, coco_document(rows.to_pylist(), regions, task))
        print(f"{args.coco}: {count_regions(regions)}.", file=sys.stderr)
        for sentence in explain_regions(rows.to_pylist(), regions):
            print(f"{sentence}.", file=sys.stderr)
    if args.review is not None:
        print(_review(args, inputs.images, rows, labelling), file=sys.stderr)
    print(json.dumps(summary) if args.json else _text(rows, summary, args.store_threshold is not None))
    if args.store_threshold is not None and summary["scored"]:
        keep_threshold(task, scores_of_files(rows), args.store_threshold)
    if not summary["scored"]:
        raise nothing_scored(summary["unreadable"][0]["error"])
    return _fail_above(args.fail_above, rows)


def _fail_above(limit: float | None, rows: pa.Table) -> int:
    """1 if an image scores above the limit; its name, and how many there are, go to stderr."""
    if limit is None:
        return 0
    above = rows.filter(pc.greater(rows["image_score"], limit)).sort_by([("image_score", "descending")])
    for row in above.slice(0, LISTED).to_pylist():
        print(f"above {limit:g}: {row['sample_id']}: {row['image_score']:.4f}", file=sys.stderr)
    if len(above) > LISTED:
        print(f"above {limit:g}: {len(above) - LISTED:,} more", file=sys.stderr)
    return int(len(above) > 0)


def _score_only(
    args: argparse.Namespace, task: ScoringTask, images: Sequence[ImageInput], labelling: Labelling
) -> tuple[pa.Table, dict[str, Any], list[str | None]]:
    """Keep nothing but what is printed."""
    parts = make_parts(images)
    by_part: dict[int, list[ScoredImage]] = {}
    _announce(args, task, len(images), 0)
    with progress(len(images), "image") as advance:
        for number, scored in score_parts(task, images, range(len(parts)), args.workers, advance):
            by_part[number] = scored
    rows = [
        part_row(images[position], result)
        for number, part in enumerate(parts)
        for position, result in zip(part, by_part[number], strict=True)
    ]
    parts_table = pa.Table.from_pylist(rows, PART)
    table = complete(parts_table, task.bundle.version, labelling)
    plan = ScoringPlan.make(task, images)
    summary = {**summarise(table, task, labelling), **plan._asdict(), "rows": table.to_pylist()}
    return table, summary, regions_of(parts_table)


def _score_into(
    folder: Path, args: argparse.Namespace, task: ScoringTask, images: Sequence[ImageInput], labelling: Labelling
) -> tuple[pa.Table, dict[str, Any], list[str | None]]:
    """Write a folder of results, or what is missing of it."""
    with claim(folder):
        parts = make_parts(images)
        plan = ScoringPlan.make(task, images)
        results = Results(folder, plan, images, parts)
        todo = results.begin()
        left = sum(len(parts[number]) for number in todo)
        _announce(args, task, len(images), len(images) - left)
        with progress(len(images), "image", len(images) - left) as advance:
            for number, scored in score_parts(task, images, todo, args.workers, advance, True):
                results.add(number, scored)
        return results.finish(task, labelling)


def _review(args: argparse.Namespace, images: Sequence[ImageInput], rows: pa.Table, labelling: Labelling) -> str:
    folder, output = (path.expanduser().resolve() for path in (args.review, args.output))
    return write_review(folder, output, rows, images, labelling)


def _announce(args: argparse.Namespace, task: ScoringTask, total: int, done: int) -> None:
    """What will be done, before anything takes time."""
    left = total - done
    if not left:
        print(
            f"Nothing to score: {counted(total, 'image')} done before, in {args.output}. Verdicts, tables and gallery "
            "are made anew.",
            file=sys.stderr,
        )
        return
    before = f"; {done:,} of {total:,} were done before" if done else ""
    where = "here" if left <= PART_IMAGES else f"on {counted(args.workers, 'worker')}"
    target = f", into {args.output}" if args.output else ""
    print(
        f"Scoring {counted(left, 'image')} {where}{before}: model version {task.bundle.version}, "
        f"R = {args.num_samples}, seed {args.seed}, {task.looked_at}{target}.",
        file=sys.stderr,
    )


def _reasons(rows: pa.Table, told: str | None) -> list[str]:
    """Why images are unsure, or have no label, unless it was told of all of them."""
    lines = []
    for label, column in (("unsure", "unsure_because"), ("no verdict", "no_label_because")):
        reasons = rows.filter(pc.is_valid(rows[column])).select(["sample_id", column]).to_pylist()
        if {row[column] for row in reasons} == {told}:
            continue  # of all images alike
        lines += [f"{label}: {row['sample_id']}: {row[column]}" for row in reasons[:LISTED]]
        lines += [f"{label}: {len(reasons) - LISTED:,} more"] if len(reasons) > LISTED else []
    return lines


def _selection(summary: dict[str, Any]) -> list[str]:
    """How many images were selected together, and what that promises."""
    lines = [
        f"{counted(summary['selected'], 'image')} of {summary['selected_from']:,} selected together (column "
        f"selected): of such selections at most {100 * summary['false_discoveries']:g} % are good images, on average."
    ]
    if summary["selected_from"] < summary["scored"]:
        lines.append("Images without a p-value, or of a class name that was not calibrated, take no part.")
    if not summary["selected"]:
        lines.append(
            "With n calibration images no p-value is below 1 / (n + 1): to select k images of m, n must be about "
            "m / (k x share) at least."
        )
    return lines


def _text(rows: pa.Table, summary: dict[str, Any], stores_threshold: bool) -> str:
    """The table, or its head where the rest is on disk, and what else there is to say."""
    rows = rows.filter(pc.is_valid(rows["image_score"]))
    scored = rows.select(
        [name for name in PRINTED if name in rows.column_names and rows[name].null_count < len(rows)]
    ).to_pylist()
    on_disk = "output" in summary
    if on_disk:
        scored = sorted(scored, key=lambda row: -row["image_score"])[:LISTED]
    lines = [table(scored, decimals=4)] if scored else []
    if on_disk:
        count = counted(summary["scored"], "image")
        lines.append(f"\n{count} scored, the highest above; all of them in {summary['output']}:")
        lines.append("  gallery.html, scores.parquet, scores.arrow, summary.json, maps/")
    if summary["labels"] is not None:
        lines.append(f"{labels_in_words(summary)}.")
    elif stores_threshold:
        lines.append("No verdicts: the threshold is made of these very images, for the next ones.")
    else:
        lines.append(f"No verdicts: {summary['no_label_because']}.")
    if summary["pooled_class_names"]:
        names = ", ".join(summary["pooled_class_names"][:LISTED])
        lines.append(f"Not calibrated: {names}. All calibrated classes together decide, which promises less.")
    if summary["no_calibration_because"]:
        lines.append(f"The model's own threshold decides: {summary['no_calibration_because']}.")
    lines += _reasons(rows, summary["no_label_because"])
    if summary["selected"] is not None:
        lines += _selection(summary)
    lines += [f"read as: {counted(entry['counts'], 'image')}, {entry['values']}" for entry in summary["read_as"]]
    failed = summary["unreadable"]
    lines += [f"not scored: {image['sample_id']}: {image['error']}" for image in failed[:LISTED]]
    if len(failed) > LISTED:
        lines.append(f"not scored: {len(failed) - LISTED:,} more")
    if summary["kind"]:
        lines.append(f"Model: {summary['kind']}. For real work use a bundle trained on ViT-L-14-336 (see the README).")
    return "\n".join(lines)
