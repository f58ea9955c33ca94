"""The slow side of the benchmarks still says what the library says: a ratio to something else would mean nothing."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from benchmarked import benchmark
from small import random_bundle
from vision import small_clip

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.config import BackboneConfig, DetectorConfig, RunConfig
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.builder import build_method, build_trainable_method
from bayes_pfl.methods.maps import smooth
from bayes_pfl.methods.method import BatchQuery
from bayes_pfl.methods.prompt_flow.noise import keyed_noise


@pytest.fixture(scope="module")
def straightforward() -> ModuleType:
    return benchmark("straightforward")


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """Random weights."""
    return Detector.load(random_bundle(tmp_path_factory.mktemp("straightforward") / "bundle"))


@torch.inference_mode()
def test_images(straightforward: ModuleType, tmp_path: Path) -> None:
    architecture = tmp_path / "tiny.json"
    vision = {"image_size": 56, "layers": 4, "width": 32, "patch_size": 14, "head_width": 32}
    text = {"context_length": 77, "vocab_size": 49409, "width": 32, "heads": 1, "layers": 2}
    architecture.write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}), encoding="utf-8")
    config = BackboneConfig(name=str(architecture), pretrained="random:0", image_size=56, feature_layers=(2, 4))
    backbone = Backbone(config)
    images = torch.rand(3, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    slow, fast = straightforward.encode_image(backbone, images), backbone.encode_image(images)
    assert isinstance(slow, Features)
    for left, right in zip(slow, fast, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stored_weights", [True, False])
@torch.inference_mode()
def test_heads(straightforward: ModuleType, detector: Detector, stored_weights: bool) -> None:
    backbone, key, number = detector.backbone, b"image", 3
    features = backbone.encode_image(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    noise = keyed_noise(0, [key], number, backbone.text_width)
    slow = straightforward.head(
        detector.method.head, backbone, features, noise, backbone.class_tokens("hex nut"), 64, stored_weights
    )
    fast = detector.predict_features(features, key, "hex nut", [number])[number]
    smoothed = smooth(slow.anomaly_map, detector.config.scoring.smoothing_sigma_px).numpy()
    np.testing.assert_allclose(smoothed, fast.anomaly_map, atol=1e-5)
    assert fast.image_score == pytest.approx(slow.image_score, abs=1e-5)
    assert fast.text_score == pytest.approx(slow.text_score, abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "april_gan"},
        {"method": "clip_ad", "linear_layers": True, "stages": 2},
        {"method": "anomaly_clip", "first_value_block": 2, "deep_blocks": 3},
        {"method": "ada_clip", "prompted_blocks": 3, "clusters": 3},
    ],
    ids=lambda settings: settings["method"],
)
def test_compared_methods(tmp_path: Path, settings: dict[str, Any]) -> None:
    way = getattr(benchmark("straightforward_methods"), settings["method"])
    backbone = Backbone(small_clip(tmp_path, feature_layers=(2, 4)))
    config = DetectorConfig.model_validate({"model": settings, "backbone": backbone.config})
    run, cpu = RunConfig(backbone=backbone.config, model=config.model), torch.device("cpu")
    method = build_method(config, backbone, cpu, build_trainable_method(run, backbone, cpu).head.state_dict())
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        slow = way(method.scorer, backbone, pixels)
        fast = method.batch_scores(BatchQuery(method.encode_image(pixels), (b"image",), ("bottle",)), 1)
    assert slow.anomaly_map.std() > 1e-5
    torch.testing.assert_close(slow.anomaly_map, fast.anomaly_map[0], atol=1e-5, rtol=1e-5)
    assert float(fast.text_scores) == pytest.approx(slow.text_score, abs=1e-5)
