"""The costliest allowed bodies -> how long the endpoint leaves a probe waiting, and how much memory it takes for them.

Starts `bayes-pfl serve`, sends each body of 32 MB to each route, and meanwhile asks /v2/health/live again and
again over one connection. Prints JSON: by case the status, the longest and the median probe (milliseconds), and the growth
of the HTTP layer's process at its peak as a multiple of the body. `python benchmarks/hostile.py`, about a minute.
"""

import gzip
import http.client
import json
import statistics
import threading
import time
from pathlib import Path

from endpoint import memory, running

BODY = 32 * 2**20


def filled(head: bytes, unit: bytes, tail: bytes = b"") -> bytes:
    """A body of the largest size.

    Args:
        head: its beginning.
        unit: repeated in between.
        tail: its end.

    Returns:
        At most `BODY` bytes.
    """
    return head + unit * ((BODY - len(head) - len(tail)) // len(unit)) + tail


TENSOR = b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":%d}}]}' % (
    BODY - 200
)
JSON = {
    "empty images": filled(b'{"images":[', b"{},", b"{}]}"),
    "unknown keys": filled(b'{"images":[{"image":"AAAA"}]', b',"k":1', b"}"),
    "brackets": filled(b"", b"["),
    "strings": filled(b"[", b'"",', b'""]'),
    "escaped quotes": filled(b'{"images":[{"image":"', b'\\"', b'"}]}'),
    "one image of base64": filled(b'{"images":[{"image":"', b"AAAA", b'"}]}'),
}
MODEL = "/v2/models/bayes-pfl/infer"
CASES = (
    [(f"score:batch, {name}", "/v1/score:batch", body, {}) for name, body in JSON.items()]
    + [(f"infer, {name}", MODEL, body, {}) for name, body in JSON.items()]
    + [
        (
            "infer, binary of zeros",
            MODEL,
            TENSOR + bytes(BODY - 200),
            {"Inference-Header-Content-Length": str(len(TENSOR))},
        ),
        ("score, zeros", "/v1/score", bytes(BODY), {}),
        ("score, gzip of 640 MB", "/v1/score", gzip.compress(bytes(20 * BODY), 1), {"Content-Encoding": "gzip"}),
    ]
)


def main() -> None:
    """Run all cases against an endpoint of the embedded model."""
    with running() as endpoint:
        port = int(endpoint.url.rpartition(":")[2])
        ingress = endpoint.process("ServeReplica:bayes-pfl:endpoint")
        print(json.dumps({name: measure(port, ingress, *case) for name, *case in CASES}, indent=1))


def measure(port: int, ingress: int, path: str, body: bytes, headers: dict[str, str]) -> dict[str, float]:
    """Send one body while another thread probes.

    Args:
        port: of the endpoint.
        ingress: process id of the HTTP layer.
        path: of the route.
        body: to send.
        headers: to send with it.

    Returns:
        Status, probes in milliseconds, memory as a multiple of the body.
    """
    Path(f"/proc/{ingress}/clear_refs").write_text("5", encoding="ascii")
    before = memory(ingress, "VmRSS")
    probes: list[float] = []
    stop = threading.Event()
    prober = threading.Thread(target=probe, args=(port, stop, probes))
    prober.start()
    time.sleep(0.2)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    start = time.perf_counter()
    connection.request(
        "POST", path, body, headers | {"Content-Type": "application/json"} if path != "/v1/score" else headers
    )
    status = connection.getresponse().status
    seconds = time.perf_counter() - start
    time.sleep(0.2)
    stop.set()
    prober.join()
    return {
        "status": status,
        "seconds": round(seconds, 2),
        "longest_probe_ms": round(1000 * max(probes), 1),
        "median_probe_ms": round(1000 * statistics.median(probes), 1),
        "memory_of_body": round((memory(ingress, "VmHWM") - before) / BODY, 2),
    }


def probe(port: int, stop: threading.Event, probes: list[float]) -> None:
    """Ask /v2/health/live until told to stop.

    Args:
        port: of the endpoint.
        stop: set when it is enough.
        probes: gets the seconds of each answer.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    while not stop.is_set():
        start = time.perf_counter()
        connection.request("GET", "/v2/health/live")
        connection.getresponse().read()
        probes.append(time.perf_counter() - start)
        time.sleep(0.002)


if __name__ == "__main__":
    main()
