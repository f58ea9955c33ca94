"""What grows with the number of images, and how fast: time and memory of the driver, stage by stage.

    python benchmarks/scale.py [--images 1000 10000 100000] [--per-category 100] [--json]

Paints tiny images, a third of them defective, with masks and without (label-only), 100 in a category, and measures each
stage in a fresh process: seconds, without imports and the start of Ray, and the process's largest memory (VmHWM).

    ingest       images -> shards and their index, over Ray
    index        the references of all images by URI; no shard may be opened
    plan         what `train` does before Ray starts: split, masks, name, and the first epoch's plan
    first step   the training samples, Ray Data's first batch, one step of the optimiser (embedded model, batches of 16)
    merge        an evaluation's finished chunks -> metrics of every category

The slope is that of log(seconds) over log(images) between the two largest numbers; 1 is linear.
"""

import argparse
import importlib.metadata
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 16
"""Of the images, pixels."""
MAP_SIDE = 32
"""Of the maps that are merged, pixels."""
BATCH = 16
PREPARED = "chunks"
"""The stage that makes what `merge` reads; it is not reported."""
REPORTED = {"ingest": True, "index": True, "plan": False, "first step": False, "merge": False}
"""Stages, and whether label-only images go through them too: no head is trained on those."""


def paint(folder: Path, images: int, per_category: int, masks: bool) -> None:
    """Files in the folders of MVTec-AD; no two images have the same bytes."""
    random = np.random.default_rng(0)
    for number in range(images):
        category, kind = f"part_{number // per_category:04d}", ("good", "good", "scratch")[number % 3]
        pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        _save(folder / f"{category}/test/{kind}/{number:06d}.png", pixels)
        if kind == "scratch" and masks:
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[2:10, 3 : 9 + number % 4] = 255
            _save(folder / f"{category}/ground_truth/{kind}/{number:06d}_mask.png", mask)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def _ingest(folder: Path) -> Callable[[], Any]:
    from pipelines.ingest import ingest
    from pipelines.options.ingest import IngestConfig
    from pipelines.platform.cluster import start_ray

    start_ray()
    return lambda: ingest("folder", folder / "images", folder / "shards", IngestConfig())


def _index(folder: Path) -> Callable[[], Any]:
    from bayes_pfl.data.samples import index_shards

    return lambda: index_shards(f"file://{folder}/shards", "test")


def _settings(folder: Path) -> Any:
    from bayes_pfl.config import TrainingConfig
    from pipelines.platform.settings import DataSettings, TrainSettings

    embedded = {
        "name": "package:embedded/bayes-pfl-embedded.json",
        "pretrained": "package:embedded/bayes-pfl-embedded.safetensors",
        "image_size": 112,
        "feature_layers": (6, 8, 10, 12),
    }
    data = DataSettings(train=f"{folder}/shards", validation_share=0.1)
    return TrainSettings(backbone=embedded, data=data, training=TrainingConfig(batch_size=BATCH))


def _plan(folder: Path) -> Callable[[], Any]:
    from pipelines.training.batches import epoch_plan
    from pipelines.training.images import require_masks, require_selection, run_name, split_samples

    settings = _settings(folder)

    def work() -> None:
        training, validation = split_samples(settings)
        require_masks(training)
        require_selection(validation, settings.backbone.image_size, "A sweep")
        run_name(settings, training, validation)
        epoch_plan(len(training), settings.training, 0)

    return work


def _first_step(folder: Path) -> Callable[[], Any]:
    import torch

    from bayes_pfl.clip.backbone import Backbone
    from bayes_pfl.training.trainer import Trainer
    from pipelines.platform.cluster import start_ray
    from pipelines.training.batches import epoch_plan, image_batches
    from pipelines.training.images import split_samples

    settings = _settings(folder)
    start_ray()
    trainer = Trainer(settings, Backbone(settings.backbone), torch.device("cpu"), 100, 1)

    def work() -> None:
        training, _ = split_samples(settings)
        options = settings.training
        plan = (batch for epoch in range(options.epochs) for batch in epoch_plan(len(training), options, epoch))
        trainer.step(next(image_batches(trainer, training, plan, 1)))

    return work


def _evaluation(folder: Path) -> tuple[Any, Any, list[str], Any]:
    """Task, references, groups, and the chunks of an evaluation."""
    from bayes_pfl.data.preprocess import MAX_PIXELS
    from bayes_pfl.data.samples import index_shards
    from bayes_pfl.inference.bundle import load_bundle
    from pipelines.scoring.finished_chunks import FinishedChunks
    from pipelines.scoring.task import ScoringTask

    refs = index_shards(folder / "shards", "test")
    task = ScoringTask(load_bundle("embedded"), 10, 0, 1, "cpu", MAX_PIXELS)
    return task, refs, [ref.category for ref in refs], FinishedChunks(folder / "evaluation", task, refs)


