"""What an image can make the endpoint spend: time in which nothing else is answered, and memory."""

import base64
import http.client
import json
import threading
import time

import pytest
from costly_images import MANY_PARTS, MANY_PIXELS
from test_serve_costs import BODY, TENSOR_HEAD, peak_bytes, send

from serve.settings import Limits

LONGEST_DELAY_S = 0.1
BYTES_PER_PIXEL = 8
ATTEMPTS = 8
"""Another program of this machine may hold a probe up; it does not do so every time."""


class Probes:
    """Asks whether the endpoint is alive, again and again; `longest_s` is the longest wait for an answer."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        self.longest_s = 0.0
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Probes":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.set()
        self.thread.join()
        self.connection.close()

    def _run(self) -> None:
        while not self.end.wait(0.002):
            began = time.perf_counter()
            self.connection.request("GET", "/v2/health/live")
            answer = self.connection.getresponse()
            answer.read()
            assert answer.status == 200
            self.longest_s = max(self.longest_s, time.perf_counter() - began)


def cost(address: str, path: str, body: bytes, headers: str) -> tuple[int, float, int]:
    """Status, the longest delay of a probe in seconds, and bytes of memory: the least delay of some attempts."""
    longest_s, most = float("inf"), 0
    for _ in range(ATTEMPTS):
        before = peak_bytes(reset=True)
        with Probes(address) as probes:
            status = int(send(address, path, body, headers).split()[1])
        most = max(most, peak_bytes() - before)
        longest_s = min(longest_s, probes.longest_s)
        if longest_s < LONGEST_DELAY_S:
            break
    return status, longest_s, most


@pytest.mark.parametrize("name", MANY_PARTS)
def test_an_image_of_many_parts_is_refused_before_they_cost(roomy: str, name: str) -> None:
    body = MANY_PARTS[name]()
    assert len(body) <= BODY
    status, delay_s, memory = cost(roomy, "/v1/score", body, "Content-Type: application/octet-stream\r\n")
    assert status in (200, 415), status
    assert delay_s < LONGEST_DELAY_S
    assert memory < 4 * BODY


@pytest.mark.parametrize("name", MANY_PIXELS)
def test_the_largest_images_hold_nothing_up(roomy: str, name: str) -> None:
    image = MANY_PIXELS[name]()
    check_image(roomy, "/v1/score", image, "Content-Type: application/octet-stream\r\n", 200)


@pytest.mark.parametrize("name", ["png with alpha", "png of 16 bits", "dicom"])
def test_nor_do_they_in_any_route(roomy: str, name: str) -> None:
    image = MANY_PIXELS[name]()
    check_image(roomy, "/v1/map", image, "Content-Type: application/octet-stream\r\n", 200)
    head = TENSOR_HEAD % (4 + len(image))
    tensor = head + len(image).to_bytes(4, "little") + image
    length = f"Inference-Header-Content-Length: {len(head)}\r\n"
    check_image(roomy, "/v2/models/first/infer", tensor, length, 200 if len(tensor) <= BODY else 413)
    batch = json.dumps({"images": [{"image": base64.b64encode(image).decode()}]}).encode()
    json_type = "Content-Type: application/json\r\n"
    check_image(roomy, "/v1/score:batch", batch, json_type, 200 if len(batch) <= BODY else 413)


def check_image(address: str, path: str, body: bytes, headers: str, expected: int) -> None:
    """One request keeps to its bounds."""
    status, delay_s, memory = cost(address, path, body, headers)
    assert status == expected
    assert delay_s < LONGEST_DELAY_S
    assert memory < 4 * len(body) + BYTES_PER_PIXEL * Limits().max_pixels
