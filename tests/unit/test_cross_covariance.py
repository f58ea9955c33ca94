"""The embedded CLIP's image encoder, block by block and by windows, against its own pass."""

import numpy as np
import pytest
import torch
from PIL import Image

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.blocks import (
    depth,
    embedded,
    image_encoder,
    image_feature,
    projected,
    prompted_steps,
    steps,
    value_attention,
)
from bayes_pfl.clip.cross_covariance import sizes
from bayes_pfl.clip.windows import window_features, window_patches
from bayes_pfl.config import BackboneConfig, DetectorConfig
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.builder import frozen_encoder
from pipelines.cli import main


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(BackboneConfig(name="embedded"))


@pytest.mark.parametrize("size", [64, 100, 112])
def test_sizes_are_those_of_a_plain_pass(backbone: Backbone, size: int) -> None:
    grid, width = sizes(backbone.clip.visual, size)
    with torch.no_grad():
        patches = backbone.encode_image(torch.zeros(1, 3, size, size)).patches
    assert patches.shape[2:] == (grid[0] * grid[1], width)


def test_blocks_are_those_of_a_plain_pass(backbone: Backbone) -> None:
    visual, images = image_encoder(backbone), torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain, walked = backbone.encode_image(images), list(steps(visual, embedded(visual, images)))
        assert len(walked) == depth(visual) == 12
        for layer, patches in zip(backbone.config.feature_layers, plain.patches, strict=True):
            assert torch.equal(walked[layer - 1].after[1:].transpose(0, 1), patches)
        assert torch.equal(image_feature(visual, walked[-1].after), plain.image)
        assert projected(visual, walked[-1].after).shape == (197, 2, 128)
        assert not torch.equal(image_feature(visual, walked[-1].after, normalised=False), plain.image)


def test_value_attention_is_attention_with_values_as_queries_and_keys(backbone: Backbone) -> None:
    visual = image_encoder(backbone)
    with torch.no_grad():
        step = next(steps(visual, embedded(visual, torch.ones(1, 3, 112, 112))))
        attention, width = step.block.attn, step.normed.shape[-1]
        weight, bias = attention.qkv.weight.clone(), attention.qkv.bias.clone()
        for start in (0, width):
            attention.qkv.weight[start : start + width] = weight[2 * width :]
            attention.qkv.bias[start : start + width] = bias[2 * width :]
        expected = attention(step.normed[1:].transpose(0, 1)).transpose(0, 1)
        attention.qkv.weight.copy_(weight)
        attention.qkv.bias.copy_(bias)
        output = value_attention(step.block, step.normed)
    torch.testing.assert_close(output[1:], expected, rtol=1e-5, atol=1e-6)
    assert not output[0].any()


def test_a_window_is_an_image_of_its_patches(backbone: Backbone) -> None:
    visual, images = image_encoder(backbone), torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        tokens = embedded(visual, images)
        (whole,) = window_features(visual, tokens, window_patches(14, 14)).unbind(1)
        assert torch.equal(whole, backbone.encode_image(images).image)
        windows = window_patches(14, 3)
        features = window_features(visual, tokens, windows)
        changed = tokens.clone()
        outside = [patch for patch in range(196) if patch not in windows[5].tolist()]
        changed[:, 1 + torch.tensor(outside)] = 7.0
        alone = window_features(visual, changed, windows[5:6])[:, 0]
    torch.testing.assert_close(alone, features[:, 5], rtol=1e-5, atol=1e-5)


def test_methods_run_on_the_embedded_backbone(backbone: Backbone) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    for method in ("prompt_ensemble", "winclip", "clip_ad"):
        (prediction,) = Detector.of(method, backbone=BackboneConfig(name="embedded")).predict([image], ["plate"])
        assert prediction.uncertainty is None
        assert prediction.anomaly_map.shape == (112, 112)
        assert np.isfinite(prediction.anomaly_map).all()
    values = {"model": {"method": "anomaly_clip", "first_value_block": 7}, "backbone": {"name": "embedded"}}
    frozen = frozen_encoder(DetectorConfig.model_validate(values).model, backbone)
    assert frozen.encode_image(torch.zeros(1, 3, 112, 112)).patches.shape == (4, 1, 196, 128)
    values["model"] = {"method": "ada_clip"}
    ours, plain = frozen_encoder(DetectorConfig.model_validate(values).model, backbone), torch.zeros(1, 3, 112, 112)
    assert torch.equal(ours.encode_image(plain).image, backbone.encode_image(plain).image)


def test_prompts_are_seen_by_attention_and_replaced_in_the_first_blocks(backbone: Backbone) -> None:
    visual, generator = image_encoder(backbone), torch.Generator().manual_seed(3)
    with torch.no_grad():
        tokens = embedded(visual, torch.randn(1, 3, 112, 112, generator=generator))
        plain = [step.after.transpose(0, 1) for step in steps(visual, tokens)]
        prompts = torch.randn(2, 1, 4, 128, generator=generator)
        one, other = (list(prompted_steps(visual, tokens, given)) for given in (prompts, prompts.flip(0)))
        assert [states.shape for states in one] == [states.shape for states in plain]
        assert not torch.equal(one[0], plain[0])
        assert not torch.equal(one[0], other[0])
    gradient = prompts.clone().requires_grad_()
    list(prompted_steps(visual, tokens, gradient))[-1].sum().backward()
    assert gradient.grad is not None
    assert gradient.grad.abs().sum((1, 2, 3)).min() > 0
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_a_method_s_settings_are_given_with_it(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "part.png")
    given = ["score", str(tmp_path / "part.png"), "--class-name", "part", "--json"]
    assert main([*given, "--method", "winclip", "--set", "backbone.name=embedded", "--set", "model.scales=[2]"]) == 0
    one = capsys.readouterr().out
    assert main([*given, "--model", "method:/winclip?backbone.name=embedded&model.scales=[2]"]) == 0
    assert capsys.readouterr().out == one
    assert '"uncertainty": null' in one
    assert main([*given, "--set", "model.scales=[2]"]) == 2
    assert "give --method too" in capsys.readouterr().err
    assert main([*given, "--method", "winclip", "--set", "model.scale=[2]"]) == 2
    assert "did you mean 'scales'" in capsys.readouterr().err
