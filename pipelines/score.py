"""`bayes-pfl score`: images, folders or shards -> scores, heat maps and a gallery; here if few, over Ray if many."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bayes_pfl.config import DetectorOptions
from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.data.walk import counts_by_reason, skipped_summary
from bayes_pfl.datasets.checks import counted
from bayes_pfl.datasets.output import claim
from bayes_pfl.errors import ClassNameError, ConfigError, DataError
from bayes_pfl.inference.bundle import Bundle, load_bundle
from bayes_pfl.inference.untrained import with_settings
from bayes_pfl.inference.view import View
from bayes_pfl.machine import gpus_here
from bayes_pfl.methods.builder import class_names
from pipelines.platform.cluster import gpus_in_reach, start_ray
from pipelines.platform.html import table
from pipelines.platform.progress import progress
from pipelines.scoring.coco import coco_document, write_coco
from pipelines.scoring.image_files import ImageFiles, piece, scored_images
from pipelines.scoring.inputs import ImageInput, find_inputs, make_view
from pipelines.scoring.options import (
    NUM_SAMPLES,
    add_detector_options,
    add_model,
    choose_actors,
    number_of_samples,
    typed_options,
)
from pipelines.scoring.results import (
    PART,
    Results,
    ScoredImage,
    ScoringPlan,
    complete,
    part_row,
    regions_of,
    summarise,
)
from pipelines.scoring.stages import Predictor, score_piece, score_pieces
from pipelines.scoring.task import ScoringTask
from pipelines.scoring.thresholds import check_auto, keep_threshold, label_threshold, map_threshold, remind_of_view

PART_IMAGES = 16
"""What a killed run loses at most, and what one process scores without asking Ray for help."""

LISTED = 10
"""Images named on the terminal; the table on disk has all."""

PRINTED = ("sample_id", "class_name", "pred_score", "pred_label", "uncertainty", "read_as")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl score`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add("images", nargs="+", help="image files, folders of them, or folders of shards, by path or URI")
    add("--class-name", help='what the images show, e.g. "metal plate"; shards know it themselves')
    add(
        "--class-name-from",
        metavar="folder|FILE.csv",
        help="for several products: the name of the sub-folder, or a CSV file with columns path and class_name",
    )
    add_model(parser, "bundle by path or URI, embedded (default), or models:/NAME@ALIAS", default="embedded")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="with --method: one of its settings, dotted")
    add("--num-samples", type=number_of_samples, default=10, metavar="R", help=NUM_SAMPLES)
    add("--seed", type=int, default=0, help="of the noise; default 0")
    add("--threshold", type=float, metavar="SCORE", help="scores from here on are anomalous; default: the model's own")
    add("--output", type=Path, help="folder for table, heat maps and gallery; run again, it goes on where it stopped")
    add(
        "--store-threshold",
        type=float,
        metavar="SHARE",
        help="the images are all normal: keep with the model the threshold that at most this share of them reaches",
    )
    add("--fail-above", type=float, metavar="SCORE", help="exit with 1 if an image scores higher, and name it")
    add("--max-pixels", type=int, default=MAX_PIXELS, help=f"largest width x height of an image; default {MAX_PIXELS}")
    add(
        "--bits", type=int, metavar="N", help="of gray images with more than 8; default: as each file or its values say"
    )
    add("--tile", action="store_true", help="look at large images tile by tile, at their own resolution")
    add("--overlap", type=float, metavar="SHARE", help="with --tile: share of a tile that the next covers; default 0.5")
    add("--roi", metavar="X,Y,W,H|MASK", help="look at this part alone: pixels, or a mask image of the images' size")
    add("--coco", type=Path, metavar="FILE", help="write the regions found as COCO JSON, which labelling tools open")
    add(
        "--region-threshold",
        type=float,
        metavar="VALUE",
        help="with --coco: map value from which on; default: threshold",
    )
    add("--workers", type=int, default=2, help=f"processes that hold the model, for more than {PART_IMAGES} images")
    add("--threads", type=int, default=1, help="CPU threads of a worker; default 1")
    add_detector_options(parser)
    add("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Score and print; an image that cannot be read is listed and the others are scored.

    Args:
        args: parsed options.

    Returns:
        Exit code: 1 if an image scores above --fail-above.
    """
    view = _check(args)
    args.model = with_settings(args.model, args.set)
    options = DetectorOptions(**typed_options(args))
    inputs = find_inputs(args.images, args.class_name, args.class_name_from)
    gpus = gpus_here if len(inputs.images) <= PART_IMAGES else gpus_in_reach  # a few images need no cluster
    actors = choose_actors(options, args.use_gpu, args.workers, gpus)
    args.workers = actors.number
    bundle = load_bundle(args.model)
    _check_class_names(bundle, inputs.images)
    task = ScoringTask(
        bundle,
        args.num_samples,
        args.seed,
        args.threads,
        actors.device,
        args.max_pixels,
        view,
        bits=args.bits,
        options=options,
    )
    typed = [f"--{name.replace('_', '-')}" for name in ("threshold", "fail_above") if getattr(args, name) is not None]
    remind_of_view(typed, task)
    threshold = label_threshold(args.threshold, task)
    check_auto(task, threshold)
    task = task._replace(threshold=threshold)
    if args.coco is not None:
        task = task._replace(region_threshold=map_threshold(args.region_threshold, threshold, task))
    for line in skipped_summary(inputs.skipped):
        print(f"left out: {line}", file=sys.stderr)
    if args.output is None:
        rows, summary, regions = _score_only(args, task, inputs.images, threshold)
    else:
        rows, summary, regions = _score_into(args.output.expanduser().resolve(), args, task, inputs.images, threshold)
    summary = {**summary, "left_out": counts_by_reason(inputs.skipped)}
    if args.coco is not None and task.region_threshold is not None:
        write_coco(args.coco, coco_document(rows.to_pylist(), regions, task, task.region_threshold))
    print(json.dumps(summary) if args.json else _text(rows, summary))
    if args.store_threshold is not None and summary["scored"]:
        keep_threshold(task, rows["pred_score"].drop_null().to_numpy(), args.store_threshold)
    if not summary["scored"]:
        raise _nothing_scored(summary["unreadable"][0]["error"])
    return _fail_above(args.fail_above, rows)


