"""`bayes-pfl`: a command and its options -> an exit code.

The options of a command stand in `pipelines/options/`, which needs no torch: what is wrong with them is said at once.
Its program is imported when they are right.
"""

import argparse
import contextlib
import errno
import gc
import importlib
import importlib.metadata
import io
import logging
import os
import re
import signal
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from bayes_pfl.command_line import CommandParser, nearest
from bayes_pfl.config import read_config
from bayes_pfl.errors import BayesPFLError, OutputError

COMMANDS = {
    "quickstart": (
        "pipelines.quickstart",
        "run the main job on painted images: ingest, train, evaluate, register, serve",
    ),
    "doctor": ("pipelines.doctor", "say what this machine has, test it, and say what to do where something is wrong"),
    "generate": ("pipelines.generate", "paint surfaces, objects and medical-like images with exact defect masks"),
    "configs": ("pipelines.configurations", "list the configurations that come along, or print one"),
    "methods": ("pipelines.methods", "list the methods, or write a model of one that needs no training"),
    "datasets": ("pipelines.datasets", "list the known datasets, or verify a folder against one"),
    "ingest": ("pipelines.ingest", "read a dataset's folder into Arrow shards"),
    "features": ("pipelines.features", "compute frozen features of shards once, for training and sweeps"),
    "train": ("pipelines.train", "train a model on shards of an auxiliary dataset (Ray Train)"),
    "tune": ("pipelines.tune", "sweep B, K, R and other settings (Ray Tune)"),
    "evaluate": ("pipelines.evaluate", "measure a model on unseen datasets: metrics, table, report"),
    "compare": ("pipelines.compare", "compare two models on the same images: what differs, and how surely"),
    "score": ("pipelines.score", "score images, folders or shards: image scores, heat maps, gallery"),
    "calibrate": ("pipelines.calibrate", "make a model that decides, with stated error rates, from good images"),
    "register": ("pipelines.register", "make a training's model the champion of the registry"),
    "import": ("pipelines.import_published", "make a model of the authors' published weights"),
    "reproduce": ("pipelines.reproduce", "measure the paper's tables and figures again, or what uncertainty is worth"),
    "pretrain": ("pipelines.pretrain", "train the small embedded CLIP from nothing (Ray Train)"),
}
ENDPOINT = {
    "serve": ("serve.main", "score images over HTTP (Ray Serve)"),
    "reference": ("serve.reference", "keep with a model how usual images score, for the endpoint to measure drift"),
}
"""Commands of the endpoint, which is a program of its own and parses its own options."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
BROKEN_PIPE = 141
"""Exit code of a program that is ended because nobody reads on: 128 + SIGPIPE."""
EPILOGUE = """\
A model is a folder (a bundle), `embedded` (the demonstration model that comes along), models:/NAME@ALIAS, or
method:/NAME of a method that needs no training.
Every command takes --help; most take --config FILE.yaml, --set key.subkey=value and --json.

  bayes-pfl quickstart                                  see everything work, offline, in minutes
  bayes-pfl ingest visa --source VisA --output shards/visa
  bayes-pfl train --config configs/train_visa.yaml
  bayes-pfl evaluate --model runs/model --shards shards/mvtec
  bayes-pfl serve --model runs/model
