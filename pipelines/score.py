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
from tqdm import tqdm

from bayes_pfl.data.preprocess import decode_image, encode_png
from bayes_pfl.datasets.output import claim
from bayes_pfl.errors import BayesPFLError, ConfigError, DataError
from bayes_pfl.inference.bundle import Bundle, load_bundle
from bayes_pfl.inference.heatmap import overlay
from bayes_pfl.methods.builder import class_names
from pipelines.platform.cluster import start_ray
from pipelines.platform.html import table
from pipelines.scoring.actors import load_detector, through_actors
from pipelines.scoring.inputs import Item, find_items
from pipelines.scoring.results import PART, Plan, Results, Scored, complete, row_of, summarise

PART_IMAGES = 16
"""What a killed run loses at most, and what one process scores without asking Ray for help."""

OVERLAY_PX = 1024
"""Longest side of a heat map over its image: the map itself is no finer than the model's input."""

LISTED = 10
"""Images named on the terminal; the table on disk has all."""

PRINTED = ("sample_id", "class_name", "pred_score", "pred_label", "uncertainty")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl score`."""
    add = parser.add_argument
    add("images", nargs="+", help="image files, folders of them, or folders of shards, by path or URI")
    add("--class-name", help='what the images show, e.g. "metal plate"; shards know it themselves')
    add("--model", default="embedded", help="bundle by path or URI, embedded (default), or models:/NAME@ALIAS")
    add("--num-samples", type=int, default=10, metavar="R", help="Monte Carlo samples; default 10")
    add("--seed", type=int, default=0, help="of the draws; default 0")
    add("--threshold", type=float, metavar="SCORE", help="scores from here on are anomalous; default: the model's own")
    add("--output", type=Path, help="folder for table, heat maps and gallery; run again, it goes on where it stopped")
    add("--fail-above", type=float, metavar="SCORE", help="exit with 1 if an image scores higher")
    add("--workers", type=int, default=2, help=f"processes that hold the model, for more than {PART_IMAGES} images")
    add("--threads", type=int, default=1, help="CPU threads of a worker; default 1")
    add("--use-gpu", action="store_true", help="one GPU for every worker")
    add("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Score and print; an image that cannot be read is listed and the others are scored."""
    if min(args.num_samples, args.workers, args.threads) < 1 or args.seed < 0:
        raise ConfigError("--num-samples, --workers and --threads are at least 1, --seed at least 0.")
    items = find_items(args.images, args.class_name)
    bundle = load_bundle(args.model)
    class_names(bundle.config).check(item.class_name for item in items)
    threshold = bundle.config.scoring.threshold if args.threshold is None else args.threshold
    if args.output is None:
        rows, summary = _score_only(args, bundle, items, threshold)
    else:
        rows, summary = _score_into(args.output.expanduser().resolve(), args, bundle, items, threshold)
    print(json.dumps(summary) if args.json else _text(rows, summary))
    if not summary["scored"]:
        raise DataError(f"None of the images could be scored. The first: {summary['unreadable'][0]['error']}.")
    return int(args.fail_above is not None and summary["highest"] > args.fail_above)


def _score_only(
    args: argparse.Namespace, bundle: Bundle, items: Sequence[Item], threshold: float | None
) -> tuple[pa.Table, dict[str, Any]]:
    """Keep nothing but what is printed."""
    parts = _parts(items)
    found: dict[int, list[Scored]] = {}
    _announce(args, bundle, len(items), 0)
    with tqdm(total=len(items), unit="image", disable=None) as bar:
        for number, scored in _score(args, bundle, items, parts, list(range(len(parts))), bar.update):
            found[number] = scored
    rows = [
        row_of(items[at], one) for number, part in enumerate(parts) for at, one in zip(part, found[number], strict=True)
    ]
    table = complete(pa.Table.from_pylist(rows, PART), bundle.version, threshold)
    plan = Plan.of(bundle, args.num_samples, args.seed, items)
    return table, {**summarise(table, bundle, threshold), **plan._asdict(), "rows": table.to_pylist()}


def _score_into(
    folder: Path, args: argparse.Namespace, bundle: Bundle, items: Sequence[Item], threshold: float | None
) -> tuple[pa.Table, dict[str, Any]]:
    """Write a folder of results, or what is missing of it."""
    with claim(folder):
        parts = _parts(items)
        results = Results(folder, Plan.of(bundle, args.num_samples, args.seed, items), items, parts)
        todo = results.begin()
        left = sum(len(parts[number]) for number in todo)
        _announce(args, bundle, len(items), len(items) - left)
        with tqdm(total=len(items), initial=len(items) - left, unit="image", disable=None) as bar:
            for number, scored in _score(args, bundle, items, parts, todo, bar.update):
                results.add(number, scored)
        return results.finish(bundle, threshold)


def _parts(items: Sequence[Item]) -> list[list[int]]:
    return [list(range(start, min(start + PART_IMAGES, len(items)))) for start in range(0, len(items), PART_IMAGES)]


def _announce(args: argparse.Namespace, bundle: Bundle, total: int, done: int) -> None:
    """What will be done, before anything takes time."""
    left = total - done
    before = f"; {done:,} of {total:,} were done before" if done else ""
    where = "here" if left <= PART_IMAGES else f"on {args.workers} workers"
    kept = f", into {args.output}" if args.output else ""
    print(
        f"Scoring {left:,} image{'' if left == 1 else 's'} {where}{before}: model version {bundle.version}, "
        f"R = {args.num_samples}, seed {args.seed}{kept}.",
        file=sys.stderr,
    )


def _score(
    args: argparse.Namespace,
    bundle: Bundle,
    items: Sequence[Item],
    parts: Sequence[Sequence[int]],
    todo: Sequence[int],
    advance: Callable[[int], Any],
) -> Iterator[tuple[int, list[Scored]]]:
    """Numbers and scores of the parts to do, as they are done."""
    options = {
        "bundle": bundle,
        "num_samples": args.num_samples,
        "seed": args.seed,
        "threads": args.threads,
        "device": "cuda" if args.use_gpu else "cpu",
        "overlays": args.output is not None,
    }
    if sum(len(parts[number]) for number in todo) <= PART_IMAGES:
        scorer = PartScorer(**options) if todo else None  # a cluster would only cost its start
        for number in todo:
            scored = []
            for position in parts[number]:
                assert scorer is not None
                scored.append(scorer.score(items[position]))
                advance(1)
            yield number, scored
        return
    start_ray(args.workers, args.workers if args.use_gpu else 0)
    work = [{"part": number, "items": json.dumps([items[at] for at in parts[number]])} for number in todo]
    for row in through_actors(work, PartScorer, options, args.workers, args.use_gpu):
        advance(len(row["pred_score"]))
        columns = (row["pred_score"], row["uncertainty"], row["error"], row["overlay"])
        yield int(row["part"]), [_scored(*values) for values in zip(*columns, strict=True)]


class PartScorer:
    """A detector and what is asked of it; called by Ray Data with one part after the other."""

    def __init__(self, bundle: Bundle, num_samples: int, seed: int, threads: int, device: str, overlays: bool) -> None:
        self._detector = load_detector(bundle, threads, device)
        self._num_samples, self._seed, self._overlays = num_samples, seed, overlays

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """The scores of one part, as columns."""
        scored = [self.score(Item(*values)) for values in json.loads(rows["items"][0])]
        columns = {name: [[getattr(one, name) for one in scored]] for name in Scored._fields}
        return {"part": [int(rows["part"][0])], **columns}

    def score(self, item: Item) -> Scored:
        """Score one image, or say why not."""
        try:
            picture = decode_image(item.read())
            prediction = self._detector.predict([picture], [item.class_name], self._num_samples, self._seed)[0]
        except BayesPFLError as error:
            return Scored(None, None, str(error), None)
        except OSError as error:
            return Scored(None, None, error.strerror or str(error), None)
        drawn = encode_png(_drawn(picture, prediction.anomaly_map)) if self._overlays else None
        return Scored(prediction.image_score, prediction.uncertainty, None, drawn)


def _drawn(picture: Image.Image, anomaly_map: np.ndarray) -> Image.Image:
    """The heat map over a copy of the picture of at most `OVERLAY_PX`."""
    small = picture.copy()
    small.thumbnail((OVERLAY_PX, OVERLAY_PX))
    return overlay(small, anomaly_map)


def _scored(score: float | None, uncertainty: float | None, error: str | None, png: bytes | None) -> Scored:
    """What Ray Data's columns hold of one image: it turns None among numbers into NaN."""
    if error is not None:
        return Scored(None, None, error, None)
    assert score is not None
    assert uncertainty is not None
    return Scored(float(score), float(uncertainty), None, png)


def _text(rows: pa.Table, summary: dict[str, Any]) -> str:
    """The table, or its head where the rest is on disk, and what else there is to say."""
    rows = rows.filter(pc.is_valid(rows["pred_score"]))
    scored = rows.select([name for name in PRINTED if rows[name].null_count < len(rows)]).to_pylist()
    kept = "output" in summary
    if kept:
        scored = sorted(scored, key=lambda row: -row["pred_score"])[:LISTED]
    lines = [table(scored, decimals=4)] if scored else []
    if kept:
        lines.append(f"\n{summary['scored']:,} images scored, the highest above; all of them in {summary['output']}:")
        lines.append("  gallery.html, scores.parquet, scores.arrow, summary.json, maps/")
    if summary["threshold"] is not None:
        lines.append(f"{summary['anomalous']:,} at or above the threshold of {summary['threshold']:g}")
    failed = summary["unreadable"]
    lines += [f"not scored: {one['sample_id']}: {one['error']}" for one in failed[:LISTED]]
    if len(failed) > LISTED:
        lines.append(f"not scored: {len(failed) - LISTED:,} more")
    if summary["kind"]:
        lines.append(f"Model: {summary['kind']}. For real work use a bundle trained on ViT-L-14-336 (see the README).")
    return "\n".join(lines)
