"""Published checkpoints of all methods are told apart, become bundles, and what does not fit is listed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import AdaClipConfig, AnomalyClipConfig, AprilGanConfig, BackboneConfig, ClipAdConfig, read_config
from bayes_pfl.errors import BundleError
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.methods.anomaly_clip import ObjectPrompts, ObjectText
from bayes_pfl.methods.builder import METHODS
from bayes_pfl.methods.heads import loaded, seeded
from bayes_pfl.methods.published import published_content, read_published
from pipelines.cli import main
from pipelines.platform.settings import TrainSettings
from tests.parity.recording import Recording
from tests.parity.tampered import RECORDINGS

ROOT = Path(__file__).parents[2]
ENTRIES = {"april_gan": "trainable_linearlayer", "clip_ad": "linear_layers", "anomaly_clip": "prompt_learner"}
EXPECTED = {
    "april_gan": AprilGanConfig(),
    "clip_ad": ClipAdConfig(linear_layers=True),
    "anomaly_clip": AnomalyClipConfig(context_tokens=6, deep_tokens=3, deep_blocks=4),
    "ada_clip": AdaClipConfig(prompted_blocks=3, prompt_tokens=4),
}
WIDTHS = {"april_gan": (64, 64, 12), "clip_ad": (64, 64, 12), "anomaly_clip": (96, 64, 8), "ada_clip": (64, 64, 8)}
"""Joint width, text width and vision blocks of the recorded CLIP."""


def checkpoint(name):
    with np.load(RECORDINGS / f"recorded_{name}.npz", allow_pickle=False) as file:
        head = {key.removeprefix("head/"): torch.from_numpy(file[key]) for key in file.files if key.startswith("head/")}
    return {ENTRIES[name]: head} if name in ENTRIES else head


def architecture(name, folder):
    joint, text, blocks = WIDTHS[name]
    values = {
        "embed_dim": joint,
        "vision_cfg": {"image_size": 84, "layers": blocks, "width": 128, "patch_size": 14, "head_width": 64},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": text, "heads": 1, "layers": 4},
    }
    path = folder / f"published-{name}.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", EXPECTED)
def test_a_checkpoint_becomes_the_bundle_of_its_method(name, tmp_path, capsys):
    torch.save(checkpoint(name), tmp_path / "epoch.pth")
    options = ["--backbone", str(architecture(name, tmp_path)), "--pretrained", "nowhere.pt", "--json"]
    assert main(["import", str(tmp_path / "epoch.pth"), "--output", str(tmp_path / "bundle"), *options]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == name
    config = load_bundle(tmp_path / "bundle").config
    blocks = WIDTHS[name][2]
    layers = (blocks,) if name == "anomaly_clip" else tuple(blocks * part // 4 for part in (1, 2, 3, 4))
    assert config.model == EXPECTED[name]
    assert config.backbone.feature_layers == layers
    assert config.backbone.quick_gelu is (name == "anomaly_clip")
    resize = {"anomaly_clip": "bilinear", "ada_clip": "bicubic"}.get(name, "antialiased_bicubic")
    assert config.backbone.position_resize == resize
    assert config.scoring.edge_twice


@pytest.mark.parametrize("name", EXPECTED)
def test_weights_go_back_to_their_published_names(name):
    content = checkpoint(name)
    published = read_published(content)
    backbone = Recording(RECORDINGS / f"recorded_{name}.npz").clip(BackboneConfig())
    written = published_content(published.model, published.weights, backbone)
    head = written[ENTRIES[name]] if name in ENTRIES else written
    theirs = content[ENTRIES[name]] if name in ENTRIES else content
    assert {key: (value.shape, value.is_floating_point()) for key, value in head.items()} == {
        key: (value.shape, value.is_floating_point()) for key, value in theirs.items()
    }
    assert all(torch.equal(value.float(), theirs[key].float()) for key, value in head.items())
    again = read_published(written)
    assert again.model == published.model
    assert all(torch.equal(value, published.weights[key]) for key, value in again.weights.items())


@pytest.mark.parametrize(
    "changes",
    [
        {"normal_words": "flawless metal nut, as new.", "abnormal_words": "broken nut."},
        {"deep_blocks": 1},
        {"context_tokens": 2, "deep_tokens": 2, "deep_blocks": 1},
    ],
)
def test_an_anomaly_clip_of_other_words_and_sizes_comes_back(changes):
    backbone = Recording(RECORDINGS / "recorded_anomaly_clip.npz").clip(BackboneConfig())
    model = AnomalyClipConfig(**{"context_tokens": 5, "deep_tokens": 4, "deep_blocks": 3, **changes})
    weights = seeded(lambda: ObjectPrompts(model, backbone.text_width), 0).state_dict()
    written = published_content(model, weights, backbone)
    again = read_published(written)
    assert again.weights.keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in again.weights.items())
    texts = [ObjectText(each, backbone) for each in (model, again.model)]
    assert torch.equal(texts[0].words, texts[1].words)
    head = loaded(lambda: ObjectPrompts(again.model, backbone.text_width), again.weights)
    assert torch.equal(texts[0].embeddings(head), texts[1].embeddings(head))
    suffix = written["prompt_learner"]["token_suffix_neg"]
    assert suffix.shape == (1, 1, 76 - model.context_tokens, backbone.text_width)


def test_an_anomaly_clip_of_another_vocabulary_has_no_published_format():
    backbone, model = Backbone(BackboneConfig(name="embedded")), AnomalyClipConfig(deep_blocks=2)
    weights = seeded(lambda: ObjectPrompts(model, backbone.text_width), 0).state_dict()
    with pytest.raises(BundleError, match=r"CLIP's own vocabulary, and .* has another"):
        published_content(model, weights, backbone)


def test_ids_that_are_no_words_are_refused():
    content = checkpoint("anomaly_clip")
    content["prompt_learner"]["tokenized_prompts_neg"][..., 7:] = 0
    with pytest.raises(BundleError, match="tokenized_prompts_neg holds no words"):
        read_published(content)


@pytest.mark.parametrize("name", EXPECTED)
def test_another_clip_is_refused(name, tmp_path, capsys):
    torch.save(checkpoint(name), tmp_path / "epoch.pth")
    assert main(["import", str(tmp_path / "epoch.pth"), "--output", str(tmp_path / "bundle")]) == 2
    assert "The weights are for a CLIP of widths" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", EXPECTED)
def test_unknown_and_missing_keys_are_listed(name):
    content = checkpoint(name)
    head = content[ENTRIES[name]] if name in ENTRIES else content
    missing = {"anomaly_clip": "ctx_neg", "ada_clip": "clip_model.visual_prompter.static_prompts.0"}.get(
        name, "fc.1.bias"
    )
    del head[missing]
    unknown = "clip_model.surprise" if name == "ada_clip" else "surprise"
    head[unknown] = torch.ones(1)
    with pytest.raises(BundleError, match=f"unexpected keys: {unknown}; missing keys: {missing}"):
        read_published(content)


@pytest.mark.parametrize("content", [{}, {"fc.0.weight": torch.ones(1)}, [1], {"linear_layers": {"fc.0.weight": "x"}}])
def test_what_is_no_checkpoint_is_one_sentence(content):
    with pytest.raises(BundleError, match="no published checkpoint"):
        read_published(content)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "methods").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads_and_says_what_to_expect(path):
    settings = read_config(TrainSettings, path, [])
    assert settings.model.method == path.stem
    assert METHODS[path.stem].objective is not None
    header = path.read_text(encoding="utf-8").partition("model:")[0]
    assert all(word in header for word in ("bayes-pfl train", "Time:", "Expected:"))
