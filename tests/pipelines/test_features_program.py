"""`bayes-pfl features` with Ray, and training from what it wrote: the same losses, and not one image encoded."""

import copy
import json
from pathlib import Path

import pytest
import torch
from plain import plain_shards
from small import BACKBONE

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import FeatureShards
from bayes_pfl.config import ModelConfig, PromptFlowVariant, RunConfig, TrainingConfig
from bayes_pfl.data.pixels import normalized
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import (
    UNAUGMENTED,
    SampleRef,
    global_batches,
    index_shards,
    load_samples,
    mosaic_partners,
    stack,
)
from bayes_pfl.errors import ConfigError, DataError, OutputError
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.training.trainer import Trainer
from pipelines.features import compute_features
from pipelines.options.features import FeatureSettings
from pipelines.platform.settings import ClusterSettings, DataSettings, TrackingSettings, TrainSettings
from pipelines.train import train
from pipelines.training.batches import epoch_plan, feature_batches
from pipelines.training.decoding import tile_columns
from pipelines.training.loop import best_epoch
from pipelines.training.validation import validate

DOWN = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def made(tmp_path_factory, ray_session):
    folder = tmp_path_factory.mktemp("program")
    shards = plain_shards(folder, ("carpet", "gear"), seed=51)
    settings = FeatureSettings(
        backbone=BACKBONE,
        shards=str(shards),
        output=str(folder / "features"),
        views=2,
        mosaic_probability=0.5,
        dtype="float32",
        workers=1,
    )
    return folder, shards, settings, compute_features(settings)


@pytest.mark.ray
def test_every_view_is_the_encoding_of_its_augmented_image(made):
    _, shards, settings, summary = made
    refs = index_shards(shards)
    assert summary["samples"] == 3 * len(refs)
    backbone = Backbone(BACKBONE)
    stored = FeatureShards(Path(settings.output), backbone)
    assert stored.views == [0, 1]
    for view in (UNAUGMENTED, 1):
        seed = None if view == UNAUGMENTED else view
        partners = mosaic_partners(refs, seed, 0.5)
        for ref, others in list(zip(refs, partners, strict=True))[::3]:
            sample = load_samples([ref], BACKBONE.image_size, seed, [others])[0]
            found = stored.load(ref, view)
            torch.testing.assert_close(
                found.patches, backbone.encode_image(normalized(sample.image)[None]).patches[:, 0], rtol=1e-4, atol=1e-5
            )
            assert torch.equal(found.mask, sample.mask)


@pytest.mark.ray
def test_features_that_are_there_are_not_computed_again(made):
    folder, _, settings, _ = made
    before = {path: path.stat().st_mtime_ns for path in (folder / "features").glob("*.arrow")}
    assert len(before) == 3
    compute_features(settings)
    assert {path: path.stat().st_mtime_ns for path in (folder / "features").glob("*.arrow")} == before
    others = plain_shards(folder / "others", ("carpet", "gear"), seed=52)
    for changes in ({"shards": str(others)}, {"mosaic_probability": 0.2}):
        with pytest.raises(DataError, match="holds features of other images"):
            compute_features(settings.model_copy(update=changes))
    assert {path: path.stat().st_mtime_ns for path in (folder / "features").glob("*.arrow")} == before
    with pytest.raises(DataError, match="holds features of another backbone"):
        compute_features(settings.model_copy(update={"dtype": "float16"}))
    with pytest.raises(ConfigError, match="dtype 'float8' is unknown"):
        compute_features(settings.model_copy(update={"dtype": "float8"}))


@pytest.mark.ray
def test_features_in_an_object_store_are_those_of_a_folder(made, object_store):
    folder, shards, settings, _ = made
    place = f"{object_store}/features"
    summary = compute_features(settings.model_copy(update={"output": place}))
    assert summary["output"] == place
    backbone, ref = Backbone(BACKBONE), index_shards(shards)[0]
    stored, local = FeatureShards(place, backbone), FeatureShards(folder / "features", backbone)
    assert stored.views == local.views
    assert torch.equal(stored.load(ref, 1).patches, local.load(ref, 1).patches)
    again = Store(place).sizes()
    compute_features(settings.model_copy(update={"output": place}))
    assert Store(place).sizes() == again
    with pytest.raises(DataError, match="holds features of another backbone"):
        compute_features(settings.model_copy(update={"output": place, "dtype": "float16"}))


@pytest.mark.ray
def test_training_and_validating_from_features_encode_nothing(made):
    _, shards, settings, _ = made
    refs, backbone = index_shards(shards), Backbone(BACKBONE)
    run = RunConfig(
        backbone=BACKBONE, model=ModelConfig(num_prompts=2, flow_length=1), training=TrainingConfig(batch_size=4)
    )
    images = Trainer(run, backbone, torch.device("cpu"), 1, workers=1)
    blind = copy.copy(backbone)
    blind._modules = dict(backbone._modules)
    blind.encode_image = _refuse
    features = Trainer(run, blind, torch.device("cpu"), 1, workers=1)
    stored = FeatureShards(Path(settings.output), blind)
    for positions, batch in zip(
        global_batches(len(refs), 4, 0, 0),
        feature_batches(features, stored, refs, [(p, None) for p in global_batches(len(refs), 4, 0, 0)]),
        strict=True,
    ):
        chosen = [refs[position] for position in positions]
        pixels, masks = stack(load_samples(chosen, BACKBONE.image_size))
        expected = images.step(images.batch(normalized(pixels), masks, chosen))
        assert features.step(batch)["total"] == pytest.approx(expected["total"], rel=1e-4)
    metrics = validate(features, TrainSettings(**run.model_dump()), refs, stored, 0, 1)
    assert 0 <= metrics["validation_pixel_ap"] <= 1


