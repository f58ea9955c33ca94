"""The tracking store as it is found: what refuses says so before any work, and every first use is recorded."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from mlflow import MlflowClient
from small import random_bundle

from bayes_pfl.errors import BundleError, ConfigError
from bayes_pfl.inference.detector import Detector
from pipelines.platform.mlflow_store import check_store, open_store, tracking_uri
from pipelines.platform.registry import download_model
from pipelines.platform.settings import TrackingSettings
from pipelines.platform.tracking import Run, closing, start_run
from pipelines.register import register


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """A new database, whose making takes seconds."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(TrackingSettings(uri=f"sqlite:///{file}"))
    return file


@pytest.fixture
def home(empty_database, tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home")
    return tmp_path / "home"


def test_looking_a_model_up_makes_no_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("BAYES_PFL_HOME", raising=False)
    with pytest.raises(BundleError, match=r"models:/bayes-pfl@champion cannot be looked up.*MLFLOW_TRACKING_URI"):
        download_model("models:/bayes-pfl@champion")
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_experiment_is_named_with_the_way_back(home):
    with closing(start_run(TrackingSettings(), "first", {})):
        pass
    client = MlflowClient(tracking_uri(TrackingSettings()))
    client.delete_experiment(client.get_experiment_by_name("bayes-pfl").experiment_id)
    for record in (check_store, lambda settings: start_run(settings, "second", {})):
        with pytest.raises(
            ConfigError, match=r"experiment 'bayes-pfl' .* is deleted.*restore --experiment-id 1.*tracking\.experiment"
        ):
            record(TrackingSettings())
    assert start_run(TrackingSettings(experiment="other"), "third", {}).run_id


@pytest.mark.parametrize("uri", ["./mlruns", "{home}/mlruns", "file://{home}/mlruns"])
def test_a_folder_as_store_is_refused_with_what_to_set(home, uri, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(
        ConfigError, match=r"no longer records in folders such as .*mlruns: set .*sqlite.*MLFLOW_ALLOW_FILE_STORE=true"
    ):
        start_run(TrackingSettings(uri=uri.format(home=home)), "x", {})


def test_a_uri_of_another_kind_is_refused(home):
    with pytest.raises(ConfigError, match="is no tracking store"):
        start_run(TrackingSettings(uri="nonsense://x"), "x", {})


@pytest.mark.parametrize("revision", ["deadbeef0000", "7f2a7d5fae7d"])
def test_a_database_of_another_mlflow_names_the_upgrade(home, revision):
    with sqlite3.connect(home / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = ?", (revision,))
    with pytest.raises(
        ConfigError,
        match=rf"another version of MLflow: copy it, then run `mlflow db upgrade 'sqlite:///{home}/mlflow.db'`",
    ):
        check_store(TrackingSettings())
    with pytest.raises(BundleError, match="mlflow db upgrade"):
        download_model("models:/bayes-pfl@champion")


class ForeignHost(BaseHTTPRequestHandler):
    """What MLflow's server answers to a name that it does not know."""

    def do_GET(self):
        self.send_response(403)
        self.end_headers()
        self.wfile.write(b"Invalid Host header - possible DNS rebinding attack detected")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


def test_a_server_that_refuses_its_name_says_how_it_is_started(home):
    server = HTTPServer(("127.0.0.1", 0), ForeignHost)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"127.0.0.1:{server.server_port}"
        with pytest.raises(ConfigError, match=f"refuses the name .*mlflow server --allowed-hosts {address}"):
            start_run(TrackingSettings(uri=f"http://{address}"), "x", {})
    finally:
        server.shutdown()


def test_a_run_on_a_server_has_a_page_without_the_password_and_another_a_command(home):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--backend-store-uri", tracking_uri(TrackingSettings()), "--host", "127.0.0.1", "--workers", "1"]
    program = str(Path(sys.executable).parent / "mlflow")
    server = subprocess.Popen([program, "server", *options, "--port", str(port)], start_new_session=True)
    try:
        address = f"127.0.0.1:{port}"
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://{address}/health").close()
                break
            time.sleep(0.25)
        run = start_run(TrackingSettings(uri=f"http://me:secret@{address}"), "x", {})
        assert run.page() == f"http://{address}/#/experiments/1/runs/{run.run_id}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    local = Run(TrackingSettings(), run.run_id)
    assert local.page() is None
    words = shlex.split(local.command())
    name, _, uri = words[0].partition("=")
    environment = {**os.environ, name: uri}
    shown = subprocess.run([program, *words[2:]], env=environment, capture_output=True, text=True, check=True)
    assert run.run_id in shown.stdout


@pytest.mark.parametrize("name", ["my runs #1, 50%25? ä;&="])
def test_every_character_may_stand_in_the_homes_name(empty_database, tmp_path, monkeypatch, name):
    home = tmp_path / name
    home.mkdir()
    shutil.copy(empty_database, home)
    monkeypatch.setenv("BAYES_PFL_HOME", str(home))
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    bundle = random_bundle(tmp_path / "model")
    with closing(start_run(TrackingSettings(), "train", {})) as run:
        run.log_folder(bundle, "bundle")
    register(TrackingSettings(), run.run_id)
    assert Detector.load("models:/bayes-pfl@champion").bundle.version == Detector.load(bundle).bundle.version
    assert sorted(path.name for path in home.iterdir()) == ["artifacts", "mlflow.db", "mlflow.db.lock"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["cache", "model", name])


def test_three_first_uses_at_once_are_all_recorded(tmp_path):
    program = (
        "from pipelines.platform.settings import TrackingSettings\n"
        "from pipelines.platform.tracking import Run, closing, start_run\n"
        "with closing(start_run(TrackingSettings(), 'x', {})) as run: run.log_metrics({'a': 1.0})\n"
        "print(run.run_id, run.problem)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment["BAYES_PFL_HOME"] = str(tmp_path / "home")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    ids = set()
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        ids.add(output.strip())
        assert "MLflow:" not in errors
    assert len(ids) == 3
    assert all(len(run_id) == 32 for run_id in ids)


def test_a_relative_database_means_the_same_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(TrackingSettings(uri="sqlite:///runs/x.db")) == f"sqlite:///{tmp_path}/runs/x.db"
    assert tracking_uri(TrackingSettings(uri="http://mlflow:5000")) == "http://mlflow:5000"
