"""Claims: one replica behind HTTP keeps 0.9 of a plain loop's throughput, adds at most 25 ms at low load, and batching costs nothing.

    python benchmarks/serve.py [--quick] [--model SOURCE]

A loop over `Detector.predict` and the endpoint on Ray Serve take turns over the same images, round after round in one run, each
with the same number of threads; a ratio is the median of the rounds' ratios. Prints one JSON object.
"""

import argparse
import io
import json
import logging
import os
import platform
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import requests
import torch
from PIL import Image
from ray import serve

from bayes_pfl import Detector
from bayes_pfl.synthetic import render
from serve.app import build
from serve.proxy import CALLBACK, CALLBACK_VARIABLE
from serve.settings import ModelSettings, ReplicaSettings, ServeSettings

CATEGORIES = ("brick wall", "biscuit", "hex nut", "leaf")
CLAIMS = {"throughput_ratio": 0.9, "added_p50_ms": 25.0, "batched_over_unbatched": 0.97}
CLIENTS = 8


def main() -> int:
    """Measure; 0 if the claims hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=48, help="images in each block of a round")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1, help="of the loop, and of the replica")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 16 images")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.images = 3, 16
    torch.set_num_threads(args.threads)
    detector = Detector.load(args.model)
    url, stop = start(args.model, args.threads)
    try:
        result = measure(url, detector, make_images(args.images), args)
    finally:
        stop()
    print(json.dumps(result))
    return 0 if all(result["holds"].values()) else 1


def measure(url: str, detector: Detector, images: list[tuple[bytes, str]], args: argparse.Namespace) -> dict[str, Any]:
    """All rounds, and what they come to."""
    ways: dict[str, Callable[[], list[float]]] = {
        "loop": lambda: loop(detector, images, args.samples),
        "one_client": lambda: ask(url, "batched", 1, images, args.samples),
        "batched": lambda: ask(url, "batched", CLIENTS, images, args.samples),
        "unbatched": lambda: ask(url, "unbatched", CLIENTS, images, args.samples),
    }
    for warm_up in ways.values():
        warm_up()
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    middle: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(args.rounds):
        # Turn the order round and round: no way always comes after the same other one.
        for way in sorted(ways, key=lambda way: (list(ways).index(way) + number) % len(ways)):
            start_s = time.perf_counter()
            latencies = ways[way]()
            seconds[way].append(time.perf_counter() - start_s)
            middle[way].append(statistics.median(latencies))
    ratios = {
        "throughput_ratio": [loop_s / served_s for loop_s, served_s in zip(seconds["loop"], seconds["batched"], strict=True)],
        "added_p50_ms": [(served - plain) * 1e3 for plain, served in zip(middle["loop"], middle["one_client"], strict=True)],
        "batched_over_unbatched": [plain / full for plain, full in zip(seconds["unbatched"], seconds["batched"], strict=True)],
    }
    found = {name: statistics.median(values) for name, values in ratios.items()}
    return {
        **{name: round(value, 3) for name, value in found.items()},
        "spread": {name: [round(min(values), 3), round(max(values), 3)] for name, values in ratios.items()},
        "images_per_second": {way: round(len(images) / statistics.median(values), 2) for way, values in seconds.items()},
        "p50_ms": {way: round(statistics.median(values) * 1e3, 1) for way, values in middle.items()},
        "replica_memory_mb": replica_memory_mb(),
        "holds": {
            name: found[name] <= claim if name == "added_p50_ms" else found[name] >= claim for name, claim in CLAIMS.items()
        },
        "rounds": args.rounds,
        "images": len(images),
        "samples": args.samples,
        "threads": args.threads,
        "cpus": os.cpu_count(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "ray": ray.__version__},
    }


def make_images(number: int) -> list[tuple[bytes, str]]:
    """JPEG files of painted objects, 256 px, with their class names."""
    found = []
    for index in range(number):
        category = CATEGORIES[index % len(CATEGORIES)]
        sink = io.BytesIO()
        Image.fromarray(render(category, index, 0, 256, "crack" if index % 2 else None).image).save(sink, "JPEG", quality=92)
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


def ask(url: str, model: str, clients: int, images: list[tuple[bytes, str]], samples: int) -> list[float]:
    """The same over HTTP by so many clients at once; the seconds of each request."""
    turns, lock, latencies = iter(images), threading.Lock(), []

    def work() -> None:
        with requests.Session() as session:
            while True:
                with lock:
                    turn = next(turns, None)
                if turn is None:
                    return
                data, class_name = turn
                query: dict[str, str | int] = {"class_name": class_name, "num_samples": samples, "model": model}
                start_s = time.perf_counter()
                answer = session.post(f"{url}/v1/score", params=query, data=data, headers={"Content-Type": "image/jpeg"})
                latencies.append(time.perf_counter() - start_s)
                answer.raise_for_status()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(latencies) == len(images)
    return latencies


def start(source: str, threads: int) -> tuple[str, Callable[[], None]]:
    """Both models, with and without batching, one replica each; the URL, and what stops them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(CALLBACK_VARIABLE, CALLBACK)
    source = source if source == "embedded" or ":/" in source else str(Path(source).resolve())
    models = tuple(
        ModelSettings(
            name=name, replica=ReplicaSettings(source=source, threads=threads, max_batch=batch), max_queued=4 * CLIENTS, cpus=0.1
        )
        for name, batch in (("batched", 4), ("unbatched", 1))
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(
        address="local",
        num_cpus=max(2, os.cpu_count() or 1),
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build(ServeSettings(models=models, require_token=False)), name="benchmark", route_prefix="/")

    def stop() -> None:
        serve.shutdown()
        ray.shutdown()

    return f"http://127.0.0.1:{port}", stop


def replica_memory_mb() -> float:
    """Largest anonymous memory of a model's replica, MB: what one more would cost."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if b"ServeReplica:benchmark:model-" in (entry / "cmdline").read_bytes():
                    found.append(int((entry / "status").read_text().split("RssAnon:")[1].split()[0]) / 1024)
            except OSError:
                continue
    return round(float(np.max(found)), 1)


if __name__ == "__main__":
    sys.exit(main())
