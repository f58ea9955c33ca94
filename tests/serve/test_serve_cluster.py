"""The endpoint on Ray Serve: new champions, full queues and shadows, under load and without a lost request.

Killed replicas are the program's: test_program.py.
"""

import hashlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from local_endpoint import LIMITS, encoded, picture, write_bundle

from bayes_pfl import Detector
from bayes_pfl.decisions.calibration import CalibrationFile, ClassCalibration, read_calibration, write_calibration
from bayes_pfl.decisions.records import ScoredImages
from bayes_pfl.decisions.rules import Rule
from bayes_pfl.inference.how_scored import how_scored
from serve.settings import ModelSettings, ReplicaSettings, ServeSettings

pytestmark = pytest.mark.ray

PNG = {"Content-Type": "image/png"}


class Running(NamedTuple):
    """The endpoint that all tests here share."""

    url: str
    port: int
    settings: ServeSettings
    champion: Path
    """Folder that the model `moving` follows."""


@pytest.fixture(scope="module")
def running(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two models side by side: one that follows a folder and has a challenger, one with a short queue."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        import ray
        from ray import serve

        from serve.app import build

        champion = write_bundle(tmp_path_factory.mktemp("champion") / "bundle", 1)

        def replica(source: Path, **options: Any) -> ReplicaSettings:
            return ReplicaSettings(source=str(source), **options)

        models = (
            ModelSettings(
                name="moving",
                replica=replica(champion, refresh_s=0.3),
                challenger=str(bundles["second"]),
                cpus=0.1,
                max_queued=100,
            ),
            ModelSettings(name="narrow", replica=replica(bundles["first"]), max_batch=1, max_queued=2, cpus=0.1),
        )
        settings = ServeSettings(models=models, require_token=False, limits=LIMITS)
        own = not ray.is_initialized()
        if own:
            ray.init(
                address="local",
                num_cpus=2,
                include_dashboard=False,
                object_store_memory=150 * 2**20,
                log_to_driver=False,
                logging_level="ERROR",
            )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 90})
        serve.run(build(settings), name="tested", route_prefix="/")
        yield Running(f"http://127.0.0.1:{port}", port, settings, champion)
        serve.shutdown()
        if own:
            ray.shutdown()


class Load:
    """Clients that ask again and again until told to stop; what they were answered is counted."""

    def __init__(self, url: str, clients: int, **query: Any) -> None:
        self.url = url
        self.query = query
        self.statuses: Counter[int] = Counter()
        self.answers: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(120)

    def _ask(self) -> None:
        body = encoded(picture())
        with requests.Session() as session:
            while not self.stop.is_set():
                answer = session.post(f"{self.url}/v1/score", params=self.query, data=body, headers=PNG, timeout=100)
                self.statuses[answer.status_code] += 1
                self.headers.append(answer.headers)
                if answer.status_code == 200:
                    self.answers.append(answer.json())

    def after(self, count: int) -> None:
        """Wait until so many more requests have been answered."""
        goal = self.statuses.total() + count
        wait_until(lambda: self.statuses.total() >= goal)


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for what must come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def replica_pids(deployment: str) -> list[int]:
    """Process ids of a deployment's replicas."""
    import ray

    controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    details = ray.get(controller.get_serve_instance_details.remote())
    replicas = details["applications"]["tested"]["deployments"][deployment]["replicas"]
    return [replica["pid"] for replica in replicas if replica["state"] == "RUNNING"]


def test_scores_over_ray_equal_the_library(running: Running, detector: Detector) -> None:
    data = encoded(picture(8))
    expected = detector.predict([data], ["nut"], seed=3)[0]
    answer = requests.post(
        f"{running.url}/v1/score", params={"class_name": "nut", "seed": 3}, data=data, headers=PNG, timeout=60
    )
    assert answer.json()["image_score"] == expected.image_score
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert requests.get(f"{running.url}/v2/health/ready", timeout=60).status_code == 200


def test_a_new_champion_takes_over_without_a_failed_request(running: Running) -> None:
    before = replica_pids("model-moving")
    with Load(running.url, 3, model="moving", num_samples=2) as load:
        load.after(10)
        write_bundle(running.champion, 5, image_size=84)  # other weights, and another input size
        new = Detector.load(running.champion).bundle.version
        wait_until(lambda: bool(load.answers) and load.answers[-1]["model"]["version"] == new)
        load.after(10)
    assert set(load.statuses) == {200}
    assert len({answer["model"]["version"] for answer in load.answers}) == 2
    assert len({(answer["model"]["version"], answer["image_score"]) for answer in load.answers}) == 2
    assert replica_pids("model-moving") == before


def test_a_broken_champion_is_left_alone(running: Running) -> None:
    version = requests.get(f"{running.url}/v1/models", timeout=60).json()["models"][0]["version"]
    head = running.champion / "head.safetensors"
    good = head.read_bytes()
    head.write_bytes(good[:-1])
    time.sleep(1.5)
    body = encoded(picture())
    answer = requests.post(f"{running.url}/v1/score", params={"model": "moving"}, data=body, headers=PNG, timeout=60)
    assert answer.json()["model"]["version"] == version
    head.write_bytes(good)


