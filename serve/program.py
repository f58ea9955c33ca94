"""Checked options -> Ray Serve on this machine, or on a cluster, with the endpoint on it until a signal says stop."""

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import open_clip

from bayes_pfl.clip.hub import cached_file
from bayes_pfl.clip.loading import package_path
from bayes_pfl.config import parse_config
from bayes_pfl.config.untrained import SCHEME, with_settings, written_out
from bayes_pfl.errors import BayesPFLError, BundleError, ConfigError
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.machine import gpu_share, gpus_here, usable_cpus
from serve.options.checks import EMBEDDED, LOOPBACK, is_guarded, is_uri
from serve.options.serving import DECISION_LOG_MB
from serve.own_ray import ended_processes, set_environment, shut_down, start_ray
from serve.settings import ServeSettings
from serve.standby import standing_by
from serve.supervision import SIGNALS, supervised
from serve.waiting import tell, waiting

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
APPLICATION = "bayes-pfl"
LOOK_S = 5.0
"""How often the program looks which version answers."""
CLOSE_S = 5.0
"""Time for Ray's proxy to stop listening."""


def start(args: argparse.Namespace) -> int:
    """Look at models and GPUs, and run the endpoint.

    Args:
        args: checked options.

    Returns:
        Exit code.

    Raises:
        BundleError: there is no such model, or it is damaged.
        ConfigError: there is no GPU for what is asked for, or a value is out of range.
    """
    if args.gpus and args.address == "local" and not gpus_here():
        raise ConfigError("There is no GPU that torch can use here; leave --gpus out, or install its driver.")
    if args.precision == "tf32" and not _gpus(args):
        raise ConfigError("GPUs alone have --precision tf32: give --gpus too, or choose float32 or bfloat16.")
    settings = settings_of(args)
    (model,) = settings.models
    with waiting(f"Looking at the model {args.model}"):
        words = [describe_model(model.replica.source, model.replica.weights)]
        if model.challenger is not None:
            words.append(describe_model(model.challenger, model.replica.weights))
    return supervised(lambda: run(settings, args, " and the challenger ".join(words)))


def describe_model(source: str, weights: str | None) -> str:
    """What is loaded, and how large it is.

    Args:
        source: of the model.
        weights: file of CLIP's weights; None: where the model says.

    Returns:
        Source, version, CLIP and the size of its weights.

    Raises:
        BundleError: there is no such model, or it is damaged.
    """
    bundle = load_bundle(source, weights)
    backbone, local = bundle.backbone, package_path(bundle.backbone.pretrained)
    tag = open_clip.pretrained.get_pretrained_cfg(backbone.name, backbone.pretrained) or {}
    file = local if local.is_file() else cached_file(tag)
    name = Path(backbone.name.removeprefix("package:")).stem
    size = f", {file.stat().st_size / 2**20:,.0f} MB" if file else ", downloaded first" if tag else ""
    return f"{source} (version {bundle.version}; CLIP {name}{size})"


def run(settings: ServeSettings, args: argparse.Namespace, models: str) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP, then finish what is under way.

    Args:
        settings: the endpoint.
        args: parsed options.
        models: what is loaded, in words.

    Returns:
        Exit code: 0, or 2 for what the user can mend.
    """
    stop = threading.Event()
    _stop_on_signals(stop)
    try:
        serve_until(stop, settings, args, models)
    except BayesPFLError as error:
        tell(f"bayes-pfl serve: {error}")
        return error.exit_code
    return 0


def _stop_on_signals(stop: threading.Event) -> None:
    for number in SIGNALS:
        signal.signal(number, lambda *_: stop.set())


def _gpus(args: argparse.Namespace) -> float:
    """GPUs of a replica: as typed, else this machine's, shared out; on a cluster none unless they are asked for."""
    if args.gpus is not None:
        return float(args.gpus)
    replicas = args.replicas * (1 if args.challenger is None else 2)
    return gpu_share(gpus_here(), replicas) if args.address == "local" else 0.0


