"""The costliest allowed bodies -> how long the endpoint leaves a probe waiting, and how much memory it takes for them.

Starts `python -m serve` as users do, sends each body of 32 MB to each route, and meanwhile asks /v2/health/live again and
again over one connection. Prints JSON: by case the status, the longest and the median probe (milliseconds), and the growth
of the HTTP layer's process at its peak as a multiple of the body. `python benchmarks/hostile.py`, about a minute.
"""

import gzip
import http.client
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "serve", "--port", str(port), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline(), "the endpoint did not start"
        try:
            ingress = find_ingress(program.pid)
            print(json.dumps({name: measure(port, ingress, *case) for name, *case in CASES}, indent=1))
        finally:
            program.terminate()


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
    before = resident(ingress, "VmRSS:")
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
        "memory_of_body": round((resident(ingress, "VmHWM:") - before) / BODY, 2),
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


def find_ingress(program: int) -> int:
    """The process of the HTTP layer.

    Args:
        program: process id of `python -m serve`.

    Returns:
        Its process id; of the newest one on this machine with that title whose ancestor is the program.
    """
    for entry in sorted(Path("/proc").iterdir(), key=lambda path: path.name, reverse=True):
        if entry.name.isdecimal() and is_below(int(entry.name), program):
            title = (entry / "cmdline").read_bytes()
            if b"ServeReplica:bayes-pfl:endpoint" in title:
                return int(entry.name)
    raise SystemExit("no process of the HTTP layer")


def is_below(pid: int, ancestor: int) -> bool:
    """Whether a process descends from another.

    Args:
        pid: process id.
        ancestor: process id.

    Returns:
        True if it does.
    """
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        pid = int(stat.rpartition(")")[2].split()[1])
    return False


def resident(pid: int, key: str) -> int:
    """Memory of a process.

    Args:
        pid: process id.
        key: VmRSS: for now, VmHWM: for the most since the last reset.

    Returns:
        Bytes.
    """
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()
