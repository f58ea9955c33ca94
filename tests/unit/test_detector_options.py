"""Adaptive numbers of samples, large images in tiles, reduced precision, and a compiled encoder."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small import random_bundle

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.placement import multiplies_bfloat16, placed
from bayes_pfl.config import MAX_SAMPLES, BackboneConfig, DetectorConfig, ModelConfig, ScoringConfig
from bayes_pfl.errors import ConfigError, ImageError
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.tiling import BlendedMap, tile_starts
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.methods.prompt_flow.method import SAMPLE_GROUP


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return random_bundle(tmp_path_factory.mktemp("options") / "bundle")


@pytest.fixture(scope="module")
def detector(folder):
    return Detector.load(folder)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_auto_stops_where_the_score_is_clear_and_equals_that_number_of_samples(detector):
    image = noise(64, 64)
    (full,) = detector.predict([image], ["gear"], MAX_SAMPLES)
    (far,) = detector.predict([image], ["gear"], "auto", threshold=1.0)
    (close,) = detector.predict([image], ["gear"], "auto", threshold=full.image_score)
    assert far.num_samples == SAMPLE_GROUP
    assert close.num_samples > SAMPLE_GROUP
    for prediction in (far, close):
        (fixed,) = detector.predict([image], ["gear"], prediction.num_samples)
        assert prediction.image_score == fixed.image_score
        assert np.array_equal(prediction.anomaly_map, fixed.anomaly_map)


def test_auto_needs_a_threshold(detector):
    with pytest.raises(ConfigError, match="threshold"):
        detector.predict([noise(64, 64)], ["gear"], "auto")
    with pytest.raises(ConfigError, match="one name for each image"):
        detector.predict([noise(64, 64)], ["gear", "nut"], "auto", threshold=0.5)


@given(length=st.integers(1, 400), tile=st.integers(1, 64), overlap=st.floats(0, 0.9))
def test_tiles_cover_everything_and_overlap_enough(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - tile)
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= max(1, int(tile * (1 - overlap))) + 1).all()
    covered = np.zeros(max(length, tile), dtype=bool)
    for start in starts:
        covered[start : start + tile] = True
    assert covered.all()


def test_what_tiles_agree_on_has_no_seam():
    y, x = torch.meshgrid(torch.arange(90.0), torch.arange(70.0), indexing="ij")
    plane = torch.sin(y / 9) + x / 70
    blended = BlendedMap(90, 70, 32)
    for top in tile_starts(90, 32, 0.4):
        for left in tile_starts(70, 32, 0.4):
            blended.add(plane[top : top + 32, left : left + 32], top, left)
    assert torch.allclose(blended.result(), plane, atol=1e-6)


def test_an_image_of_one_tile_is_predicted_as_ever(detector):
    image = noise(64, 64)
    (plain,) = detector.predict([image], ["gear"], 3)
    tiled = detector.predict_tiled(image, "gear", num_samples=3)
    assert np.allclose(tiled.anomaly_map, plain.anomaly_map, atol=1e-6)
    assert np.allclose(tiled.uncertainty_map, plain.uncertainty_map, atol=1e-6)
    assert tiled.image_score == pytest.approx(plain.image_score, abs=1e-6)
    assert tiled.uncertainty == pytest.approx(plain.uncertainty, abs=1e-6)


@pytest.mark.parametrize("shape", [(150, 100), (40, 130), (30, 20)])
def test_a_tiled_map_has_the_size_of_the_image(detector, shape):
    tiled = detector.predict_tiled(noise(*shape), "gear", overlap=0.25, num_samples=1)
    assert tiled.anomaly_map.shape == tiled.uncertainty_map.shape == shape
    assert 0 <= tiled.anomaly_map.min() <= tiled.anomaly_map.max() <= tiled.map_score + 1e-6


def test_an_overlap_that_is_no_share_is_refused(detector):
    for overlap in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="overlap"):
            detector.predict_tiled(noise(64, 64), "gear", overlap=overlap)


def test_bfloat16_stays_near_the_exact_map(folder, detector, caplog):
    image = Image.fromarray(noise(64, 64))
    (exact,) = detector.predict([image], ["gear"], 5)
    with caplog.at_level(logging.WARNING, "bayes_pfl.inference.detector"):
        (reduced,) = Detector.load(folder, precision="bfloat16").predict([image], ["gear"], 5)
    assert ("float32 is faster" in caplog.text) is not multiplies_bfloat16()
    assert reduced.anomaly_map.dtype == np.float32
    assert not np.array_equal(exact.anomaly_map, reduced.anomaly_map)
    assert np.abs(exact.anomaly_map - reduced.anomaly_map).max() < 0.05


def test_a_backbone_that_others_use_stays_as_it_is(folder):
    exact = Detector.load(folder)
    (before,) = exact.predict([noise(64, 64)], ["gear"], 5)
    weights = {name: value.clone() for name, value in exact.backbone.state_dict().items()}
    reduced = Detector(exact.bundle, exact.backbone, exact.device, "bfloat16")
    placed(exact.backbone, torch.device("meta"))
    (other,) = reduced.predict([noise(64, 64)], ["gear"], 5)
    (after,) = exact.predict([noise(64, 64)], ["gear"], 5)
    again = Detector(exact.bundle, exact.backbone, exact.device)
    assert again.backbone is exact.backbone
    assert before.image_score == after.image_score != other.image_score
    assert np.array_equal(before.anomaly_map, after.anomaly_map)
    assert all(torch.equal(value, weights[name]) for name, value in exact.backbone.state_dict().items())
    shared = {value.data_ptr() for value in exact.backbone.parameters()}
    common = [value for value in reduced.backbone.parameters() if value.data_ptr() in shared]
    assert all(value.dtype == torch.float32 for value in common)
    assert len(common) > len(shared) / 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_encoder_predicts_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    bundle, backbone = tiny_vision_transformer(tmp_path / "clip-to-compile.json")
    images, names = [noise(28, 28, seed) for seed in range(2)], ["gear", "nut"]
    plain = Detector(bundle, backbone, torch.device("cpu")).predict(images, names, 2)
    compiled = Detector(bundle, backbone, torch.device("cpu"), compiled=True)
    together = compiled.predict(images, names, 2)
    backwards = compiled.predict(images[::-1], names[::-1], 2)[::-1]
    for exact, first, other in zip(plain, together, backwards, strict=True):
        assert np.allclose(exact.anomaly_map, first.anomaly_map, atol=1e-5)
        assert np.array_equal(first.anomaly_map, other.anomaly_map)


def tiny_vision_transformer(architecture: Path) -> tuple[Bundle, Backbone]:
    """One block each, so that compiling takes seconds."""
    vision = {"image_size": 28, "layers": 1, "width": 64, "patch_size": 14, "head_width": 64}
    text = {"context_length": 30, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    architecture.write_text(json.dumps({"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}))
    clip = BackboneConfig(name=str(architecture), pretrained="random:0", image_size=28, feature_layers=(1,))
    config = DetectorConfig(
        backbone=clip, model=ModelConfig(num_prompts=1), scoring=ScoringConfig(smoothing_sigma_px=0)
    )
    backbone = Backbone(clip)
    torch.manual_seed(0)
    return Bundle(
        architecture.parent, config, BayesPFL(config.model, Widths.from_backbone(backbone)).state_dict(), {}
    ), backbone


def test_an_image_of_one_pixels_width_is_refused_in_tiles(detector):
    with pytest.raises(ImageError, match="too narrow for tiles of 64 px"):
        detector.predict_tiled(noise(1, 30_000), "gear")
