"""Runs and models on a real SQLite store: the gates before an alias moves, and a store that does not answer."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from mlflow import MlflowClient
from small import random_bundle

from bayes_pfl.decisions.calibration import CalibrationFile, ClassCalibration, read_calibration, write_calibration
from bayes_pfl.decisions.records import HowScored, ScoredImages
from bayes_pfl.decisions.rules import Rule
from bayes_pfl.errors import BundleError, ConfigError
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.inference.detector import Detector
from pipelines.platform.mlflow_store import tracking_uri
from pipelines.platform.registry import download_model, present_model, run_bundle
from pipelines.platform.settings import TrackingSettings
from pipelines.platform.tracking import Run, closing, run_of_model, start_run
from pipelines.register import compare, evaluations, go_back, register

PIXEL = {"pixel_ap": 0.40, "pixel_auroc": 0.90}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return random_bundle(tmp_path_factory.mktemp("bundle") / "model")


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}")
    return TrackingSettings()


def finished_run(store, bundle, metrics) -> str:
    run = start_run(store, "train", {"stage": "train"})
    with closing(run):
        run.log_metrics({f"held-out.{name}": value for name, value in metrics.items()})
        run.log_folder(bundle, "bundle")
    assert not run.problem
    return run.run_id


def test_a_model_becomes_champion_and_every_consumer_finds_it(store, bundle):
    result = register(store, finished_run(store, bundle, PIXEL))
    assert (result["version"], result["uri"]) == (1, "models:/bayes-pfl@champion")
    assert load_bundle(download_model(result["uri"])).version == load_bundle(bundle).version
    assert Detector.load("models:/bayes-pfl/1").bundle.version == load_bundle(bundle).version
    present = present_model(store, "champion")
    assert json.loads(present.tags["evaluation.held-out"]) == PIXEL
    with pytest.raises(BundleError, match="not in the registry"):
        download_model("models:/bayes-pfl@nobody")
    with pytest.raises(BundleError, match="is no model"):
        download_model("models:/bayes-pfl")


def test_a_calibrated_model_is_a_version_of_its_own(store, bundle, tmp_path):
    run_id = finished_run(store, bundle, PIXEL)
    calibrated = shutil.copytree(bundle, tmp_path / "calibrated")
    record = json.loads((calibrated / "bundle.json").read_text())
    for kept, reason in ((None, "has no calibration"), ({}, "does not say which run")):
        if kept is not None:
            images = ScoredImages(sha256=("0" * 64,), scores=(0.5,), map_maxima=(0.5,))
            classes = (ClassCalibration(class_name="nut", rule=Rule(false_alarms=0.5), normal=images),)
            how = HowScored(model_version="a", settings_sha256="0" * 64, looked_at="whole", num_samples=1)
            write_calibration(calibrated, CalibrationFile(made="now", how=how, classes=classes))
        with pytest.raises(BundleError, match=reason):
            register(store, str(calibrated))
    (calibrated / "bundle.json").write_text(json.dumps({**record, "training": {"run_id": run_id}}))
    assert register(store, run_id)["version"] == 1
    assert register(store, str(calibrated))["version"] == 2
    assert read_calibration(download_model("models:/bayes-pfl@champion")).names == ["nut"]
    assert read_calibration(download_model("models:/bayes-pfl/1")) is None


def test_a_version_is_downloaded_once(store, bundle, tmp_path):
    register(store, finished_run(store, bundle, PIXEL))
    first = download_model("models:/bayes-pfl@champion")
    assert first.is_relative_to(tmp_path / "cache")
    shutil.rmtree(tmp_path / "home" / "artifacts")
    assert download_model("models:/bayes-pfl@champion") == download_model("models:/bayes-pfl/1") == first
    assert load_bundle(first).version == load_bundle(bundle).version
    register(store, finished_run(store, bundle, PIXEL))
    assert download_model("models:/bayes-pfl@champion") != first


def test_figures_of_an_evaluation_belong_to_the_run_that_trained_the_model(store, bundle):
    run_id = finished_run(store, bundle, PIXEL)
    assert run_of_model(store, str(bundle), {"training": {"run_id": run_id}}).run_id == run_id
    assert run_of_model(store, str(bundle), {"training": {"run_id": "0" * 32}}) is None
    assert run_of_model(store, str(bundle), {}) is None
    register(store, run_id)
    assert run_of_model(store, "models:/bayes-pfl@champion", {}).run_id == run_id
    down = TrackingSettings(uri="http://127.0.0.1:9")
    assert run_of_model(down, str(bundle), {"training": {"run_id": run_id}}) is None


def test_a_worse_model_is_refused_with_both_numbers_unless_forced(store, bundle):
    register(store, finished_run(store, bundle, PIXEL))
    within = finished_run(store, bundle, PIXEL | {"pixel_ap": 0.395})
    assert register(store, within)["version"] == 2
    worse = finished_run(store, bundle, PIXEL | {"pixel_ap": 0.30})
    with pytest.raises(BundleError, match=r"held-out pixel_ap is 30\.00 %, version 2 \(champion\) has 39\.50 %"):
        register(store, worse)
    assert present_model(store, "champion").version == 2
    assert register(store, worse, margin=0.2, alias="challenger")["overridden"] == ""
    forced = register(store, worse, force=True)
    tags = present_model(store, "champion").tags
    assert tags["forced_by"] == forced["forced_by"]
    assert "39.50 %" in tags["forced_over"]


def test_figures_of_another_r_are_said_because_r_is_no_part_of_a_model(store, bundle, tmp_path):
    assert register(store, finished_run(store, bundle, PIXEL | {"num_samples": 10.0}))["samples"] == []
    one = register(store, finished_run(store, bundle, PIXEL | {"num_samples": 1.0}))
    assert one["samples"][0] == "On held-out this model was measured with R = 1, the one before with R = 10."
    assert "--num-samples" in one["samples"][1]
    content = {"model": {"version": load_bundle(bundle).version}, "num_samples": 5}
    content["datasets"] = {"held-out": {"mean": {"values": PIXEL}}}
    (tmp_path / "metrics.json").write_text(json.dumps(content), encoding="utf-8")
    filed = register(store, finished_run(store, bundle, {}), metrics_file=tmp_path / "metrics.json")
    assert filed["samples"][0] == "On held-out this model was measured with R = 5, the one before with R = 1."


def test_a_model_that_was_not_evaluated_does_not_replace_one_that_was(store, bundle, tmp_path):
    register(store, finished_run(store, bundle, PIXEL))
    silent = finished_run(store, bundle, {})
    with pytest.raises(BundleError, match="not evaluated on any dataset"):
        register(store, silent)
    with pytest.raises(BundleError, match="no metrics on 'elsewhere'"):
        register(store, silent, evaluation="elsewhere")
    content = {
        "model": {"version": load_bundle(bundle).version},
        "datasets": {"held-out": {"mean": {"values": PIXEL | {"pixel_pro": None}}}},
    }
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    assert register(store, silent, metrics_file=file)["version"] == 2
    file.write_text(json.dumps(content | {"model": {"version": "0" * 12}}), encoding="utf-8")
    with pytest.raises(ConfigError, match="measures model 000000000000"):
        register(store, silent, metrics_file=file)
    with pytest.raises(ConfigError, match=r"is no metrics\.json"):
        register(store, silent, metrics_file=tmp_path / "nothing")


def test_an_alias_goes_back_to_a_version_that_is_there(store, bundle):
    register(store, finished_run(store, bundle, PIXEL))
    assert register(store, finished_run(store, bundle, PIXEL))["before"] == 1
    back = go_back(store, 1)
    assert (back["version"], back["before"], present_model(store, "champion").version) == (1, 2, 1)
    assert "@" in present_model(store, "champion").tags["returned_by"]
    with pytest.raises(BundleError, match=r"has no version 7 at sqlite:.*; it has 1, 2"):
        go_back(store, 7)


def test_a_damaged_bundle_is_refused_even_when_forced(store, bundle, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in bundle.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    head = bytearray((broken / "head.safetensors").read_bytes())
    head[-1] ^= 1
    (broken / "head.safetensors").write_bytes(head)
    with pytest.raises(BundleError, match="is damaged"):
        register(store, finished_run(store, broken, PIXEL), force=True)
    assert present_model(store, "champion") is None


def test_runs_without_a_bundle_and_unknown_runs_are_refused(store, tmp_path):
    run = start_run(store, "evaluate", {})
    with pytest.raises(BundleError, match="kept no bundle"):
        run_bundle(store, run.run_id)
    with pytest.raises(BundleError, match="There is no run"):
        run_bundle(store, "0" * 32)


def test_compare_and_evaluations():
    assert evaluations({"a.pixel_ap": 1.0, "b.c.image_ap": 0.5, "total": 3.0, "system/x.cpu": 1.0}) == {
        "a": {"pixel_ap": 1.0},
        "b.c": {"image_ap": 0.5},
    }
    assert compare({}, {}, None, 0.01, "version 1") == ""
    assert compare({"a": {"pixel_ap": 0.5}}, {"a": {"pixel_ap": 0.505}}, None, 0.01, "version 1") == ""
    assert "is 50.00 %, version 1 has 52.00 % (margin 1 %)" in compare(
        {"a": {"pixel_ap": 0.5}}, {"a": {"pixel_ap": 0.52}}, None, 0.01, "version 1"
    )


class Refusing(BaseHTTPRequestHandler):
    """A tracking server in trouble."""

    requests: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.requests.append(self.path)
        self.send_response(400)
        self.end_headers()

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


def test_a_server_in_trouble_stops_nothing_and_is_said_once(capsys):
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        settings = TrackingSettings(uri=f"http://127.0.0.1:{server.server_port}")
        run = start_run(settings, "train", {})
        assert run.run_id == ""
        assert "does not answer" in run.problem
        begun = Run(settings, "0" * 32)
        requests = len(Refusing.requests)
        for step in range(3):
            begun.log_metrics({"total": 1.0}, step)
        assert len(Refusing.requests) == requests + 1  # the others would wait for the same answer
        begun.finish()
        assert len(Refusing.requests) == requests + 2  # once more at the end
        assert begun.problem
        assert capsys.readouterr().err.count("The work goes on") == 2
    finally:
        server.shutdown()


def test_what_was_not_recorded_is_sent_again_at_the_end(store, tmp_path):
    run = start_run(store, "train", {})
    database = tmp_path / "home" / "mlflow.db"
    database.rename(tmp_path / "away")
    run.log_metrics({"total": 1.0}, 1)
    assert "is not on this machine" in run.problem
    assert not database.exists()
    (tmp_path / "away").rename(database)
    run.log_metrics({"total": 2.0}, 2)
    run.finish()
    assert run.problem == ""
    history = MlflowClient(store.uri or tracking_uri(store)).get_metric_history(run.run_id, "total")
    assert sorted((entry.step, entry.value) for entry in history) == [(1, 1.0), (2, 2.0)]


def test_a_store_that_cannot_be_written_is_said(tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    run = start_run(TrackingSettings(uri=f"sqlite:///{tmp_path}/file/below/mlflow.db"), "train", {})
    assert run.run_id == ""
    assert "does not answer" in capsys.readouterr().err
