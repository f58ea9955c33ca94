"""`bayes-pfl register`: a finished training run's bundle becomes a version of the registered model, under an alias."""

import argparse
import json

from pipelines.settings import TrackingSettings
from pipelines.tracking import register_bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl register`."""
    parser.add_argument("run_id", help="MLflow run of a training")
    parser.add_argument("--alias", default="champion", help="alias that will name this version; default: champion")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Register and say how to use the model."""
    settings = TrackingSettings()
    version = register_bundle(settings, args.run_id, args.alias)
    uri = f"models:/{settings.model_name}@{args.alias}"
    if args.json:
        print(json.dumps({"model": settings.model_name, "version": version, "alias": args.alias, "uri": uri}))
    else:
        print(f"Version {version} of {settings.model_name} is now {uri}: bayes-pfl serve --model {uri}")
    return 0
