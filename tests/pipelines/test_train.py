"""Training on Ray: killed workers and drivers change no bit, a finished run is left alone, everything is recorded."""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import safetensors.torch
import torch
import yaml
from plain import plain_shards
from small import BACKBONE

from bayes_pfl.config import ModelConfig, TrainingConfig
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import index_shards
from bayes_pfl.data.shards import iterate_rows, read_manifest
from bayes_pfl.errors import BundleError, ConfigError, DataError, OutputError, TrainingError
from bayes_pfl.inference.bundle import load_bundle, training_images
from bayes_pfl.inference.detector import Detector
from pipelines.evaluate import EvaluateSettings, evaluate
from pipelines.platform.settings import ClusterSettings, DataSettings, TrackingSettings, TrainSettings
from pipelines.register import register
from pipelines.train import train
from pipelines.training.checkpoints import BEST_FILE, PROGRESS_FILE, STATE_FILE, load_newest, read_checkpoint, settle
from pipelines.training.images import run_name, split_samples

pytestmark = pytest.mark.ray
EPOCHS = 5


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return plain_shards(tmp_path_factory.mktemp("train"), ("carpet", "gear", "leather"), seed=11, normal=3, defective=5)


@pytest.fixture(scope="module")
def settings(shards):
    return TrainSettings(
        backbone=BACKBONE,
        model=ModelConfig(num_prompts=2, flow_length=2),
        training=TrainingConfig(epochs=EPOCHS, batch_size=4, learning_rate=1e-3, augment=True),
        data=DataSettings(train=str(shards), validation_categories=("leather",)),
        cluster=ClusterSettings(cpus_per_worker=0.25, cpus_per_loader=1),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory, ray_session, settings):
    """The same settings trained twice: straight; with a worker killed, the driver killed, Ctrl+C, and run again."""
    return {
        kind: _trained(tmp_path_factory.mktemp(kind), kind, settings, ray_session) for kind in ("straight", "killed")
    }


