"""`bayes-pfl configs`: the configurations that come along -> a list, or the text of one."""

import argparse
import json

from pipelines.options.config_files import shipped


def run(args: argparse.Namespace) -> int:
    """Print the list, or one file.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    if args.config is not None:
        print(args.config.read_text(encoding="utf-8"), end="")
        return 0
    rows = shipped()
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    width = max(map(len, rows))
    for name, sentence in rows.items():
        print(f"{name:{width}}  {sentence}")
    print("\nUse one: --config NAME. Change one: bayes-pfl configs NAME > mine.yaml, then --config mine.yaml.")
    return 0
