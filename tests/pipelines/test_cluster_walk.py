"""The stages on a cluster: the page's commands on three machines, one of them lost on the way; an object store; a job handed to a head
that asks for a token."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import documented
import pytest
import yaml
from cluster_walk import NAMES, Machines, can_simulate
from plain import plain_shards
from small import BACKBONE

from bayes_pfl.config import ModelConfig, TrainingConfig
from bayes_pfl.data.remote import Store
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.synthetic import write_dataset
from pipelines.evaluate import EvaluateSettings, evaluate
from pipelines.ingest import IngestConfig, ingest
from pipelines.platform.settings import ClusterSettings, DataSettings, TrainSettings
from pipelines.platform.storage import download_bundle
from pipelines.train import train
from pipelines.training.images import run_name, split_samples

pytestmark = pytest.mark.ray
TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
BLOCKS = documented.run_by("tests/pipelines/test_cluster_walk.py")
SMALLER = {
    "CPUS=8 WORKER_CPUS=6 WORKER_THREADS=6": "CPUS=2 WORKER_CPUS=1.5 WORKER_THREADS=1",
    "--normal 12 --defective 30": "--size 64 --normal 1 --defective 2",
    "--normal 10 --defective 10": "--size 64 --normal 1 --defective 2",
    "--config train_embedded": "--config train_embedded --set training.epochs=3",
    "--config tune_embedded": "--config tune_embedded --set training.epochs=1 --set sweep.num_samples=[1] "
    "--set 'sweep.grid={model.num_prompts: [1, 2, 3]}'",
}
"""What is typed instead of what the page has: fewer CPUs, images, epochs and trials."""


def environment(folder: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(TESTS), os.environ.get("PYTHONPATH", "")])
    own = {"PYTHONPATH": path, "BAYES_PFL_HOME": str(folder / "home"), "BAYES_PFL_CACHE": str(folder / "cache")}
    inherited = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    quick = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # it waits for the dead node for so long, by default 60
        "RAY_health_check_period_ms": "1000",  # a silent machine is lost after 30 s, not 60; one that is busy is not
        "RAY_health_check_timeout_ms": "10000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "OMP_NUM_THREADS": "1",  # three machines share the cores of one
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # four processes that nothing here needs
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return inherited | quick | own | more


class Page:
    """The section on three machines, typed into simulated ones.

    Args:
        folder: gets the machines' shared folder, and a file for what each machine prints.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "shared").mkdir()
        self.folder = folder
        self.blocks = dict(heading(block) for block in BLOCKS)
        self.machines = Machines(folder / "shared", environment(folder))
        self.typed: set[str] = set()

    def start(self, subject: str, names: tuple[str, ...] = NAMES) -> list[subprocess.Popen]:
        """Type a block into each of its machines, or some of them, and do not wait for its end."""
        where, script = self.blocks[subject]
        self.typed.add(subject)
        for written, tried in SMALLER.items():
            script = script.replace(written, tried)
        return [
            self.machines.start(name, script, self.folder / f"{name}.txt")
            for name in sorted(set(where) & set(names), key=where.index)
        ]

    def type(self, subject: str, names: tuple[str, ...] = NAMES) -> str:
        """Type a block, wait for its end, and hand out what machine A has printed meanwhile."""
        before = len(self.printed())
        for shell in self.start(subject, names):
            assert shell.wait(300) == 0, (subject, self.printed()[-4000:])
        return self.printed()[before:]

    def printed(self) -> str:
        """What machine A has printed so far."""
        file = self.folder / "machine-a.txt"
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def wait_until(self, is_so: Callable[[], bool], *shells: subprocess.Popen) -> None:
        """Wait as long as the shells run."""
        end = time.monotonic() + 180
        while not is_so():
            assert time.monotonic() < end, self.printed()[-4000:]
            assert all(shell.poll() is None for shell in shells), self.printed()[-4000:]
            time.sleep(0.1)

    def interrupt(self, shell: subprocess.Popen, port: int) -> None:
        """Ctrl+C; nobody listens on its port afterwards."""
        os.killpg(shell.pid, signal.SIGINT)
        self.wait_until(lambda: port not in self.listening())

    def listening(self) -> set[int]:
        """Ports on which a machine can be reached from the others."""
        lines = "".join(self.machines.output(name, "ss -Htln") for name in self.machines.first).splitlines()
        addresses = [line.split()[3] for line in lines]
        return {int(address.rpartition(":")[2]) for address in addresses if "127.0.0.1" not in address}

    def workers(self) -> list[int]:
        """How many worker processes Ray has started on each machine so far."""
        command = "ls $TMPDIR/ray/session_latest/logs | grep -c '^worker-.*out' || true"
        return [int(self.machines.output(name, command)) for name in NAMES]


def heading(block: documented.Block) -> tuple[str, tuple[list[str], str]]:
    """What a block is about; the machines that it names, in their order; its text."""
    first = block.text.partition("\n")[0]
    where, _, subject = first.removeprefix("# On ").partition(": ")
    return subject, (re.findall("|".join(NAMES), where), block.text)


