"""`bayes-pfl serve`: Ray Serve on this machine, or on a cluster, with the endpoint on it until a signal says stop."""

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import get_args

from bayes_pfl.command_line import CommandParser
from bayes_pfl.config import Precision, parse_config
from bayes_pfl.config.untrained import SCHEME, method_source, with_settings, written_out
from bayes_pfl.errors import BayesPFLError, BundleError, ConfigError
from bayes_pfl.inference.bundle import EMBEDDED, resolve
from bayes_pfl.machine import gpu_share, gpus_here, usable_cpus
from bayes_pfl.temporary_folder import check_temporary_folder, temporary_folder
from serve.decision_options import add_decision_options, decision_log_values, drift_values
from serve.http.access import read_tokens
from serve.own_ray import ended_processes, set_environment, shut_down, start_ray
from serve.settings import ServeSettings
from serve.standby import standing_by
from serve.supervision import SIGNALS, supervised

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
APPLICATION = "bayes-pfl"
LOOK_S = 5.0
"""How often the program looks which version answers."""
CLOSE_S = 5.0
"""Time for Ray's proxy to stop listening."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bayes-pfl serve`.

    Args:
        parser: gets them.
    """
    _add_model(parser)
    add = parser.add_argument
    add("--name", default="bayes-pfl", help="the model's name in URLs and answers (default: %(default)s)")
    add(
        "--challenger",
        metavar="SOURCE",
        help="a second model that scores the same images: its scores are logged, never answered",
    )
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on; others than loopback need tokens (default: %(default)s)",
    )
    add("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    add("--replicas", type=int, default=1, help="processes that run the model (default: %(default)s)")
    add("--max-batch", type=int, default=4, help="most images that go to a replica together (default: %(default)s)")
    add("--max-queued", type=int, default=32, help="images that may wait; more get 503 (default: %(default)s)")
    add("--threads", type=int, help="CPU threads of one replica (default: the CPUs shared out)")
    add("--gpus", type=float, help="GPUs, or a fraction of one, for each replica (default: this machine's, shared out)")
    add("--precision", choices=get_args(Precision), default="float32", help="of CLIP's products")
    add(
        "--compiled",
        action="store_true",
        help="hand the image encoder to torch.compile: a replica starts minutes later",
    )
    add("--refresh", type=float, default=30.0, metavar="SECONDS", help="how often to look for a new model; 0: never")
    add("--tokens-file", metavar="FILE", help="bearer tokens, one a line; without it they come from BAYES_PFL_TOKENS")
    add(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name that clients call this endpoint by, without port; may be given several times. Beyond "
        "loopback every name is answered unless some are given",
    )
    add("--rate", type=float, default=0.0, metavar="N", help="requests a second for each token (default: no limit)")
    add("--max-body-mb", type=float, default=32.0, metavar="MB", help="largest request body (default: %(default)s)")
    add_decision_options(parser)
    add("--address", default="local", help="Ray cluster to run on: auto, or its address (default: a new one, here)")
    add("--json", action="store_true", help='print one line {"url": ..., "pid": ...} once requests are answered')


def _add_model(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--method` in its place, and `--set`."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--model",
        default="embedded",
        metavar="SOURCE",
        help="folder, embedded (default), models:/NAME@ALIAS, method:/NAME",
    )
    either.add_argument(
        "--method",
        dest="model",
        default=argparse.SUPPRESS,
        type=method_source,
        metavar="NAME",
        help="in place of --model: a method that needs no training, such as winclip (`bayes-pfl methods` lists them)",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="CLIP's weights, if the file has moved since the model was made"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="with --method: one of its settings, dotted"
    )


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run.

    Args:
        arguments: options; None: those of this process.

    Returns:
        Exit code.
    """
    parser = CommandParser(prog="bayes-pfl serve", description="Score images over HTTP (Ray Serve).")
    add_arguments(parser)
    args = parser.parse_args(arguments)
    os.environ.setdefault(
        "MLFLOW_DISABLE_TELEMETRY", "true"
    )  # it would start a thread, and threads do not survive a fork
    try:
        if args.gpus and args.address == "local" and not gpus_here():
            raise ConfigError("There is no GPU that torch can use here; leave --gpus out, or install its driver.")
        if args.precision == "tf32" and not _gpus(args):
            raise ConfigError("GPUs alone have --precision tf32: give --gpus too, or choose float32 or bfloat16.")
        settings = settings_of(args)
        check_address(args.host, args.port)
        if args.address == "local":
            check_temporary_folder(temporary_folder())
    except BayesPFLError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return supervised(lambda: run(settings, args))


def _is_guarded(args: argparse.Namespace) -> bool:
    """Whether requests need a token."""
    return args.host not in LOOPBACK or args.tokens_file is not None or bool(os.environ.get("BAYES_PFL_TOKENS"))


def run(settings: ServeSettings, args: argparse.Namespace) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP, then finish what is under way.

    Args:
        settings: the endpoint.
        args: parsed options.

    Returns:
        Exit code: 0, or 2 for what the user can mend.
    """
    stop = threading.Event()
    _stop_on_signals(stop)
    try:
        serve_until(stop, settings, args)
    except BayesPFLError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _stop_on_signals(stop: threading.Event) -> None:
    for number in SIGNALS:
        signal.signal(number, lambda *_: stop.set())


def _gpus(args: argparse.Namespace) -> float:
    """GPUs of a replica: as typed, else this machine's, shared out; on a cluster none unless they are asked for."""
    if args.gpus is not None:
        return float(args.gpus)
    replicas = max(1, args.replicas) * (1 if args.challenger is None else 2)
    return gpu_share(gpus_here(), replicas) if args.address == "local" else 0.0


def settings_of(args: argparse.Namespace) -> ServeSettings:
    """The endpoint's settings from the command line.

    Args:
        args: parsed options.

    Returns:
        The settings.

    Raises:
        ConfigError: a value is out of range, the method or one of its settings is unknown, or it is to listen beyond
            loopback and there are no tokens.
        BundleError: there is no such model.
    """
    exposed, guarded = args.host not in LOOPBACK, _is_guarded(args)
    tokens_file = None if args.tokens_file is None else str(Path(args.tokens_file).resolve())
    if guarded:
        read_tokens(None if tokens_file is None else Path(tokens_file))
    replica = {
        "source": absolute(with_settings(args.model, args.set)),
        "weights": _weights(args.weights),
        "threads": args.threads or max(1, usable_cpus() // max(1, args.replicas)),
        "refresh_s": args.refresh,
        "device": "cuda" if _gpus(args) else "cpu",
        "options": {"precision": args.precision, "compiled": args.compiled},
    }
    model = {
        "name": args.name,
        "replica": replica,
        "challenger": None if args.challenger is None else absolute(args.challenger),
        "drift": drift_values(args),
        "replicas": args.replicas,
        "max_batch": args.max_batch,
        "max_queued": args.max_queued,
        "gpus": _gpus(args),
        # On a cluster a replica asks for a whole CPU; here everything shares what there is.
        "cpus": 0.1 if args.address == "local" else 1.0,
    }
    values = {
        "models": [model],
        "require_token": guarded,
        "tokens_file": tokens_file,
        "allowed_hosts": [*LOOPBACK_HOSTS, *args.allowed_host] if args.allowed_host or not exposed else [],
        "requests_per_second": args.rate,
        "limits": {"max_body_bytes": int(args.max_body_mb * 2**20)},
        **decision_log_values(args),
    }
    return parse_config(ServeSettings, values, "the command line")


def _weights(typed: str | None) -> str | None:
    """The file of CLIP's weights by its whole path: replicas have another current folder."""
    if typed is not None and not Path(typed).is_file():
        raise ConfigError(f"There is no file {typed}: give --weights the file of CLIP's weights.")
    return None if typed is None else str(Path(typed).resolve())


def check_address(host: str, port: int) -> None:
    """See to it that something can listen there: Ray's proxy would try, fail and say so only in its log.

    Args:
        host: name or address.
        port: number.

    Raises:
        ConfigError: nothing can listen there.
    """
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
    """A folder's absolute path, because replicas run elsewhere; `embedded` and URIs as they are.

    Args:
        source: as on the command line.

    Returns:
        The source for replicas.

    Raises:
        BundleError: there is no such model.
    """
    folder = resolve(source)
    if not (folder / "bundle.json").is_file():
        raise BundleError(
            f"{folder} is no bundle. Give the folder that training wrote, models:/NAME@ALIAS, or embedded."
        )
    if source.startswith(f"{SCHEME}:/"):
        return written_out(source)
    return source if source == EMBEDDED or re.match(r"[a-z][a-z0-9]+:/", source) else str(folder.resolve())


def serve_until(stop: threading.Event, settings: ServeSettings, args: argparse.Namespace) -> None:
    """Start Ray and Serve, say so, wait, drain, shut down.

    Args:
        stop: set when it is time to stop.
        settings: the endpoint.
        args: host, port, address and what to print.

    Raises:
        BundleError, ConfigError: it cannot start.
    """
    with tempfile.TemporaryDirectory(prefix="bayes-pfl-serve-") as folder:
        stop_file = Path(folder) / "stop"
        set_environment(stop_file)
        print("Starting Ray and loading the model ...", file=sys.stderr, flush=True)
        start_ray(args.address)
        _stop_on_signals(stop)  # Ray has put its own handlers in their place
        from ray import serve

        from serve.app import build

        try:
            timeout = settings.limits.answer_timeout_s + settings.limits.body_timeout_s + 5
            serve.start(http_options={"host": args.host, "port": args.port, "request_timeout_s": timeout})
            try:
                serve.run(build(settings), name=APPLICATION, route_prefix="/")
            except RuntimeError as error:
                raise explain_failure(error) from error
            announce(args)
            with standing_by(args.host, args.port) if args.address == "local" else contextlib.nullcontext():
                _wait_and_tell(stop, settings)
            with contextlib.suppress(Exception):  # whatever keeps it from draining, it has to stop
                serve.get_app_handle(APPLICATION).drain.remote().result(timeout_s=timeout)
            if args.address == "local":
                _close_port(args.host, args.port, stop_file)
        finally:
            if not ended_processes():  # Ray waits for the others for a minute, and aborts
                shut_down(args.address)


def _wait_and_tell(stop: threading.Event, settings: ServeSettings) -> None:
    """Wait until it is time to stop; say meanwhile on stderr when another version of a model answers.

    Raises BayesPFLError when one of Ray's own processes has ended.
    """
    from ray import serve

    versions: dict[str, list[str]] = {model.name: [] for model in settings.models}
    while not stop.wait(LOOK_S):
        if ended := ended_processes():
            raise BayesPFLError(f"Ray's {ended[0]} has ended, and the endpoint cannot go on without: start it again.")
        for name, told in versions.items():
            with contextlib.suppress(Exception):  # replicas are busy, or being replaced: the next look tells
                handle = serve.get_deployment_handle(f"model-{name}", APPLICATION)
                version = handle.describe.remote().result(timeout_s=LOOK_S).version
                if version not in told[-2:]:  # while replicas are replaced one after the other, both may answer
                    if told:
                        print(f"{name}: version {told[-1]} is replaced by {version}.", file=sys.stderr, flush=True)
                    told.append(version)


def _close_port(host: str, port: int, stop_file: Path) -> None:
    """Have Ray's proxy stop listening (`serve.http.closing`), and wait until nothing listens any more."""
    stop_file.touch()
    until = time.monotonic() + CLOSE_S
    while time.monotonic() < until:
        try:
            with socket.create_connection((host, port), timeout=1) as connection:
                connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                while connection.recv(65536):
                    pass
        except ConnectionRefusedError:
            return
        except OSError:
            pass
        time.sleep(0.05)


def announce(args: argparse.Namespace) -> None:
    """Say where the endpoint is: a line of JSON for programs, or one for people.

    Args:
        args: parsed options.
    """
    host = f"[{args.host}]" if ":" in args.host else args.host
    url = f"http://{host}:{args.port}"
    line = (
        json.dumps({"url": url, "pid": os.getpid()})
        if args.json
        else f"Serving {args.model} on {url} (stop with Ctrl+C)"
    )
    print(line, flush=True)


def explain_failure(error: RuntimeError) -> BayesPFLError:
    """The sentence of this project inside Ray Serve's report of a failed start; else where to look.

    Args:
        error: what `serve.run` raised.

    Returns:
        An error for people.
    """
    from ray import serve

    reports = [str(error)]
    application = serve.status().applications.get(APPLICATION)
    if application is not None:
        reports += [application.message, *(deployment.message for deployment in application.deployments.values())]
    for report in reports:
        sentences = re.findall(r"bayes_pfl\.errors\.\w+: (.+)", report)
        if sentences:
            return BundleError(sentences[-1])
    last = (reports[-1] or reports[0]).strip().splitlines()[-1]
    return ConfigError(f"Ray Serve could not start the endpoint: {last} (see Ray's logs, session_latest/logs/serve)")
