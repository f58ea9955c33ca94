"""`bayes-pfl`: one command line for every program. Modules are imported when their command is called, so --help is quick."""

import argparse
import errno
import importlib
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence

from bayes_pfl.errors import BayesPFLError, OutputError

COMMANDS = {
    "quickstart": (
        "pipelines.quickstart",
        "the main job on generated images: ingest, train, evaluate, register, serve, report",
    ),
    "generate": ("pipelines.generate", "paint surfaces, objects and medical-like images with exact defect masks"),
    "datasets": ("pipelines.datasets", "list the known datasets, or verify a folder against one"),
    "ingest": ("pipelines.ingest", "a dataset's folder -> Arrow shards"),
    "features": ("pipelines.features", "shards -> frozen features, computed once for training and sweeps"),
    "train": ("pipelines.train", "shards of an auxiliary dataset -> a trained model (Ray Train)"),
    "tune": ("pipelines.tune", "sweep B, K, R and other settings (Ray Tune)"),
    "evaluate": ("pipelines.evaluate", "shards of unseen datasets -> metrics, table, report"),
    "score": ("pipelines.score", "images, folders or shards -> scores, heat maps, gallery"),
    "register": ("pipelines.register", "make a training run's model champion"),
    "import": ("pipelines.import_published", "the authors' published weights -> a model"),
    "pretrain": ("pipelines.pretrain", "train the small embedded CLIP from nothing (Ray Train)"),
}
ENDPOINT = {
    "serve": ("serve.main", "score images over HTTP (Ray Serve)"),
    "reference": (
        "serve.reference",
        "keep with a model how usual images score, so that the endpoint can measure drift",
    ),
}
"""Commands of the endpoint, which is a program of its own and parses its own options."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
BROKEN_PIPE = 141
"""Exit code of a program that is ended because nobody reads on: 128 + SIGPIPE."""
EPILOGUE = """\
A model is a folder (a bundle), `embedded` (the demonstration model that comes along), or models:/NAME@ALIAS.
Every command takes --help; most take --config FILE.yaml, --set key.subkey=value and --json.

  bayes-pfl quickstart                                  see everything work, offline, in minutes
  bayes-pfl ingest visa --source VisA --output shards/visa
  bayes-pfl train --config configs/train_visa.yaml
  bayes-pfl evaluate --model runs/model --shards shards/mvtec
  bayes-pfl serve --model runs/model
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Errors for people are one line on stderr and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _reach_loopback_directly()
    if given and given[0] in ENDPOINT:
        return _run_endpoint(given[0], given[1:])
    name = given[0] if given and given[0] in COMMANDS else None
    parser = argparse.ArgumentParser(
        prog="bayes-pfl",
        description="Zero-shot anomaly detection with Bayesian Prompt Flow Learning, on Ray.",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(command, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if command == name:
            importlib.import_module(module).add_arguments(subparser)
    for command, (_, summary) in ENDPOINT.items():
        subparsers.add_parser(command, help=summary, add_help=False)
    args = parser.parse_args(given)
    _quiet()
    try:
        code = int(importlib.import_module(COMMANDS[args.command][0]).run(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"bayes-pfl {args.command}: no room left to write; free some space and run it again.", file=sys.stderr)
        return OutputError.exit_code
    except BayesPFLError as error:
        print(f"bayes-pfl {args.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"bayes-pfl {args.command}: interrupted.", file=sys.stderr)
        return 130


def _run_endpoint(command: str, arguments: list[str]) -> int:
    """Run a program of the endpoint in this process, so that every signal to the command reaches it."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # while it is imported; process 1 of a container has no defaults
        signal.signal(number, lambda *_: sys.exit(0))
    return int(importlib.import_module(ENDPOINT[command][0]).main(arguments))


def _reach_loopback_directly() -> None:
    """Except this machine's own addresses from the proxies of the environment, here and in all processes that are started."""
    hosts = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "", *LOOPBACK]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(host for host in hosts if host)


def _quiet() -> None:
    """Keep other libraries' chatter off the terminal; errors still show."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TQDM_MININTERVAL": "0.5",
    }.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic", "ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")  # refused in our own words
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no reason to end


if __name__ == "__main__":
    sys.exit(main())