def documented_ports() -> set[int]:
    """Ports of the page's table, and the one that it says nobody needs."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    ports = {10001}
    for first, last in re.findall(r"^\| (\d+)(?: to (\d+))? \|", page, re.M):
        ports |= set(range(int(first), int(last or first) + 1))
    return ports


def begin(page: Page) -> None:
    """From fresh machines to a cluster with MLflow and shards."""
    for name in NAMES:
        page.machines.power_on(name)
    page.type("tokens and settings")
    (mlflow,) = page.start("MLflow")
    page.wait_until(lambda: "Application startup complete" in page.printed(), mlflow)
    page.type("Ray's head")
    page.type("Ray")
    looked = page.type("is all there?")
    assert "0.0/6.0 CPU" in looked
    assert "machines            3, with 6 CPUs and 0 GPUs" in looked
    assert looked.count("the same versions") == 3
    page.type("images and shards")


def train_and_lose_a_machine(page: Page) -> None:
    """Machine C is lost after the first epoch, and comes back after the training."""
    (shell,) = page.start("training")
    runs = page.folder / "shared" / "runs" / "training"
    page.wait_until(lambda: bool(list(runs.glob("train-*/epoch_0000/progress.json"))), shell)
    assert page.listening() <= documented_ports()
    page.machines.power_off("machine-c")
    assert shell.wait(300) == 0, page.printed()[-4000:]
    assert "epochs of 3 steps on 3 workers" in page.printed()
    assert "Bundle /srv/shared/models/example (MLflow run" in page.printed()
    (metrics,) = runs.glob("train-*/metrics.jsonl")
    workers = [json.loads(line)["workers"] for line in metrics.read_text(encoding="utf-8").splitlines()]
    assert (workers[0], workers[-1], len(workers)) == (3, 2, 3)
    page.machines.power_on("machine-c")
    page.type("Ray", ("machine-c",))


def serve_and_ask(page: Page) -> None:
    """Each of the three machines answers, and with the same score."""
    (shell,) = page.start("endpoint")
    page.wait_until(lambda: "Serving /srv/shared/models/example" in page.printed(), shell)
    assert page.listening() <= documented_ports()
    answers = re.findall(r'"image_score": ?([\d.]+)', page.type("requests"))
    assert len(answers) == 3
    assert len(set(answers)) == 1
    page.interrupt(shell, 8000)


@pytest.mark.skipif(not can_simulate(), reason="simulated machines need iproute2, and the right to make namespaces")
def test_the_page_is_typed_into_three_machines_and_one_is_lost_in_the_training(tmp_path):
    page = Page(tmp_path)
    text = "".join(text for _, text in page.blocks.values())
    assert all(written in text for written in SMALLER)
    with page.machines:
        begin(page)
        train_and_lose_a_machine(page)
        before = page.workers()
        printed = page.type("sweep, evaluation, scores")
        assert all(now > earlier for now, earlier in zip(page.workers(), before, strict=True))
        for expected in ("3 trainings give 3 combinations", "\nBest: ", "48 images scored"):
            assert expected in printed
        serve_and_ask(page)
        page.type("stop")
        assert not page.listening() & {6379, 6380, 8000}
    assert page.typed == set(page.blocks)


def test_a_training_whose_every_folder_is_in_an_object_store_goes_on_from_its_checkpoint_there(
    tmp_path, object_store, ray_session, monkeypatch
):
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    place = f"{object_store}/walk"
    options = IngestConfig(splits=("test",), rows_per_shard=4)
    for name, categories in (("auxiliary", ("carpet", "gear")), ("unseen", ("leather",))):
        write_dataset(tmp_path / name, categories, 2, 4, size=64, seed=31 + len(categories))
        ingest("folder", tmp_path / name, f"{place}/shards/{name}", options)
    settings = TrainSettings(
        backbone=BACKBONE,
        model=ModelConfig(num_prompts=2, flow_length=1),
        training=TrainingConfig(epochs=2, batch_size=4, learning_rate=1e-3),
        data=DataSettings(train=f"{place}/shards/auxiliary"),
        cluster=ClusterSettings(num_workers=1, storage=f"{place}/checkpoints"),
        output=f"{place}/bundles/model",
    )
    first = train(settings)
    checkpoints = Store(f"{place}/checkpoints/{run_name(settings, *split_samples(settings))}")
    assert {"epoch_0000", "epoch_0001"} <= set(checkpoints.names())
    progress = checkpoints.read_json("epoch_0000/progress.json")
    checkpoints.remove("finished.json")
    checkpoints.clear("epoch_0001", "checkpoint_manager_snapshot.json")
    Store(f"{place}/bundles/model").clear("*")
    again = train(settings)
    assert load_bundle(download_bundle(again["bundle"])).config.model.num_prompts == 2
    assert again["metrics"]["total"] == first["metrics"]["total"]
    assert checkpoints.read_json("epoch_0000/progress.json") == progress  # with its speed: it was not trained again
    shards, results = (f"{place}/shards/unseen",), f"{place}/evaluation"
    evaluation = EvaluateSettings(
        model=again["bundle"], shards=shards, num_samples=1, cases=0, workers=1, output=results
    )
    assert evaluate(evaluation)["datasets"]["unseen"]["images"] == 6
    assert "metrics.json" in Store(results).names()


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
