"""The stages on a cluster: three nodes, one killed on the way; and a job handed to a head that asks for a token."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from plain import plain_shards
from small import BACKBONE

from bayes_pfl.data.remote import Store
from bayes_pfl.inference.bundle import load_bundle
from pipelines.platform.storage import download_bundle

pytestmark = pytest.mark.ray
TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent


def environment(folder: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(TESTS), os.environ.get("PYTHONPATH", "")])
    own = {"PYTHONPATH": path, "BAYES_PFL_HOME": str(folder / "home"), "BAYES_PFL_CACHE": str(folder / "cache")}
    inherited = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    quick = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # it waits for the dead node for so long, by default 60
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return inherited | quick | own | more


def test_three_nodes_ingest_train_and_evaluate_although_one_is_killed_and_go_on_with_two(tmp_path, object_store):
    walk = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("cluster_walk.py")), str(tmp_path), object_store],
        env=environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert walk.returncode == 0, walk.stderr[-4000:]
    result = json.loads((tmp_path / "walk.json").read_text(encoding="utf-8"))
    assert (result["nodes_left"], result["killed"], result["images"]) == (2, 1, 6)
    assert result["workers"][0] == 3
    assert result["workers"][-1] == 2
    assert len(result["workers"]) == 4
    assert result["bundle"] == f"{object_store}/bundles/model"
    assert load_bundle(download_bundle(result["bundle"])).config.model.num_prompts == 2
    assert "metrics.json" in Store(f"{object_store}/evaluation").names()
    assert list((tmp_path / "cache").rglob("*-shard-*.arrow"))  # shards named by URI were copied, not opened in place


@pytest.fixture
def short_folder():
    """Ray's sockets need a path of fewer than 108 characters, which a test's own folder can exceed."""
    with tempfile.TemporaryDirectory(prefix="bpfl-", ignore_cleanup_errors=True) as folder:
        yield folder


def free_ports(count: int) -> list[int]:
    """Ports below the range that Ray gives its workers (10002 and up)."""
    found: list[int] = []
    while len(found) < count:
        port = 7000 + secrets.randbelow(2500)
        with socket.socket() as probe:
            if port not in found and probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
    return found


def test_a_job_is_submitted_to_a_head_that_asks_for_a_token(tmp_path, short_folder):
    shards = plain_shards(tmp_path, ("carpet",), seed=41, normal=2, defective=4)
    config = {
        "backbone": BACKBONE.model_dump(mode="json"),
        "model": {"num_prompts": 1, "flow_length": 0},
        "training": {"epochs": 1, "batch_size": 2},
        "data": {"train": str(shards)},
        "cluster": {"num_workers": 1},
        "output": str(tmp_path / "model"),
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    port, dashboard, client, agent = free_ports(4)
    token = environment(tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    ray = str(Path(sys.executable).with_name("ray"))
    head = subprocess.Popen(
        [
            *(ray, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}"),
            *("--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1", f"--ray-client-server-port={client}"),
            f"--dashboard-agent-listen-port={agent}",
            *("--num-cpus=2", f"--object-store-memory={120 * 2**20}", f"--temp-dir={short_folder}"),
        ],
        env=token,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    submit = [ray, "job", "submit", "--address", f"http://127.0.0.1:{dashboard}", "--"]
    submit += [sys.executable, "-m", "pipelines.cli", "train", "--config", str(tmp_path / "train.yaml")]
    try:
        end = time.monotonic() + 240
        while True:  # the dashboard and its agent take a while to answer
            job = subprocess.run(submit, env=token, capture_output=True, text=True, timeout=600, check=False)
            said = job.stderr + job.stdout
            starting = "Failed to connect" in said or "try again later" in said
            if job.returncode == 0 or not starting or time.monotonic() > end:
                break
            time.sleep(1)
        assert job.returncode == 0, (job.stdout + job.stderr)[-4000:]
        assert load_bundle(tmp_path / "model").config.model.num_prompts == 1
        wrong = token | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        refused = subprocess.run(submit, env=wrong, capture_output=True, text=True, timeout=120, check=False)
        assert refused.returncode != 0
        assert "401" in refused.stdout + refused.stderr or "token" in (refused.stdout + refused.stderr).lower()
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
