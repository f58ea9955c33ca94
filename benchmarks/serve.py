"""Claims: one replica behind HTTP keeps 0.9 of a plain loop's throughput, adds at most 25 ms at low load, and batching costs nothing.

    python benchmarks/serve.py [--quick] [--model SOURCE]

A loop over `Detector.predict` and an endpoint, `bayes-pfl serve`, take turns over the same images, round after round in one run, with the
same number of threads; then two endpoints, with and without batching. (Even one that nobody asks takes time from two cores, so the first
is alone.) A ratio is the median of the rounds' ratios. Prints one JSON object.
"""

import argparse
import contextlib
import http.client
import importlib.metadata
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from endpoint import Endpoint, memory, running
from PIL import Image

from bayes_pfl import Detector
from bayes_pfl.synthetic import render

CATEGORIES = ("brick wall", "biscuit", "hex nut", "leaf")
CLAIMS = {"throughput_ratio": 0.9, "added_p50_ms": 25.0, "batched_over_unbatched": 0.97}
CLIENTS = 8


def main() -> int:
    """Measure; 0 if the claims hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=96, help="images in each block of a round")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1, help="of the loop, and of the replica")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 16 images")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.images = 3, 16
    torch.set_num_threads(args.threads)
    detector = Detector.load(args.model)
    images = make_images(args.images)
    with endpoint(args, batch=4) as served:
        against_loop = {
            "loop": lambda: loop(detector, images, args.samples),
            "loop_beside_busy_core": lambda: loop_beside_busy_core(detector, images, args.samples),
            "one_client": lambda: ask(served.url, 1, images, args.samples),
            "served": lambda: ask(served.url, CLIENTS, images, args.samples),
        }
        rounds = take_turns(against_loop, args.rounds)
        memory_mb = memory(served.process("ServeReplica:bayes-pfl:model-"), "RssAnon") / 2**20
    with endpoint(args, batch=4) as full, endpoint(args, batch=1) as single:
        against_single = {
            "batched": lambda: ask(full.url, CLIENTS, images, args.samples),
            "unbatched": lambda: ask(single.url, CLIENTS, images, args.samples),
        }
        rounds |= take_turns(against_single, args.rounds)
    result = {**compare(rounds, len(images)), "replica_memory_mb": round(memory_mb, 1), **circumstances(args)}
    print(json.dumps(result))
    return 0 if all(result["holds"].values()) else 1


class Block(NamedTuple):
    """All images once, one way."""

    seconds: float
    middle_s: float
    """Median of the single images."""


def take_turns(ways: dict[str, Callable[[], list[float]]], rounds: int) -> dict[str, list[Block]]:
    """The blocks of each way, after one that warms up. The order turns: no way always comes after the same other one."""
    for warm_up in ways.values():
        warm_up()
    blocks: dict[str, list[Block]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in sorted(ways, key=lambda way: (list(ways).index(way) + number) % len(ways)):
            start_s = time.perf_counter()
            latencies = ways[way]()
            blocks[way].append(Block(time.perf_counter() - start_s, statistics.median(latencies)))
    return blocks


def compare(rounds: dict[str, list[Block]], images: int) -> dict[str, Any]:
    """What the rounds come to."""

    def faster(way: str, other: str) -> list[float]:
        return [slow.seconds / fast.seconds for fast, slow in zip(rounds[way], rounds[other], strict=True)]

    ratios = {
        "throughput_ratio": faster("served", "loop"),
        "added_p50_ms": [
            (asked.middle_s - plain.middle_s) * 1e3
            for plain, asked in zip(rounds["loop"], rounds["one_client"], strict=True)
        ],
        "throughput_ratio_beside_busy_core": faster("served", "loop_beside_busy_core"),
        "batched_over_unbatched": faster("batched", "unbatched"),
    }
    found = {name: statistics.median(values) for name, values in ratios.items()}
    return {
        **{name: round(value, 3) for name, value in found.items()},
        "spread": {name: [round(min(values), 3), round(max(values), 3)] for name, values in ratios.items()},
        "images_per_second": {
            way: round(images / statistics.median(block.seconds for block in blocks), 2)
            for way, blocks in rounds.items()
        },
        "p50_ms": {
            way: round(statistics.median(block.middle_s for block in blocks) * 1e3, 1) for way, blocks in rounds.items()
        },
        "holds": {
            name: found[name] <= claim if name == "added_p50_ms" else found[name] >= claim
            for name, claim in CLAIMS.items()
        },
    }


def circumstances(args: argparse.Namespace) -> dict[str, Any]:
    """Sizes, threads, versions."""
    return {
        "rounds": args.rounds,
        "images": args.images,
        "samples": args.samples,
        "threads": args.threads,
        "cpus": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "ray": importlib.metadata.version("ray"),
        },
    }


def make_images(number: int) -> list[tuple[bytes, str]]:
    """JPEG files of painted objects, 256 px, with their class names."""
    found = []
    for index in range(number):
        category = CATEGORIES[index % len(CATEGORIES)]
        sink = io.BytesIO()
        Image.fromarray(render(category, index, 0, 256, "crack" if index % 2 else None).image).save(
            sink, "JPEG", quality=92
        )
        found.append((sink.getvalue(), category))
    return found


def loop(detector: Detector, images: list[tuple[bytes, str]], samples: int) -> list[float]:
    """One image after the other in this process; the seconds of each."""
    latencies = []
    for data, class_name in images:
        start_s = time.perf_counter()
        detector.predict([data], [class_name], samples)
        latencies.append(time.perf_counter() - start_s)
    return latencies


def loop_beside_busy_core(detector: Detector, images: list[tuple[bytes, str]], samples: int) -> list[float]:
    """The same while another process computes: what the loop itself loses where cores share what they have."""
    with subprocess.Popen([sys.executable, "-c", "while True: sum(range(1000))"]) as other:
        try:
            return loop(detector, images, samples)
        finally:
            other.kill()


def ask(url: str, clients: int, images: list[tuple[bytes, str]], samples: int) -> list[float]:
    """The same over HTTP by so many clients at once; the seconds of each request."""
    turns, lock, latencies = iter(images), threading.Lock(), []
    address = urllib.parse.urlsplit(url).netloc

    def work() -> None:
        # Not `requests`: the millisecond more that it takes a request would be taken from the cores that the endpoint is measured on.
        with contextlib.closing(http.client.HTTPConnection(address)) as connection:
            while True:
                with lock:
                    turn = next(turns, None)
                if turn is None:
                    return
                data, class_name = turn
                query = urllib.parse.urlencode({"class_name": class_name, "num_samples": samples})
                start_s = time.perf_counter()
                connection.request("POST", f"/v1/score?{query}", data, {"Content-Type": "image/jpeg"})
                answer = connection.getresponse()
                body = answer.read()
                latencies.append(time.perf_counter() - start_s)
                if answer.status != 200:
                    raise SystemExit(f"answered {answer.status}: {body!r}")

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(latencies) == len(images)
    return latencies


def endpoint(args: argparse.Namespace, batch: int) -> contextlib.AbstractContextManager[Endpoint]:
    """`bayes-pfl serve` with one replica and batches of at most this size."""
    options = ("--threads", args.threads, "--max-batch", batch, "--max-queued", 4 * CLIENTS)
    return running("--model", args.model, *options)


if __name__ == "__main__":
    sys.exit(main())
