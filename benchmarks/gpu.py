"""Claim: on a GPU scores equal the CPU's within 1e-4, and batches of 16 take less time an image than one at a time.

    python benchmarks/gpu.py [--device cuda] [--quick]

For whoever has a GPU: it needs the package `bayes_pfl` and its wheels alone, no Ray and no MLflow, and no trained weights
(ViT-L-14-336's exact shape, random). Measures images one by one and in batches of 16, R = 1, 10 and 20, in float32, tf32, bfloat16
and compiled; a training step of 32 images at R = 1; peak memory. Prints a table on stderr and one JSON object. `--device cpu --quick`
runs here too, with the embedded model's shape.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import BackboneConfig, DetectorConfig, ModelConfig, RunConfig, TrainingConfig
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.detector import BATCH, Detector
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.training.trainer import Trainer

FULL = BackboneConfig(name="ViT-L-14-336", pretrained="random:0", image_size=518)
QUICK = BackboneConfig(
    name="package:embedded/bayes-pfl-embedded.json",
    pretrained="random:0",
    image_size=112,
    feature_layers=(6, 8, 10, 12),
)
TOLERANCE = 1e-4
COMPARED = 4
TRAINED_AT_ONCE = 32
RUNS = 5


def main() -> int:
    """Measure; 0 if the claim holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--quick", action="store_true", help="the embedded model's shape, few runs: under a minute on a CPU"
    )
    args = parser.parse_args()
    device = torch.device(args.device)
    config = DetectorConfig(backbone=QUICK if args.quick else FULL, model=ModelConfig())
    backbone = Backbone(config.backbone)
    torch.manual_seed(0)
    bundle = Bundle(Path("bundle"), config, BayesPFL(config.model, Widths.from_backbone(backbone)).state_dict(), {})
    images = [np.random.default_rng(seed).integers(0, 256, (600, 800, 3), np.uint8) for seed in range(BATCH)]
    rows = [
        row
        for choice in choices(device, args.quick)
        for row in measured(bundle, backbone, device, images, args.quick, **choice)
    ]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()), file=sys.stderr)
    difference = largest_difference(bundle, backbone, device, images[:COMPARED])
    step_ms, step_memory = training_step(config, backbone, device, args.quick)
    exact = {(row["images"], row["num_samples"]): row["ms_an_image"] for row in rows if row["choice"] == "float32"}
    faster = device.type == "cpu" or exact[BATCH, 10] < exact[1, 10]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    result = {
        "device": name,
        "torch": torch.__version__,
        "backbone": config.backbone.name,
        "rows": rows,
        "largest_difference_from_cpu": difference,
        "training_step_ms": step_ms,
        "training_step_peak_mib": step_memory,
        "holds": difference <= TOLERANCE and faster,
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


def choices(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """How the detector computes: precisions, and compiled where there is time for it.

    Args:
        device: where.
        quick: leave out what takes minutes.

    Returns:
        Options of `Detector`.
    """
    precisions = ("float32", "bfloat16") if device.type == "cpu" else ("float32", "tf32", "bfloat16")
    return [{"precision": precision} for precision in precisions] + (
        [] if quick else [{"precision": precision, "compiled": True} for precision in precisions[::2]]
    )


def measured(
    bundle: Bundle, backbone: Backbone, device: torch.device, images: list[np.ndarray], quick: bool, **choice: Any
) -> list[dict[str, Any]]:
    """Milliseconds an image, alone and in a batch, for several R.

    Args:
        bundle: the head.
        backbone: the frozen CLIP.
        device: where.
        images: a batch.
        quick: fewer runs.
        choice: options of `Detector`.

    Returns:
        A row for each size of a batch and R.
    """
    rows = []
    for number, num_samples in itertools.product((1, BATCH), (10,) if quick else (1, 10, 20)):
        detector = Detector(bundle, backbone, device, deterministic=number == 1, **choice)
        given = images[:number], ["metal plate"] * number, num_samples
        seconds, memory = timed(
            device, lambda detector=detector, given=given: detector.predict(*given), 1 if quick else RUNS
        )
        rows.append(
            {
                "choice": "compiled " * choice.get("compiled", False) + choice["precision"],
                "images": number,
                "num_samples": num_samples,
                "ms_an_image": round(seconds / number * 1000, 2),
                "peak_mib": memory,
            }
        )
    return rows


def largest_difference(bundle: Bundle, backbone: Backbone, device: torch.device, images: list[np.ndarray]) -> float:
    """By how much scores and maps of a batch on the device differ from those of the CPU.

    Args:
        bundle: the head.
        backbone: the frozen CLIP.
        device: where.
        images: a few.

    Returns:
        The largest absolute difference; both are in [0, 1].
    """
    names = ["metal plate"] * len(images)
    here, there = (
        Detector(bundle, backbone, where).predict(images, names, 3) for where in (torch.device("cpu"), device)
    )
    pairs = list(zip(here, there, strict=True))
    scores = max(abs(one.image_score - other.image_score) for one, other in pairs)
    return float(max(scores, *(np.abs(one.anomaly_map - other.anomaly_map).max() for one, other in pairs)))


def training_step(config: DetectorConfig, backbone: Backbone, device: torch.device, quick: bool) -> tuple[float, float]:
    """A step of a training with R = 1, the frozen encoder included.

    Args:
        config: of the detector.
        backbone: the frozen CLIP.
        device: where.
        quick: fewer images and runs.

    Returns:
        Milliseconds, and MiB at the peak.
    """
    count, side = 4 if quick else TRAINED_AT_ONCE, config.backbone.image_size
    run = RunConfig(backbone=config.backbone, model=config.model, training=TrainingConfig(batch_size=count, epochs=1))
    trainer = Trainer(run, backbone, device, 1, 1)
    refs = [SampleRef("", i, f"{i}.png", "c", "metal plate", i % 2, f"{i:064}") for i in range(count)]
    masks = torch.zeros(count, side, side)
    masks[1::2, : side // 4, : side // 4] = 1
    pixels = torch.randn(count, 3, side, side)
    seconds, memory = timed(device, lambda: trainer.step(trainer.batch(pixels, masks, refs)), 1 if quick else RUNS)
    return round(seconds * 1000, 1), memory


def timed(device: torch.device, call: Callable[[], Any], runs: int) -> tuple[float, float]:
    """Median time of a call after one that is not counted, and peak memory of the device.

    Args:
        device: where it computes.
        call: what is measured.
        runs: how often.

    Returns:
        Seconds, and MiB (0 on a CPU).
    """
    call()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(runs):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
    return statistics.median(seconds), round(memory, 1)


if __name__ == "__main__":
    sys.exit(main())
