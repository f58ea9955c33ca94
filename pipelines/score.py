"""`bayes-pfl score`: images, folders or shards -> scores, heat maps and a gallery; here if few, over Ray if many."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from bayes_pfl.config import DetectorOptions
from bayes_pfl.data.preprocess import MAX_PIXELS, Decoded, decode, encode_png
from bayes_pfl.data.walk import counts_by_reason, skipped_summary
from bayes_pfl.datasets.checks import counted
from bayes_pfl.datasets.output import claim
from bayes_pfl.errors import BayesPFLError, ClassNameError, ConfigError, DataError
from bayes_pfl.inference.bundle import Bundle, load_bundle
from bayes_pfl.inference.heatmap import overlay
from bayes_pfl.inference.outlines import outlined_regions
from bayes_pfl.inference.prediction import Prediction
from bayes_pfl.inference.view import WHOLE, View
from bayes_pfl.methods.builder import class_names
from pipelines.platform.cluster import start_ray
from pipelines.platform.html import table
from pipelines.platform.progress import progress
from pipelines.scoring.actors import load_detector, through_actors
from pipelines.scoring.coco import coco_document, write_coco
from pipelines.scoring.evaluation import ScoringTask
from pipelines.scoring.inputs import ImageInput, find_inputs, make_view
from pipelines.scoring.options import add_detector_options, add_method, check_device, typed_options
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
from pipelines.scoring.thresholds import keep_threshold, label_threshold, map_threshold, remind_of_view

PART_IMAGES = 16
"""What a killed run loses at most, and what one process scores without asking Ray for help."""

OVERLAY_PX = 1024
"""Longest side of a heat map over its image: the map itself is no finer than the model's input."""

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
    add("--model", default="embedded", help="bundle by path or URI, embedded (default), or models:/NAME@ALIAS")
    add_method(parser)
    add("--num-samples", type=int, default=10, metavar="R", help="Monte Carlo samples; default 10")
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
    add("--use-gpu", action="store_true", help="one GPU for every worker")
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
    inputs = find_inputs(args.images, args.class_name, args.class_name_from)
    bundle = load_bundle(args.model)
    _check_class_names(bundle, inputs.images)
    task = ScoringTask(
        bundle,
        args.num_samples,
        args.seed,
        args.threads,
        "cuda" if args.use_gpu else "cpu",
        args.max_pixels,
        view,
        bits=args.bits,
        options=DetectorOptions(**typed_options(args)),
    )
    typed = [f"--{name.replace('_', '-')}" for name in ("threshold", "fail_above") if getattr(args, name) is not None]
    remind_of_view(typed, task)
    threshold = label_threshold(args.threshold, task)
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
    if min(args.num_samples, args.workers, args.threads, args.max_pixels) < 1 or args.seed < 0:
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
    check_device(DetectorOptions(**typed_options(args)), args.use_gpu)
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
    options: dict[str, Any] = {"task": task, "overlays": args.output is not None}
    if sum(len(parts[number]) for number in todo) <= PART_IMAGES:
        scorer = PartScorer(**options) if todo else None  # a cluster would only cost its start
        for number in todo:
            scored = []
            for position in parts[number]:
                assert scorer is not None
                scored += scorer.score_all([images[position]])
                advance(1)
            yield number, scored
        return
    start_ray(args.workers, args.workers if args.use_gpu else 0)
    work = [{"part": number, "images": json.dumps([images[at] for at in parts[number]])} for number in todo]
    for row in through_actors(work, PartScorer, options, args.workers, args.use_gpu):
        advance(len(row["pred_score"]))
        columns = [row[name] for name in ScoredImage._fields]
        yield int(row["part"]), [_scored(*values) for values in zip(*columns, strict=True)]


class PartScorer:
    """A detector and what is asked of it; called by Ray Data with one part after the other."""

    def __init__(self, task: ScoringTask, overlays: bool) -> None:
        self._detector = load_detector(task.bundle, task.threads, task.device, task.options)
        self._task, self._overlays = task, overlays

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        images = [ImageInput(*values) for values in json.loads(rows["images"][0])]
        together = self._detector.images_at_once if self._task.view == WHOLE else 1
        groups = (images[start : start + together] for start in range(0, len(images), together))
        scored = [result for group in groups for result in self.score_all(group)]
        columns = {name: [[getattr(result, name) for result in scored]] for name in ScoredImage._fields}
        return {"part": [int(rows["part"][0])], **columns}

    def score_all(self, images: Sequence[ImageInput]) -> list[ScoredImage]:
        """Score images together, or say why not.

        Args:
            images: as many as the detector scores at once.

        Returns:
            The score of each, or the reason.
        """
        read = [self._read(image) for image in images]
        usable = [
            (each, image.class_name) for each, image in zip(read, images, strict=True) if isinstance(each, Decoded)
        ]
        try:
            pixels, names = [decoded.image for decoded, _ in usable], [name for _, name in usable]
            predictions = iter(self._task.predict_all(self._detector, pixels, names))
        except BayesPFLError as error:  # of tiles or a region, which go one by one
            return [ScoredImage(None, None, str(error), None)] * len(images)
        return [self._result(each, next(predictions)) if isinstance(each, Decoded) else each for each in read]

    def _read(self, image: ImageInput) -> Decoded | ScoredImage:
        """The image's pixels, or why it cannot be scored."""
        try:
            self._detector.check_class_names([image.class_name])
            return decode(image.read(), self._task.max_pixels, bits=self._task.bits)
        except BayesPFLError as error:
            return ScoredImage(None, None, str(error), None)
        except OSError as error:
            return ScoredImage(None, None, error.strerror or str(error), None)

    def _result(self, decoded: Decoded, prediction: Prediction) -> ScoredImage:
        drawn = encode_png(_drawn(decoded.image, prediction.anomaly_map)) if self._overlays else None
        regions = None
        if self._task.region_threshold is not None:
            size = decoded.image.size
            outlines = outlined_regions(prediction.anomaly_map, self._task.region_threshold, *size)
            regions = json.dumps([*size, outlines])
        read_as = "; ".join(decoded.remarks) or None
        return ScoredImage(prediction.image_score, prediction.uncertainty, None, drawn, regions, read_as)


def _drawn(image: Image.Image, anomaly_map: np.ndarray) -> Image.Image:
    """The heat map over a copy of the image of at most `OVERLAY_PX`."""
    small = image.copy()
    small.thumbnail((OVERLAY_PX, OVERLAY_PX))
    return overlay(small, anomaly_map)


def _scored(
    score: float | None,
    uncertainty: float | None,
    error: str | None,
    png: bytes | None,
    regions: str | None,
    read_as: str | None,
) -> ScoredImage:
    """What Ray Data's columns hold of one image: it turns None among numbers into NaN."""
    if error is not None:
        return ScoredImage(None, None, error, None)
    assert score is not None
    spread = None if uncertainty is None or np.isnan(uncertainty) else float(uncertainty)
    return ScoredImage(float(score), spread, None, png, regions, read_as)


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
