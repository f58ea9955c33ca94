"""Inference, fast and exact, against a straightforward implementation with the same weights (`straightforward.py`).

    python benchmarks/inference.py            ViT-L-14-336's shape, 518 px: about five core minutes
    python benchmarks/inference.py --quick    ViT-B-16's shape, 224 px, once: half a core minute; its encoder is so
                                              small that ratios over both parts differ
    python benchmarks/inference.py --variant published    the released implementation's choices instead of the paper's

Random weights; one thread; process CPU time, so that other programs disturb little; both sides in turn, medians. The
memory of each head is measured in a copy of the process, and so is that of one large image in tiles, with the embedded
model: with few and many tiles, and four times as large. How many samples `num_samples="auto"` takes is counted with the
embedded model on painted images. bfloat16 is faster where the processor multiplies it so; the result
says whether it does, and how fast products of CLIP's shape are in either type. The last line is one JSON object.
"""

import argparse
import ctypes
import functools
import gc
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import straightforward
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.placement import multiplies_bfloat16
from bayes_pfl.config import (
    MAX_SAMPLES,
    BackboneConfig,
    DetectorConfig,
    ModelConfig,
    ScoringConfig,
    published_variant,
)
from bayes_pfl.data.pixels import image_tensor
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.methods.prompt_flow.noise import keyed_noise
from bayes_pfl.synthetic import write_dataset
from bayes_pfl.synthetic.splits import HELD_OUT

CLASS_NAME = "bottle"
NUM_SAMPLES = 10
NESTED = [1, 3, 5, 10, 20]
SEED = 0
KEY = b"image"


class InferenceSetup(NamedTuple):
    """A detector with random weights, an image and its features."""

    detector: Detector
    image: np.ndarray
    features: Features


class Shape(NamedTuple):
    """What is measured: an architecture with random weights."""

    name: str
    image_px: int
    layers: tuple[int, ...]


FULL = Shape("ViT-L-14-336", 518, (6, 12, 18, 24))
QUICK = Shape("ViT-B-16", 224, (3, 6, 9, 12))


def make_detector(shape: Shape, variant: str) -> Detector:
    """Random weights under a random head; its map is not smoothed."""
    model = ModelConfig(num_prompts=3, flow_length=10)
    config = DetectorConfig(
        backbone=BackboneConfig(
            name=shape.name, pretrained="random:0", image_size=shape.image_px, feature_layers=shape.layers
        ),
        model=published_variant(model) if variant == "published" else model,
        scoring=ScoringConfig(smoothing_sigma_px=0),
    )
    backbone = Backbone(config.backbone)
    torch.manual_seed(SEED)
    head = BayesPFL(config.model, Widths.from_backbone(backbone))
    return Detector(Bundle(Path(), config, head.state_dict(), {}), backbone, torch.device("cpu"))


def make_setup(shape: Shape, variant: str) -> InferenceSetup:
    """The detector, noise as an image, and features of the right shape drawn at random."""
    detector = make_detector(shape, variant)
    size, backbone = detector.config.backbone.image_size, detector.backbone
    image = np.random.default_rng(SEED).integers(0, 256, (size, size, 3), dtype=np.uint8)
    generator = torch.Generator().manual_seed(SEED)
    patches = torch.randn(4, 1, backbone.grid[0] * backbone.grid[1], backbone.patch_width, generator=generator)
    return InferenceSetup(detector, image, Features(torch.randn(1, backbone.joint_width, generator=generator), patches))


def slow_head(
    setup: InferenceSetup, features: Features, num_samples: int, stored_weights: bool = True
) -> straightforward.Scores:
    """The straightforward head with the fast one's noise."""
    detector = setup.detector
    noise = keyed_noise(SEED, [KEY], num_samples, detector.backbone.text_width)
    name = detector.backbone.class_tokens(CLASS_NAME)
    return straightforward.head(
        detector.method.head,
        detector.backbone,
        features,
        noise,
        name,
        detector.config.backbone.image_size,
        stored_weights,
    )


def fast_head(setup: InferenceSetup, features: Features, num_samples: int) -> Any:
    """The detector from features on."""
    return setup.detector.predict_features(features, KEY, CLASS_NAME, [num_samples], SEED)[num_samples]


def pixels(setup: InferenceSetup) -> torch.Tensor:
    """The image as the encoder wants it."""
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


