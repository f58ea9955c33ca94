"""The endpoint as the real program, on Ray Serve, with its model in a real registry; and many clients at once."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import requests

TOKEN = "0123456789abcdef-for-tests"
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"}
START_S = 240
STOP_S = 120


class Program(NamedTuple):
    """A running endpoint."""

    url: str
    process: "subprocess.Popen[str]"
    registry: "Registry"
    errors: Path
    """What it prints on standard error."""

    def post(self, data: bytes, **query: Any) -> requests.Response:
        """Score one image, as a client of its own."""
        return requests.post(f"{self.url}/v1/score", params=query, data=data, headers=HEADERS, timeout=90)

    def replicas(self) -> list[int]:
        """Process ids of the model replicas."""
        return self.processes(b"ServeReplica:bayes-pfl:model-")

    def processes(self, name: bytes) -> list[int]:
        """Process ids below the command whose command line holds this."""
        return [pid for pid in descendants(self.process.pid) if name in command_line(pid)]


class Registry:
    """An MLflow registry in one SQLite file, with bundles as versions of the model `small`."""

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.client = MlflowClient(self.uri, self.uri)
        self.client.create_registered_model("small")

    def promote(self, bundle: Path) -> None:
        """Make a bundle the champion."""
        version = self.client.create_model_version("small", bundle.as_uri())
        self.client.set_registered_model_alias("small", "champion", version.version)


@contextlib.contextmanager
def running(registry: Registry, *options: str) -> Iterator[Program]:
    """`bayes-pfl serve` on a free port until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": registry.uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BAYES_PFL_TOKENS": TOKEN,
        "OMP_NUM_THREADS": "1",
    }
    command = [
        str(Path(sys.executable).with_name("bayes-pfl")),
        "serve",
        "--model",
        "models:/small@champion",
        "--port",
        str(port),
        "--json",
        *options,
    ]
    errors = registry.folder / f"stderr-{port}.txt"
    with errors.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=sink, env=environment, text=True, start_new_session=True
        )
    watchdog = threading.Timer(START_S, process.terminate)
    watchdog.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        watchdog.cancel()
        assert line, f"the endpoint did not start: exit code {process.wait(STOP_S)}, {errors.read_text('utf-8')}"
        yield Program(json.loads(line)["url"], process, registry, errors)
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_S)


class Load:
    """Clients that call one after the other without a pause, until the block ends; `answers` is what they got."""

    def __init__(self, call: Callable[[int], Any], clients: int) -> None:
        self.call = call
        self.answers: list[Any] = []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def _run(self, number: int) -> None:
        while not self.stop.is_set():
            try:
                self.answers.append(self.call(number))
            except Exception as error:  # a lost connection is an answer too: the test looks at all of them
                self.answers.append(error)

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


def descendants(pid: int) -> list[int]:
    """Process ids below a process."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                status = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                parents.setdefault(int(status[1]), []).append(int(entry.name))
    pids, queue = [], [pid]
    while queue:
        below = parents.get(queue.pop(), [])
        pids += below
        queue += below
    return pids


def command_line(pid: int) -> bytes:
    """What a process calls itself; nothing if it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