def settings_of(args: argparse.Namespace) -> ServeSettings:
    """The endpoint's settings from the command line.

    Args:
        args: parsed options.

    Returns:
        The settings.

    Raises:
        ConfigError: a value is out of range.
    """
    exposed, guarded = args.host not in LOOPBACK, is_guarded(args)
    replica = {
        "source": absolute(with_settings(args.model, args.set)),
        "weights": None if args.weights is None else str(Path(args.weights).resolve()),
        "threads": args.threads or max(1, usable_cpus() // args.replicas),
        "refresh_s": args.refresh,
        "device": "cuda" if _gpus(args) else "cpu",
        "options": {"precision": args.precision, "compiled": args.compiled},
    }
    model = {
        "name": args.name,
        "replica": replica,
        "challenger": None if args.challenger is None else absolute(args.challenger),
        "drift": {"false_alarms_one_in": args.false_drift_alarms, "usual_defects": args.usual_defects},
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
        "tokens_file": None if args.tokens_file is None else str(Path(args.tokens_file).resolve()),
        "allowed_hosts": [*LOOPBACK_HOSTS, *args.allowed_host] if args.allowed_host or not exposed else [],
        "requests_per_second": args.rate,
        "limits": {"max_body_bytes": int(args.max_body_mb * 2**20)},
        "decision_log": None if args.decision_log is None else str(Path(args.decision_log).absolute()),
        "decision_log_bytes": int((args.decision_log_mb or DECISION_LOG_MB) * 2**20),
    }
    return parse_config(ServeSettings, values, "the command line")


def absolute(source: str) -> str:
    """A folder's absolute path, because replicas run elsewhere; `embedded` and URIs as they are.

    Args:
        source: as on the command line.

    Returns:
        The source for replicas.
    """
    if source.startswith(f"{SCHEME}:/"):
        return written_out(source)
    return source if source == EMBEDDED or is_uri(source) else str(Path(source).resolve())


def serve_until(stop: threading.Event, settings: ServeSettings, args: argparse.Namespace, models: str) -> None:
    """Start Ray and Serve, say so, wait, drain, shut down.

    Args:
        stop: set when it is time to stop.
        settings: the endpoint.
        args: host, port, address and what to print.
        models: what is loaded, in words.

    Raises:
        BundleError, ConfigError: it cannot start.
    """
    with tempfile.TemporaryDirectory(prefix="bayes-pfl-serve-") as folder:
        stop_file = Path(folder) / "stop"
        set_environment(stop_file)
        with waiting("Starting Ray" if args.address == "local" else f"Joining the Ray cluster {args.address}"):
            start_ray(args.address)
            _stop_on_signals(stop)  # Ray has put its own handlers in their place
            from ray import serve

            from serve.app import build

        try:
            timeout = settings.limits.answer_timeout_s + settings.limits.body_timeout_s + 5
            with waiting("Starting Ray Serve"):
                serve.start(http_options={"host": args.host, "port": args.port, "request_timeout_s": timeout})
            try:
                with waiting(f"Loading the model {models}", replicas_up(settings)):
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


def replicas_up(settings: ServeSettings) -> Callable[[], Iterator[str]]:
    """The news of a start: which replicas have loaded their model.

    Args:
        settings: the endpoint.

    Returns:
        A function that yields a line for every replica that has come up since it was last called.
    """
    from ray import serve

    began = time.monotonic()
    deployments = {f"model-{model.name}": model.replicas for model in settings.models}
    deployments |= {f"challenger-{model.name}": model.replicas for model in settings.models if model.challenger}
    told = dict.fromkeys(deployments, 0)

    def news() -> Iterator[str]:
        with contextlib.suppress(Exception):  # Ray Serve is not there yet, or has failed, which is told elsewhere
            application = serve.status().applications[APPLICATION]
            for name, wanted in deployments.items():
                states = application.deployments[name].replica_states
                running = sum(count for state, count in states.items() if state == "RUNNING")
                for number in range(told[name] + 1, running + 1):
                    who = "Replica" if name.startswith("model-") else "Replica of the challenger"
                    yield f"{who} {number} of {wanted} is up after {time.monotonic() - began:.0f} s."
                told[name] = max(told[name], running)

    return news


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
                        tell(f"{time.strftime('%H:%M:%S')} {name}: version {told[-1]} is replaced by {version}.")
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