def _trained(folder: Path, kind: str, settings: TrainSettings, address: str) -> dict:
    settings = settings.model_copy(update={"output": str(folder / "model")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAYES_PFL_HOME", str(folder / "home"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        if kind == "killed":
            checkpoints = folder / "home" / "training" / name_of(settings)
            _kill_twice(folder, settings, checkpoints, address)
            _interrupt(folder, settings, checkpoints, address)
        result = train(settings)
    return {"folder": folder, "settings": settings, "result": result}


def name_of(settings: TrainSettings) -> str:
    return run_name(settings, *split_samples(settings))


def _wait_for(condition, what: str) -> None:
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


def _workers() -> list[psutil.Process]:
    """Training workers of this process's own Ray."""
    return [child for child in psutil.Process().children(recursive=True) if "RayTrainWorker" in _title(child)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kill_twice(folder: Path, settings: TrainSettings, checkpoints: Path, address: str) -> None:
    """kill -9 a worker in the middle of the second epoch, and after the next one the driver, a program of its own."""
    driver = _driver(folder, settings, address)
    try:
        _wait_for((checkpoints / "epoch_0000" / "progress.json").is_file, "the first epoch")
        workers = _workers()
        assert len(workers) == 2
        workers[-1].kill()
        _wait_for(lambda: len(set(_workers()) - set(workers)) == 2, "new workers")
        assert not (checkpoints / "epoch_0002").exists()
        _wait_for((checkpoints / "epoch_0002" / "progress.json").is_file, "the third epoch")
    finally:
        driver.send_signal(signal.SIGKILL)
        _, error = driver.communicate()
    assert not (checkpoints / f"epoch_{EPOCHS - 1:04d}").exists(), error.decode()
    assert re.search(rb"epoch 1/5  \d+ s left  [\d.]+ images/s  loss [\d.]+", error)
    assert re.search(rb"Workers have started again: going on after epoch [12] of 5, on 2 workers", error)
    kept = (folder / "home" / "training" / checkpoints.name / "metrics.jsonl").read_text(encoding="utf-8")
    assert len(kept.splitlines()) >= 2  # while it ran
    assert b"INFO" not in error  # nor what Ray and MLflow have to say of themselves
    assert b"Set ray log level" not in error


def _interrupt(folder: Path, settings: TrainSettings, checkpoints: Path, address: str) -> None:
    """The same command goes on; Ctrl+C after one more epoch."""
    driver = _driver(folder, settings, address)
    try:
        _wait_for((checkpoints / "epoch_0003" / "progress.json").is_file, "the fourth epoch")
    finally:
        driver.send_signal(signal.SIGINT)
        _, error = driver.communicate()
    assert driver.returncode == 130, error.decode()
    assert b"Going on after epoch 3 of 5, on 2 workers" in error
    assert b"The same command goes on after the last finished epoch" in error
    assert b"Traceback" not in error


def _driver(folder: Path, settings: TrainSettings, address: str) -> "subprocess.Popen[bytes]":
    """`bayes-pfl train`, a program of its own."""
    config = folder / "train.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "train", "--config", str(config)],
        env=os.environ | {"RAY_ADDRESS": address},
        cwd=folder,
        stderr=subprocess.PIPE,
    )


def _head(run: dict) -> str:
    return load_bundle(run["folder"] / "model").record["head_sha256"]


def test_a_run_with_killed_processes_ends_bit_identical_to_an_uninterrupted_one(runs):
    assert _head(runs["killed"]) == _head(runs["straight"])
    straight, found = runs["straight"]["result"]["metrics"], runs["killed"]["result"]["metrics"]
    assert {name: value for name, value in found.items() if name != "images_per_second"} == {
        name: value for name, value in straight.items() if name != "images_per_second"
    }


def test_a_finished_run_says_so_and_does_nothing(runs, monkeypatch, capsys):
    run = runs["straight"]
    monkeypatch.setenv("BAYES_PFL_HOME", str(run["folder"] / "home"))
    before = (run["folder"] / "model" / "bundle.json").stat().st_mtime_ns
    assert train(run["settings"]) == run["result"]
    assert "finished already" in capsys.readouterr().err
    assert (run["folder"] / "model" / "bundle.json").stat().st_mtime_ns == before


def test_the_bundle_knows_its_images_and_predicts(runs, shards):
    run = runs["straight"]
    bundle = load_bundle(run["folder"] / "model")
    trained = {row["sha256"] for row in iterate_rows(shards) if row["category"] != "leather"}
    assert training_images(bundle) == trained
    row = next(iterate_rows(shards, categories=["leather"]))
    assert 0 <= Detector.load(run["folder"] / "model").predict([row["image"]], ["leather"], 1)[0].image_score <= 1


def test_evaluating_images_that_were_trained_on_is_refused(runs, shards):
    with pytest.raises(DataError, match=r"were trained on, painted/.*--allow-overlap"):
        evaluate(EvaluateSettings(model=str(runs["straight"]["folder"] / "model"), shards=(str(shards),)))


def test_evaluations_go_into_the_training_run_and_the_registry_compares_them(runs, tmp_path_factory, monkeypatch):
    straight = runs["straight"]
    monkeypatch.setenv("BAYES_PFL_HOME", str(straight["folder"] / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path_factory.mktemp("register")
    unseen = plain_shards(folder, ("screw",), seed=12)
    shorter = straight["settings"].training.model_copy(update={"epochs": 1, "augment": False})
    other = train(straight["settings"].model_copy(update={"training": shorter, "output": str(folder / "other")}))
    found = {}
    for trained in (straight["result"], other):
        settings = EvaluateSettings(
            model=trained["bundle"],
            shards=(str(unseen),),
            num_samples=1,
            cases=0,
            workers=1,
            output=str(folder / "out"),
        )
        result = evaluate(settings)
        assert result["run_id"] == trained["run_id"]
        found[trained["run_id"]] = result["datasets"]["painted"]["mean"]["values"]["pixel_ap"]
    better, worse = sorted(found, key=found.get, reverse=True)
    assert register(TrackingSettings(), better)["version"] == 1
    numbers = rf"painted pixel_ap is {found[worse]:.2%}, version 1 \(champion\) has {found[better]:.2%}".replace(
        "%", " %"
    )
    with pytest.raises(BundleError, match=numbers):
        register(TrackingSettings(), worse, margin=0.0)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{straight['folder'] / 'home' / 'mlflow.db'}")
    files = {file.path for file in client.list_artifacts(better, "evaluation")}
    names = ("metrics.json", "metrics.csv", "predictions.csv", "report.html", "run.json", "settings.yaml")
    assert files == {f"evaluation/{name}" for name in (*names, ".eval_results")}
    card = json.loads((folder / "out/run.json").read_text())["model_card"]  # of the model that was evaluated last
    assert card["dataset trained on"].startswith("painted, digest ")
    assert (card["training run"], card["MLflow run of the training"]) == (other["name"], other["run_id"])
    assert card["epochs"] == "1"
    assert card["end of training"].endswith("+00:00")
    allowed = EvaluateSettings(  # figures on images that were trained on are not for the registry to compare
        model=straight["result"]["bundle"],
        shards=(straight["settings"].data.train,),
        categories=("gear",),
        num_samples=1,
        cases=0,
        workers=1,
        allow_overlap=True,
        output=str(folder / "marked"),
    )
    assert evaluate(allowed)["run_id"] not in {"", *found}


def test_everything_is_recorded_once(runs):
    from mlflow import MlflowClient

    for run in runs.values():
        client = MlflowClient(f"sqlite:///{run['folder'] / 'home' / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("bayes-pfl")
        found = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{run['result']['name']}'")
        assert [each.info.run_id for each in found] == [run["result"]["run_id"]]
        assert found[0].info.status == "FINISHED"
        assert found[0].data.params["training.learning_rate"] == "0.001"
        history = client.get_metric_history(run["result"]["run_id"], "total")
        assert {point.step for point in history} == set(range(1, EPOCHS + 1))
        assert "validation_pixel_ap" in found[0].data.metrics
        assert any(name.startswith("system/") for name in found[0].data.metrics)
        params = found[0].data.params
        assert params["version.torch"] == importlib.metadata.version("torch")
        assert params["dataset_digest"] == read_manifest(run["settings"].data.train)["digest"]
        assert params["git_revision"]
        assert params["training.seed"] == "0"
        pages = {file.path for file in client.list_artifacts(run["result"]["run_id"], "training")}
        assert {"training/report.html", "training/curves.png", "training/heat-0.png"} <= pages
        files = {file.path for file in client.list_artifacts(run["result"]["run_id"], "bundle")}
        assert "bundle/head.safetensors" in files


def test_every_epoch_is_in_a_file(runs):
    for run in runs.values():
        result = run["result"]
        assert not result["tracking_problem"]
        lines = [json.loads(line) for line in Path(result["metrics_file"]).read_text(encoding="utf-8").splitlines()]
        assert [line["epoch"] for line in lines] == list(range(EPOCHS))
        assert lines[-1] == result["metrics"]


def test_validation_images_are_never_trained_on(shards, settings):
    both = settings.data.model_copy(update={"validation_share": 0.3})
    training, validation = split_samples(settings.model_copy(update={"data": both}))
    refs = index_shards(shards)
    assert {ref.sample_id for ref in training}.isdisjoint(ref.sample_id for ref in validation)
    assert len(training) + len(validation) == len(refs)
    assert all(ref in validation for ref in refs if ref.category == "leather")
    assert {ref.category for ref in validation} > {"leather"}


def test_a_loss_that_is_not_finite_ends_the_run_with_a_sentence(settings, tmp_path, monkeypatch, ray_session):
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    training = settings.training.model_copy(update={"learning_rate": 1e30, "epochs": 2})
    cluster = settings.cluster.model_copy(update={"num_workers": 1})
    with pytest.raises(TrainingError, match=r"Step \d+: .* is not finite.*painted/"):
        train(settings.model_copy(update={"training": training, "cluster": cluster, "output": str(tmp_path / "model")}))
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("bayes-pfl")
    assert client.search_runs([experiment.experiment_id])[0].info.status == "FAILED"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"validation_categories": ("nothing",)}, "the shards have"),
        ({"validation_categories": ("carpet", "gear", "leather")}, "needs normal and anomalous"),
    ],
)
def test_a_split_that_leaves_nothing_to_learn_is_refused(settings, data, message):
    changed = settings.data.model_copy(update=data)
    with pytest.raises(ConfigError, match=message):
        split_samples(settings.model_copy(update={"data": changed}))


def test_tracking_settings_do_not_change_the_name_of_a_run(settings):
    other = settings.model_copy(update={"tracking": TrackingSettings(experiment="x"), "output": "elsewhere"})
    assert name_of(other) == name_of(settings)
    longer = settings.model_copy(update={"training": settings.training.model_copy(update={"epochs": 7})})
    assert name_of(longer) != name_of(settings)
    assert json.loads(settings.model_dump_json())["training"]["epochs"] == EPOCHS


def test_a_run_is_found_again_by_what_its_images_are(settings, shards, tmp_path):
    moved = shutil.copytree(shards, tmp_path / "moved")
    others = plain_shards(tmp_path / "other", ("carpet", "gear", "leather"), seed=12, normal=3, defective=5)
    names = [
        name_of(settings.model_copy(update={"data": settings.data.model_copy(update={"train": str(folder)})}))
        for folder in (shards, moved, others)
    ]
    assert names[0] == names[1] != names[2]


def test_the_model_of_another_run_is_not_replaced(runs, settings, monkeypatch):
    straight = runs["straight"]
    monkeypatch.setenv("BAYES_PFL_HOME", str(straight["folder"] / "home"))
    output = straight["folder"] / "model"
    before = (output / "head.safetensors").read_bytes()
    shorter = settings.training.model_copy(update={"epochs": 1})
    for fresh in (False, True):
        with pytest.raises(OutputError, match=f"holds the model of another run .{straight['result']['name']}"):
            train(settings.model_copy(update={"training": shorter, "output": str(output)}), fresh=fresh)
    assert (output / "head.safetensors").read_bytes() == before


@pytest.mark.parametrize("file", [STATE_FILE, PROGRESS_FILE, BEST_FILE])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys, file):
    for name in ("epoch_0000", "epoch_0001"):
        folder = tmp_path / name
        folder.mkdir()
        for weights in (STATE_FILE, BEST_FILE):
            safetensors.torch.save_file({"w": torch.zeros(1000)}, folder / weights)
        progress = {"steps": 3, "second_stage_start": None, "history": []}
        (folder / PROGRESS_FILE).write_text(json.dumps(progress), encoding="utf-8")

    def newest() -> str | None:
        found = load_newest(Store(tmp_path), read_checkpoint)
        return None if found is None else found[0]

    assert newest() == "epoch_0001"
    os.truncate(tmp_path / "epoch_0001" / file, 20)
    assert newest() == "epoch_0000"
    settle(Store(tmp_path), read_checkpoint)
    assert f"{tmp_path}/epoch_0001 is damaged; going on from epoch_0000" in capsys.readouterr().err
    (tmp_path / "epoch_0000" / file).write_bytes(b"")
    assert newest() is None
    with pytest.raises(TrainingError, match=r"No checkpoint in .* can be read"):
        settle(Store(tmp_path), read_checkpoint)


