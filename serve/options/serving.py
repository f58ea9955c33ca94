"""The options of `bayes-pfl serve`."""

import argparse
from typing import get_args

from bayes_pfl.command_line import at_least, model_source
from bayes_pfl.config import Precision
from bayes_pfl.config.untrained import method_source
from bayes_pfl.machine import MOST_THREADS, MOST_WORKERS
from serve.http.access import TOKENS_VARIABLE
from serve.options.checks import EMBEDDED
from serve.options.values import allowed_host, model_name, number, port

DECISION_LOG_MB = 64.0
EXAMPLES = """\
bayes-pfl serve
bayes-pfl serve --model runs/model --replicas 2 --port 8080
bayes-pfl serve --model models:/bayes-pfl@champion --decision-log decisions.jsonl
bayes-pfl serve --host 0.0.0.0 --tokens-file tokens.txt --rate 20
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl serve`.

    Args:
        parser: gets the options.
    """
    _add_model(parser)
    _add_listening(parser)
    _add_computing(parser)
    _add_decisions(parser)
    add = parser.add_argument
    add("--address", default="local", help="Ray cluster to run on: auto, or HOST:PORT; default: a new one, here")
    add("--json", action="store_true", help='print one line {"url": ..., "pid": ...} once requests are answered')


def _add_model(parser: argparse.ArgumentParser) -> None:
    """Which model answers, and by what name."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--model",
        type=model_source,
        default=EMBEDDED,
        metavar="MODEL",
        help="folder or URI of a model, embedded, or models:/NAME@ALIAS; default: embedded",
    )
    either.add_argument(
        "--method",
        dest="model",
        default=argparse.SUPPRESS,
        type=method_source,
        metavar="NAME",
        help="instead of --model: a method that needs no training, such as winclip (bayes-pfl methods lists them)",
    )
    add = parser.add_argument
    add("--weights", metavar="FILE", help="CLIP's weights, where the file has moved since the model was made")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with --method: change one of its settings; repeatable",
    )
    add("--name", type=model_name, default="bayes-pfl", help="model's name in URLs and answers; default: bayes-pfl")
    add(
        "--challenger",
        type=model_source,
        metavar="MODEL",
        help="second model that scores the same images: its scores are logged, never answered",
    )
    add(
        "--refresh",
        type=number(0),
        default=30.0,
        metavar="SECONDS",
        help="how often to look for a new model, seconds; 0: never; default: 30",
    )


def _add_listening(parser: argparse.ArgumentParser) -> None:
    """Where it listens, and to whom."""
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        metavar="HOST",
        help="address to listen on; beyond this machine requests need tokens; default: 127.0.0.1",
    )
    add("--port", type=port, default=8000, metavar="N", help="port to listen on, 1 to 65535; default: 8000")
    add(
        "--tokens-file",
        metavar="FILE",
        help=f"bearer tokens, one a line; default: those in {TOKENS_VARIABLE}, separated by commas",
    )
    add(
        "--allowed-host",
        type=allowed_host,
        action="append",
        default=[],
        metavar="NAME",
        help="another name that clients call this endpoint by, without port; repeatable; default: this machine's own "
        "names, and every name with --host beyond it",
    )
    add(
        "--rate",
        type=number(0),
        default=0.0,
        metavar="N",
        help="requests a second for each token, or for all clients without tokens; default: 0, no limit",
    )
    add(
        "--max-body-mb",
        type=number(0.001),
        default=32.0,
        metavar="MB",
        help="largest request body, MiB; default: 32",
    )


def _add_computing(parser: argparse.ArgumentParser) -> None:
    """What runs the model."""
    add = parser.add_argument
    add(
        "--replicas",
        type=at_least(1, MOST_WORKERS),
        default=1,
        metavar="N",
        help="processes that hold the model; default: 1",
    )
    add(
        "--max-batch",
        type=at_least(1),
        default=4,
        metavar="N",
        help="most images that go to a process together; default: 4",
    )
    add(
        "--max-queued",
        type=at_least(0),
        default=32,
        metavar="N",
        help="images that may wait, more are answered 503; default: 32",
    )
    add(
        "--threads",
        type=at_least(1, MOST_THREADS),
        metavar="N",
        help="CPU threads of a process; default: the CPUs, shared out",
    )
    add(
        "--gpus",
        type=number(0),
        metavar="N",
        help="GPUs, or a fraction of one, of a process; 0: none; default: this machine's, shared out",
    )
    add(
        "--precision",
        choices=get_args(Precision),
        default="float32",
        help="precision of CLIP's matrix products: exact, or faster on a GPU (tf32, bfloat16) or some CPUs (bfloat16); "
        "default: float32",
    )
    add(
        "--compiled",
        action="store_true",
        help="hand the image encoder to torch.compile: a process starts minutes later, then it is faster",
    )


def _add_decisions(parser: argparse.ArgumentParser) -> None:
    """What is kept of decisions, and when an alarm comes."""
    add = parser.add_argument
    add("--decision-log", metavar="FILE", help="append a JSON line for every answered image (docs/serving.md)")
    add(
        "--decision-log-mb",
        type=number(0.004),
        metavar="MB",
        help="with --decision-log: size from which on that file is renamed to FILE.<UTC time>, MiB; default: 64",
    )
    add(
        "--false-drift-alarms",
        type=at_least(2),
        default=1000,
        metavar="N",
        help="at most one in N endpoints ever sounds the drift alarm without a change; default: 1000",
    )
    add(
        "--usual-defects",
        type=number(0, below=1),
        default=0.2,
        metavar="SHARE",
        help="so many defective images, 0 to 1, are usual and no reason for a drift alarm; default: 0.2",
    )
