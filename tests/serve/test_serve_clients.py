"""Clients as they are: content types, base64 and compressed bodies as programs send them, HEAD and OPTIONS, Triton's questions."""

import base64
import gzip
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.http as triton
from local_endpoint import LocalHandle, encoded, listening, local_app, picture
from starlette.testclient import TestClient
from test_serve_protocol import inputs_of

from bayes_pfl import Detector
from bayes_pfl.errors import ConfigError
from serve.http import access
from serve.http.access import RateLimit, Tokens
from serve.http.proxy import Doorway
from serve.settings import ModelSettings, ServeSettings

IMAGE = encoded(picture(3))
TEXT = base64.b64encode(IMAGE).decode()


@pytest.mark.parametrize(
    "kind",
    ["image/jpg", "image/pjpeg", "image/x-png", "image/tif", "image/x-ms-bmp", "binary/octet-stream", "IMAGE/JPG"],
)
def test_other_names_of_image_types(client: TestClient, kind: str) -> None:
    assert client.post("/v1/score", content=IMAGE, headers={"Content-Type": kind}).status_code == 200


def test_forms_are_told_how(url: str) -> None:
    for answer in (
        requests.post(f"{url}/v1/score", files={"file": IMAGE}, timeout=60),
        requests.post(
            f"{url}/v1/score", data=IMAGE, headers={"Content-Type": "application/x-www-form-urlencoded"}, timeout=60
        ),
    ):
        assert answer.status_code == 415
        assert "--data-binary" in answer.json()["detail"]
    assert "application/json" in requests.post(f"{url}/v1/score:batch", data={"a": "b"}, timeout=60).json()["detail"]


@pytest.mark.parametrize(
    "text",
    [
        f"data:image/png;base64,{TEXT}",
        base64.encodebytes(IMAGE).decode(),
        base64.encodebytes(IMAGE).decode().replace("\n", "\r\n"),
        base64.urlsafe_b64encode(IMAGE).decode(),
        TEXT.rstrip("="),
        TEXT + "\n",
    ],
)
def test_base64_as_programs_write_it(client: TestClient, text: str) -> None:
    expected = client.post("/v1/score", content=IMAGE).json()["image_score"]
    batch = client.post("/v1/score:batch", json={"images": [{"image": text}]}).json()["results"][0]
    assert batch["image_score"] == expected
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
    answer = client.post("/v2/models/first/infer", json={"inputs": [tensor]}).json()
    assert answer["outputs"][0]["data"] == [expected]


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress)]
)
def test_compressed_bodies(client: TestClient, coding: str, compress: Any) -> None:
    expected = client.post("/v1/score", content=IMAGE).json()["image_score"]
    headers = {"Content-Encoding": coding}
    assert client.post("/v1/score", content=compress(IMAGE), headers=headers).json()["image_score"] == expected
    batch = compress(b'{"images":[{"image":"' + TEXT.encode() + b'"}]}')
    headers["Content-Type"] = "application/json"
    assert (
        client.post("/v1/score:batch", content=batch, headers=headers).json()["results"][0]["image_score"] == expected
    )
    assert client.post("/v1/score:batch", content=batch[:-9], headers=headers).status_code == 400
    assert client.post("/v1/score:batch", content=batch + b"x", headers=headers).status_code == 400
    plain = {"Content-Encoding": "Identity"}
    assert client.post("/v1/score", content=IMAGE, headers=plain).status_code == 200
    assert client.post("/v1/score", content=IMAGE, headers={"Content-Encoding": "br"}).status_code == 415


@pytest.mark.parametrize("path", ["/", "/v2/health/live", "/v2/health/ready", "/v1/version", "/v2/models/first"])
def test_head_and_options(url: str, path: str) -> None:
    full, head = requests.get(url + path, timeout=60), requests.head(url + path, timeout=60)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == full.headers["content-length"]
    options = requests.options(url + path, timeout=60)
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert requests.options(f"{url}/v1/score", timeout=60).headers["allow"] == "POST, OPTIONS"
    assert requests.options(f"{url}/nowhere", timeout=60).status_code == 404


def test_class_names_are_text(client: TestClient) -> None:
    plain = client.post("/v1/score?class_name=metal%20nut", content=IMAGE).json()["image_score"]
    assert client.post("/v1/score?class_name=metal%C2%A0nut", content=IMAGE).json()["image_score"] == plain
    for query in ("class_name=%ff", "class_name=a&class_name=b"):
        assert client.post(f"/v1/score?{query}", content=IMAGE).status_code == 400
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [TEXT]}
    for name in (b'"\\ud800"', b'"\xff"'):
        body = b'{"inputs":[%s,{"name":"class_name","datatype":"BYTES","shape":[1],"data":[%s]}]}'
        head = str(image).replace("'", '"').encode()
        assert client.post("/v2/models/first/infer", content=body % (head, name)).status_code == 400


def test_a_long_class_name_is_refused_alone(client: TestClient) -> None:
    long = "\U0001f9e9" * 30
    images = [{"image": TEXT}, {"image": TEXT, "class_name": long * 3}, {"image": TEXT, "class_name": long}]
    results = client.post("/v1/score:batch", json={"images": [*images, {"image": TEXT}]}).json()["results"]
    assert ["image_score" in result for result in results] == [True, False, True, True]
    assert results[1]["status"] == 422


