"""The decision log: a line for every answered image, none lost, none overwritten, and no answer without one."""

import argparse
import base64
import hashlib
import json
import multiprocessing
import resource
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from local_endpoint import LIMITS, LocalHandle, encoded, local_app, picture, write_bundle
from starlette.testclient import TestClient

from bayes_pfl.errors import ConfigError
from serve.http.decision_log import DecisionLog
from serve.main import main
from serve.options.serving import add_arguments
from serve.program import settings_of
from serve.settings import ModelSettings, ServeSettings

FIELDS = [
    "time",
    "request_id",
    "sha256",
    "model",
    "model_version",
    "calibration",
    "pooled_calibration",
    "class_name",
    "looked_at",
    "num_samples",
    "seed",
    "bits",
    "image_score",
    "uncertainty",
    "p_value",
    "threshold",
    "pred_label",
    "unsure_because",
    "no_label_because",
    "no_calibration_because",
]
PNG = {"Content-Type": "image/png"}
LARGE = 200 * 2**20
"""A hole as large as this stands for earlier lines: no other file of these tests comes near the limit."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> LocalHandle:
    return LocalHandle(write_bundle(tmp_path_factory.mktemp("bundle") / "m", 1, threshold=0.4))


@pytest.fixture
def client(handle: LocalHandle, path: Path) -> Iterator[TestClient]:
    settings = ServeSettings(
        models=(ModelSettings(name="m"),),
        require_token=False,
        limits=LIMITS,
        decision_log=str(path),
        decision_log_bytes=2**30,
    )
    with TestClient(local_app(settings, {"m": handle}, {}), base_url="http://127.0.0.1") as session:
        yield session


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().lstrip(b"\0").decode().splitlines()]


def test_every_answered_image_leaves_a_line(client: TestClient, path: Path) -> None:
    data, name = encoded(picture(1)), "nut\u2028 of „steel“"
    query = {"class_name": name, "num_samples": 2, "seed": 7}
    answer = client.post("/v1/score", params=query, content=data, headers=PNG | {"Authorization": "Bearer secret"})
    (line,) = lines(path)
    assert list(line) == FIELDS
    assert abs(datetime.now(UTC) - datetime.fromisoformat(line["time"])) < timedelta(minutes=1)
    body = answer.json()
    for key, value in {
        "request_id": body["request_id"],
        "sha256": hashlib.sha256(data).hexdigest(),
        "model": "m",
        "model_version": body["model"]["version"],
        "class_name": "nut  of „steel“",
        "looked_at": body["looked_at"],
        "num_samples": 2,
        "seed": 7,
        "image_score": body["image_score"],
        "uncertainty": body["uncertainty"],
        "threshold": 0.4,
        "pred_label": body["pred_label"],
        "calibration": None,
        "no_calibration_because": body["no_calibration_because"],
    }.items():
        assert line[key] == value, key
    assert b"secret" not in path.read_bytes()
    assert base64.b64encode(data[:30]) not in path.read_bytes()


def test_batches_maps_and_the_protocol_leave_lines_too_and_refusals_none(client: TestClient, path: Path) -> None:
    texts = [base64.b64encode(encoded(picture(seed))).decode() for seed in (1, 2)]
    images = [{"image": text} for text in (texts[0], base64.b64encode(b"no image").decode(), texts[1])]
    batch = client.post("/v1/score:batch", json={"images": images, "options": {"num_samples": 1}}).json()
    answered = [batch["results"][at]["image_score"] for at in (0, 2)]
    assert sorted(line["image_score"] for line in lines(path)) == sorted(answered)  # as they are done
    assert {line["request_id"] for line in lines(path)} == {batch["request_id"]}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": texts}
    answer = client.post("/v2/models/m/infer", json={"inputs": [tensor], "parameters": {"num_samples": 1}})
    assert sorted(line["image_score"] for line in lines(path)[2:]) == sorted(answer.json()["outputs"][0]["data"])
    client.post("/v1/map", params={"num_samples": 1}, content=encoded(picture(3)), headers=PNG)
    client.post("/v1/score", content=b"junk", headers=PNG)
    client.post("/v1/score", params={"threshold": 2}, content=encoded(picture(1)), headers=PNG)
    assert len(lines(path)) == 5


def test_a_full_file_is_set_aside_and_nothing_is_overwritten(path: Path) -> None:
    path.write_text("earlier\n", encoding="utf-8")
    log, written = DecisionLog(path, 4096), [b"%04d %s\n" % (number, b"x" * 500) for number in range(40)]
    for line in written:
        log.append(line)
    aside = sorted(file for file in path.parent.iterdir() if file != path)
    assert len(aside) == 4  # 8 lines each, the last 8 in the file itself
    assert all(file.name.startswith("decisions.jsonl.2") and file.name.endswith("Z") for file in aside)
    assert all(4096 - 506 < file.stat().st_size <= 4096 for file in aside)
    assert b"".join(file.read_bytes() for file in [*aside, path]) == b"earlier\n" + b"".join(written)


def test_names_that_are_taken_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, now = DecisionLog(path, 4096), datetime(2026, 11, 27, tzinfo=UTC)
    for number in range(3):
        path.write_text(str(number), encoding="utf-8")
        log._set_aside(now)
    names = [f"decisions.jsonl.20261127T000000.000000Z{tail}" for tail in ("", "-1", "-2")]
    assert [(path.parent / name).read_text(encoding="utf-8") for name in names] == ["0", "1", "2"]


def _append_all(path: Path, writer: int) -> None:
    log = DecisionLog(path, 8192)
    for number in range(300):
        log.append(b"%d %d %s\n" % (writer, number, b"y" * 90))


def test_several_processes_append_whole_lines_and_lose_none(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_all, args=(path, writer)) for writer in range(3)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(60)
    assert [process.exitcode for process in writers] == [0, 0, 0]
    content = b"".join(file.read_bytes() for file in path.parent.iterdir())
    expected = {b"%d %d %s" % (writer, number, b"y" * 90) for writer in range(3) for number in range(300)}
    assert sorted(content.splitlines()) == sorted(expected)


def test_a_file_that_somebody_moved_is_made_anew(path: Path) -> None:
    log = DecisionLog(path, 4096)
    log.append(b"one\n")
    path.rename(path.with_name("moved"))
    log.append(b"two\n")
    assert (path.with_name("moved").read_bytes(), path.read_bytes()) == (b"one\n", b"two\n")


def test_without_room_for_the_line_there_is_no_answer_and_no_half_line(client: TestClient, path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(LARGE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    data, query = encoded(picture(1)), {"num_samples": 1}
    batch = {"images": [{"image": base64.b64encode(data).decode()}], "options": query}
    try:
        for room in (100, 0):  # the first bytes of a line fit; none does
            resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE + room, limits[1]))
            answer = client.post("/v1/score", params=query, content=data, headers=PNG)
            assert answer.status_code == 503
            assert "cannot be written to the decision log" in answer.json()["detail"]
            assert answer.headers["retry-after"] == "10"
            (entry,) = client.post("/v1/score:batch", json=batch).json()["results"]
            assert (entry["status"], "decision log" in entry["detail"]) == (503, True)
            assert path.stat().st_size == LARGE
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert client.post("/v1/score", params=query, content=data, headers=PNG).status_code == 200
    assert len(lines(path)) == 1


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("missing/decisions.jsonl", "There is no folder"),
        ("/proc/decisions.jsonl", "Cannot write the decision log"),
        (".", "is no file"),
    ],
)
def test_a_log_that_cannot_be_written_is_told_at_the_start(
    tmp_path: Path, where: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=words):
        DecisionLog(tmp_path / where, 4096)
    assert main(["--decision-log", str(tmp_path / where)]) == 2
    assert words in capsys.readouterr().err


def test_options_of_the_command(path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = ["--decision-log", str(path), "--decision-log-mb", "2", "--false-drift-alarms", "50"]
    settings = settings_of(parser.parse_args([*given, "--usual-defects", "0.1"]))
    assert (settings.decision_log, settings.decision_log_bytes) == (str(path), 2 * 2**20)
    drift = settings.models[0].drift
    assert (drift.false_alarms_one_in, drift.usual_defects) == (50, 0.1)
    assert settings_of(parser.parse_args([])).decision_log is None
