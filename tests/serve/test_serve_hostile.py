"""Hostile bodies, headers, clients and tokens: refused in words, never a 5xx, and the endpoint goes on."""

import base64
import socket
import time
import tracemalloc
from pathlib import Path
from typing import Any

import hostile
import pytest
import requests
from local_endpoint import LIMITS, LocalHandle, encoded, listening, local_app, picture
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from bayes_pfl.errors import ConfigError
from serve.http import access
from serve.http.access import RateLimit, Tokens
from serve.http.proxy import Doorway
from serve.main import main
from serve.settings import Limits, ModelSettings, ServeSettings

BODIES = dict(hostile.bodies())
PNG = {"Content-Type": "image/png"}


def test_the_corpus_is_large() -> None:
    assert len(BODIES) >= 100
    assert len(set(BODIES.values())) == len(BODIES)


@pytest.mark.parametrize("name", BODIES)
def test_hostile_body_is_refused(client: TestClient, name: str) -> None:
    answer = client.post("/v1/score", content=BODIES[name], headers=PNG)
    assert answer.status_code in hostile.REFUSED, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "/" not in answer.json()["detail"].replace("image/", "")  # no path of the server
    if len(BODIES[name]) < 100_000:
        batch = {"images": [{"image": base64.b64encode(BODIES[name]).decode() or "AA=="}]}
        one = client.post("/v1/score:batch", json=batch).json()["results"][0]
        assert one["status"] in hostile.REFUSED


def test_notes_of_a_picture_are_never_unpacked(client: TestClient) -> None:
    body = hostile.text_bomb()
    tracemalloc.start()
    answer = client.post("/v1/score", content=body, headers=PNG)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.status_code == 200
    assert answer.json()["image"] == {"width": 10, "height": 10}
    assert peak < 10_000_000


@pytest.mark.parametrize(("name", "body"), list(hostile.polyglots()))
def test_polyglots_are_only_pictures(client: TestClient, name: str, body: bytes) -> None:
    answer = client.post(
        "/v1/score", params={"map": "png", "mask": True, "region_threshold": 0.5}, content=body, headers=PNG
    )
    assert answer.status_code == 200
    assert "SECRET" not in answer.text
    assert b"SECRET" not in base64.b64decode(answer.json()["anomaly_map"]["data"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/json"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "image/svg+xml"}, 415),
        ({"Content-Type": "image/png", "Content-Encoding": "gzip"}, 400),
        ({"Content-Type": "image/png", "Content-Length": "99999999999"}, 413),
        ({"Content-Type": "image/png", "Content-Length": "-1"}, 400),
        ({"Content-Type": "image/png", "Host": "evil.example"}, 200),
        ({"Content-Type": "IMAGE/PNG; charset=x"}, 200),
    ],
)
def test_headers(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.post("/v1/score", content=encoded(picture()), headers=headers).status_code == status


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 100_000, b"null", b'{"images": []}', b'{"images": [{"image": ""}]}', b"\xff\xfe", b'{"a": NaN}'],
)
@pytest.mark.parametrize("path", ["/v1/score:batch", "/v2/models/first/infer"])
def test_broken_json(client: TestClient, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_too_many_images_are_refused(client: TestClient) -> None:
    images = [{"image": "AAAA"}] * (LIMITS.max_images + 1)
    assert client.post("/v1/score:batch", json={"images": images}).status_code == 413


def test_a_body_without_a_length_is_stopped_at_the_limit(client: TestClient) -> None:
    sent = 0

    def endless() -> Any:
        nonlocal sent
        for _ in range(100):
            sent += 20_000
            yield bytes(20_000)

    assert client.post("/v1/score", content=endless(), headers=PNG).status_code == 413


@pytest.fixture
def guarded(bundles: dict[str, Path], tmp_path: Path) -> Any:
    """An application that wants tokens, has few seconds for a body, and a rate; and its tokens file."""
    file = tmp_path / "tokens"
    file.write_text("# ours\n" + "a" * 32 + "\n" + "b" * 32 + "\n", encoding="ascii")
    settings = ServeSettings(
        models=(ModelSettings(name="first"),),
        tokens_file=str(file),
        requests_per_second=0.001,
        burst=4,
        allowed_hosts=("127.0.0.1",),
        limits=Limits(body_timeout_s=0.5),
    )
    return local_app(settings, {"first": LocalHandle(bundles["first"])}, {}), file


def test_tokens(guarded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app, file = guarded
    monkeypatch.setattr(access, "LOOK_AGAIN_S", 0)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for path in ("/v2/health/live", "/v2/health/ready", "/openapi.json"):
            assert client.get(path).status_code == 200
        for wrong in (
            {},
            {"Authorization": "Bearer " + "c" * 32},
            {"Authorization": "Basic " + "a" * 32},
            {"Authorization": "Bearer"},
        ):
            answer = client.get("/v1/models", headers=wrong)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert client.get("/v1/models", headers={"Authorization": b"Bearer " + b"\xe9" * 32}).status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "bearer " + "b" * 32}).status_code == 200
        file.write_text("d" * 32 + "\n", encoding="ascii")
        assert client.get("/v1/models", headers={"Authorization": "Bearer " + "b" * 32}).status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Bearer " + "d" * 32}).status_code == 200
        file.write_text("short\n", encoding="ascii")  # unusable: the last good ones stay
        assert client.get("/v1/models", headers={"Authorization": "Bearer " + "d" * 32}).status_code == 200


