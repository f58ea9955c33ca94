"""Pixel metrics, exact and streaming, against scikit-learn and a 200-threshold PRO.

    python benchmarks/metrics.py            100 maps of 518 px, about a minute
    python benchmarks/metrics.py --quick    20 maps of 518 px, some 15 s

Both sides get the same maps, in one process. The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import time
import tracemalloc
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy
import sklearn
from scipy import ndimage
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from bayes_pfl.metrics import Metrics, PixelHistogram, pixel_metrics
from bayes_pfl.metrics.curve import PRO_FPR_LIMIT
from bayes_pfl.metrics.regions import EIGHT_NEIGHBOURS

SIZE_PX = 518
PATCH_PX = 14
PRO_THRESHOLDS = 200


class Timed(NamedTuple):
    """What a run gave, and its wall time in seconds."""

    result: Metrics
    seconds: float


def make_maps(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities upsampled from patches, and masks: three of four hold 1 to 3 ellipses."""
    rng = np.random.default_rng(seed)
    patches = SIZE_PX // PATCH_PX
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX]
    maps = np.empty((count, SIZE_PX, SIZE_PX), dtype=np.float32)
    masks = np.zeros(maps.shape, dtype=np.uint8)
    for scores, mask in zip(maps, masks, strict=True):
        logits = ndimage.zoom(rng.standard_normal((patches, patches)), PATCH_PX, order=1)
        for _ in range(rng.integers(1, 4) if rng.random() < 3 / 4 else 0):
            center, radius = rng.uniform(40, SIZE_PX - 40, 2), rng.uniform(8, 50, 2)
            distance = ((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2
            mask[distance < 1] = 1
            logits += 2 * np.exp(-distance / 2)
        scores[:] = 1 / (1 + np.exp(2 - 1.3 * logits))
    return maps, masks


def threshold_pro(maps: np.ndarray, masks: np.ndarray) -> float:
    """PRO as it is usually computed: masks and overlaps anew at each of 200 even thresholds."""
    regions = []
    for index, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
        for number in range(1, count + 1):
            regions.append((index, np.nonzero(labels == number)))
    normal = masks == 0
    rates, overlaps = [], []
    for threshold in np.linspace(maps.min(), maps.max(), PRO_THRESHOLDS):
        found = maps >= threshold
        overlaps.append(np.mean([found[index][pixels].mean() for index, pixels in regions]))
        rates.append(np.logical_and(found, normal).sum() / normal.sum())
    rate, overlap = np.array(rates[::-1]), np.array(overlaps[::-1])
    kept = rate < PRO_FPR_LIMIT
    end = np.interp(PRO_FPR_LIMIT, rate, overlap)
    rate = np.concatenate(([0.0], rate[kept], [PRO_FPR_LIMIT]))
    return float(auc(rate, np.concatenate(([0.0], overlap[kept], [end]))) / PRO_FPR_LIMIT)


def straightforward(maps: np.ndarray, masks: np.ndarray) -> Metrics:
    """AUROC, AP and F1-max by scikit-learn, PRO at 200 thresholds."""
    labels, scores = masks.ravel(), maps.ravel()
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return Metrics(
        {
            "pixel_auroc": float(roc_auc_score(labels, scores)),
            "pixel_pro": threshold_pro(maps, masks),
            "pixel_ap": float(average_precision_score(labels, scores)),
            "pixel_f1_max": float(f1.max()),
        }
    )


def streaming(maps: np.ndarray, masks: np.ndarray) -> Metrics:
    """One histogram, fed one map after another."""
    histogram = PixelHistogram()
    for scores, mask in zip(maps, masks, strict=True):
        histogram.update([scores], [mask])
    return histogram.metrics()


def timed(run: Callable[[], Metrics], repeats: int) -> Timed:
    """The result and the median wall time of some runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return Timed(result, float(np.median(seconds)))


def extra_megabytes(run: Callable[[], Metrics]) -> float:
    """Peak memory that a run allocates on top of its input, in a run of its own."""
    tracemalloc.start()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6


def difference(found: Metrics, expected: Metrics) -> dict[str, float]:
    """found - expected by name."""
    return {name: found[name] - expected[name] for name in expected.values}


def benchmark(count: int, seed: int) -> dict[str, object]:
    """Both sides on the same maps: seconds, ratios, errors, memory, sizes and versions."""
    maps, masks = make_maps(count, seed)
    slow = timed(lambda: straightforward(maps, masks), repeats=1)
    exact = timed(lambda: pixel_metrics(maps, masks), repeats=3)
    stream = timed(lambda: streaming(maps, masks), repeats=3)
    return {
        "streaming_ratio": slow.seconds / stream.seconds,
        "exact_ratio": slow.seconds / exact.seconds,
        "straightforward_s": slow.seconds,
        "exact_s": exact.seconds,
        "streaming_s": stream.seconds,
        "streaming_error": difference(stream.result, exact.result),
        "exact_minus_straightforward": difference(exact.result, slow.result),
        "metrics": dict(exact.result.values),
        "exact_extra_mb": extra_megabytes(lambda: pixel_metrics(maps, masks)),
        "streaming_extra_mb": extra_megabytes(lambda: streaming(maps, masks)),
        "maps": count,
        "size_px": SIZE_PX,
        "regions": sum(ndimage.label(mask, structure=EIGHT_NEIGHBOURS)[1] for mask in masks),
        "pro_thresholds": PRO_THRESHOLDS,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "scikit_learn": sklearn.__version__,
        "python": platform.python_version(),
        "threads": 1,
        "cpu_count": os.cpu_count(),
    }


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 maps instead of 100")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    result = benchmark(20 if arguments.quick else 100, arguments.seed)
    print(f"straightforward {result['straightforward_s']:.2f} s")
    for name in ("exact", "streaming"):
        print(f"{name:<15} {result[f'{name}_s']:.3f} s, {result[f'{name}_ratio']:.0f} times faster")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
