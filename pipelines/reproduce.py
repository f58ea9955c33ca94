"""`bayes-pfl reproduce`: the name of a table, a figure or a study -> measured again, beside what is expected."""

import argparse
import importlib

from pipelines.options.reproduce import OF_TABLES, OF_UNCERTAINTY, STUDIES, TABLES


def run(args: argparse.Namespace) -> int:
    """Run the study.

    Args:
        args: parsed options.

    Returns:
        Exit code.

    Raises:
        ConfigError: an option is not for this study.
    """
    from bayes_pfl.errors import ConfigError

    module = STUDIES[args.study]
    foreign = OF_UNCERTAINTY if module == TABLES else OF_TABLES
    given = [f"--{name.replace('_', '-')}" for name in foreign if getattr(args, name) is not None]
    if given:
        raise ConfigError(f"{', '.join(given)} is not for {args.study}: bayes-pfl reproduce --help says what is.")
    return int(importlib.import_module(module).run(args))