def _check(args: argparse.Namespace) -> View:
    """The way of looking. Refuses options that make no sense, before anything takes time."""
    number = 1 if args.num_samples == "auto" else args.num_samples
    if min(number, args.workers, args.threads, args.max_pixels) < 1 or args.seed < 0:
        raise ConfigError("--num-samples, --workers, --threads and --max-pixels are at least 1, --seed at least 0.")
    if args.bits is not None and not 9 <= args.bits <= 16:
        raise ConfigError(f"--bits is {args.bits}; gray of more than 8 bits has 9 to 16.")
    if args.region_threshold is not None and args.coco is None:
        raise ConfigError("--region-threshold is of regions: give --coco too.")
    if args.store_threshold is not None and not Path(args.model).is_dir():
        raise ConfigError(f"--store-threshold writes into the model: give --model as its folder, not {args.model}.")
    for name in ("threshold", "fail_above", "region_threshold", "store_threshold"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {value:g}; it is between 0 and 1.")
    if args.class_name is not None and args.class_name_from is not None:
        raise ConfigError("Give --class-name or --class-name-from, not both.")
    if args.class_name is not None and not args.class_name.strip():
        raise ConfigError('--class-name is blank; say what the images show, such as "metal plate".')
    return make_view(args.tile, args.overlap, args.roi)


def _check_class_names(bundle: Bundle, images: Sequence[ImageInput]) -> None:
    """Refuse at once if no image has a class name that fits; else the images whose name does not fit are listed."""
    names = class_names(bundle.config)
    problem = ""
    for name in dict.fromkeys(image.class_name for image in images):
        try:
            names.tokens(name)
        except ClassNameError as error:
            problem = problem or str(error)
        else:
            return
    raise _nothing_scored(problem)


def _nothing_scored(reason: str) -> DataError:
    return DataError(f"None of the images could be scored. The first: {reason.rstrip('.')}.")


def _fail_above(limit: float | None, rows: pa.Table) -> int:
    """1 if an image scores above the limit; its name, and how many there are, go to stderr."""
    if limit is None:
        return 0
    above = rows.filter(pc.greater(rows["pred_score"], limit)).sort_by([("pred_score", "descending")])
    for row in above.slice(0, LISTED).to_pylist():
        print(f"above {limit:g}: {row['sample_id']}: {row['pred_score']:.4f}", file=sys.stderr)
    if len(above) > LISTED:
        print(f"above {limit:g}: {len(above) - LISTED:,} more", file=sys.stderr)
    return int(len(above) > 0)


def _score_only(
    args: argparse.Namespace, task: ScoringTask, images: Sequence[ImageInput], threshold: float | None
) -> tuple[pa.Table, dict[str, Any], list[str | None]]:
    """Keep nothing but what is printed."""
    parts = _parts(images)
    by_part: dict[int, list[ScoredImage]] = {}
    _announce(args, task, len(images), 0)
    with progress(len(images), "image") as advance:
        for number, scored in _score(args, task, images, parts, list(range(len(parts))), advance):
            by_part[number] = scored
    rows = [
        part_row(images[position], result)
        for number, part in enumerate(parts)
        for position, result in zip(part, by_part[number], strict=True)
    ]
    parts_table = pa.Table.from_pylist(rows, PART)
    table = complete(parts_table, task.bundle.version, threshold)
    plan = ScoringPlan.make(task, images)
    summary = {**summarise(table, task, threshold), **plan._asdict(), "rows": table.to_pylist()}
    return table, summary, regions_of(parts_table)


def _score_into(
    folder: Path, args: argparse.Namespace, task: ScoringTask, images: Sequence[ImageInput], threshold: float | None
) -> tuple[pa.Table, dict[str, Any], list[str | None]]:
    """Write a folder of results, or what is missing of it."""
    with claim(folder):
        parts = _parts(images)
        plan = ScoringPlan.make(task, images)
        results = Results(folder, plan, images, parts)
        todo = results.begin()
        left = sum(len(parts[number]) for number in todo)
        _announce(args, task, len(images), len(images) - left)
        with progress(len(images), "image", len(images) - left) as advance:
            for number, scored in _score(args, task, images, parts, todo, advance):
                results.add(number, scored)
        return results.finish(task, threshold)


def _parts(images: Sequence[ImageInput]) -> list[list[int]]:
    count = len(images)
    return [list(range(start, min(start + PART_IMAGES, count))) for start in range(0, count, PART_IMAGES)]


def _announce(args: argparse.Namespace, task: ScoringTask, total: int, done: int) -> None:
    """What will be done, before anything takes time."""
    left = total - done
    if not left:
        print(f"Nothing to do: {counted(total, 'image')} done before, in {args.output}.", file=sys.stderr)
        return
    before = f"; {done:,} of {total:,} were done before" if done else ""
    where = "here" if left <= PART_IMAGES else f"on {counted(args.workers, 'worker')}"
    target = f", into {args.output}" if args.output else ""
    print(
        f"Scoring {counted(left, 'image')} {where}{before}: model version {task.bundle.version}, "
        f"R = {args.num_samples}, seed {args.seed}, {task.looked_at}{target}.",
        file=sys.stderr,
    )


def _score(
    args: argparse.Namespace,
    task: ScoringTask,
    images: Sequence[ImageInput],
    parts: Sequence[Sequence[int]],
    todo: Sequence[int],
    advance: Callable[[int], Any],
) -> Iterator[tuple[int, list[ScoredImage]]]:
    """Numbers and scores of the parts to do, as they are done."""
    source = ImageFiles(task, args.output is not None)
    if sum(len(parts[number]) for number in todo) <= PART_IMAGES:
        predictor = Predictor(task.on_this_machine()) if todo else None  # a cluster would only cost its start
        for number in todo:
            assert predictor is not None
            yield number, _score_here(source, predictor, [images[at] for at in parts[number]], advance)
        return
    start_ray(args.workers, args.workers if task.device == "cuda" else 0)
    work = [{"part": number, **piece([images[at] for at in parts[number]])} for number in todo]
    for row in score_pieces(source, task, work, args.workers):
        advance(len(row["pred_score"]))
        yield int(row["part"]), scored_images(row)


def _score_here(
    source: ImageFiles, predictor: Predictor, images: Sequence[ImageInput], advance: Callable[[int], Any]
) -> list[ScoredImage]:
    """Scores of a few images, in this process."""
    scored: list[ScoredImage] = []
    for start in range(0, len(images), predictor.images_at_once):
        group = images[start : start + predictor.images_at_once]
        rows = {name: [value] for name, value in piece(group).items()}
        scored += scored_images(score_piece(source, predictor, rows))
        advance(len(group))
    return scored


def _text(rows: pa.Table, summary: dict[str, Any]) -> str:
    """The table, or its head where the rest is on disk, and what else there is to say."""
    rows = rows.filter(pc.is_valid(rows["pred_score"]))
    scored = rows.select([name for name in PRINTED if rows[name].null_count < len(rows)]).to_pylist()
    on_disk = "output" in summary
    if on_disk:
        scored = sorted(scored, key=lambda row: -row["pred_score"])[:LISTED]
    lines = [table(scored, decimals=4)] if scored else []
    if on_disk:
        count = counted(summary["scored"], "image")
        lines.append(f"\n{count} scored, the highest above; all of them in {summary['output']}:")
        lines.append("  gallery.html, scores.parquet, scores.arrow, summary.json, maps/")
    if summary["threshold"] is not None:
        lines.append(
            f"{summary['anomalous']:,} at or above the threshold of {summary['threshold']:g} for {summary['looked_at']}"
        )
    else:
        lines.append(f"No verdicts: {summary['no_label_because']}.")
    lines += [f"read as: {counted(entry['counts'], 'image')}, {entry['values']}" for entry in summary["read_as"]]
    failed = summary["unreadable"]
    lines += [f"not scored: {image['sample_id']}: {image['error']}" for image in failed[:LISTED]]
    if len(failed) > LISTED:
        lines.append(f"not scored: {len(failed) - LISTED:,} more")
    if summary["kind"]:
        lines.append(f"Model: {summary['kind']}. For real work use a bundle trained on ViT-L-14-336 (see the README).")
    return "\n".join(lines)
