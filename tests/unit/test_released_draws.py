"""The released code's draws, one image after the other with the first one's states, exist only where the field asks for them."""

import numpy as np
import pytest
import torch
from small import BACKBONE, random_bundle

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import ModelConfig, ScoringConfig, published_variant
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.bundle import load_bundle, save_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.prompt_flow.distributions import Draws
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.methods.prompt_flow.noise import ordered_draws

NAMES = ["gear", "hex nut", "gear"]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    torch.set_num_threads(1)
    folder = random_bundle(tmp_path_factory.mktemp("released") / "plain")
    model = published_variant(ModelConfig(num_prompts=2, flow_length=2))
    scoring = ScoringConfig(smoothing_sigma_px=0, draws_in_order=True)
    config = load_bundle(folder).config.model_copy(update={"model": model, "scoring": scoring})
    torch.manual_seed(0)
    head = BayesPFL(model, Widths.of(Backbone(BACKBONE)))
    save_bundle(folder.with_name("released"), config, head.state_dict(), {}, [])
    return Detector.load(folder.with_name("released"))


@pytest.fixture(scope="module")
def pictures():
    return [np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8) for seed in range(3)]


def test_draws_follow_the_released_order():
    torch.manual_seed(4)
    expected = [[[torch.randn(1, 32) for _ in range(3)] for _ in range(3)] for _ in range(2)]
    first, second = ordered_draws(4, 2, 3, 32)
    assert torch.equal(first.context[0], torch.cat(expected[0][0]))
    assert torch.equal(second.context[0], torch.cat(expected[1][0]))
    for drawn in (first, second):
        assert torch.equal(drawn.normal, torch.cat(expected[0][1]))
        assert torch.equal(drawn.abnormal, torch.cat(expected[0][2]))


def test_predictions_use_them_and_so_depend_on_the_order(released, pictures):
    ours = released.predict(pictures, NAMES, 3, seed=4)
    width = released.backbone.text_width
    for index, draws in enumerate(ordered_draws(4, 3, 3, width)):
        features, key = released._encode(pictures[index])
        expected = released.predict_features(features, key, NAMES[index], [3], draws=draws)[3]
        assert ours[index].image_score == expected.image_score
        assert np.array_equal(ours[index].anomaly_map, expected.anomaly_map)
    backwards = released.predict(pictures[::-1], NAMES[::-1], 3, seed=4)[::-1]
    assert ours[0].image_score != backwards[0].image_score
    with pytest.raises(ConfigError, match="draws_in_order"):
        released.predict(pictures, NAMES, "auto", threshold=0.5)


def test_given_draws_beyond_a_group_are_those_used(released, pictures):
    features, key = released._encode(pictures[0])
    draws = ordered_draws(1, 1, 7, released.backbone.text_width)[0]
    seven = released.predict_features(features, key, "gear", [2, 7], draws=draws)
    two = released.predict_features(
        features, key, "gear", [2], draws=Draws(draws.context[:, :2], draws.normal[:2], draws.abnormal[:2])
    )
    assert np.array_equal(seven[2].anomaly_map, two[2].anomaly_map)
    assert seven[7].image_score != seven[2].image_score
