"""What a client can make the endpoint spend: bounded before it is paid, whatever the body."""

import gzip
import json
import socket
import threading
from pathlib import Path

import pytest
import raw_requests
import requests
from starlette.testclient import TestClient

from serve.http.bodies import from_base64
from serve.http.json_bodies import check_json
from serve.problems import Problem

BODY = 32 * 2**20
MOST_VALUES = 520
FORMS = dict(raw_requests.forms())


def filled(head: bytes, unit: bytes, tail: bytes = b"") -> bytes:
    """`unit` again and again, up to the largest body."""
    return head + unit * ((BODY - len(head) - len(tail)) // len(unit)) + tail


COSTLY = {
    "empty images": filled(b'{"images":[', b"{},", b"{}]}"),
    "unknown keys": filled(b'{"images":[{"image":"AAAA"}]', b',"k":1', b"}"),
    "brackets": filled(b"", b"["),
    "a long number": filled(b'{"images":', b"9", b"}"),
    "strings": filled(b"[", b'"",', b'""]'),
    "escaped quotes": filled(b'{"images":[{"image":"', b'\\"', b'"}]}'),
    "backslashes": filled(b'{"images":[{"image":"', b"\\", b'"}]}'),
    "one wide character": filled(b'{"images":[{"image":"\xf0\x9f\xa7\xa9', b"A", b'"}]}'),
    "one wide escape": filled(b'{"images":[{"image":"\\ud83e\\udde9', b"A", b'"}]}'),
    "a long key": filled(b'{"', b"k", b'":1}'),
    "one image of base64": filled(b'{"images":[{"image":"', b"AAAA", b'"}]}'),
    "an image that is none": filled(b'{"images":[{"image":"', b"%", b'"}]}'),
    "white space": filled(b"[", b" ", b"]"),
}
TENSOR_HEAD = b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":%d}}]}'


def peak_bytes(reset: bool = False) -> int:
    """Resident memory of this process: now after a reset, else the most since."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    key = "VmRSS:" if reset else "VmHWM:"
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def send(address: str, path: str, body: bytes, headers: str = "") -> bytes:
    """The status line of the answer; the body is not copied on its way."""
    host, port = address.removeprefix("http://").split(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head.encode())
        connection.sendall(body)
        return connection.recv(100).split(b"\r\n")[0]


@pytest.mark.parametrize("name", COSTLY)
@pytest.mark.parametrize("path", ["/v1/score:batch", "/v2/models/first/infer"])
def test_the_largest_body_costs_less_than_four_times_its_size(roomy: str, name: str, path: str) -> None:
    before = peak_bytes(reset=True)
    status = send(roomy, path, COSTLY[name], "Content-Type: application/json\r\n")
    assert int(status.split()[1]) in (200, 400, 413, 422), status
    assert peak_bytes() - before < 4 * BODY


def test_tensors_stop_at_the_most_images(roomy: str) -> None:
    head = TENSOR_HEAD % (BODY - 200)
    before = peak_bytes(reset=True)
    status = send(
        roomy,
        "/v2/models/first/infer",
        head + bytes(BODY - 200),
        f"Inference-Header-Content-Length: {len(head)}\r\n",
    )
    assert b" 413 " in status
    assert peak_bytes() - before < 4 * BODY


def test_compressed_bodies_end_at_the_same_limit(roomy: str) -> None:
    bomb = gzip.compress(bytes(20 * BODY), 1)
    assert len(bomb) < BODY
    before = peak_bytes(reset=True)
    for path in ("/v1/score", "/v1/score:batch", "/v2/models/first/infer"):
        headers = "Content-Encoding: gzip\r\nContent-Type: application/octet-stream\r\n"
        assert b" 413 " in send(roomy, path, bomb, headers)
    assert peak_bytes() - before < 4 * BODY


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"a":[' + b"1," * 600 + b"1]}", 413),
        (b"[" * 33 + b"]" * 33, 400),
        (b'{"a":' + b"1" * 41 + b"}", 400),
        (b'{"a":"' + "ü".encode() + b"A" * 5000 + b'"}', 400),
        (b'{"a":"\\u0100' + b"A" * 5000 + b'"}', 400),
    ],
)
def test_json_beyond_the_bounds(body: bytes, status: int) -> None:
    with pytest.raises(Problem) as refused:
        check_json(body, MOST_VALUES)
    assert refused.value.status_code == status


@pytest.mark.parametrize(
    "value",
    [
        {"a": ["[{,}]" * 100, 'quoted "text" \\ and more', {"b": -1.5e-300}], "c": None},
        {"image": "\\/" * 3000, "name": "Prüfling"},
        {"image": "+/" * 9000, "deep": [[[[[[1]]]]]]},
    ],
)
def test_json_within_the_bounds(value: object) -> None:
    check_json(json.dumps(value, indent=3).encode(), MOST_VALUES)
    check_json(json.dumps(value, ensure_ascii=False).encode(), MOST_VALUES)


def test_base64_in_steps_equals_base64_at_once() -> None:
    import base64

    data = bytes(range(256)) * 9000
    for size in (0, 1, 2, 3, 2**20, len(data)):
        assert from_base64(base64.b64encode(data[:size]).decode()) == data[:size]
        assert from_base64(base64.encodebytes(data[:size]).decode()) == data[:size]
        assert from_base64(base64.urlsafe_b64encode(data[:size]).decode().rstrip("=")) == data[:size]


def test_there_are_many_raw_forms() -> None:
    assert len(FORMS) >= 60
    assert len(set(FORMS.values())) == len(FORMS)


@pytest.mark.parametrize("name", FORMS)
def test_raw_requests_find_no_server_error(url: str, name: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(FORMS[name])
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(65_536):
                answer += piece
        except ConnectionResetError:
            pass
    assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:100]
    assert not answer.startswith(b"HTTP/1.1 5"), answer[:300]
    assert requests.get(f"{url}/v2/health/live", timeout=30).status_code == 200


def test_probes_that_come_together_ask_a_replica_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from serve.models.client import ModelClient

    asked: list[str] = []
    describe = ModelClient.describe

    async def counted(self: ModelClient) -> object:
        asked.append(self.name)
        return await describe(self)

    monkeypatch.setattr(ModelClient, "describe", counted)
    monkeypatch.setattr("serve.models.client.READY_FOR_S", 3600)
    threads = [threading.Thread(target=client.get, args=("/v2/health/ready",)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.get("/v2/health/ready").status_code == 200
    assert len(asked) == len(set(asked))
