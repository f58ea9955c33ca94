"""What names a run, and what is refused before it starts: images, masks and weights by content, never by place."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from plain import plain_shards
from small import BACKBONE

from bayes_pfl.config import TrainingConfig
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import index_shards
from bayes_pfl.errors import ConfigError, DataError, OutputError
from pipelines.options.pretrain import PretrainSettings
from pipelines.platform.settings import ClusterSettings, DataSettings, TrainSettings
from pipelines.pretrain import pretrain
from pipelines.train import train
from pipelines.training.images import require_masks, require_selection, run_name, split_samples, weights_by_content
from pipelines.training.places import with_absolute_paths


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return plain_shards(tmp_path_factory.mktemp("identity"), ("carpet", "gear"), seed=31)


def settings_of(folder: Path, **changes) -> TrainSettings:
    data = DataSettings(train=str(folder), validation_categories=("gear",))
    return TrainSettings(backbone=BACKBONE, data=data).model_copy(update=changes)


def name_of(folder: Path) -> str:
    settings = settings_of(folder)
    return run_name(settings, *split_samples(settings))


def changed(shards: Path, folder: Path, column: str, change) -> Path:
    """A copy of the shards in which `change` is applied to a column of every row."""
    shutil.copytree(shards, folder)
    for shard in folder.glob("shard-*.arrow"):
        with pa.ipc.open_file(shard) as reader:
            table = reader.read_all()
        rows = [row | {column: change(row)} for row in table.to_pylist()]
        with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, table.schema))
    return folder


def test_a_run_is_named_by_what_its_images_are(shards, tmp_path):
    assert name_of(shutil.copytree(shards, tmp_path / "moved")) == name_of(shards)
    others = plain_shards(tmp_path, ("carpet", "gear"), seed=32)
    names = {
        name_of(shards),
        name_of(others),
        name_of(changed(shards, tmp_path / "renamed", "class_name", lambda row: "thing")),
        name_of(changed(shards, tmp_path / "relabelled", "mask", lambda row: row["mask"] and row["mask"] + b" ")),
    }
    assert len(names) == 4


def test_weights_in_a_file_are_named_by_content_and_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "vitb16.pt").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    relative = settings_of(tmp_path, backbone=BACKBONE.model_copy(update={"pretrained": "vitb16.pt"}))
    settings = with_absolute_paths(relative)
    assert settings.backbone.pretrained == str(tmp_path / "vitb16.pt")
    assert settings.backbone.name == BACKBONE.name  # of the package, no file here
    (tmp_path / "other").mkdir()
    shutil.copy("vitb16.pt", "other/vitb16.pt")
    moved = settings.backbone.model_copy(update={"pretrained": str(tmp_path / "other/vitb16.pt")})
    by_content = weights_by_content(settings)
    assert weights_by_content(settings.model_copy(update={"backbone": moved})) == by_content
    (tmp_path / "vitb16.pt").write_bytes(b"other weights")
    assert weights_by_content(settings) != by_content


def test_anomalous_images_without_masks_are_refused(shards, tmp_path):
    refs = index_shards(shards)
    require_masks(refs)
    without = index_shards(changed(shards, tmp_path / "without", "mask", lambda row: None))
    with pytest.raises(DataError, match="6 of 6 anomalous training images have no mask, painted/"):
        require_masks(without)
    require_selection(refs, 64, "A sweep")
    with pytest.raises(ConfigError, match="none of their masks has an anomalous pixel at 64 x 64"):
        require_selection(without, 64, "A sweep")
    with pytest.raises(ConfigError, match="A sweep needs validation images, normal and anomalous"):
        require_selection([ref for ref in refs if ref.label == 1], 64, "A sweep")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"cluster": ClusterSettings(use_gpu=True)}, ConfigError, "no GPU"),
        ({"training": TrainingConfig(batch_size=1)}, ConfigError, "cannot be shared by 2 workers"),
        ({"output": "photos"}, OutputError, "holds something that is no model of this run"),
    ],
)
def test_what_training_cannot_do_is_said_before_anything_starts(shards, tmp_path, monkeypatch, changes, error, message):
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(error, match=message):
        train(settings_of(shards, output=changes.pop("output", str(tmp_path / "model")), **changes), fresh=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    assert (tmp_path / "photos" / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_the_weights_of_another_pretraining_are_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = PretrainSettings(output=str(tmp_path / "weights"))
    gpu = settings.cluster.model_copy(update={"use_gpu": True})
    with pytest.raises(ConfigError, match="no GPU"):
        pretrain(settings.model_copy(update={"cluster": gpu}), fresh=True)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "bayes-pfl-embedded.safetensors").write_bytes(b"weights")
    for owner in ("of an earlier version", "pretrain-other"):
        with pytest.raises(OutputError, match=f"holds the weights of another run .{owner}"):
            pretrain(settings, fresh=True)
        Store(tmp_path / "weights").write_json("run.json", {"run": "pretrain-other"})
    assert (tmp_path / "weights" / "bayes-pfl-embedded.safetensors").read_bytes() == b"weights"
