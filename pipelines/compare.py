"""`bayes-pfl compare`: two models or finished evaluations on the same images -> what differs, and how surely."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bayes_pfl.config import parse_config, read_config
from bayes_pfl.config.run import EMBEDDED
from bayes_pfl.config.untrained import SCHEME
from bayes_pfl.data.remote import is_remote
from bayes_pfl.errors import ConfigError, DataError
from pipelines.evaluate import EvaluateSettings, evaluate, finished_result
from pipelines.options.model import typed_options
from pipelines.platform.settings import home
from pipelines.platform.storage import absolute
from pipelines.scoring.comparison import Side, compared, read_side
from pipelines.scoring.comparison_files import printed, write_comparison
from pipelines.scoring.figures import Resampling


def run(args: argparse.Namespace) -> int:
    """Compare and print the tables.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    result = compare(args)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print(printed(result))
        print(f"\nFiles: {result['output']}")
    return 0


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate what is not evaluated yet, and compare.

    Args:
        args: parsed options.

    Returns:
        The content of comparison.json.

    Raises:
        ConfigError: an option is out of range, or the output is a URI.
        DataError: there is nothing to evaluate, or the evaluations are of different images.
    """
    if args.output is not None and is_remote(args.output):
        raise ConfigError("A comparison is written to this machine: give --output a folder, and copy it afterwards.")
    output = Path(absolute(args.output or str(home() / "comparison")))
    first, second = _side(args, args.a, output / "a"), _side(args, args.b, output / "b")
    result = compared(first, second, Resampling(args.seed, args.resamples), args.images)
    images = result.pop("every_image")
    result["output"] = str(output)
    write_comparison(output, result, images)
    return result


def _side(args: argparse.Namespace, source: str, output: Path) -> Side:
    """A finished evaluation, that of an earlier run, or a new one."""
    if not is_remote(source) and (Path(source) / "metrics.json").is_file():
        return read_side(Path(absolute(source)))
    if not args.shards:
        raise DataError(f"{source} is no finished evaluation: give --shards to evaluate it on.")
    settings = read_config(EvaluateSettings, args.config, args.set)
    changes: dict[str, Any] = {"model": source, "shards": args.shards, "output": str(output), "cases": 0}
    typed = ["num_samples", "use_gpu"]
    if source != EMBEDDED and not source.startswith(f"{SCHEME}:/"):  # these have weights of their own
        typed.append("weights")
    changes |= {name: getattr(args, name) for name in typed if getattr(args, name) is not None}
    changes |= {"full_resolution": args.at == "mask", "allow_overlap": args.allow_overlap or settings.allow_overlap}
    changes["options"] = {**settings.options.model_dump(), **typed_options(args)}
    settings = parse_config(EvaluateSettings, {**settings.model_dump(), **changes}, "the command line")
    if finished_result(settings) is None:
        evaluate(settings)
    else:
        print(f"{source} was evaluated before: {output}", file=sys.stderr)
    return read_side(output)
