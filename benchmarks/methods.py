"""Methods beside Bayes-PFL: seconds an image, and each against a straightforward way with the same weights.

    python benchmarks/methods.py            ViT-L-14-336's shape, 518 px: about half a core hour
    python benchmarks/methods.py --quick    ViT-B-16-plus-240's shape, 240 px: two core minutes
    python benchmarks/methods.py --pairs    only four methods in pairs, without WinCLIP's windows, which take most of the time

Random weights; one thread; process CPU time; both ways in turn, medians. An image's time is that of `Detector.predict`
behind the first image of its class: sentences are encoded once a class, except AdaCLIP's, which depend on the image. The
pairs are from pixels to map and score, without smoothing (`straightforward_methods.py`); WinCLIP's windows are compared
with one pass a window. The last line is one JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import straightforward_methods
import torch
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.blocks import embedded, image_encoder
from bayes_pfl.clip.windows import window_features, window_patches
from bayes_pfl.config import BackboneConfig, ClipAdConfig, DetectorConfig, RunConfig, WinClipConfig
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.builder import METHODS, build_method, build_trainable_method
from bayes_pfl.methods.method import BatchQuery, WithoutSamples

CPU = torch.device("cpu")
FULL = BackboneConfig(name="ViT-L-14-336", pretrained="random:0", image_size=518, feature_layers=(6, 12, 18, 24))
STRAIGHTFORWARD: dict[str, Callable[[Any, Backbone, Tensor], straightforward_methods.Answer]] = {
    "april_gan": straightforward_methods.april_gan,
    "clip_ad": straightforward_methods.clip_ad,
    "anomaly_clip": straightforward_methods.anomaly_clip,
    "ada_clip": straightforward_methods.ada_clip,
}
QUICK = BackboneConfig(name="ViT-B-16-plus-240", pretrained="random:0", image_size=240, feature_layers=(3, 6, 9, 12))


def seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Process CPU time of each run, the runs in turn."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    return taken


@torch.inference_mode()
def one_pass_a_window(visual: Any, tokens: Tensor, windows: Tensor) -> Tensor:
    """Every window through the whole encoder by itself, as a reference."""
    features = []
    for patches in windows:
        sequence = torch.cat([tokens[:, :1], tokens[:, 1 + patches]], dim=1)
        features.append(visual.ln_post(visual.transformer(sequence)[:, 0]) @ visual.proj)
    return torch.stack(features, dim=1)


@torch.inference_mode()
def measure_windows(backbone: Backbone, repeats: int) -> dict[str, Any]:
    """Both ways on one image, and how far their features are apart."""
    visual, scales = image_encoder(backbone), WinClipConfig().scales
    size = backbone.config.image_size
    tokens = embedded(visual, torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)))
    windows = [window_patches(backbone.grid[0], scale) for scale in scales]
    results: dict[str, Tensor] = {}

    def run(name: str, way: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        results[name] = torch.cat([way(visual, tokens, each) for each in windows], dim=1)

    ways = {"one pass a window": one_pass_a_window, "together": window_features}
    taken = seconds({name: lambda name=name, way=way: run(name, way) for name, way in ways.items()}, repeats)
    pairs = [slow / fast for slow, fast in zip(*taken.values(), strict=True)]
    return {
        "windows": sum(len(each) for each in windows),
        "seconds": {name: round(statistics.median(values), 2) for name, values in taken.items()},
        "times_faster": round(statistics.median(pairs), 2),
        "largest_difference": float((results["together"] - results["one pass a window"]).abs().max()),
    }


def seeded_method(name: str, backbone: Backbone) -> tuple[DetectorConfig, dict[str, Tensor]]:
    """Settings of a method, CLIP-AD's with linear layers, and the initial weights of what it learns."""
    model = {"method": name} | ({"linear_layers": True} if name == "clip_ad" else {})
    config = DetectorConfig.model_validate({"model": model, "backbone": backbone.config})
    if METHODS[name].objective is None:
        return config, {}
    run = RunConfig(backbone=backbone.config, model=config.model)
    return config, build_trainable_method(run, backbone, CPU).head.state_dict()


def measure_pair(name: str, backbone: Backbone, repeats: int) -> dict[str, Any]:
    """Both ways from one image's pixels to map and text score, behind the first of its class."""
    config, weights = seeded_method(name, backbone)
    method = build_method(config, backbone, CPU, weights)
    assert isinstance(method, WithoutSamples)
    scorer, size = method.scorer, backbone.config.image_size
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    results: dict[str, Tensor] = {}

    @torch.inference_mode()
    def fast() -> None:
        names, keys = (straightforward_methods.CLASS_NAME,), (straightforward_methods.IMAGE_KEY,)
        scores = method.batch_scores(BatchQuery(method.encode_image(pixels), keys, names), 1)
        results["fast"] = torch.cat([scores.anomaly_map.flatten(), scores.text_scores.flatten()])

    @torch.inference_mode()
    def slow() -> None:
        answer = STRAIGHTFORWARD[name](scorer, backbone, pixels)
        results["slow"] = torch.cat([answer.anomaly_map.flatten(), torch.tensor([answer.text_score])])

    fast()
    taken = seconds({"straightforward": slow, "this library": fast}, repeats)
    pairs = [slow / fast for slow, fast in zip(*taken.values(), strict=True)]
    return {
        "seconds": {way: round(statistics.median(values), 2) for way, values in taken.items()},
        "times_faster": round(statistics.median(pairs), 2),
        "largest_difference": float((results["fast"] - results["slow"]).abs().max()),
    }


def measure_method(name: str, backbone: Backbone, repeats: int) -> float:
    """Median seconds of an image behind the first of its class."""
    detector = Detector(Bundle(Path(name), *seeded_method(name, backbone), {}), backbone, CPU)
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    detector.predict([image], ["bottle"])
    taken = seconds({name: lambda: detector.predict([image], ["bottle"])}, repeats)
    return statistics.median(taken[name])


def main() -> None:
    """Measure all and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ViT-B-16-plus-240's shape")
    parser.add_argument("--pairs", action="store_true", help="only the pairs")
    parser.add_argument("--repeats", type=int, default=3, help="of everything; default 3")
    args = parser.parse_args()
    torch.set_num_threads(1)
    backbone = Backbone(QUICK if args.quick else FULL)
    assert ClipAdConfig().stages == len(backbone.config.feature_layers)
    result: dict[str, Any] = {"shape": backbone.config.name, "image_px": backbone.config.image_size}
    result["pairs"] = {}
    for name in STRAIGHTFORWARD:
        result["pairs"][name] = measure_pair(name, backbone, args.repeats)
        print(f"{name:16s} {result['pairs'][name]}", flush=True)
    if not args.pairs:
        result["windows"] = measure_windows(backbone, args.repeats)
        print(f"WinCLIP's windows: {result['windows']}", flush=True)
        result["seconds_an_image"] = {}
        for name in METHODS:
            result["seconds_an_image"][name] = round(measure_method(name, backbone, args.repeats), 3)
            print(f"{name:16s} {result['seconds_an_image'][name]:.3f} s an image", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