def _refuse(_images):
    raise AssertionError("an image was encoded")


@pytest.mark.ray
def test_the_released_stages_run_from_features_by_uri_without_a_tracking_server_and_over_again(
    made, object_store, tmp_path, monkeypatch, capsys
):
    _, shards, settings, _ = made
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    features = Store(object_store).upload(Path(settings.output), "copied-features")
    run = TrainSettings(
        backbone=BACKBONE,
        model=ModelConfig(
            num_prompts=2, flow_length=1, variant=PromptFlowVariant(mapped_classification=True, attention_pooling=True)
        ),
        training=TrainingConfig(
            epochs=4,
            second_stage_epochs=1,
            patience_epochs=1,
            keep_best=True,
            batch_size=4,
            augment=True,
            warmup_fraction=0.1,
        ),
        data=DataSettings(train=str(shards), features=features, validation_categories=("gear",)),
        cluster=ClusterSettings(num_workers=1),
        tracking=TrackingSettings(uri=DOWN),
        output=str(tmp_path / "model"),
    )
    result = train(run)
    assert result["tracking_problem"].startswith(f"{DOWN} does not answer")
    history = [json.loads(line) for line in Path(result["metrics_file"]).read_text(encoding="utf-8").splitlines()]
    stages = [entry["stage"] for entry in history]
    first = stages.count(1)
    assert [entry["epoch"] for entry in history] == list(range(first + 1))
    assert history[-1] == result["metrics"]
    assert stages == [1] * first + [2]
    assert first == 4 or best_epoch(history) == first - 2  # patience of one epoch ended it
    assert history[-1]["total"] == history[-1]["classification"]
    first_head = load_bundle(tmp_path / "model")
    assert first_head.config.model.variant.mapped_classification

    (tmp_path / "model" / "head.safetensors").unlink()
    capsys.readouterr()
    assert train(run, fresh=True)["metrics"]["total"] == history[-1]["total"]  # over again, to the same bits
    assert "finished already" not in capsys.readouterr().err
    assert load_bundle(tmp_path / "model").record["head_sha256"] == first_head.record["head_sha256"]


def test_the_best_epoch_is_the_earliest_of_the_first_stage_with_the_highest_validation():
    values = [(0, 1, 0.2), (1, 1, 0.5), (2, 1, 0.5), (3, 2, 0.9)]
    history = [{"epoch": epoch, "stage": stage, "validation_pixel_ap": value} for epoch, stage, value in values]
    assert best_epoch(history) == 1
    assert best_epoch([{"epoch": 0, "stage": 1}, {"epoch": 1, "stage": 1}]) == 1


def test_workers_share_a_batch_without_gap_or_overlap():
    options = TrainingConfig(batch_size=7)
    batches = global_batches(15, 7, options.seed, 2)
    parts = [epoch_plan(15, options, 2, rank, 3) for rank in range(3)]
    assert [len(part) for part in parts] == [len(batches)] * 3
    for index, batch in enumerate(batches):
        assert sorted(position for part in parts for position in part[index][0]) == sorted(batch)
        assert max(len(part[index][0]) for part in parts) - min(len(part[index][0]) for part in parts) <= 1


def test_columns_of_tiles_count_every_image_once():
    refs = [SampleRef("s", row, f"id{row}", "c", "n", 1, f"{row}") for row in range(5)]
    columns = tile_columns([(refs[0],), tuple(refs[1:5])])
    assert columns["tiles"] == [1, 4]
    assert columns["ids"] == ["id0", "id1", "id2", "id3", "id4"]


def small_run(tmp_path, **cluster) -> TrainSettings:
    data = DataSettings(train=str(plain_shards(tmp_path, ("carpet",), seed=61)))
    return TrainSettings(
        backbone=BACKBONE, data=data, cluster=ClusterSettings(**cluster), output=str(tmp_path / "model")
    )


def test_a_place_that_cannot_be_written_is_refused_before_ray_starts(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(OutputError, match=r"Cannot write .*/file/home/training/"):
        train(small_run(tmp_path))


def test_too_little_hardware_or_too_small_a_batch_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    run = small_run(tmp_path, cpus_per_worker=500)
    with pytest.raises(ConfigError, match=r"needs 1000\.5 CPUs at once"):
        train(run)
    many = run.model_copy(update={"cluster": ClusterSettings(num_workers=7)})
    with pytest.raises(ConfigError, match="batch of 5 images cannot be shared by 7 workers"):
        train(many)
    best = run.model_copy(update={"training": TrainingConfig(keep_best=True)})
    with pytest.raises(
        ConfigError, match="keep_best needs validation images, normal and anomalous, and there are none: "
    ):
        train(best)
    with pytest.raises(ConfigError, match="no run of these settings to resume"):
        train(run, resume=True)
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="holds something that is no model of this run"):
        train(run.model_copy(update={"output": str(tmp_path / "file")}))
