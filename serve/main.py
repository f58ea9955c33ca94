"""`bayes-pfl serve`: options -> a running endpoint. Wrong options are told before torch and Ray are imported."""

import os
import sys

from bayes_pfl.errors import BayesPFLError
from serve.options.checks import check
from serve.options.serving import EXAMPLES, add_arguments
from serve.options.values import command_parser
from serve.waiting import waiting


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run.

    Args:
        arguments: options; None: those of this process.

    Returns:
        Exit code: 0, or 2 for what the user can mend.
    """
    parser = command_parser(
        "serve", "Score images over HTTP (Ray Serve), with a page to look at.", add_arguments, EXAMPLES
    )
    args = parser.parse_args(arguments)
    # MLflow would start a thread, and threads do not survive a fork
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        check(args)
        with waiting("Importing PyTorch"):
            from serve import program
        return program.start(args)
    except BayesPFLError as error:
        print(f"bayes-pfl serve: {error}", file=sys.stderr)
        return error.exit_code
