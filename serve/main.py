"""The endpoint as a program: `python -m serve --model SOURCE` starts Ray Serve here and stays until it is told to stop."""

import argparse
import contextlib
import json
import logging
import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from bayes_pfl.config import parse_config
from bayes_pfl.errors import BayesPFLError, BundleError, ConfigError
from bayes_pfl.inference.bundle import EMBEDDED, resolve
from serve.http.access import read_tokens
from serve.http.proxy import CALLBACK, CALLBACK_VARIABLE
from serve.settings import ServeSettings

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
OBJECT_STORE_BYTES = 200 * 2**20
MESSAGE_BYTES = 512 * 2**20
HOME_VARIABLE = "BAYES_PFL_HOME"
"""Where the programs keep runs and the local registry; models:/ sources are looked up there."""
APPLICATION = "bayes-pfl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The program's options, on any parser."""
    add = parser.add_argument
    add(
        "--model", default="embedded", metavar="SOURCE", help="bundle folder, models:/NAME@ALIAS, or embedded (default)"
    )
    add("--name", default="bayes-pfl", help="the model's name in URLs and answers (default: %(default)s)")
    add(
        "--challenger",
        metavar="SOURCE",
        help="a second model, scored behind the first one's back: logged, never answered",
    )
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on; others than loopback need tokens (default: %(default)s)",
    )
    add("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    add("--replicas", type=int, default=1, help="processes that run the model (default: %(default)s)")
    add("--max-batch", type=int, default=4, help="most images that go to a replica together (default: %(default)s)")
    add(
        "--max-queued",
        type=int,
        default=32,
        help="images that may wait; more are answered 503 (default: %(default)s)",
    )
    add("--threads", type=int, help="CPU threads of one replica (default: the CPUs shared out)")
    add("--gpus", type=float, default=0.0, help="GPUs, or a fraction of one, for each replica (default: none)")
    add("--refresh", type=float, default=30.0, metavar="SECONDS", help="how often to look for a new model; 0: never")
    add("--tokens-file", metavar="FILE", help="bearer tokens, one a line; without it they come from BAYES_PFL_TOKENS")
    add("--rate", type=float, default=0.0, metavar="N", help="requests a second for each token (default: no limit)")
    add("--max-body-mb", type=float, default=32.0, metavar="MB", help="largest request body (default: %(default)s)")
    add("--address", default="local", help="Ray cluster to run on: auto, or its address (default: a new one, here)")
    add("--json", action="store_true", help='print one line {"url": ..., "pid": ...} once requests are answered')


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run; the exit code."""
    parser = argparse.ArgumentParser(prog="bayes-pfl serve", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM, then finish what is under way. 0, or 2 for what the user can mend."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = settings_of(args)
        check_address(args.host, args.port)
        serve_until(stop, settings, args)
    except BayesPFLError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def settings_of(args: argparse.Namespace) -> ServeSettings:
    """The endpoint's settings from the command line.

    Raises ConfigError for a value out of range, or if it is to listen beyond loopback and there are no tokens.
    """
    exposed = args.host not in LOOPBACK
    guarded = exposed or args.tokens_file is not None or bool(os.environ.get("BAYES_PFL_TOKENS"))
    tokens_file = None if args.tokens_file is None else str(Path(args.tokens_file).resolve())
    if guarded:
        read_tokens(None if tokens_file is None else Path(tokens_file))
    replica = {
        "source": absolute(args.model),
        "threads": args.threads or max(1, (os.cpu_count() or 1) // max(1, args.replicas)),
        "refresh_s": args.refresh,
        "device": "cuda" if args.gpus else "cpu",
    }
    model = {
        "name": args.name,
        "replica": replica,
        "challenger": None if args.challenger is None else absolute(args.challenger),
        "replicas": args.replicas,
        "max_batch": args.max_batch,
        "max_queued": args.max_queued,
        "gpus": args.gpus,
        # On a cluster a replica asks for a whole CPU; here everything shares what there is.
        "cpus": 0.1 if args.address == "local" else 1.0,
    }
    values = {
        "models": [model],
        "require_token": guarded,
        "tokens_file": tokens_file,
        "allowed_hosts": [] if exposed else LOOPBACK_HOSTS,
        "requests_per_second": args.rate,
        "limits": {"max_body_bytes": int(args.max_body_mb * 2**20)},
    }
    return parse_config(ServeSettings, values, "the command line")


def check_address(host: str, port: int) -> None:
    """Raise ConfigError if nothing can listen there: Ray's proxy would try, fail and say so only in its log."""
    if not 1 <= port <= 65535:
        raise ConfigError(f"There is no port {port}; choose one from 1 to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise ConfigError(f"Cannot listen on {host} port {port}: {error}. Choose another --port or --host.") from error


def absolute(source: str) -> str:
    """A folder's absolute path (replicas run elsewhere); `embedded` and URIs as they are.

    Raises BundleError if there is no such model: better here, in a sentence, than out of a replica.
    """
    folder = resolve(source)
    if not (folder / "bundle.json").is_file():
        raise BundleError(
            f"{folder} is no bundle. Give the folder that training wrote, models:/NAME@ALIAS, or embedded."
        )
    return source if source == EMBEDDED or re.match(r"[a-z][a-z0-9]+:/", source) else str(folder.resolve())


def serve_until(stop: threading.Event, settings: ServeSettings, args: argparse.Namespace) -> None:
    """Start Ray and Serve, say so, wait for `stop`, drain, shut down. Raises BundleError or ConfigError if it cannot start."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # By default Ray's processes give way to all others of the machine; here somebody waits for an answer.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Replicas run in another folder; what is relative to this one must be said in full.
    os.environ[HOME_VARIABLE] = str(Path(os.environ.get(HOME_VARIABLE, "runs")).resolve())
    os.environ.setdefault(CALLBACK_VARIABLE, CALLBACK)
    # Deployments call each other over gRPC, not by actor calls: a fifth less CPU time in proxy and ingress.
    os.environ.setdefault("RAY_SERVE_USE_GRPC_BY_DEFAULT", "1")
    # Ray allows 4 MiB a message otherwise: less than four maps of 518 px.
    os.environ.setdefault("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", str(MESSAGE_BYTES))
    import ray
    from ray import serve

    from serve.app import build

    here: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "num_cpus": max(2, os.cpu_count() or 1),
    }
    ray.init(
        address=args.address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        **(here if args.address == "local" else {}),
    )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    for number in (signal.SIGINT, signal.SIGTERM):  # Ray has put its own in their place
        signal.signal(number, lambda *_: stop.set())
    try:
        timeout = settings.limits.answer_timeout_s + settings.limits.body_timeout_s + 5
        serve.start(http_options={"host": args.host, "port": args.port, "request_timeout_s": timeout})
        try:
            serve.run(build(settings), name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise explain_failure(error) from error
        announce(args)
        stop.wait()
        with contextlib.suppress(Exception):  # whatever keeps it from draining, it has to stop
            serve.get_app_handle(APPLICATION).drain.remote().result(timeout_s=timeout)
    finally:
        serve.shutdown()
        ray.shutdown()


def announce(args: argparse.Namespace) -> None:
    """Say where the endpoint is: a line of JSON for programs, or one for people."""
    host = f"[{args.host}]" if ":" in args.host else args.host
    url = f"http://{host}:{args.port}"
    line = (
        json.dumps({"url": url, "pid": os.getpid()})
        if args.json
        else f"Serving {args.model} on {url} (stop with Ctrl+C)"
    )
    print(line, flush=True)


def explain_failure(error: RuntimeError) -> BayesPFLError:
    """The sentence of ours inside Ray Serve's report of a failed start; else where to look."""
    from ray import serve

    reports = [str(error)]
    application = serve.status().applications.get(APPLICATION)
    if application is not None:
        reports += [application.message, *(deployment.message for deployment in application.deployments.values())]
    for report in reports:
        found = re.findall(r"bayes_pfl\.errors\.\w+: (.+)", report)
        if found:
            return BundleError(found[-1])
    last = (reports[-1] or reports[0]).strip().splitlines()[-1]
    return ConfigError(f"Ray Serve could not start the endpoint: {last} (see Ray's logs, session_latest/logs/serve)")