def test_rate_is_counted_for_each_token(guarded: Any) -> None:
    app, _ = guarded
    with TestClient(app, base_url="http://127.0.0.1") as client:
        first, second = ({"Authorization": "Bearer " + letter * 32} for letter in "ab")
        assert [client.get("/v1/version", headers=first).status_code for _ in range(5)] == [200] * 4 + [429]
        refused = client.get("/v1/version", headers=first)
        assert int(refused.headers["retry-after"]) > 100
        assert client.get("/v1/version", headers=second).status_code == 200


def test_bucket_refills() -> None:
    rate = RateLimit(2.0, 1)
    assert rate.wait_s("a", 10.0) == 0
    assert rate.wait_s("a", 10.0) == pytest.approx(0.5)
    assert rate.wait_s("a", 10.5) == 0


def test_only_known_hosts_are_answered(guarded: Any) -> None:
    app, _ = guarded
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/live", headers={"Host": "rebound.example:8000"}).status_code == 403


@pytest.mark.parametrize("content", ["", "# nothing\n", "short\n"])
def test_unusable_token_files(tmp_path: Path, content: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(content, encoding="ascii")
    with pytest.raises(ConfigError):
        Tokens(str(file))
    with pytest.raises(ConfigError):
        Tokens(str(tmp_path / "missing"))


def test_listening_beyond_loopback_needs_tokens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BAYES_PFL_TOKENS", raising=False)
    assert main(["--host", "0.0.0.0"]) == 2
    assert "needs bearer tokens" in capsys.readouterr().err
    assert main(["--model", "/nowhere/at/all"]) == 2
    assert "is no bundle" in capsys.readouterr().err


def test_slow_clients_are_let_go_and_hold_nothing(guarded: Any) -> None:
    app, _ = guarded
    with listening(app) as address:
        host, port = address.removeprefix("http://").split(":")
        head = f"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {'a' * 32}\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
        slow = [socket.create_connection((host, int(port))) for _ in range(3)]
        for connection in slow:
            connection.sendall(head.encode() + b"\x89PNG")
        with socket.create_connection((host, int(port))) as quick:
            quick.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert b"200 OK" in quick.recv(100)
        answers = [connection.recv(100) for connection in slow]
        assert all(b" 408 " in answer for answer in answers)
        for connection in slow:
            connection.close()


def test_logs_hold_nothing_of_image_class_or_token(guarded: Any, caplog: pytest.LogCaptureFixture) -> None:
    app, _ = guarded
    caplog.set_level("DEBUG", "ray.serve")
    with TestClient(app, base_url="http://127.0.0.1") as client:
        headers = PNG | {"Authorization": "Bearer " + "a" * 32}
        client.post("/v1/score", params={"class_name": "secretname"}, content=encoded(picture()), headers=headers)
        client.post("/v1/score", params={"class_name": "secretname"}, content=b"secretbody", headers=headers)
    lines = [record.__dict__ for record in caplog.records if record.name == "ray.serve"]
    assert [line["status"] for line in lines if line["message"] == "request"] == [200, 415]
    assert [line["route"] for line in lines if line["message"] == "request"] == ["/v1/score"] * 2
    text = repr(lines)
    assert "secret" not in text
    assert "aaaa" not in text


def test_bodies_under_way_are_bounded_together(bundles: dict[str, Path]) -> None:
    settings = ServeSettings(
        models=(ModelSettings(name="first"),),
        require_token=False,
        limits=Limits(max_held_bytes=50_000, body_timeout_s=2),
    )
    app = local_app(settings, {"first": LocalHandle(bundles["first"])}, {})
    good = encoded(picture())
    with listening(app) as address:
        host, port = address.removeprefix("http://").split(":")
        head = "POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\n"
        with socket.create_connection((host, int(port))) as hoarder:
            hoarder.sendall(head.encode() + bytes(45_000))
            wait = time.monotonic() + 20
            while app.held.total < 45_000:
                assert time.monotonic() < wait
                time.sleep(0.01)
            refused = requests.post(f"{address}/v1/score", data=good, headers=PNG, timeout=30)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert b" 408 " in hoarder.recv(100)
        assert requests.post(f"{address}/v1/score", data=good, headers=PNG, timeout=30).status_code == 200
        assert app.held.total == 0


def test_no_answer_in_time_is_said(bundles: dict[str, Path]) -> None:
    settings = ServeSettings(
        models=(ModelSettings(name="first"),), require_token=False, limits=Limits(answer_timeout_s=0.001)
    )
    with TestClient(
        local_app(settings, {"first": LocalHandle(bundles["first"])}, {}), base_url="http://127.0.0.1"
    ) as client:
        assert client.post("/v1/score", content=encoded(picture()), headers=PNG).status_code == 504


def test_headers_that_steer_ray_are_dropped_before_its_proxy() -> None:
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        names = ",".join(
            sorted({name.decode("latin-1") + "=" + value.decode("latin-1") for name, value in scope["headers"]})
        )
        await PlainTextResponse(names)(scope, receive, send)

    client = TestClient(Doorway(echo))
    steering = {
        "X-Request-Timeout-Seconds": "-1",
        "X-Request-Disconnect-Disabled": "?1",
        "serve_multiplexed_model_id": "x",
        "serve-session-id": "y",
        "X-Request-ID": b"\xff",
        "Authorization": "Bearer z",
    }
    kept = client.get("/", headers=steering).text
    assert "authorization=Bearer z" in kept
    assert not any(name.lower() in kept for name in list(steering)[:5])
    assert "x-request-id=a.b-1" in client.get("/", headers={"X-Request-ID": "a.b-1"}).text
    assert "x-request-id" not in client.get("/", headers={"X-Request-ID": "a" * 65}).text