def in_own_process(measure: Callable[[], float]) -> float:
    """The result of `measure` in a child that is a copy of this process, before anything else has run here."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(measure()))
    child.start()
    sender.close()
    result = float(receiver.recv())
    child.join()
    return result


@torch.inference_mode()
def head_memory(setup: InferenceSetup) -> dict[str, float]:
    """Peak memory that each head takes on top of weights and features, in MB."""
    heads = {"straightforward": slow_head, "fast": fast_head}
    runs = {name: functools.partial(head, setup, setup.features) for name, head in heads.items()}
    return {name: in_own_process(lambda run=run: peak_megabytes(run, 1, NUM_SAMPLES)) for name, run in runs.items()}


def tiled_megabytes(side: int, overlap: float) -> float:
    """Peak memory of one image of `side` x `side` pixels in tiles, with the embedded model."""
    detector = Detector.load("embedded")
    image = np.random.default_rng(SEED).integers(0, 256, (side, side, 3), dtype=np.uint8)

    def run(pixels: int) -> Any:
        return detector.predict_tiled(image[:pixels, :pixels], CLASS_NAME, overlap, num_samples=1)

    return peak_megabytes(run, detector.config.backbone.image_size, side)


def peak_megabytes(run: Callable[[int], Any], small: int, large: int) -> float:
    """VmHWM after `run(large)` minus VmRSS before it, in MB; `run(small)` goes first, for all that is loaded once."""
    run(small)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that is free but still ours would hide some of the need
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run(large)
    return (_status("VmHWM") - before) / 1e3


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1]) * 1.024
    raise RuntimeError(f"no {field}")


@torch.inference_mode()
def benchmark(shape: Shape, variant: str, repeats: int) -> dict[str, Any]:
    """Both sides in turn: seconds, ratios, differences, sizes and versions."""
    setup = make_setup(shape, variant)
    memory, tiles = head_memory(setup), tiling(shape)
    detector, features, tensor = setup.detector, setup.features, pixels(setup)
    slow, fast = slow_head(setup, features, NUM_SAMPLES), fast_head(setup, features, NUM_SAMPLES)
    fused = {"straightforward_head_fused_attention": lambda: slow_head(setup, features, NUM_SAMPLES, False)}
    seconds = cpu_seconds(
        {
            "straightforward_encoder": lambda: straightforward.encode_image(detector.backbone, tensor),
            "fast_encoder": lambda: detector.backbone.encode_image(tensor),
            "straightforward_head": lambda: slow_head(setup, features, NUM_SAMPLES),
            "fast_head": lambda: fast_head(setup, features, NUM_SAMPLES),
            "fast_head_r1": lambda: fast_head(setup, features, 1),
            "fast_head_r20": lambda: fast_head(setup, features, 20),
        }
        | ({} if shape == QUICK else fused),
        repeats,
    )
    slow_total = seconds["straightforward_encoder"] + seconds["straightforward_head"]
    result = {
        "head_ratio": seconds["straightforward_head"] / seconds["fast_head"],
        "encoder_ratio": seconds["straightforward_encoder"] / seconds["fast_encoder"],
        "end_to_end_ratio": slow_total / (seconds["fast_encoder"] + seconds["fast_head"]),
        "memory_ratio": memory["straightforward"] / memory["fast"],
        "r20_over_r1": (seconds["fast_encoder"] + seconds["fast_head_r20"])
        / (seconds["fast_encoder"] + seconds["fast_head_r1"]),
        "largest_map_difference": float((torch.from_numpy(fast.anomaly_map) - slow.anomaly_map).abs().max()),
        "largest_score_difference": max(
            abs(fast.image_score - slow.image_score), abs(fast.text_score - slow.text_score)
        ),
        "map_std": float(slow.anomaly_map.std()),
        "seconds": seconds,
        "head_extra_mb": memory,
    }
    if "straightforward_head_fused_attention" in seconds:
        result["head_ratio_to_fused_attention"] = seconds["straightforward_head_fused_attention"] / seconds["fast_head"]
    return (
        result
        | nested(setup)
        | reduced_precision(setup, slow_total, repeats)
        | adaptive(shape)
        | tiles
        | circumstances(shape, variant, repeats)
    )


def nested(setup: InferenceSetup) -> dict[str, Any]:
    """Whether one pass with the largest R gives what separate runs give, to the last bit."""
    run = setup.detector.predict_features
    together = run(setup.features, KEY, CLASS_NAME, NESTED, SEED)
    alone = {number: run(setup.features, KEY, CLASS_NAME, [number], SEED)[number] for number in NESTED}
    equal = [
        np.array_equal(first.anomaly_map, other.anomaly_map)
        and np.array_equal(first.uncertainty_map, other.uncertainty_map)
        and (first.image_score, first.uncertainty) == (other.image_score, other.uncertainty)
        for first, other in ((together[number], alone[number]) for number in NESTED)
    ]
    return {"nested_num_samples": NESTED, "nested_equals_separate_runs": all(equal)}


def reduced_precision(setup: InferenceSetup, slow_total: float, repeats: int) -> dict[str, Any]:
    """bfloat16 against the straightforward float32, and its map against the exact one."""
    exact = setup.detector
    (reference,) = exact.predict([setup.image], [CLASS_NAME], NUM_SAMPLES)
    detector = Detector(exact.bundle, exact.backbone, exact.device, "bfloat16")
    (reduced,) = detector.predict([setup.image], [CLASS_NAME], NUM_SAMPLES)
    seconds = cpu_seconds({"bf16": lambda: detector.predict([setup.image], [CLASS_NAME], NUM_SAMPLES)}, repeats)["bf16"]
    difference = np.abs(reduced.anomaly_map - reference.anomaly_map)
    return {
        "bf16_end_to_end_ratio": slow_total / seconds,
        "bf16_in_hardware": multiplies_bfloat16(),
        "bf16_product_ratio": product_ratio(),
        "bf16_largest_map_difference": float(difference.max()),
        "bf16_map_rank_correlation": float(
            spearmanr(reduced.anomaly_map.ravel(), reference.anomaly_map.ravel()).statistic
        ),
        "bf16_score_difference": abs(reduced.image_score - reference.image_score),
        "exact_map_std_of_the_image": float(reference.anomaly_map.std()),
    }


def product_ratio() -> float:
    """How much faster one product of the image encoder's perceptron is in bfloat16 than in float32."""
    tokens, matrix = torch.randn(1370, 1024), torch.randn(4096, 1024)
    reduced = tokens.bfloat16(), matrix.bfloat16()
    runs = {"float32": lambda: F.linear(tokens, matrix), "bfloat16": lambda: F.linear(*reduced)}
    cpu_seconds(runs, 1)
    seconds = cpu_seconds(runs, 5)
    return seconds["float32"] / seconds["bfloat16"]


