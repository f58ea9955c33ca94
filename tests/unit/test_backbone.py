"""The frozen CLIP at another image size, and what cannot be built."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small import random_bundle
from torch.nn import functional as F

from bayes_pfl.clip import digests
from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.digests import weights_digest
from bayes_pfl.config import BackboneConfig, DetectorConfig, read_config
from bayes_pfl.errors import BackboneError, ConfigError
from bayes_pfl.inference.bundle import load_bundle, save_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths

NAME = "package:embedded/bayes-pfl-embedded.json"
RECORDED = Path(__file__).parents[1] / "parity" / "recorded.npz"
VISION = {"image_size": 112, "layers": 12, "width": 64, "patch_size": 14, "head_width": 64}
TEXT = {"context_length": 77, "vocab_size": 49409, "width": 64, "heads": 1, "layers": 3}


@pytest.mark.parametrize("grid", [6, 11])
def test_positions_are_resized_bicubically_with_antialiasing_as_released(grid, tmp_path):
    with np.load(RECORDED, allow_pickle=False) as file:
        clip = {
            name.removeprefix("clip/"): torch.from_numpy(file[name]) for name in file.files if name.startswith("clip/")
        }
    save_file(clip, tmp_path / "clip.safetensors")
    (tmp_path / "positions-test-clip.json").write_text(
        json.dumps({"embed_dim": 64, "vision_cfg": VISION, "text_cfg": TEXT})
    )
    backbone = Backbone(
        BackboneConfig(
            name=str(tmp_path / "positions-test-clip.json"),
            pretrained=str(tmp_path / "clip.safetensors"),
            image_size=grid * VISION["patch_size"],
            feature_layers=(1,),
        )
    )
    assert backbone.grid == (grid, grid)
    stored = clip["visual.positional_embedding"]
    plane = stored[1:].T.reshape(1, -1, 8, 8)
    plane = F.interpolate(plane, size=(grid, grid), mode="bicubic", align_corners=False, antialias=True)
    expected = torch.cat([stored[:1], plane[0].flatten(1).T])
    torch.testing.assert_close(backbone.clip.visual.positional_embedding, expected, atol=1e-7, rtol=0)


def test_the_backbone_stays_frozen_and_in_evaluation_mode():
    backbone = Backbone(BackboneConfig(name=NAME, pretrained="random:0", image_size=64, feature_layers=(2, 1))).train()
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone.encode_image(torch.randn(1, 3, 64, 64)).patches.requires_grad


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "nowhere.json"}, "nowhere.json"),
        ({"name": "ViT-Nothing"}, "ViT-Nothing"),
        ({"pretrained": "missing.safetensors"}, "missing.safetensors"),
        ({"feature_layers": (99,)}, "cannot give layers"),
        ({"weights_sha256": "0" * 64}, "use the weights the model was trained on"),
    ],
)
def test_what_cannot_be_built_is_said(change, said):
    settings = {"name": NAME, "pretrained": "random:0", "image_size": 64, "feature_layers": (1,), **change}
    with pytest.raises(BackboneError, match=said):
        Backbone(BackboneConfig(**settings))


def test_a_name_that_is_too_long_is_refused_and_case_does_not_matter():
    backbone = Backbone(BackboneConfig(name=NAME, pretrained="random:0", image_size=64, feature_layers=(1,)))
    assert backbone.class_tokens("Metal Nut") == backbone.class_tokens("metal nut")
    with pytest.raises(BackboneError, match="Shorten it"):
        backbone.class_tokens("very " * 200 + "long")


def test_weights_are_hashed_once_for_each_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hashed = []
    monkeypatch.setattr(digests, "weights_digest", lambda module: hashed.append(1) or weights_digest(module))
    file = tmp_path / "clip.safetensors"
    source = Backbone(BackboneConfig(name=NAME, pretrained="random:1", image_size=64, feature_layers=(1,)))
    tensors = {name: tensor.contiguous() for name, tensor in source.clip.state_dict().items()}
    save_file(tensors, file)
    hashed.clear()
    config = BackboneConfig(name=NAME, pretrained=str(file), image_size=64, feature_layers=(1,))
    first = Backbone(config)
    assert first.digest == Backbone(config).digest == source.digest
    assert len(hashed) == 1
    times = file.stat()
    save_file({**tensors, "logit_scale": torch.tensor(3.0)}, file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a program does that keeps times
    assert file.stat().st_size == times.st_size
    assert Backbone(config).digest != first.digest
    for note in (tmp_path / "cache").rglob("*"):
        if note.is_file():
            note.write_text("damaged")
    assert Backbone(config).digest == weights_digest(Backbone(config).clip)


def test_a_machine_that_remembers_nothing_hashes_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    source = Backbone(BackboneConfig(name=NAME, pretrained="random:1", image_size=64, feature_layers=(1,)))
    tensors = {name: tensor.contiguous() for name, tensor in source.clip.state_dict().items()}
    save_file(tensors, tmp_path / "clip.safetensors")
    config = source.config.model_copy(update={"pretrained": str(tmp_path / "clip.safetensors")})
    assert Backbone(config).digest == source.digest


def test_a_remembered_digest_is_of_one_way_of_resizing_positions(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "clip.safetensors").write_bytes(b"weights")
    config = BackboneConfig(
        name=NAME, pretrained=str(tmp_path / "clip.safetensors"), image_size=64, feature_layers=(1,)
    )
    changes = [{}, {"position_resize": "bilinear"}, {"position_resize": "bicubic"}, {"image_size": 56}]
    assert len({digests._note(config.model_copy(update=change)) for change in changes}) == len(changes)


@pytest.mark.parametrize(
    ("name", "size", "layers"),
    [
        ("ViT-L-14-336", 518, (6, 12, 18, 24)),
        ("ViT-B-16", 224, (3, 6, 9, 12)),
        ("ViT-H-14-378", 378, (8, 16, 24, 32)),
        ("EVA02-B-16", 224, (3, 6, 9, 12)),
        (NAME, 112, (3, 6, 9, 12)),
    ],
)
def test_an_architecture_says_its_own_size_and_layers(name, size, layers):
    config = BackboneConfig(name=name)
    assert (config.image_size, config.feature_layers) == (size, layers)
    given = BackboneConfig(name=name, image_size=56, feature_layers=(2,))
    assert (given.image_size, given.feature_layers) == (56, (2,))
    assert BackboneConfig(name=name, image_size=56).feature_layers == layers


def test_the_default_backbone_and_unknown_names_stay_as_they_were():
    for values in ({}, {"name": "ViT-Nothing"}, {"name": "nowhere.json"}):
        config = BackboneConfig(**values)
        assert (config.image_size, config.feature_layers) == (518, (6, 12, 18, 24))


def test_a_method_reads_layers_as_deep_of_another_architecture():
    def layers(method, name):
        backbone = read_config(DetectorConfig, None, [f"model.method={method}", f"backbone.name={name}"]).backbone
        return backbone.image_size, backbone.feature_layers

    assert layers("anomaly_clip", "ViT-B-16") == (224, (12,))
    assert layers("april_gan", "ViT-B-16") == (224, (3, 6, 9, 12))
    assert layers("april_gan", "ViT-L-14-336") == (518, (6, 12, 18, 24))
    assert layers("clip_ad", "ViT-B-16-plus-240") == (240, (3, 6, 9, 12))


def test_a_file_of_weights_that_moved_is_named_by_an_option_and_checked(tmp_path):
    folder = random_bundle(tmp_path / "bundle")
    with np.load(RECORDED, allow_pickle=False) as file:
        clip = {name.removeprefix("clip/"): torch.from_numpy(file[name]) for name in file.files if name[:5] == "clip/"}
    save_file(clip, tmp_path / "clip.safetensors")
    (tmp_path / "moved-test-clip.json").write_text(
        json.dumps({"embed_dim": 64, "vision_cfg": VISION, "text_cfg": TEXT})
    )
    backbone = Backbone(
        BackboneConfig(name=str(tmp_path / "moved-test-clip.json"), pretrained=str(tmp_path / "clip.safetensors"))
    )
    bundle, settings = load_bundle(folder), backbone.config.model_copy(update={"weights_sha256": backbone.digest})
    config = bundle.config.model_copy(update={"backbone": settings})
    save_bundle(folder, config, BayesPFL(config.model, Widths.from_backbone(backbone)).state_dict(), {}, [])
    image = np.full((40, 50, 3), 99, np.uint8)
    (before,) = Detector.load(folder).predict([image], ["gear"], 1)
    (tmp_path / "clip.safetensors").rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(BackboneError, match=r"There is no file .*clip\.safetensors, .*--weights FILE"):
        Detector.load(folder)
    moved = Detector.load(folder, weights=tmp_path / "elsewhere.safetensors")
    assert moved.predict([image], ["gear"], 1)[0].image_score == before.image_score
    assert moved.config == config
    with pytest.raises(ConfigError, match="There is no file"):
        Detector.load(folder, weights=tmp_path / "nowhere.safetensors")
    clip["visual.proj"] = clip["visual.proj"] + 1
    save_file(clip, tmp_path / "other.safetensors")
    with pytest.raises(BackboneError, match="use the weights the model was trained on"):
        Detector.load(folder, weights=tmp_path / "other.safetensors")