"""


class Parser(CommandParser):
    """Names the nearest command or option behind one that does not exist."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong on one line, and end with exit code 2.

        Args:
            message: argparse's sentence.
        """
        unknown = re.search(r"argument COMMAND: invalid choice: '([^']*)'", message)
        if unknown:
            names = [*COMMANDS, *ENDPOINT]
            message = f"there is no command '{unknown[1]}'{nearest(unknown[1], names)}"
        super().error(message)

    def of_command(self, options: argparse.Namespace) -> CommandParser:
        """The parser of the command that was typed.

        Args:
            options: what was parsed.

        Returns:
            The parser.
        """
        commands: Any = self._subparsers
        parser: CommandParser = commands._group_actions[0].choices[options.command]
        return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Errors for people are one line on stderr.

    Args:
        arguments: the words after `bayes-pfl`; None: those of this process.

    Returns:
        Exit code: 0; 2 for what the user can mend, 3 if the work is done but not in MLflow, 130 if interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    _open_streams()
    _avoid_proxies()
    if given and given[0] in ENDPOINT:
        return _run_endpoint(given[0], given[1:])
    name = given[0] if given and given[0] in COMMANDS else None
    args = _parser(name).parse_args(given)
    _quiet()
    try:
        _check(args)
        code = int(_program(COMMANDS[args.command][0]).run(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return BROKEN_PIPE
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return _name_too_long(args.command, error)
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


def _parser(name: str | None) -> Parser:
    """The whole command line, with the options of one command alone."""
    parser = Parser(
        prog="bayes-pfl",
        description="Zero-shot anomaly detection with Bayesian Prompt Flow Learning, on Ray.",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bayes-pfl {_version()}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, (_, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(command, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if command == name:
            options = options_of(command)
            options.add_arguments(subparser)
            subparser.formatter_class = argparse.RawDescriptionHelpFormatter
            subparser.epilog = "examples:\n" + textwrap.indent(options.EXAMPLES, "  ")
    for command, (_, summary) in ENDPOINT.items():
        subparsers.add_parser(command, help=summary, add_help=False)
    return parser


def options_of(command: str) -> Any:
    """The options of a command, which are told apart from its program: that takes seconds to import.

    Args:
        command: of `COMMANDS`.

    Returns:
        A module of `pipelines.options`: `add_arguments` and `EXAMPLES`; `SETTINGS` where there are `--config` and
        `--set`, `check(args)` where options can exclude each other.
    """
    return importlib.import_module(COMMANDS[command][0].replace("pipelines.", "pipelines.options."))


def _check(args: argparse.Namespace) -> None:
    """Refuse settings that do not exist and options that exclude each other, before the program is imported."""
    options = options_of(args.command)
    if hasattr(options, "SETTINGS") and not getattr(args, "embedded", False):  # which has settings of its own
        read_config(options.SETTINGS, args.config, args.set)
    if hasattr(options, "check"):
        options.check(args)


def _program(module: str) -> Any:
    """Import a program. What imports leave behind stays, so garbage is not looked for there: that would take 2 s."""
    if module in sys.modules:
        return sys.modules[module]
    shown = sys.stderr.isatty()
    if shown:
        print("Loading the program ...", end="\r", file=sys.stderr, flush=True)
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.enable()
        gc.freeze()
        if shown:
            print("\033[K", end="", file=sys.stderr, flush=True)


def _version() -> str:
    try:
        return importlib.metadata.version("bayes-pfl")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _run_endpoint(command: str, arguments: list[str]) -> int:
    """Run a program of the endpoint in this process, so that every signal to the command reaches it."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # while it is imported; process 1 of a container has no defaults
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        return int(_program(ENDPOINT[command][0]).main(arguments))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return _name_too_long(command, error)


def _name_too_long(command: str, error: OSError) -> int:
    """Say that no file can have such a name; the exit code."""
    print(f"bayes-pfl {command}: {error.filename} is too long for a file's name.", file=sys.stderr)
    return BayesPFLError.exit_code


def _open_streams() -> None:
    """Write to nothing where a stream is closed, as for a daemon."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def _avoid_proxies() -> None:
    """Reach this machine's own addresses and Ray without the proxies of the environment, also in child processes."""
    hosts = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "", *LOOPBACK]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(host for host in hosts if host)
    os.environ.setdefault("grpc_proxy", "")  # empty: none; replicas of the endpoint call each other by gRPC


def _quiet() -> None:
    """Keep other libraries' chatter off the terminal; errors still show."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TQDM_MININTERVAL": "0.5",
    }.items():
        os.environ.setdefault(name, value)
    with contextlib.suppress(OSError):
        if os.get_terminal_size(sys.__stderr__.fileno() if sys.__stderr__ else 2).columns == 0:
            os.environ |= {
                "TQDM_NCOLS": "80",
                "TQDM_NROWS": "24",
            }  # of a terminal that does not tell tqdm shows nothing
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