def test_stale_checkpoints_and_a_cut_list_of_ray_are_cleared_away(tmp_path):
    store = Store(tmp_path)
    settle(store, lambda folder: None)  # nothing there yet
    for epoch in range(5):
        store.write_json(f"epoch_{epoch:04d}/content.json", epoch)
    (tmp_path / "checkpoint_manager_snapshot.json").write_text("{", encoding="utf-8")
    settle(store, lambda folder: json.loads((folder / "content.json").read_text()))
    assert store.names() == ["epoch_0003", "epoch_0004"]


def test_an_image_that_one_worker_cannot_read_ends_the_run_with_a_sentence(
    settings, shards, tmp_path, monkeypatch, ray_session
):
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    damaged = shutil.copytree(shards, tmp_path / "damaged")
    shard = next(damaged.glob("shard-*.arrow"))
    with pa.ipc.open_file(shard) as reader:
        table = reader.read_all()
    images = [b"no image" if index == 0 else image for index, image in enumerate(table["image"].to_pylist())]
    column = pa.array(images, table.schema.field("image").type)
    table = table.set_column(table.schema.get_field_index("image"), table.schema.field("image"), column)
    with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = settings.data.model_copy(update={"train": str(damaged), "validation_categories": ()})
    run = settings.model_copy(update={"data": data, "output": str(tmp_path / "model")})
    with pytest.raises(TrainingError, match=r"^Training stopped: .*painted/.*"):
        train(run)
    marks = list((tmp_path / "home" / "training").glob("*/stopped.json"))
    assert len(marks) == 1, "the workers were started anew once, not as often as failures are allowed"