def tiling(shape: Shape) -> dict[str, Any]:
    """Peak memory of one large image in few tiles, in many, and of one with four times as many pixels."""
    side = 448 if shape == QUICK else 1120
    few, many, large = (
        in_own_process(functools.partial(tiled_megabytes, pixels, overlap))
        for pixels, overlap in ((side, 0.0), (side, 0.5), (2 * side, 0.0))
    )
    return {
        "tiling_image_px": side,
        "tiling_extra_mb": few,
        "tiling_extra_mb_half_overlap": many,
        "tiling_extra_mb_four_times_the_pixels": large,
    }


def adaptive(shape: Shape) -> dict[str, Any]:
    """Samples used by `auto` at the median score, and decisions that differ from those of the full R."""
    detector = Detector.load("embedded")
    with tempfile.TemporaryDirectory() as folder:
        normal, defective = (1, 1) if shape == QUICK else (2, 4)
        write_dataset(Path(folder), HELD_OUT, normal, defective, size=detector.config.backbone.image_size, seed=SEED)
        paths = sorted(path for path in Path(folder).glob("*/test/*/*.png"))
        images, names = [path.read_bytes() for path in paths], [path.parts[-4].replace("_", " ") for path in paths]
    full = detector.predict(images, names, MAX_SAMPLES)
    threshold = statistics.median(prediction.image_score for prediction in full)
    used = detector.predict(images, names, "auto", threshold=threshold)
    pairs = zip(used, full, strict=True)
    return {
        "auto_mean_samples": statistics.fmean(prediction.num_samples for prediction in used),
        "auto_most_samples": MAX_SAMPLES,
        "auto_images": len(images),
        "auto_decisions_changed": sum((a.image_score > threshold) != (b.image_score > threshold) for a, b in pairs),
    }


def circumstances(shape: Shape, variant: str, repeats: int) -> dict[str, Any]:
    """Sizes, versions, threads."""
    return {
        "variant": variant,
        "backbone": f"{shape.name}, random weights",
        "image_px": shape.image_px,
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
    parser.add_argument("--quick", action="store_true", help="a smaller shape: ViT-B-16 at 224 px")
    parser.add_argument("--variant", choices=["paper", "published"], default="paper")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shape = QUICK if arguments.quick else FULL
    print(json.dumps(benchmark(shape, arguments.variant, repeats=1 if arguments.quick else 3)))


if __name__ == "__main__":
    main()
