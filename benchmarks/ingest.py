"""Is spreading ingestion over Ray worth it? Images per second against one plain loop in one process.

    python benchmarks/ingest.py [--images 600] [--side 1024] [--repeats 3]

Paints photograph-like PNG images, a third of them with a mask, then packs them in turn with a loop that
reads, decodes, checks, hashes and writes shard after shard in this process, and with the ingest program
over Ray. Both write the same shards, byte for byte, which is checked. Start-up is reported apart: a small
ingest before each measured one starts Ray and has its workers import what they need. Prints JSON;
``ratio`` is the median over repeats. Ray lowers its workers' priority, so on a busy machine set
RAY_worker_niceness=0 for a comparison of equals.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from bayes_pfl.datasets.catalogue import find, get_dataset
from bayes_pfl.datasets.output import begin, claim, finish
from bayes_pfl.datasets.packing import Recipe, pack_shard, plan_shards
from bayes_pfl.datasets.source import Source
from bayes_pfl.preprocess import MAX_PIXELS
from pipelines.ingest import IngestConfig, ingest

ROWS_PER_SHARD = 16


def paint(folder: Path, images: int, side: int) -> None:
    """Smooth shading with fine noise: PNG files of about the size of MVTec-AD's."""
    random = np.random.default_rng(0)
    for number in range(images):
        kind = ("good", "good", "scratch")[number % 3]
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(np.int16)
        noise = random.integers(-3, 4, (side, side, 1), dtype=np.int16)
        save(folder / f"part/test/{kind}/{number:05d}.png", np.clip(smooth + noise, 0, 255).astype(np.uint8))
        if kind == "scratch":
            mask = np.zeros((side, side), np.uint8)
            mask[side // 4 : side // 3, side // 5 : side // 2] = 255
            save(folder / f"part/ground_truth/{kind}/{number:05d}_mask.png", mask)


def save(path: Path, pixels: np.ndarray) -> None:
    """Write an image file, with little compression to save the benchmark's time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def in_one_process(source: Path, output: Path) -> tuple[float, str]:
    """Seconds and digest of the plain loop."""
    dataset = get_dataset("folder")
    started = time.perf_counter()
    found = find(dataset, Source(source))
    recipe = Recipe(source.name, dataset.mask_above, None, MAX_PIXELS)
    tasks = plan_shards(source, output, recipe, found.records, ROWS_PER_SHARD, 2**40)
    with claim(output):
        for task in begin(output, tasks):
            pack_shard(task)
        manifest = finish(output, tasks, found, {})
    return time.perf_counter() - started, manifest["digest"]


def over_ray(source: Path, output: Path) -> tuple[float, str]:
    """Seconds and digest of the program, with Ray running."""
    started = time.perf_counter()
    config = IngestConfig(rows_per_shard=ROWS_PER_SHARD, bytes_per_shard=2**40)
    summary = ingest("folder", source, output, config)
    return time.perf_counter() - started, summary["digest"]


def main() -> None:
    """Measure in turn, so that both meet the same machine, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--side", type=int, default=1024, help="pixels")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        paint(base / "images", args.images, args.side)
        paint(base / "warm-up", 8 * ROWS_PER_SHARD, args.side // 2)
        loop, ray, startup = [], [], []
        for _ in range(args.repeats):
            digests = set()
            for run, source, seconds in (
                (in_one_process, "images", loop),
                (over_ray, "warm-up", startup),
                (over_ray, "images", ray),
            ):
                taken, digest = run(base / source, base / "shards")
                shutil.rmtree(base / "shards")
                seconds.append(taken)
                if source == "images":
                    digests.add(digest)
            assert len(digests) == 1, "the two wrote different shards"
        result = {
            "images": args.images,
            "side_px": args.side,
            "cpus": os.cpu_count(),
            "loop_images_per_second": [round(args.images / seconds, 1) for seconds in loop],
            "ray_images_per_second": [round(args.images / seconds, 1) for seconds in ray],
            "ratio": round(statistics.median(one / other for one, other in zip(loop, ray, strict=True)), 2),
            "startup_seconds": [round(seconds, 1) for seconds in startup],
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
