"""Claim: 10,000 requests leave the endpoint as it was: no 5xx, and no process grows by more than 5 %.

    python benchmarks/soak.py --requests 10000 --clients 4 [--model SOURCE]

Starts `bayes-pfl serve`, warms it up, then asks with images of changing sizes, formats, class names and seeds, bad ones among
them. With --seconds it ends then, and says how many requests ran. Prints one JSON object; exit code 1 if a claim does not hold.
"""

import argparse
import importlib.metadata
import io
import json
import math
import os
import sys
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import requests
from endpoint import Endpoint, memory, running
from PIL import Image

MOST_GROWTH = 0.05
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
NAMES = ("metal nut", "skin", "wood", "pcb", "carpet", "bottle")
WATCHED = ("ray::ServeReplica:bayes-pfl:", "ray::ProxyActor")


def main() -> int:
    """Run the soak; 0 if both claims hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--warm-up", type=int, default=1500, help="requests before the first look at the memory")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--samples", type=int, default=1, help="num_samples of each request: 1 makes the model fastest")
    parser.add_argument("--seconds", type=float, default=math.inf, help="ask no more after so long")
    parser.add_argument("--model", default="embedded")
    parser.add_argument(
        "--quick", action="store_true", help="250 requests after 150: under a minute, no proof of anything"
    )
    args = parser.parse_args()
    if args.quick:
        args.requests, args.warm_up = 250, 150
    bodies = make_bodies()
    with running("--model", args.model) as endpoint:
        ask_all(endpoint.url, args.warm_up, args, bodies)
        processes, before = endpoint.processes(*WATCHED), memories(endpoint)
        start = time.monotonic()
        statuses = ask_all(endpoint.url, args.requests, args, bodies, start + args.seconds)
        seconds = time.monotonic() - start
        restarted = endpoint.processes(*WATCHED) != processes
        after = memories(endpoint)
    growth = {name: round(after[name] / size - 1, 4) for name, size in before.items() if name in after}
    errors = sum(count for status, count in statuses.items() if status >= 500)
    holds = errors == 0 and not restarted and max(growth.values()) <= MOST_GROWTH
    result = {
        "requests": statuses.total(),
        "clients": args.clients,
        "cpus": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in ("ray", "torch")},
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "requests_per_second": round(statuses.total() / seconds, 1),
        "memory_mb": {name: round(size / 2**20, 1) for name, size in after.items()},
        "growth": growth,
        "restarted": restarted,
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


def ask_all(
    url: str, number: int, args: argparse.Namespace, bodies: list[bytes], until: float = math.inf
) -> Counter[int]:
    """Ask so often, but not beyond a time of the monotonic clock; how often each status came back. A lost connection is 599."""
    statuses: Counter[int] = Counter()
    numbers = iter(range(number))
    lock = threading.Lock()

    def work() -> None:
        with requests.Session() as session:
            while True:
                with lock:
                    turn = next(numbers, None)
                if turn is None or time.monotonic() > until:
                    return
                query: dict[str, Any] = {
                    "class_name": NAMES[turn % len(NAMES)],
                    "num_samples": args.samples,
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

    threads = [threading.Thread(target=work) for _ in range(args.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def memories(endpoint: Endpoint) -> dict[str, int]:
    """Anonymous memory of the processes that handle requests, bytes; what they share with others is not theirs."""
    return {name: memory(pid, "RssAnon") for name, pid in endpoint.processes(*WATCHED).items()}


if __name__ == "__main__":
    sys.exit(main())