@pytest.mark.parametrize(
    "tensor",
    [
        {"datatype": "UINT8", "shape": [1, 2], "data": [0, 0]},
        {"datatype": "FP16", "shape": [1]},
        {"shape": [3]},
        {"shape": []},
        {"data": None},
        {"name": "input_0"},
    ],
)
def test_every_refused_tensor_says_what_is_expected(client: TestClient, tensor: dict[str, Any]) -> None:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [TEXT, TEXT]}
    answer = client.post("/v2/models/first/infer", json={"inputs": [image | tensor]})
    assert answer.status_code == 400
    assert "image (BYTES [n]" in answer.json()["detail"]


def test_what_triton_s_client_asks_for(url: str, detector: Detector) -> None:
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    assert client.get_model_config("first")["input"][0]["data_type"] == "TYPE_STRING"
    assert [entry["name"] for entry in client.get_model_repository_index()] == ["first", "known"]
    before = client.get_inference_statistics("first")["model_stats"][0]["inference_count"]
    image = triton.InferInput("image", [2, 1], "BYTES")
    image.set_data_from_numpy(np.array([[IMAGE], [IMAGE]], object))
    for coding in ("gzip", "deflate"):
        result = client.infer("first", [image], request_compression_algorithm=coding, outputs=[])
        assert result.as_numpy("pred_score")[0] == detector.predict([IMAGE], ["object"])[0].image_score
    assert client.get_inference_statistics("first")["model_stats"][0]["inference_count"] == before + 4
    client.close()


def test_load_as_perf_analyzer_makes_it(url: str, detector: Detector) -> None:
    files = [encoded(picture(seed, 60, 60)) for seed in range(8)]
    expected = [prediction.image_score for prediction in detector.predict(files, ["nut"] * 8, num_samples=1)]

    def worker(number: int) -> list[float]:
        client = triton.InferenceServerClient(url.removeprefix("http://"))
        scores = [
            client.infer("first", inputs_of([files[number]], ["nut"], True), parameters={"num_samples": 1})
            .as_numpy("pred_score")
            .item()
            for _ in range(30)
        ]
        client.close()
        return scores

    with ThreadPoolExecutor(8) as workers:
        for number, scores in enumerate(workers.map(worker, range(8))):
            assert scores == [expected[number]] * 30


def test_an_error_inside_is_a_problem_with_its_number(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.http.service.Service.check_question", None)
    answer = client.post("/v1/score", content=IMAGE)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_ray_s_own_errors_become_503() -> None:
    async def lost(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/plain"), (b"x-request-id", b"seven")]
        await send({"type": "http.response.start", "status": 500, "headers": headers})
        await send({"type": "http.response.body", "body": b"Internal Server Error"})

    answer = TestClient(Doorway(lost)).get("/v1/score")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["request_id"] == "seven"

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        """As Ray when the endpoint's process is killed under a request: the server would make it a 500."""

    answer = TestClient(Doorway(silent)).get("/v1/score")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_hosts_are_names_whatever_their_letters(bundles: dict[str, Path]) -> None:
    settings = ServeSettings(
        models=(ModelSettings(name="first"),), require_token=False, allowed_hosts=("localhost", "Inspect.example.com")
    )
    with listening(local_app(settings, {"first": LocalHandle(bundles["first"])}, {})) as address:
        for host in ("LOCALHOST:80", "localhost.", "inspect.example.com:443"):
            assert requests.get(f"{address}/v1/version", headers={"Host": host}, timeout=60).status_code == 200
        for host in ("evil@localhost", "localhost:evil", "localhost.evil.example", "[::1"):
            answer = requests.get(f"{address}/v1/version", headers={"Host": host}, timeout=60)
            assert answer.status_code == 403
            assert "--allowed-host" in answer.json()["detail"]


def test_a_tokens_file_that_is_lost_is_logged_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access, "LOOK_AGAIN_S", 0)
    caplog.set_level("WARNING", "ray.serve")
    file, refusals = tmp_path / "tokens", []
    file.write_bytes(b"\xef\xbb\xbf" + b"a" * 20 + b"\r\n")
    tokens = Tokens(str(file), lambda: refusals.append(1))
    for broken in (lambda: file.write_text(""), lambda: file.write_text("short"), file.unlink, file.mkdir):
        broken()
        assert tokens.holder("Bearer " + "a" * 20)
    assert len(refusals) == 4
    assert "tokens file refused" in caplog.text
    file.rmdir()
    file.write_text("b" * 20, encoding="ascii")
    assert tokens.holder("Bearer " + "b" * 20)
    assert not tokens.holder("Bearer " + "a" * 20)
    file.write_text("prüf-token-1234567890", encoding="utf-8")
    with pytest.raises(ConfigError, match="no header can carry"):
        Tokens(str(file))


def test_replicas_share_a_rate() -> None:
    replicas = [RateLimit.shared(20.0, 40, 2) for _ in range(2)]
    allowed = sum(replica.wait_s("a", 0.01 * step) == 0 for step in range(1000) for replica in replicas)
    assert allowed == pytest.approx(40 + 20 * 10, abs=4)
