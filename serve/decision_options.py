"""Options of `bayes-pfl serve` that are about decisions: the log of them, and the drift alarm."""

import argparse
from pathlib import Path
from typing import Any

from serve.http.decision_log import check_decision_log


def add_decision_options(parser: argparse.ArgumentParser) -> None:
    """The options.

    Args:
        parser: gets them.
    """
    add = parser.add_argument
    add("--decision-log", metavar="FILE", help="append a JSON line for every answered image (docs/serving.md)")
    add(
        "--decision-log-mb",
        type=float,
        default=64.0,
        metavar="MB",
        help="size from which on that file is renamed to FILE.<UTC time> (default: %(default)s)",
    )
    add(
        "--false-drift-alarms",
        type=int,
        default=1000,
        metavar="N",
        help="without a change at most one in N endpoints ever sounds the drift alarm (default: %(default)s)",
    )
    add(
        "--usual-defects",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="so many defective images are usual, and no reason for a drift alarm (default: %(default)s)",
    )


def drift_values(args: argparse.Namespace) -> dict[str, Any]:
    """What the options say of the drift alarm.

    Args:
        args: parsed options.

    Returns:
        Values of `DriftSettings`.
    """
    return {"false_alarms_one_in": args.false_drift_alarms, "usual_defects": args.usual_defects}


def decision_log_values(args: argparse.Namespace) -> dict[str, Any]:
    """What the options say of the decision log.

    Args:
        args: parsed options.

    Returns:
        Values of `ServeSettings`.

    Raises:
        ConfigError: the file cannot be written.
    """
    if args.decision_log is None:
        return {}
    path = Path(args.decision_log).absolute()
    check_decision_log(path)
    return {"decision_log": str(path), "decision_log_bytes": int(args.decision_log_mb * 2**20)}
