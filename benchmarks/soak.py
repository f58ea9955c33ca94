"""Claim: 10,000 requests leave the endpoint as it was: no 5xx, and no process grows by more than 5 %.

    python benchmarks/soak.py --requests 10000 --clients 4 [--model SOURCE]

Starts `python -m serve` as people do, warms it up, then asks with images of changing sizes, formats, class names and seeds, bad
ones among them. Prints one JSON object; exit code 1 if a claim does not hold.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image

MOST_GROWTH = 0.05
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
NAMES = ("metal nut", "skin", "wood", "pcb", "carpet", "bottle")
WATCHED = ("model-", "endpoint", "ProxyActor")


def main() -> int:
    """Run the soak; 0 if both claims hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--warm-up", type=int, default=1500, help="requests before the first look at the memory")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--samples", type=int, default=1, help="num_samples of each request: 1 makes the model fastest")
    parser.add_argument("--model", default="embedded")
    parser.add_argument(
        "--quick", action="store_true", help="250 requests after 150: under a minute, no proof of anything"
    )
    args = parser.parse_args()
    if args.quick:
        args.requests, args.warm_up = 250, 150
    bodies = make_bodies()
    with endpoint(args.model) as (url, pid):
        ask_all(url, args.warm_up, args.clients, args.samples, bodies)
        before = memory(pid)
        start = time.monotonic()
        statuses = ask_all(url, args.requests, args.clients, args.samples, bodies)
        seconds = time.monotonic() - start
        after = memory(pid)
    growth = {name: round(after[name] / before[name] - 1, 4) for name in before if name in after}
    errors = sum(count for status, count in statuses.items() if status >= 500)
    holds = errors == 0 and set(after) == set(before) and max(growth.values()) <= MOST_GROWTH
    result = {
        "requests": args.requests,
        "clients": args.clients,
        "cpus": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in ("ray", "torch")},
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "requests_per_second": round(args.requests / seconds, 1),
        "memory_mb": {name: round(size / 2**20, 1) for name, size in after.items()},
        "growth": growth,
        "holds": holds,
    }
    print(json.dumps(result))
    return 0 if holds else 1


def make_bodies() -> list[bytes]:
    """Images of many sizes and formats, and one in sixteen that is none."""
    rng = np.random.default_rng(0)
    bodies = []
    for index in range(64):
        height, width = rng.integers(30, 400, 2)
        sink = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(
            sink, FORMATS[index % len(FORMATS)]
        )
        bodies.append(sink.getvalue() if index % 16 else sink.getvalue()[:100])
    return bodies


def ask_all(url: str, number: int, clients: int, samples: int, bodies: list[bytes]) -> Counter[int]:
    """Ask so often, with so many clients at once; how often each status came back. A lost connection counts as 599."""
    statuses: Counter[int] = Counter()
    numbers = iter(range(number))
    lock = threading.Lock()

    def work() -> None:
        with requests.Session() as session:
            while True:
                with lock:
                    turn = next(numbers, None)
                if turn is None:
                    return
                query: dict[str, Any] = {
                    "class_name": NAMES[turn % len(NAMES)],
                    "num_samples": samples,
                    "seed": turn % 7,
                }
                query["map"] = ("none", "png", "npy")[turn % 3]
                headers = {"Content-Type": "application/octet-stream"}
                try:
                    answer = session.post(
                        f"{url}/v1/score", params=query, data=bodies[turn % len(bodies)], headers=headers, timeout=120
                    )
                    status = answer.status_code
                except requests.RequestException:
                    status = 599
                with lock:
                    statuses[status] += 1

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


@contextlib.contextmanager
def endpoint(model: str) -> Iterator[tuple[str, int]]:
    """`python -m serve` on a free port: its URL and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "serve", "--model", model, "--port", str(port), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"The endpoint did not start: exit code {process.wait()}")
        started = json.loads(line)
        yield started["url"], started["pid"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def memory(pid: int) -> dict[str, int]:
    """Anonymous memory of the processes below `pid` that handle requests, bytes; what they share with others is not theirs."""
    found = {}
    for process in below(pid):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if "ray::" in title and any(part in title for part in WATCHED):
                status = Path(f"/proc/{process}/status").read_text()
                found[title.split()[0]] = int(status.split("RssAnon:")[1].split()[0]) * 1024
    return found


def below(pid: int) -> list[int]:
    """Process ids of all descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(children.get(pid, []))
    for child in found:
        found.extend(children.get(child, []))
    return found


if __name__ == "__main__":
    sys.exit(main())