def _chunks(folder: Path) -> Callable[[], Any]:
    """Chunks as actors would have scored them, with random maps."""
    from bayes_pfl.metrics import PixelHistogram
    from bayes_pfl.metrics.streaming import image_pixels
    from pipelines.scoring.evaluation import chunks
    from pipelines.scoring.pixel_groups import pixel_columns

    def work() -> None:
        _, refs, groups, finished = _evaluation(folder)
        random, mask = np.random.default_rng(0), np.zeros((MAP_SIDE, MAP_SIDE), np.uint8)
        mask[4:12, 5:15] = 1
        for positions in chunks(groups):
            histogram = PixelHistogram()
            maps = random.beta(2, 8, (len(positions), MAP_SIDE, MAP_SIDE))
            masks = [mask * refs[position].label for position in positions]
            histogram.update(maps, masks)
            row = {f"histogram_{name}": values for name, values in histogram.to_arrays().items()}
            row |= {"positions": np.array(positions), "problems": json.dumps([""] * len(positions))}
            row |= {"defects": json.dumps([("good", "scratch")[refs[position].label] for position in positions])}
            row |= pixel_columns([image_pixels(*pair) for pair in zip(maps, masks, strict=True)])
            row |= {"machines": json.dumps([""] * len(positions))}
            columns = ("scores", "uncertainties", "text_scores", "map_parts", "milliseconds")
            row |= {name: random.random(len(positions)) for name in columns}
            finished.add(row | {"vanished": np.zeros(len(positions), np.int64)})

    return work


def _merge(folder: Path) -> Callable[[], Any]:
    from bayes_pfl.metrics import dataset_mean, metrics_by_category
    from pipelines.scoring.evaluation import score_samples

    def work() -> None:
        task, refs, groups, finished = _evaluation(folder)
        scored = score_samples(task, refs, groups, finished, 1, id)
        dataset_mean(metrics_by_category(groups, [ref.label for ref in refs], scored.scores, scored.pixel))

    return work


STAGES = {
    "ingest": _ingest,
    "index": _index,
    "plan": _plan,
    "first step": _first_step,
    PREPARED: _chunks,
    "merge": _merge,
}


def run_stage(stage: str, folder: Path) -> dict[str, float]:
    """Seconds of a stage in this process, and its largest memory so far."""
    work = STAGES[stage](folder)
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {"seconds": seconds, "peak_mb": peak_kib * 1024 / 1e6}


def in_fresh_process(stage: str, folder: Path) -> dict[str, float]:
    """The same in a process of its own, whose copies of remote files lie in the folder."""
    command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder)]
    environment = {**os.environ, "BAYES_PFL_CACHE": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"{stage} failed:\n{answer.stderr}")
    return json.loads(answer.stdout.splitlines()[-1])


def copies(folder: Path) -> list[str]:
    """Names of the files that were fetched by URI."""
    return sorted(path.name.partition("-")[2] for path in (folder / "cache").rglob("*") if path.is_file())


def measure(images: int, per_category: int, masks: bool) -> list[dict[str, Any]]:
    """All stages with so many images."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
        folder = Path(temporary)
        paint(folder / "images", images, per_category, masks)
        stages = [stage for stage, label_only in REPORTED.items() if masks or label_only]
        for stage in stages:
            if stage == "merge":
                in_fresh_process(PREPARED, folder)
            rows.append({"stage": stage, "masks": masks, "images": images, **in_fresh_process(stage, folder)})
            print(f"{stage}, {images:,} images: {rows[-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
            if stage == "index":
                assert copies(folder) == ["index.arrow"], copies(folder)
                rows[-1]["fetched"] = copies(folder)
    return rows


def slopes(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """By stage, of log(seconds) over log(images) between the two largest numbers of images."""
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["images"]):
        by_stage.setdefault(row["stage"] + ("" if row["masks"] else ", label-only"), []).append(row)
    return {
        stage: round(
            math.log(series[-1]["seconds"] / series[-2]["seconds"])
            / math.log(series[-1]["images"] / series[-2]["images"]),
            2,
        )
        for stage, series in by_stage.items()
        if len(series) > 1
    }


def _print_table(rows: Sequence[dict[str, Any]], slope: dict[str, float]) -> None:
    print("| stage | images | seconds | peak memory of the driver, MB | slope |\n|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (not row["masks"], list(REPORTED).index(row["stage"]), row["images"])):
        stage = row["stage"] + ("" if row["masks"] else ", label-only")
        print(f"| {stage} | {row['images']:,} | {row['seconds']:.2f} | {row['peak_mb']:.0f} | {slope.get(stage, '')} |")


def main() -> None:
    """Measure every number of images, with masks and without, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--per-category", type=int, default=100, help="images in a category")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--stage", choices=STAGES, help="run one stage in this process (used by the benchmark itself)")
    parser.add_argument("--folder", type=Path, help="with --stage: folder of images and shards")
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(run_stage(args.stage, args.folder)))
        return
    rows = [
        row for images in args.images for masks in (True, False) for row in measure(images, args.per_category, masks)
    ]
    slope = slopes(rows)
    versions = {name: importlib.metadata.version(name) for name in ("ray", "pyarrow", "numpy", "torch")}
    if args.json:
        print(json.dumps({"rows": rows, "slopes": slope, "cpus": os.cpu_count(), "versions": versions}))
    else:
        _print_table(rows, slope)


if __name__ == "__main__":
    main()
