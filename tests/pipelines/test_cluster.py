"""Resources are checked with a sentence; files by path and by URI behave alike."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from small import random_bundle

from bayes_pfl.data.remote import Store
from bayes_pfl.errors import BundleError, ConfigError, OutputError
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.temporary_folder import check_temporary_folder
from pipelines import doctor
from pipelines.platform.cluster import check_address
from pipelines.platform.resources import check_resources
from pipelines.platform.settings import ClusterSettings, TrainSettings
from pipelines.platform.storage import absolute, download_bundle


def test_a_run_that_can_never_fit_is_refused_with_what_to_change():
    check_resources("the cluster", 2, 0, 2, 0)
    with pytest.raises(
        ConfigError, match=r"needs 5 CPUs at once but this machine has 2: lower .*cluster\.cpus_per_worker"
    ):
        check_resources("this machine", 2, 0, 5, 0)
    with pytest.raises(ConfigError, match=r"needs 4 GPUs but the cluster has 1: set use_gpu to false"):
        check_resources("the cluster", 64, 1, 2, 4)


def test_a_temporary_folder_that_ray_cannot_use_is_named_with_what_to_set(tmp_path):
    short = Path(tempfile.mkdtemp(prefix="p"))
    check_temporary_folder(short)
    with pytest.raises(ConfigError, match=r"too long for Ray's sockets: set RAY_TMPDIR"):
        check_temporary_folder(short / ("x" * 60))
    with pytest.raises(ConfigError, match="does not exist"):
        check_temporary_folder(short / "none")
    shutil.rmtree(short)


@pytest.mark.skipif(os.getuid() != 0, reason="a folder of another user is made by root")
def test_a_temporary_folder_of_another_user_or_without_room_is_named():
    short = Path(tempfile.mkdtemp(prefix="p"))
    program = (
        "import sys; from pathlib import Path; from bayes_pfl.temporary_folder import check_temporary_folder\n"
        "check_temporary_folder(Path(sys.argv[1]))"
    )
    rights = "-dac_override,-dac_read_search,-fowner,-chown"
    (short / "ray").mkdir()
    os.chown(short / "ray", 12345, 12345)
    (short / "ray").chmod(0o700)
    try:
        command = [
            "setpriv",
            f"--bounding-set={rights}",
            f"--inh-caps={rights}",
            sys.executable,
            "-c",
            program,
            str(short),
        ]
        answer = subprocess.run(command, capture_output=True, text=True)
        if "setpriv:" not in answer.stderr:
            assert f"Ray cannot write into {short}/ray, which belongs to another user" in answer.stderr
        if (
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(short)], capture_output=True
            ).returncode
            == 0
        ):
            with pytest.raises(OutputError, match="no room left in the temporary folder"):
                check_temporary_folder(short)
            subprocess.run(["umount", str(short)], check=True)
    finally:
        shutil.rmtree(short)


def test_an_address_without_a_cluster_is_refused_at_once():
    for address in ("127.0.0.1:1", "nonsense", "ray://127.0.0.1:1", "127.0.0.1:99999999"):
        with pytest.raises(ConfigError, match=f"No Ray cluster answers at RAY_ADDRESS={address}"):
            check_address(address)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(ConfigError, match="what listens there is not Ray"):
        check_address(f"127.0.0.1:{server.server_port}")
    server.shutdown()


@pytest.mark.ray
def test_a_cluster_that_answers_is_joined(ray_session):
    check_address(ray_session)


@pytest.mark.ray
def test_doctor_names_a_machine_that_has_another_version(ray_session, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", ray_session)
    (same,) = [finding for finding in doctor.cluster() if finding.value == "the same versions"]
    assert not same.problem
    installed = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "torch" else installed(name))
    (other,) = [finding for finding in doctor.cluster() if finding.value == "other versions"]
    assert other.problem.startswith(f"{same.name} has torch {installed('torch')}, and this machine 0.1: install")


def test_the_range_of_workers_is_ordered():
    with pytest.raises(ValueError, match="min_workers must not be larger"):
        ClusterSettings(num_workers=2, min_workers=3)


def test_how_the_work_is_spread_does_not_rename_a_run_unless_it_changes_bits():
    name = TrainSettings().name("")
    patient = TrainSettings(
        cluster=ClusterSettings(max_failures=9, min_workers=1, cpus_per_loader=1, storage="s3://b/c")
    )
    assert patient.name("") == name
    assert TrainSettings(cluster=ClusterSettings(num_workers=4)).name("") != name


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_store_keeps_files_by_path_and_by_uri(tmp_path, scheme):
    store = Store(f"{scheme}{tmp_path}/a/b")
    assert store.names() == []
    assert store.read_json("x.json") is None
    store.make()
    store.write_json("x.json", {"n": 1})
    store.write_json("x.json", {"n": 2})
    assert store.read_json("x.json") == {"n": 2}
    (tmp_path / "source" / "deep").mkdir(parents=True)
    (tmp_path / "source" / "deep" / "file").write_bytes(b"content")
    assert store.upload(tmp_path / "source", "copy") == f"{scheme}{tmp_path}/a/b/copy"
    assert store.names() == ["copy", "x.json"]
    assert (store.download("copy", tmp_path / "back") / "deep" / "file").read_bytes() == b"content"
    (tmp_path / "a" / "b" / "notes.txt").write_text("mine")
    store.clear("copy", "*.json")
    assert store.names() == ["notes.txt"]
    store.clear("*")
    assert not (tmp_path / "a" / "b").exists()
    store.clear("*")


def test_a_store_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match=r"Cannot write .*Check the path"):
        Store(tmp_path / "file" / "below").make()
    with pytest.raises(OutputError, match="Cannot write"):
        Store(tmp_path / "file" / "below").write_json("x.json", 1)


def test_paths_are_written_out_and_uris_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("runs/model") == str(tmp_path / "runs" / "model")
    assert absolute("s3://bucket/model") == "s3://bucket/model"


def test_a_bundle_behind_a_uri_is_copied_once(tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path / "cache"))
    bundle = random_bundle(tmp_path / "model")
    copy = download_bundle(f"file://{bundle}")
    assert copy.is_relative_to(tmp_path / "cache")
    assert load_bundle(copy).version == load_bundle(bundle).version
    changed = (copy / "bundle.json").stat().st_mtime_ns
    assert download_bundle(f"file://{bundle}") == copy
    assert (copy / "bundle.json").stat().st_mtime_ns == changed
    with pytest.raises(BundleError, match="holds no bundle"):
        download_bundle(f"file://{tmp_path}/nothing")


GROWING = """
import os, subprocess, sys, threading
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from pipelines.platform import autoscaler
from pipelines.platform.cluster import start_ray

autoscaler.LOOK_S, autoscaler.PATIENCE_S = 0.2, 20
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
os.environ["RAY_ADDRESS"] = cluster.address
node = [Path(sys.executable).with_name("ray"), "start", "--address", cluster.address, "--num-cpus=2", "--block"]
nodes = []
threading.Timer(2, lambda: nodes.append(subprocess.Popen([*node, "--object-store-memory=104857600"]))).start()
start_ray(3)
print("CPUs", ray.cluster_resources()["CPU"])
autoscaler.PATIENCE_S = 1
try:
    start_ray(30)
except Exception as error:
    print(type(error).__name__, error)
nodes[0].terminate()
nodes[0].wait()
"""


@pytest.mark.ray
def test_a_cluster_that_grows_is_waited_for_and_others_are_refused(tmp_path):
    given = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    given.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", GROWING], env=given, capture_output=True, text=True, timeout=120, check=False
    )
    assert "CPUs 3.0" in done.stdout, done.stderr[-2000:]
    assert "The cluster has 1 of 3 CPUs and 0 of 0 GPUs; waiting for its autoscaler, 0 min so far." in done.stderr
    assert "ConfigError This run needs 30 CPUs at once but the cluster has 3" in done.stdout
