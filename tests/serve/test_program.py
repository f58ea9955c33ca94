"""`bayes-pfl serve` as people run it: a registry, tokens, two replicas, one killed, a new champion, a full stop."""

import argparse
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import requests
from local_endpoint import encoded, picture, write_bundle
from program import HEADERS, STOP_S, Load, Program, Registry, descendants, running

from bayes_pfl import Detector
from serve.main import main
from serve.options.checks import check_address
from serve.options.serving import add_arguments
from serve.program import settings_of

pytestmark = pytest.mark.ray
JSON_HEADERS = HEADERS | {"Content-Type": "application/json"}
PICTURES = [encoded(picture(seed)) for seed in range(4)]


@pytest.fixture(scope="module")
def registry(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Registry:
    registry = Registry(tmp_path_factory.mktemp("registry"))
    registry.promote(bundles["first"])
    return registry


@pytest.fixture(scope="module")
def program(registry: Registry) -> Iterator[Program]:
    with running(registry, "--replicas", "2", "--refresh", "1") as program:
        yield program


@pytest.fixture(scope="module")
def expected(bundles: dict[str, Path]) -> dict[str, list[float]]:
    """By version of the model, the library's score of every picture."""
    detectors = [Detector.load(bundles[name]) for name in ("first", "second")]
    return {
        detector.bundle.version: [
            one.image_score for one in detector.predict(PICTURES, ["nut"] * 4, num_samples=3, seed=2)
        ]
        for detector in detectors
    }


def ask(program: Program, number: int) -> tuple[int, str, int, float]:
    """Status, version, picture's number and score of one request."""
    answer = program.post(PICTURES[number % 4], class_name="nut", num_samples=3, seed=2)
    content = answer.json()
    return answer.status_code, content.get("model", {}).get("version", ""), number % 4, content.get("image_score", 0.0)


def test_it_scores_as_the_library_does(program: Program, expected: dict[str, list[float]]) -> None:
    first = next(iter(expected))
    assert [ask(program, number) for number in range(4)] == [(200, first, n, expected[first][n]) for n in range(4)]


def test_no_wait_of_its_start_is_silent(program: Program, expected: dict[str, list[float]]) -> None:
    lines = [line for line in program.errors.read_text("utf-8").splitlines() if "still at it" not in line]
    assert lines[:4] == [
        "Importing PyTorch ...",
        "Looking at the model models:/small@champion ...",
        "Starting Ray ...",
        "Starting Ray Serve ...",
    ]
    version = next(iter(expected))
    assert lines[4] == f"Loading the model models:/small@champion (version {version}; CLIP tiny-clip) ..."
    assert [re.sub(r"\d+ s", "N s", line) for line in lines[5:7]] == [
        "Replica 1 of 2 is up after N s.",
        "Replica 2 of 2 is up after N s.",
    ]


def test_it_asks_for_the_token_and_for_its_own_host(program: Program) -> None:
    assert requests.get(f"{program.url}/v1/models").status_code == 401
    assert requests.get(f"{program.url}/v1/models", headers={"Authorization": "Bearer " + "x" * 26}).status_code == 401
    assert (
        requests.get(f"{program.url}/v1/models", headers=HEADERS).json()["models"][0]["source"]
        == "models:/small@champion"
    )
    assert requests.get(f"{program.url}/v1/models", headers=HEADERS | {"Host": "elsewhere.example"}).status_code == 403
    assert requests.get(f"{program.url}/v2/health/ready").status_code == 200


def test_a_stranger_at_the_replicas_own_ports_is_refused(program: Program) -> None:
    """They listen on all interfaces and unpickle what Ray's token lets in."""
    codes = set()
    for process in map(psutil.Process, program.replicas()):
        for port in {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=10)
            codes.add(refused.value.code())
    assert grpc.StatusCode.UNAUTHENTICATED in codes
    assert codes <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}


def test_headers_that_ray_s_proxy_cannot_read_are_no_error_of_ours(program: Program) -> None:
    answer = requests.get(f"{program.url}/v1/version", headers=HEADERS | {"X-Request-ID": b"\xff"})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"]


def test_a_killed_replica_costs_no_request(program: Program, expected: dict[str, list[float]]) -> None:
    first = next(iter(expected))
    before = program.replicas()
    assert len(before) == 2
    with Load(lambda number: ask(program, number), clients=6) as load:
        wait_for(lambda: len(load.answers) > 20)
        os.kill(before[0], signal.SIGKILL)
        killed_at = len(load.answers)
        wait_for(lambda: len(load.answers) > killed_at + 60)
    assert [answer for answer in load.answers if answer != (200, first, answer[2], expected[first][answer[2]])] == []
    assert before[0] not in program.replicas()
    wait_for(lambda: len(program.replicas()) == 2)


