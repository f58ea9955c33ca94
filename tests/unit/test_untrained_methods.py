"""Methods without training: one detector for each, held to brute force, alone and beside each other."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from vision import small_clip

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.blocks import embedded, image_encoder, steps, value_attention
from bayes_pfl.clip.windows import window_features, window_patches
from bayes_pfl.config import ClipAdConfig, DetectorConfig, WinClipConfig
from bayes_pfl.errors import BackboneError, ConfigError
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.builder import build_method, frozen_encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return Backbone(small_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["prompt_ensemble", "winclip", "clip_ad"])
def test_a_detector_needs_no_training(backbone, method):
    detector = Detector.of(method, backbone.config)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    names = ["metal nut", "bottle", "bottle"]
    predictions = detector.predict(list(pixels), names)
    for image, name, prediction in zip(pixels, names, predictions, strict=True):
        (alone,) = detector.predict([image], [name], num_samples=3, seed=5)
        assert alone.image_score == prediction.image_score
        assert np.array_equal(alone.anomaly_map, prediction.anomaly_map)
        assert prediction.uncertainty is None
        assert prediction.uncertainty_map is None
        assert 0 <= prediction.image_score <= 1
        assert 0 <= prediction.anomaly_map.min() <= prediction.anomaly_map.max() <= 1
    assert detector.predict([pixels[0]], ["x"], num_samples="auto", threshold=0.5)[0].num_samples == 1
    tiled = detector.predict_tiled(np.tile(pixels[0], (2, 2, 1)), "bottle")
    assert tiled.uncertainty is None
    assert tiled.anomaly_map.shape == (80, 100)


def test_what_needs_training_is_told(backbone):
    with pytest.raises(ConfigError, match=r"'april_gan' must be trained.* winclip, clip_ad need no training"):
        Detector.of("april_gan", backbone.config)
    with pytest.raises(ConfigError, match="did you mean 'winclip'"):
        Detector.of("win_clip", backbone.config)


def test_each_window_is_an_image_of_its_own(backbone, images):
    visual = image_encoder(backbone)
    with torch.no_grad():
        tokens = embedded(visual, images)
        for scale in (1, 2, 3, 6):
            windows = window_patches(6, scale)
            features = window_features(visual, tokens, windows)
            assert features.shape == (2, (7 - scale) ** 2, 48)
            for index, patches in enumerate(windows):
                sequence = torch.cat([tokens[:, :1], tokens[:, 1 + patches]], dim=1)
                alone = visual.ln_post(visual.transformer(sequence)[:, 0]) @ visual.proj
                assert torch.allclose(features[:, index], alone, atol=2e-5)


def test_harmonic_means_of_windows_by_brute_force(backbone, images):
    model = WinClipConfig(scales=(2, 3))
    method = build_method(DetectorConfig(backbone=backbone.config, model=model), backbone, CPU, {})
    scorer = method.scorer
    features = method.encode_image(images)
    text = scorer.text.vectors(("bottle", "screw"))
    scores = scorer.window_scores(features.patches[0], text)
    image = torch.tensor([0.2, 0.7])
    grid = scorer.grid_map(image, scores)
    for row in range(6):
        for column in range(6):
            patch, inverse = row * 6 + column, 1 / image
            for each, scale in zip(scores, (2, 3), strict=True):
                inside = [index for index, patches in enumerate(window_patches(6, scale)) if patch in patches]
                inverse = inverse + (1 / each[:, inside]).mean(1)
            assert torch.allclose(grid[:, row, column], 3 / inverse, atol=1e-6)


def test_a_window_without_any_probability_spoils_no_other_patch(backbone):
    config = DetectorConfig(backbone=backbone.config, model=WinClipConfig(scales=(2,)))
    scorer = build_method(config, backbone, CPU, {}).scorer
    scores = torch.full((1, 25), 0.5)
    scores[0, 0] = 0
    scale_map = scorer.scale_map(scores, 0)
    assert torch.all(scale_map[0, :2, :2] < 1e-20)
    assert torch.all(scale_map[0, 2:, 2:] == 0.5)


def test_steps_are_a_plain_pass_and_leave_nothing_behind(backbone, images):
    visual, plain = image_encoder(backbone), backbone.encode_image(images)
    with torch.no_grad():
        states = [step.after.transpose(0, 1) for step in steps(visual, embedded(visual, images))]
    assert torch.equal(torch.stack(states)[:, :, 1:], plain.patches)
    for model in (WinClipConfig(), ClipAdConfig(linear_layers=True)):
        frozen_encoder(model, backbone).encode_image(images)
    assert torch.equal(backbone.encode_image(images).patches, plain.patches)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())


def test_value_attention_by_brute_force(backbone, images):
    visual = image_encoder(backbone)
    with torch.no_grad():
        step = next(steps(visual, embedded(visual, images)))
        ours = value_attention(step.block, step.normed)
        attention = step.block.attn
        value = F.linear(step.normed, attention.in_proj_weight[128:], attention.in_proj_bias[128:])
        heads = [part.transpose(0, 1) for part in value.split(32, dim=-1)]
        attended = [(part @ part.transpose(1, 2) / 32**0.5).softmax(-1) @ part for part in heads]
        theirs = attention.out_proj(torch.cat(attended, dim=-1).transpose(0, 1))
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("between", [True, False])
def test_the_two_paths_of_clip_ad_by_brute_force(backbone, images, between):
    model = ClipAdConfig(linear_layers=True, stages=2, between_attention_and_mlp=between)
    config = backbone.config.model_copy(update={"feature_layers": (2, 4)})
    other = Backbone(config)
    visual = image_encoder(other)
    features = frozen_encoder(model, other).encode_image(images)
    with torch.no_grad():
        walked = list(steps(visual, embedded(visual, images)))
        values = [value_attention(step.block, step.normed) for step in walked]
        expected = {
            0: (values[0] + values[1], walked[2].between if between else walked[1].after),
            1: (values[2] + values[3], walked[3].after),
        }
        for index, (second, ordinary) in expected.items():
            surgery = visual.ln_post(torch.cat([ordinary[:1], second[1:]])) @ visual.proj
            assert torch.allclose(features.patches[index, ..., :48], surgery.transpose(0, 1), atol=1e-5)
            assert torch.equal(features.patches[index, ..., 48:], ordinary.transpose(0, 1))
    assert torch.allclose(features.image, other.encode_image(images).image, atol=1e-6)


def test_settings_that_an_encoder_cannot_serve_are_refused(backbone):
    with pytest.raises(ConfigError, match=r"ends of its 2 stages of 4 blocks: choose among \[2,4\]"):
        frozen_encoder(ClipAdConfig(stages=2), backbone)
    with pytest.raises(ConfigError, match="6 x 6 patches"):
        frozen_encoder(WinClipConfig(scales=(7,)), backbone)
    pooled = Backbone(backbone.config)
    pooled.clip.visual.pool_type = "avg"
    with pytest.raises(BackboneError, match="CLIP's own"):
        frozen_encoder(WinClipConfig(), pooled)


def test_the_prompt_ensemble_runs_on_the_embedded_clip():
    detector = Detector.of("prompt_ensemble", Detector.load("embedded").config.backbone)
    (prediction,) = detector.predict([np.zeros((100, 80, 3), np.uint8)], ["metal plate"])
    assert prediction.anomaly_map.shape == (112, 112)
    assert prediction.uncertainty is None