def test_a_calibration_put_beside_the_model_decides_from_then_on(running: Running) -> None:
    detector, files = Detector.load(running.champion), [encoded(picture(number)) for number in range(25)]
    predictions = detector.predict(files, ["nut"] * 25, 2)
    digests = [hashlib.sha256(file).hexdigest() for file in files]
    scored = ScoredImages(
        sha256=tuple(digests[:20]),
        scores=tuple(prediction.image_score for prediction in predictions[:20]),
        map_maxima=tuple(float(prediction.anomaly_map.max()) for prediction in predictions[:20]),
    )
    nuts = ClassCalibration(class_name="nut", rule=Rule(false_alarms=0.1), normal=scored)
    how = how_scored(detector.bundle, "whole images at 84 px", 2, "float32", None)
    write_calibration(running.champion, CalibrationFile(made="now", how=how, classes=(nuts,)))
    calibration = read_calibration(running.champion)
    assert calibration is not None
    address = f"{running.url}/v1/calibration"
    wait_until(lambda: requests.get(address, params={"model": "moving"}, timeout=60).status_code == 200)
    assert requests.get(address, params={"model": "moving"}, timeout=60).json()["version"] == calibration.version
    query = {"model": "moving", "class_name": "nut", "num_samples": 2}
    for file, prediction, digest in list(zip(files, predictions, digests, strict=True))[20:]:
        answer = requests.post(f"{running.url}/v1/score", params=query, data=file, headers=PNG, timeout=60).json()
        expected = calibration.verdict("nut", prediction.image_score, prediction.uncertainty, digest)
        assert (answer["pred_label"], answer["p_value"]) == (expected.label, expected.p_value)
    offered = requests.get(f"{running.url}/v1/models", timeout=60).json()["models"]
    assert [(model["drift"] or {}).get("images") for model in offered] == [5, None]
    assert requests.get(address, params={"model": "narrow"}, timeout=60).status_code == 404


def test_a_full_queue_says_so(running: Running) -> None:
    with Load(running.url, 16, model="narrow", num_samples=20) as load:
        wait_until(lambda: load.statuses[503] >= 5 and load.statuses[200] >= 5)
    assert set(load.statuses) == {200, 503}
    refused = [headers for headers in load.headers if "retry-after" in headers]
    assert len(refused) == load.statuses[503]
    # Accepted ones waited for at most what was before them: two under way, two waiting.
    assert all(answer["timings_ms"]["total"] < 30_000 for answer in load.answers)


def test_the_challenger_scores_behind_the_client_s_back(running: Running, bundles: dict[str, Path]) -> None:
    import ray

    body = encoded(picture(11))
    for seed in range(5):
        query = {"model": "moving", "seed": seed}
        assert (
            requests.post(f"{running.url}/v1/score", params=query, data=body, headers=PNG, timeout=60).status_code
            == 200
        )
    challenger = Detector.load(bundles["second"]).bundle.version
    folder = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs" / "serve"

    def logged() -> bool:
        lines = "".join(path.read_text(errors="replace") for path in folder.glob("*endpoint*.log"))
        return f'"challenger": "{challenger}"' in lines and '"challenger_score"' in lines

    wait_until(logged, 30)


def test_prometheus_sees_requests_scores_and_batches(running: Running) -> None:
    import ray

    node = ray.nodes()[0]
    metrics = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def exported() -> bool:
        text = requests.get(metrics, timeout=30).text
        wanted = ("requests", "request_seconds", "image_score", "batch_images", "stream_evidence", "stream_alarm")
        return all(f"bayes_pfl_{name}" in text for name in wanted)

    wait_until(exported, 60)


@pytest.mark.parametrize(
    "header",
    [
        b"X-Request-ID: " + b"a" * 5000,
        b"Serve_Multiplexed_Model_Id: ../../etc",
        b"X-Request-Timeout-Seconds: -1",
        b"X-Request-Timeout-Seconds: junk",
        b"X-Request-Disconnect-Disabled: ?1",
        b"Transfer-Encoding: chunked",
        b"Content-Length: 5, 6",
        b"Authorization: Bearer " + b"x" * 5000,
        b"Host: ",
        b"Expect: 100-continue",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
    ],
)
def test_headers_on_the_way_through_ray_s_proxy(running: Running, header: bytes) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        connection.sendall(
            b"GET /v1/version HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + header + b"\r\n\r\n0\r\n\r\n"
        )
        status = connection.recv(200).split(b"\r\n")[0]
    assert b" 5" not in status, status
    assert requests.get(f"{running.url}/v2/health/live", timeout=30).status_code == 200


def test_clients_that_go_away_hold_nothing(running: Running) -> None:
    body = encoded(picture())
    head = f"POST /v1/score?model=narrow&num_samples=50 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
    for _ in range(40):  # far more than the queue of `narrow` holds
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
            connection.sendall(head.encode() + body)
    silent = socket.create_connection(("127.0.0.1", running.port), timeout=30)  # one that asks and never reads

    def answered() -> bool:
        query = {"model": "narrow", "num_samples": 1}
        return (
            requests.post(f"{running.url}/v1/score", params=query, data=body, headers=PNG, timeout=60).status_code
            == 200
        )

    silent.sendall(head.encode() + body)
    wait_until(answered, 60)
    silent.close()


def test_clients_that_go_away_take_nothing_from_the_others_of_their_batch(running: Running) -> None:
    body = encoded(picture())
    head = f"POST /v1/score?model=moving&num_samples=20 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
    with Load(running.url, 6, model="moving", num_samples=20) as load:
        load.after(6)
        for number in range(60):
            with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
                connection.sendall(head.encode() + body)
                time.sleep(0.01 * (number % 10))
        load.after(20)
    assert set(load.statuses) == {200}