def test_a_new_champion_takes_over_without_a_failed_request(
    program: Program, bundles: dict[str, Path], expected: dict[str, list[float]]
) -> None:
    first, second = expected
    before = sorted(program.replicas())
    with Load(lambda number: ask(program, number), clients=4) as load:
        wait_for(lambda: len(load.answers) > 10)
        program.registry.promote(bundles["second"])
        # Both replicas have changed over once many answers in a row come from the new model.
        wait_for(lambda: len(load.answers) > 40 and all(answer[1] == second for answer in load.answers[-40:]))
    assert {answer[0] for answer in load.answers} == {200}
    assert all(answer[3] == expected[answer[1]][answer[2]] for answer in load.answers)
    assert {answer[1] for answer in load.answers} == {first, second}
    assert sorted(program.replicas()) == before
    told = re.compile(rf"\d\d:\d\d:\d\d bayes-pfl: version {first} is replaced by {second}\.")
    wait_for(lambda: told.search(program.errors.read_text("utf-8")) is not None)


def test_told_to_stop_it_finishes_what_it_began(program: Program, expected: dict[str, list[float]]) -> None:
    address = urllib.parse.urlsplit(program.url)
    head = f"POST /v1/score?class_name=nut&num_samples=3&seed=2 HTTP/1.1\r\nHost: {address.netloc}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    head += f"Content-Length: {len(PICTURES[0])}\r\nConnection: close\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=60) as begun:
        begun.sendall(head.encode() + PICTURES[0][:100])
        assert ask(program, 1)[0] == 200
        started = descendants(program.process.pid)
        os.killpg(program.process.pid, signal.SIGTERM)  # as systemd does
        wait_for(lambda: requests.get(f"{program.url}/v2/health/ready").status_code == 503)
        refused = program.post(PICTURES[1])
        assert refused.status_code == 503
        assert "stopping" in refused.json()["detail"]
        assert requests.get(f"{program.url}/v2/health/live").status_code == 200
        begun.sendall(PICTURES[0][100:])
        answer = b"".join(iter(lambda: begun.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["image_score"] == list(expected.values())[1][0]
    assert program.process.wait(STOP_S) == 0
    assert not any(map(psutil.pid_exists, started))
    check_address(str(address.hostname), int(address.port or 0))


def test_what_the_user_can_mend_is_one_sentence_and_exit_code_2(registry: Registry) -> None:
    environment = os.environ | {"MLFLOW_TRACKING_URI": registry.uri}
    command = [str(Path(sys.executable).with_name("bayes-pfl")), "serve", "--model", "models:/small@nobody"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith("`bayes-pfl register`, or set MLFLOW_TRACKING_URI.\n")
    assert result.stderr.count("bayes-pfl serve: models:/small@nobody is not in the registry") == 1
    assert "Traceback" not in result.stderr


def test_other_hosts_are_named_by_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYES_PFL_TOKENS", "0123456789abcdef")
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    def hosts(*options: str) -> tuple[str, ...]:
        return settings_of(parser.parse_args(options)).allowed_hosts

    named = ("--allowed-host", "Inspect.example.com.", "--allowed-host", "10.0.0.5")
    assert hosts() == ("127.0.0.1", "localhost", "[::1]")
    assert hosts("--host", "0.0.0.0") == ()
    assert hosts(*named) == hosts("--host", "0.0.0.0", *named) == (*hosts(), "inspect.example.com", "10.0.0.5")


def test_how_the_model_computes_is_said_by_options(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    replica = settings_of(parser.parse_args(["--precision", "bfloat16", "--compiled"])).models[0].replica
    assert replica.options.model_dump() == {"precision": "bfloat16", "compiled": True, "deterministic": False}
    assert main(["--precision", "tf32"]) == 2
    assert "--gpus" in capsys.readouterr().err


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Until it holds; a test that waits in vain fails."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def test_maps_of_a_whole_batch_fit_into_one_message_and_nothing_outlives_a_kill(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.promote(write_bundle(tmp_path / "bundle", 1, image_size=518, threshold=0.5))
    images = [{"image": base64.b64encode(one).decode()} for one in PICTURES * 2]
    with running(registry) as program:
        body = {"images": images, "options": {"class_name": "nut", "map": "npy", "num_samples": 1}}
        answer = requests.post(f"{program.url}/v1/score:batch", json=body, headers=JSON_HEADERS, timeout=90)
        started = descendants(program.process.pid)
        (leader,) = psutil.Process(program.process.pid).children()
        leader.kill()
        assert program.process.wait(STOP_S) == 128 + signal.SIGKILL
        assert not any(map(psutil.pid_exists, started))
    assert answer.status_code == 200
    maps = [one["anomaly_map"]["data"] for one in answer.json()["results"]]
    assert len(maps) == len(images)
    assert all(len(base64.b64decode(one)) > 4 * 518 * 518 for one in maps)
