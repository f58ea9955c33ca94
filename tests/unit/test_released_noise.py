"""The released code's noise, drawn image by image with the first one's states, is used only where it is configured."""

import numpy as np
import pytest
import torch
from small import BACKBONE, random_bundle

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.prompt_encoder import PromptEncoder, pad_class_tokens
from bayes_pfl.config import ModelConfig, PromptFlowVariant, ScoringConfig, published_variant
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.bundle import load_bundle, save_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.methods.prompt_flow.noise import Noise, ordered_noise

NAMES = ["gear", "hex nut", "gear"]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    torch.set_num_threads(1)
    folder = random_bundle(tmp_path_factory.mktemp("released") / "plain")
    variant = PromptFlowVariant(draws_in_order=True)
    model = published_variant(ModelConfig(num_prompts=2, flow_length=2, variant=variant))
    scoring = ScoringConfig(smoothing_sigma_px=0)
    config = load_bundle(folder).config.model_copy(update={"model": model, "scoring": scoring})
    torch.manual_seed(0)
    head = BayesPFL(model, Widths.from_backbone(Backbone(BACKBONE)))
    save_bundle(folder.with_name("released"), config, head.state_dict(), {}, [])
    return Detector.load(folder.with_name("released"))


@pytest.fixture(scope="module")
def images():
    return [np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8) for seed in range(3)]


def test_noise_follows_the_released_order():
    torch.manual_seed(4)
    expected = [[[torch.randn(1, 32) for _ in range(3)] for _ in range(3)] for _ in range(2)]
    for position, (context, _, _) in enumerate(expected):
        noise = ordered_noise(4, position, 3, 32)
        assert torch.equal(noise.context[0], torch.cat(context))
        assert torch.equal(noise.normal, torch.cat(expected[0][1]))
        assert torch.equal(noise.abnormal, torch.cat(expected[0][2]))


def test_predictions_use_it_and_so_depend_on_the_order(released, images):
    ours = released.predict(images, NAMES, 3, seed=4)
    for position, (image, name) in enumerate(zip(images, NAMES, strict=True)):
        features, key = released._encode(image)
        noise = ordered_noise(4, position, 3, released.backbone.text_width)
        expected = reference_score(released, features, noise, name)
        assert ours[position].text_score == pytest.approx(expected, abs=1e-6)
        alone = released.predict_features(features, key, name, [3], seed=4, position=position)[3]
        assert ours[position].image_score == alone.image_score
        assert np.array_equal(ours[position].anomaly_map, alone.anomaly_map)
    backwards = released.predict(images[::-1], NAMES[::-1], 3, seed=4)[::-1]
    assert ours[0].image_score != backwards[0].image_score
    with pytest.raises(ConfigError, match="draws_in_order"):
        released.predict(images, NAMES, "auto", threshold=0.5)


@torch.inference_mode()
def reference_score(detector, features, noise, name):
    """The mean text score of the head with exactly this noise."""
    tokens = pad_class_tokens([detector.backbone.class_tokens(name)])
    prompts = detector.method.head.prompts(features, tokens, noise, PromptEncoder(detector.backbone))
    return float(detector.method.head.image_logits(features, prompts.text).sigmoid().mean())


def test_a_number_of_samples_that_is_no_multiple_of_a_group_uses_its_own_noise(released, images):
    features, key = released._encode(images[0])
    seven = released.predict_features(features, key, "gear", [2, 7], seed=1)
    noise = ordered_noise(1, 0, 7, released.backbone.text_width)
    assert seven[7].text_score == pytest.approx(reference_score(released, features, noise, "gear"), abs=1e-6)
    first = Noise(noise.context[:, :2], noise.normal[:2], noise.abnormal[:2])
    assert seven[2].text_score == pytest.approx(reference_score(released, features, first, "gear"), abs=1e-6)
    assert seven[7].image_score != seven[2].image_score
