"""`bayes-pfl methods`, model sources `method:/NAME`, and what the configuration says of wrong settings of a method."""

import json

import numpy as np
import pytest
from vision import small_clip

from bayes_pfl.config import ClipAdConfig, DetectorConfig, ModelConfig, WinClipConfig, read_config
from bayes_pfl.config.untrained import method_source, read_source, written_out
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.bundle import load_bundle, training_images
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.builder import METHODS
from pipelines.cli import main
from pipelines.platform.settings import TrainSettings


def test_every_method_is_listed(capsys):
    assert main(["methods", "--json", "--no-times"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in rows] == list(METHODS)
    assert all(row["paper"] and row["licence"] and row["backbone"] for row in rows)
    assert "milliseconds" not in rows[0]
    assert main(["methods", "--json"]) == 0
    assert all(row["milliseconds"] > 0 for row in json.loads(capsys.readouterr().out))
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(METHODS) + 1
    assert "ms an image here" in lines[0]
    assert "ViT-B-16-plus-240" in next(line for line in lines if line.startswith("winclip"))


def test_a_model_of_a_method_without_training_is_written_with_other_settings(tmp_path, capsys):
    clip = small_clip(tmp_path)
    changes = [f"backbone.{key}={getattr(clip, key)}" for key in ("name", "pretrained", "image_size")]
    options = [word for change in [*changes, "model.temperature=0.01"] for word in ("--set", change)]
    assert main(["methods", "winclip", "--output", str(tmp_path / "model"), *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "winclip"
    bundle = load_bundle(tmp_path / "model")
    assert bundle.config.model == WinClipConfig(temperature=0.01)
    assert training_images(bundle) == frozenset()
    assert "Nothing was trained" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    image = np.zeros((48, 48, 3), np.uint8)
    assert 0 < Detector.load(tmp_path / "model").predict([image], ["bottle"])[0].image_score < 1
    assert main(["methods", "winclip", "--output", str(tmp_path / "model"), *options]) == 0  # the same again
    assert main(["methods", "winclip", "--output", str(tmp_path / "model"), *options[:-2]]) == 2
    assert "holds another model" in capsys.readouterr().err


def test_a_method_is_a_model_source(tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path))
    bundles = {name: load_bundle(f"method:/{name}") for name in ("winclip", "clip_ad")}
    assert {name: bundle.config for name, bundle in bundles.items()} == {
        "winclip": DetectorConfig(model=WinClipConfig()),
        "clip_ad": DetectorConfig(model=ClipAdConfig()),
    }
    assert len({bundle.version for bundle in bundles.values()}) == 2
    assert load_bundle("method:/winclip").folder == bundles["winclip"].folder
    with pytest.raises(ConfigError, match="'ada_clip' must be trained"):
        load_bundle("method:/ada_clip")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.method=winclp"], "there is no method 'winclp'; did you mean 'winclip'"),
        (["model.method=winclip", "model.temperatur=1"], "unknown key 'model.temperatur'; did you mean 'temperature'"),
        (["model.method=winclip", "model.temperature=0"], "--set model.temperature=0: model.temperature: Input should"),
        (["model.method=april_gan", "loss.kl_weight=1"], "those of april_gan are under model.segmentation"),
        (["model.method=april_gan", "model.wording.templates=[x]"], "must have {} exactly once"),
        (["model.method=anomaly_clip", "model.deep_tokens=13"], "deep_tokens must not be more than context_tokens"),
        (["model.method=ada_clip", "training.prompt_learning_rate=1"], "ada_clip learns with training.learning_rate"),
        (["model=3"], "model: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_setting_of_a_method_is_one_sentence(overrides, message):
    with pytest.raises(ConfigError) as error:
        read_config(TrainSettings, None, overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_method_brings_its_backbone_and_scoring_unless_others_are_given():
    config = read_config(TrainSettings, None, ["model.method=ada_clip", "backbone.image_size=336"])
    assert (config.backbone.position_resize, config.backbone.image_size) == ("bicubic", 336)
    assert (config.scoring.text_weight, config.scoring.smoothing_sigma_px) == (1.0, 4.0)
    assert config.detector().scoring == config.scoring
    wording = read_config(TrainSettings, None, ["model.method=winclip", "model.wording.templates=['{}']"]).model.wording
    assert wording.sentences("nut")[0][:2] == ["nut", "flawless nut"]


def test_configurations_of_bayes_pfl_are_written_as_before_there_were_others():
    values = DetectorConfig().model_dump(mode="json")
    assert "method" not in values["model"]
    assert not {"edge_twice", "smoothed_maximum"} & set(values["scoring"])
    assert "position_resize" not in values["backbone"]
    changed = DetectorConfig().model_copy(update={"model": ModelConfig(num_prompts=2)})
    assert DetectorConfig.model_validate(changed.model_dump()) == changed
    for model in (WinClipConfig(), ClipAdConfig(linear_layers=True)):
        config = DetectorConfig(model=model)
        assert DetectorConfig.model_validate_json(config.model_dump_json()) == config
    named = {"model": {"method": "bayes_pfl", "num_prompts": 2}}
    assert DetectorConfig.model_validate(named).model == ModelConfig(num_prompts=2)


def test_a_file_in_a_source_is_written_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my clip.safetensors").touch()
    source = method_source("winclip", ["backbone.pretrained=my clip.safetensors", "model.scales=[2, 3]"])
    assert read_source(written_out(source)) == (
        "winclip",
        [f"backbone.pretrained={tmp_path / 'my clip.safetensors'}", "model.scales=[2, 3]"],
    )
