"""Training that goes on from the head of a model: the head, the images of both trainings, and what is refused."""

import pytest
import torch
from plain import plain_shards
from small import BACKBONE, random_bundle

from bayes_pfl.config import ModelConfig, TrainingConfig
from bayes_pfl.data.samples import index_shards
from bayes_pfl.errors import BundleError, ConfigError
from bayes_pfl.inference.bundle import load_bundle, save_bundle, training_images
from pipelines.cli import main
from pipelines.options.tune import TuneSettings
from pipelines.platform.settings import ClusterSettings, DataSettings, TrainSettings
from pipelines.train import train
from pipelines.training.images import run_name, split_samples
from pipelines.tune import tune


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return plain_shards(tmp_path_factory.mktemp("more"), ("carpet",), seed=41, normal=2, defective=2)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    return random_bundle(folder / "bundle", plain_shards(folder, ("gear",), seed=42, normal=1, defective=1))


def settings_of(shards, folder, init, **model) -> TrainSettings:
    return TrainSettings(
        backbone=BACKBONE,
        model=ModelConfig(**{"num_prompts": 2, "flow_length": 2} | model),
        training=TrainingConfig(epochs=1, batch_size=4, learning_rate=1e-12),
        data=DataSettings(train=str(shards), init=init),
        cluster=ClusterSettings(num_workers=1, cpus_per_worker=0.25, cpus_per_loader=1),
        output=str(folder / "model"),
    )


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_head_is_where_the_training_begins(shards, earlier, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(earlier.parent)
    train(settings_of(shards, tmp_path, "bundle"))  # a relative path
    assert "1 optimiser steps, which is few" in capsys.readouterr().err
    start, made = load_bundle(earlier), load_bundle(tmp_path / "model")
    for name, value in start.weights.items():
        torch.testing.assert_close(made.weights[name], value, atol=1e-9, rtol=1e-6)
    images = {ref.sha256 for ref in index_shards(str(shards))}
    assert training_images(made) == images | training_images(start)
    assert len(training_images(made)) == 4 + 2
    assert made.record["training"]["initial_head"] == start.version
    assert "init" not in made.record["training"]["settings"]["data"]


def test_it_is_another_run_wherever_the_head_lies(shards, earlier, tmp_path):
    def name_of(init):
        settings = settings_of(shards, tmp_path, init)
        return run_name(settings, *split_samples(settings))

    (tmp_path / "copy").symlink_to(earlier)
    assert name_of(str(earlier)) == name_of(str(tmp_path / "copy"))
    assert len({name_of(str(earlier)), name_of(None), name_of("embedded")}) == 3


def test_another_head_is_refused_before_anything_starts(shards, earlier, tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    with pytest.raises(ConfigError, match=r"differs from this run's in model\.flow_length, model\.num_prompts"):
        train(settings_of(shards, tmp_path, str(earlier), num_prompts=3, flow_length=1))
    with pytest.raises(BundleError, match="nothing"):
        train(settings_of(shards, tmp_path, str(tmp_path / "nothing")))
    bundle = load_bundle(earlier)
    backbone = bundle.config.backbone.model_copy(update={"weights_sha256": "0" * 64})
    save_bundle(tmp_path / "other", bundle.config.model_copy(update={"backbone": backbone}), bundle.weights, {}, [])
    with pytest.raises(ConfigError, match="another CLIP"):
        train(settings_of(shards, tmp_path, str(tmp_path / "other")))
    with pytest.raises(ConfigError, match=r"leave data\.init out"):
        tune(TuneSettings.model_validate({"data": {"train": str(shards), "init": str(earlier)}}))
    assert not (tmp_path / "model").exists()


def test_a_shipped_configuration_is_found_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["configs"]) == 0
    listed = capsys.readouterr().out
    assert "train_visa" in listed
    assert "methods/april_gan" in listed
    assert main(["configs", "train_visa"]) == 0
    assert "data:\n  train: shards/visa" in capsys.readouterr().out
    for name in ("train_visa", "configs/train_visa.yaml"):
        assert (
            main(["train", "--config", name, "--set", "cluster.use_gpu=false"]) == 2
        )  # there are no shards here, which is the next thing it finds
        assert "shards/visa" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", "train_vista"])
    assert ended.value.code == 2
    assert "did you mean 'train_visa'? (bayes-pfl configs lists them)" in capsys.readouterr().err
