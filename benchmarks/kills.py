"""Claim: whatever process of the endpoint is killed costs 503 with Retry-After at most, or ends all of its processes.

    python benchmarks/kills.py [--only replica ingress ...] [--clients 8]

Eight clients ask `bayes-pfl serve` without a pause; then one kind of process gets SIGKILL. A replica, the HTTP layer, Ray's
proxy and Serve's controller are replaced meanwhile; without Ray's own processes (raylet, gcs_server), the command or the main
program the endpoint ends. Prints one JSON object: by kind of process the answers before and after, requests whose connection
broke with the process that held it, the longest time without a 200 afterwards (seconds), and what was left behind.
"""

import argparse
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import requests
from endpoint import Endpoint, below, command_line, running
from soak import make_bodies

REPLACED = {
    "replica": "ray::ServeReplica:bayes-pfl:model-",
    "ingress": "ray::ServeReplica:bayes-pfl:endpoint",
    "controller": "ray::ServeController",
    "proxy": "ray::ProxyActor",
}
"""Processes without which the endpoint goes on -> part of their command line."""
ENDING = ("raylet", "gcs", "command", "main")
"""Processes without which it ends."""
BEFORE_S = 5.0
AFTER_S = 45.0
RETRY_S = 0.2
"""Clients come again so soon after anything but 200; Retry-After asks for more."""


class Clients:
    """Clients that ask without a pause until the block ends.

    Args:
        url: of the endpoint.
        number: of clients.
    """

    def __init__(self, url: str, number: int) -> None:
        self.url = url
        self.body = make_bodies()[1]
        self.answers: list[tuple[float, float, str]] = []
        """Beginning and end on the monotonic clock, and the answer."""
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._run) for _ in range(number)]

    def __enter__(self) -> "Clients":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _run(self) -> None:
        with requests.Session() as session:
            while not self.stop.is_set():
                start = time.monotonic()
                answer = self._ask(session)
                self.answers.append((start, time.monotonic(), answer))
                if answer != "200":
                    time.sleep(RETRY_S)

    def _ask(self, session: requests.Session) -> str:
        headers = {"Content-Type": "application/octet-stream"}
        try:
            answer = session.post(
                f"{self.url}/v1/score", params={"num_samples": 3}, data=self.body, headers=headers, timeout=90
            )
        except requests.ConnectionError as error:
            return "refused" if "refused" in str(error) else "broken"
        except requests.RequestException as error:
            return type(error).__name__
        if answer.status_code == 503:
            return "503" if "retry-after" in answer.headers else "503 without Retry-After"
        return str(answer.status_code)


def main() -> int:
    """Kill one process of each kind; 0 if the claim holds for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*REPLACED, *ENDING), default=[*REPLACED, *ENDING])
    parser.add_argument("--clients", type=int, default=8)
    args = parser.parse_args()
    result: dict[str, Any] = {}
    replaced = [kind for kind in args.only if kind in REPLACED]
    if replaced:
        with running() as endpoint:
            for kind in replaced:
                result[kind] = kill_and_go_on(endpoint, kind, args.clients)
    for kind in args.only:
        if kind in ENDING:
            with running() as endpoint:
                result[kind] = kill_and_end(endpoint, kind, args.clients)
    print(json.dumps({"clients": args.clients, "cpus": os.cpu_count(), "killed": result}, indent=1))
    return 0 if all(one["holds"] for one in result.values()) else 1


def kill_and_go_on(endpoint: Endpoint, kind: str, number: int) -> dict[str, Any]:
    """Kill a process that is replaced.

    Args:
        endpoint: a running one.
        kind: key of `REPLACED`.
        number: of clients.

    Returns:
        What the clients were answered; it holds if that is 200, 503 with Retry-After, or a connection that broke with its
        process, and 200 in the end.
    """
    pid = endpoint.process(REPLACED[kind])
    with Clients(endpoint.url, number) as clients:
        time.sleep(BEFORE_S)
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        time.sleep(AFTER_S)
    found = counted(clients.answers, killed)
    under_way = found["under_way"].get("broken", 0)
    allowed = {"200", "503"} | ({"broken"} if kind == "proxy" else set())
    good = set(found["under_way"]) <= allowed and set(found["afterwards"]) <= {"200", "503"}
    last = [answer for start, _, answer in clients.answers if start > killed + AFTER_S - 5]
    replaced = endpoint.process(REPLACED[kind]) != pid
    holds = good and replaced and under_way <= number and set(last) == {"200"}
    return {**found, "replaced": replaced, "holds": holds}


def kill_and_end(endpoint: Endpoint, kind: str, number: int) -> dict[str, Any]:
    """Kill a process without which the endpoint ends.

    Args:
        endpoint: a running one.
        kind: one of `ENDING`.
        number: of clients.

    Returns:
        What the clients were answered, and how all ended; it holds if no process is left.
    """
    everything = [endpoint.command.pid, *below(endpoint.command.pid)]
    pid = {"command": endpoint.command.pid, "main": endpoint.main}.get(kind) or process_of_ray(endpoint, kind)
    with Clients(endpoint.url, number) as clients:
        time.sleep(BEFORE_S)
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        code = endpoint.command.wait(180)
        while (left := [one for one in everything if is_running(one)]) and time.monotonic() < killed + 180:
            time.sleep(0.2)
        seconds = time.monotonic() - killed
    found = counted(clients.answers, killed)
    return {**found, "exit_code": code, "seconds": round(seconds, 1), "left": len(left), "holds": not left}


def process_of_ray(endpoint: Endpoint, kind: str) -> int:
    """Ray's process of this kind.

    Args:
        endpoint: a running one.
        kind: raylet or gcs.

    Returns:
        Process id.
    """
    names = {"raylet": "/raylet", "gcs": "/gcs_server"}
    (pid,) = (pid for pid in below(endpoint.command.pid) if command_line(pid).split(" ")[0].endswith(names[kind]))
    return pid


def counted(answers: list[tuple[float, float, str]], killed: float) -> dict[str, Any]:
    """How often each answer came, by when its request was made.

    Args:
        answers: of the clients.
        killed: when the process was killed, on the monotonic clock.

    Returns:
        Counts before, of those under way and of those after, and the longest time after the kill without a 200, seconds.
    """
    times = {
        "before": [answer for _, end, answer in answers if end < killed],
        "under_way": [answer for start, end, answer in answers if start < killed <= end],
        "afterwards": [answer for start, _, answer in answers if start >= killed],
    }
    good = [killed, *sorted(end for _, end, answer in answers if answer == "200" and end > killed)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(good)]
    counts = {name: dict(Counter(found)) for name, found in times.items()}
    return {**counts, "longest_without_200_s": round(max(gaps, default=0.0), 1)}


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie.

    Args:
        pid: process id.

    Returns:
        True if so.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


if __name__ == "__main__":
    sys.exit(main())
