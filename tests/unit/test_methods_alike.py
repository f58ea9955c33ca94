"""All methods through one detector: stored features have the shape they say, batches and precisions give the same."""

import numpy as np
import pytest
import torch
from vision import small_clip

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import (
    AdaClipConfig,
    AnomalyClipConfig,
    AprilGanConfig,
    ClipAdConfig,
    DetectorConfig,
    ModelConfig,
    PromptEnsembleConfig,
    RunConfig,
    WinClipConfig,
)
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.builder import METHODS, build_trainable_method, class_names, frozen_encoder
from bayes_pfl.methods.method import Method

CPU = torch.device("cpu")
MODELS = {
    "bayes_pfl": ModelConfig(num_prompts=2, flow_length=2),
    "prompt_ensemble": PromptEnsembleConfig(),
    "winclip": WinClipConfig(),
    "april_gan": AprilGanConfig(),
    "clip_ad": ClipAdConfig(),
    "clip_ad, linear layers": ClipAdConfig(linear_layers=True),
    "anomaly_clip": AnomalyClipConfig(context_tokens=3, deep_tokens=2, deep_blocks=3, first_value_block=2),
    "ada_clip": AdaClipConfig(prompted_blocks=2, prompt_tokens=2, clusters=3, patches_per_cluster=2),
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return Backbone(small_clip(tmp_path_factory.mktemp("clip")))


def bundle_of(backbone, model, tmp_path) -> Bundle:
    weights = {}
    if METHODS[model.method].objective and model != ClipAdConfig():
        run = RunConfig(backbone=backbone.config, model=model)
        weights = build_trainable_method(run, backbone, CPU).head.state_dict()
    return Bundle(tmp_path, DetectorConfig(backbone=backbone.config, model=model), weights, {})


def test_there_is_a_case_for_every_method():
    assert {model.method for model in MODELS.values()} == set(METHODS)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_features_are_of_the_kind_that_they_say(backbone, model):
    encoder = frozen_encoder(model, backbone)
    features = encoder.encode_image(torch.randn(2, 3, 48, 48))
    layers, batch, *rest = features.patches.shape
    assert batch == 2
    assert (layers, *rest, features.image.shape[1]) == encoder.kind.shape
    assert not features.patches.requires_grad


def test_only_methods_that_take_the_same_share_features(backbone):
    kinds = {name: frozen_encoder(model, backbone).kind for name, model in MODELS.items()}
    shared = {name for name, kind in kinds.items() if kind == kinds["bayes_pfl"]}
    assert shared == {"bayes_pfl", "prompt_ensemble", "april_gan"}
    assert len(set(kinds.values())) == len(kinds) - len(shared) + 1
    quick = Backbone(backbone.config.model_copy(update={"quick_gelu": True}))
    assert all(frozen_encoder(model, quick).kind != kinds[name] for name, model in MODELS.items())


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_batches_and_bfloat16_give_the_same(backbone, tmp_path, model):
    bundle = bundle_of(backbone, model, tmp_path)
    pixels = list(np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8))
    names = ["bottle", "metal nut", "hazel-nut"]
    for precision, tolerance in (("float32", 1e-5), ("bfloat16", 3e-2)):
        detector = Detector(bundle, backbone, CPU, precision)
        assert isinstance(detector.method, Method)
        assert detector.class_name_room == class_names(bundle.config).room
        alone = detector.predict(pixels, names, num_samples=2)
        detector._batch = 2  # as on a GPU
        together = detector.predict(pixels, names, num_samples=2)
        for ours, theirs in zip(alone, together, strict=True):
            assert ours.image_score == pytest.approx(theirs.image_score, abs=tolerance)
            assert np.abs(ours.anomaly_map - theirs.anomaly_map).max() <= tolerance
            assert (ours.uncertainty is None) == (theirs.uncertainty is None) == (model.method != "bayes_pfl")


def test_one_encoder_serves_several_methods_in_turn(backbone, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    detectors = [Detector(bundle_of(backbone, model, tmp_path), backbone, CPU) for model in MODELS.values()]
    first = [detector.predict([pixels], ["bottle"])[0] for detector in detectors]
    for detector, before in reversed(list(zip(detectors, first, strict=True))):
        (again,) = detector.predict([pixels], ["bottle"])
        assert again.image_score == before.image_score
        assert np.array_equal(again.anomaly_map, before.anomaly_map)
