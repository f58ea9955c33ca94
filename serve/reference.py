"""`bayes-pfl reference`: options -> a model's reference window. Wrong options are told before torch is imported."""

import sys

from bayes_pfl.errors import BayesPFLError
from serve.options.reference import EXAMPLES, add_arguments, check
from serve.options.values import command_parser
from serve.waiting import waiting


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, score the images and write the window into the bundle.

    Args:
        arguments: options; None: those of this process.

    Returns:
        Exit code: 0, or 2 for what the user can mend.
    """
    description = "Keep with a model how usual images score, so that the endpoint can measure drift."
    args = command_parser("reference", description, add_arguments, EXAMPLES).parse_args(arguments)
    try:
        check(args)
        with waiting("Importing PyTorch"):
            from serve import reference_window
        return reference_window.run(args)
    except BayesPFLError as error:
        print(f"bayes-pfl reference: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
