"""The drift alarm through the HTTP layer: the library's evidence, an alarm after a change, and none of old images."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calibrated import SAMPLES, Painted, calibrated, painted
from local_endpoint import LocalHandle, LocalMethod, local_app
from starlette.testclient import TestClient

from bayes_pfl.decisions.calibration import read_calibration
from bayes_pfl.decisions.conformal import rate_bound
from bayes_pfl.decisions.martingale import StreamWatch
from bayes_pfl.decisions.rules import Rule
from serve.messages import CalibrationReport
from serve.models.replica import load_newer
from serve.settings import DriftSettings, ModelSettings, ReplicaSettings, ServeSettings

ONE_IN = 20
NAME = "brick wall"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("watched")
    return {
        "first": calibrated(folder / "first", [NAME], range(30)),
        "second": calibrated(folder / "second", [NAME], range(20)),
    }


@pytest.fixture
def handle(bundles: dict[str, Path]) -> LocalHandle:
    return LocalHandle(bundles["first"])


@pytest.fixture
def client(handle: LocalHandle) -> Iterator[TestClient]:
    with TestClient(watching(handle), base_url="http://127.0.0.1") as session:
        yield session


def watching(handle: LocalHandle, **options: Any) -> Any:
    model = ModelSettings(name="m", drift=DriftSettings(false_alarms_one_in=ONE_IN))
    return local_app(ServeSettings(models=(model,), require_token=False, **options), {"m": handle}, {})


def send(client: TestClient, images: list[Painted], **query: Any) -> None:
    query = {"class_name": NAME, "num_samples": SAMPLES} | query
    for image in images:
        answer = client.post("/v1/score", params=query, content=image.data, headers={"Content-Type": "image/png"})
        assert answer.status_code == 200, answer.text


def drift(client: TestClient) -> Any:
    (model,) = client.get("/v1/models").json()["models"]
    return model["drift"]


def test_usual_images_are_watched_and_others_sound_the_alarm(
    client: TestClient, bundles: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    calibration = read_calibration(bundles["first"])
    assert calibration is not None
    boundaries = calibration.of(NAME)
    usual = 0.2 + rate_bound(3, 30, 0.95)
    watch = StreamWatch({NAME: (boundaries.images.scores, 3)}, usual)
    before = drift(client)
    assert (before["state"], before["evidence"], before["images"]) == ("watching", 1.0, 0)
    assert "at most one in 20 endpoints ever comes to an alarm" in before["promise"]
    assert "20 %" in before["promise"]
    new = painted(NAME, range(100, 110))
    send(client, new)
    for image in new:
        watch.note(NAME, image.score)
    seen = drift(client)
    assert (seen["state"], seen["images"], seen["alarm_at"]) == ("watching", 10, ONE_IN)
    assert seen["evidence"] == watch.evidence < ONE_IN
    with caplog.at_level(logging.WARNING, logger="ray.serve"):
        send(client, painted(NAME, range(14), "crack"))
    for image in painted(NAME, range(14), "crack"):
        watch.note(NAME, image.score)
    alarm = drift(client)
    assert (alarm["state"], alarm["images"], alarm["evidence"]) == ("alarm", 24, watch.evidence)
    (line,) = [record for record in caplog.records if record.message == "drift alarm"]
    assert (line.model, line.calibration) == ("m", calibration.version)  # type: ignore[attr-defined]
    assert "calibrate again" in line.advice  # type: ignore[attr-defined]


def test_images_that_say_nothing_new_do_not_count(client: TestClient) -> None:
    images = painted(NAME, range(100, 102))
    send(client, [*images, *images, *painted(NAME, range(3))])  # sent again; of the calibration itself
    send(client, painted(NAME, range(102, 103)), class_name="another name")
    send(client, painted(NAME, range(103, 104)), num_samples=1)
    assert drift(client)["images"] == 2
    send(client, painted(NAME, range(104, 105)), threshold=0.5)  # the score is one all the same
    assert drift(client)["images"] == 3


def test_a_new_calibration_begins_anew(client: TestClient, handle: LocalHandle, bundles: dict[str, Path]) -> None:
    send(client, painted(NAME, range(100, 102)))
    handle.load(bundles["second"])
    send(client, painted(NAME, range(100, 103)))
    assert drift(client)["images"] == 3
    handle.load(bundles["first"])  # while replicas are replaced, both answer
    send(client, painted(NAME, range(102, 103)))
    assert drift(client)["images"] == 3
    (bundles["second"] / "calibration.json").rename(bundles["second"] / "elsewhere.json")
    handle.load(bundles["second"])
    assert drift(client) is None


def test_the_level_is_shared_by_the_replicas_of_the_http_layer(handle: LocalHandle) -> None:
    with TestClient(watching(handle, ingress_replicas=3), base_url="http://127.0.0.1") as session:
        assert drift(session)["alarm_at"] == 3 * ONE_IN


def test_while_no_replica_can_be_asked_images_are_answered(handle: LocalHandle) -> None:
    def other() -> CalibrationReport | None:
        return None  # of a replica that has the earlier model

    handle.calibration = LocalMethod(other)
    with TestClient(watching(handle), base_url="http://127.0.0.1") as session:
        send(session, painted(NAME, range(100, 102)))
        assert drift(session)["images"] == 0


def test_rules_without_a_rate_are_watched_above_their_threshold(tmp_path: Path) -> None:
    folder = calibrated(tmp_path / "bundle", [NAME], range(30), Rule(cost_miss=1, cost_false_alarm=1), range(10))
    model = load_newer(ReplicaSettings(source=str(folder)), None)
    assert model is not None
    report = model.judge.report
    assert report is not None
    assert model.judge.calibration is not None
    threshold = model.judge.calibration.of(NAME).defective_above
    scores = [image.score for image in painted(NAME, range(30))]
    assert report.watched[NAME].rank == max(1, sum(score > threshold for score in scores))
    assert len(report.sha256) == 40
