"""Is spreading ingestion over Ray worth it? Images per second against one plain loop in one process.

    python benchmarks/ingest.py [--images 600] [--side 1024] [--repeats 3] [--quick]

Paints PNG images like photographs, a third of them with a mask, then packs them in turn with a loop that
reads, decodes, checks, hashes and writes shard after shard in this process, and with the ingest program
over Ray. Both write the same shards, byte for byte, which is checked. Start-up is reported apart: what
passes until the first worker begins, every time. Prints JSON; ``ratio`` is the median over repeats. Ray
lowers its workers' priority, so on a busy machine set RAY_worker_niceness=0 for a comparison of equals.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.datasets.catalogue import find, get_dataset
from bayes_pfl.datasets.output import begin, claim, finish
from bayes_pfl.datasets.packing import PackingOptions, pack_shard, plan_shards
from bayes_pfl.datasets.source import Source
from pipelines.ingest import ingest
from pipelines.options.ingest import IngestConfig

ROWS_PER_SHARD = 16


def _paint(folder: Path, images: int, side: int) -> None:
    """Smooth shading with fine noise: PNG files of about the size of MVTec-AD's."""
    random = np.random.default_rng(0)
    for number in range(images):
        kind = ("good", "good", "scratch")[number % 3]
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(np.int16)
        noise = random.integers(-3, 4, (side, side, 1), dtype=np.int16)
        _save(folder / f"part/test/{kind}/{number:05d}.png", np.clip(smooth + noise, 0, 255).astype(np.uint8))
        if kind == "scratch":
            mask = np.zeros((side, side), np.uint8)
            mask[side // 4 : side // 3, side // 5 : side // 2] = 255
            _save(folder / f"part/ground_truth/{kind}/{number:05d}_mask.png", mask)


def _save(path: Path, pixels: np.ndarray) -> None:
    """Write an image file, with little compression to save the benchmark's time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def _in_one_process(source: Path, output: Path) -> tuple[float, float, str]:
    """Seconds of start-up and of work, and the digest, of the plain loop."""
    dataset = get_dataset("folder")
    started = time.perf_counter()
    listing = find(dataset, Source(source))
    options = PackingOptions(source.name, dataset.mask_above, None, MAX_PIXELS)
    tasks = plan_shards(source, output, options, listing.records, ROWS_PER_SHARD, 2**40)
    with claim(output):
        for task in begin(output, tasks):
            pack_shard(task)
        manifest = finish(output, tasks, listing, {})
    return 0.0, time.perf_counter() - started, manifest["digest"]


def _over_ray(source: Path, output: Path) -> tuple[float, float, str]:
    """The same of the program, which counts its start-up itself."""
    started = time.perf_counter()
    config = IngestConfig(rows_per_shard=ROWS_PER_SHARD, bytes_per_shard=2**40)
    summary = ingest("folder", source, output, config)
    startup = summary["startup_seconds"]
    return startup, time.perf_counter() - started - startup, summary["digest"]


def main() -> None:
    """Measure in turn, so that both meet the same machine, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--side", type=int, default=1024, help="pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="120 images once: under a minute")
    args = parser.parse_args()
    if args.quick:
        args.images, args.repeats = 120, 1
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        _paint(base / "images", args.images, args.side)
        loop, ray, startup = [], [], []
        for _ in range(args.repeats):
            _, seconds, digest = _in_one_process(base / "images", base / "shards")
            loop.append(seconds)
            shutil.rmtree(base / "shards")
            waited, seconds, same = _over_ray(base / "images", base / "shards")
            ray.append(seconds)
            startup.append(waited)
            shutil.rmtree(base / "shards")
            assert same == digest, "the two wrote different shards"
        result = {
            "images": args.images,
            "side_px": args.side,
            "cpus": os.cpu_count(),
            "threads": 1,
            "versions": {name: importlib.metadata.version(name) for name in ("ray", "pyarrow", "pillow")},
            "loop_images_per_second": [round(args.images / seconds, 1) for seconds in loop],
            "ray_images_per_second": [round(args.images / seconds, 1) for seconds in ray],
            "ratio": round(statistics.median(slow / fast for slow, fast in zip(loop, ray, strict=True)), 2),
            "startup_seconds": [round(seconds, 1) for seconds in startup],
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
