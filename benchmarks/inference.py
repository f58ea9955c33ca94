"""Inference, fast and exact, against a straightforward implementation with the same weights (`straightforward.py`).

    python benchmarks/inference.py            ViT-L-14-336's shape, 518 px: under ten minutes
    python benchmarks/inference.py --quick    the same shape, fewer repeats: under a minute
    python benchmarks/inference.py --variant published    the released implementation's choices instead of the paper's

Random weights; one thread; process CPU time, so that other programs disturb little; both sides in turn, medians. The memory
of each head is measured in a process of its own. The last line is one JSON object.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import straightforward
import torch

from bayes_pfl.backbone import Backbone, Features
from bayes_pfl.bundle import Bundle
from bayes_pfl.config import BackboneConfig, DetectorConfig, ModelConfig, ScoringConfig, published_variant
from bayes_pfl.detector import Detector
from bayes_pfl.draws import keyed_draws
from bayes_pfl.model import BayesPFL, Widths
from bayes_pfl.preprocess import image_tensor

CLASS_NAME = "bottle"
NUM_SAMPLES = 10
SEED = 0
KEY = b"image"


class Setup(NamedTuple):
    """A detector with random weights, an image and its features."""

    detector: Detector
    image: np.ndarray
    features: Features


def make_detector(variant: str) -> Detector:
    """ViT-L-14-336 at 518 px with random weights under a random head; its map is not smoothed."""
    model = ModelConfig(num_prompts=3, flow_length=10)
    config = DetectorConfig(
        backbone=BackboneConfig(name="ViT-L-14-336", pretrained="random:0", image_size=518, feature_layers=(6, 12, 18, 24)),
        model=published_variant(model) if variant == "published" else model,
        scoring=ScoringConfig(smoothing_sigma_px=0),
    )
    backbone = Backbone(config.backbone)
    torch.manual_seed(SEED)
    head = BayesPFL(config.model, Widths.of(backbone))
    return Detector(Bundle(Path(), config, head.state_dict(), {}), backbone, torch.device("cpu"))


def make_setup(variant: str) -> Setup:
    """The detector, noise as an image, and features of the right shape drawn at random."""
    detector = make_detector(variant)
    size, backbone = detector.config.backbone.image_size, detector.backbone
    image = np.random.default_rng(SEED).integers(0, 256, (size, size, 3), dtype=np.uint8)
    generator = torch.Generator().manual_seed(SEED)
    patches = torch.randn(4, 1, backbone.grid[0] * backbone.grid[1], backbone.patch_width, generator=generator)
    return Setup(detector, image, Features(torch.randn(1, backbone.joint_width, generator=generator), patches))


def slow_head(setup: Setup, features: Features, num_samples: int, stored_weights: bool = True) -> straightforward.Scores:
    """The straightforward head with the fast one's draws."""
    detector = setup.detector
    draws = keyed_draws(SEED, [KEY], num_samples, detector.backbone.text_width)
    name = detector.backbone.class_tokens(CLASS_NAME)
    return straightforward.head(
        detector.model, detector.backbone, features, draws, name, detector.config.backbone.image_size, stored_weights
    )


def fast_head(setup: Setup, features: Features, num_samples: int) -> Any:
    """The detector from features on."""
    return setup.detector.predict_features(features, KEY, CLASS_NAME, [num_samples], SEED)[num_samples]


def pixels(setup: Setup) -> torch.Tensor:
    """The image as the encoder wants it."""
    from PIL import Image

    return image_tensor(Image.fromarray(setup.image), setup.detector.config.backbone.image_size)[None]


def cpu_seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median process CPU time of each run, the runs in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def extra_megabytes(variant: str, head: str) -> float:
    """Peak memory that a head takes on top of weights and features, in a fresh process."""
    command = [sys.executable, __file__, "--variant", variant, "--measure-memory", head]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_memory(setup: Setup, head: str) -> float:
    """VmHWM after one run minus VmRSS before it, in MB; the high-water mark is reset in between."""
    run = {"fast": fast_head, "straightforward": slow_head}[head]
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run(setup, setup.features, NUM_SAMPLES)
    return (_status("VmHWM") - before) / 1e3


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1]) * 1.024
    raise RuntimeError(f"no {field}")


@torch.inference_mode()
def benchmark(variant: str, repeats: int) -> dict[str, Any]:
    """Both sides in turn: seconds, ratios, differences, sizes and versions."""
    setup = make_setup(variant)
    detector, features, tensor = setup.detector, setup.features, pixels(setup)
    slow, fast = slow_head(setup, features, NUM_SAMPLES), fast_head(setup, features, NUM_SAMPLES)
    head = cpu_seconds(
        {
            "straightforward": lambda: slow_head(setup, features, NUM_SAMPLES),
            "fused": lambda: slow_head(setup, features, NUM_SAMPLES, stored_weights=False),
            "fast": lambda: fast_head(setup, features, NUM_SAMPLES),
            "fast_r1": lambda: fast_head(setup, features, 1),
            "fast_r20": lambda: fast_head(setup, features, 20),
        },
        repeats,
    )
    encoder = cpu_seconds(
        {
            "straightforward": lambda: straightforward.encode_image(detector.backbone, tensor),
            "fast": lambda: detector.backbone.encode_image(tensor),
        },
        repeats,
    )
    memory = {name: extra_megabytes(variant, name) for name in ("straightforward", "fast")}
    return {
        "head_ratio": head["straightforward"] / head["fast"],
        "head_ratio_to_fused_attention": head["fused"] / head["fast"],
        "end_to_end_ratio": (encoder["straightforward"] + head["straightforward"]) / (encoder["fast"] + head["fast"]),
        "encoder_ratio": encoder["straightforward"] / encoder["fast"],
        "r20_over_r1": (encoder["fast"] + head["fast_r20"]) / (encoder["fast"] + head["fast_r1"]),
        "memory_ratio": memory["straightforward"] / memory["fast"],
        "largest_map_difference": float((torch.from_numpy(fast.anomaly_map) - slow.anomaly_map).abs().max()),
        "largest_score_difference": max(abs(fast.image_score - slow.image_score), abs(fast.text_score - slow.text_score)),
        "map_std": float(slow.anomaly_map.std()),
        "head_s": head,
        "encoder_s": encoder,
        "head_extra_mb": memory,
    } | circumstances(variant, repeats)


def circumstances(variant: str, repeats: int) -> dict[str, Any]:
    """Sizes, versions, threads."""
    return {
        "variant": variant,
        "backbone": "ViT-L-14-336, random weights",
        "image_px": 518,
        "num_prompts": 3,
        "num_samples": NUM_SAMPLES,
        "flow_length": 10,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one repeat instead of five")
    parser.add_argument("--variant", choices=["paper", "published"], default="paper")
    parser.add_argument("--measure-memory", choices=["fast", "straightforward"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.measure_memory:
        print(measure_memory(make_setup(arguments.variant), arguments.measure_memory))
        return
    print(json.dumps(benchmark(arguments.variant, 1 if arguments.quick else 5)))


if __name__ == "__main__":
    main()
