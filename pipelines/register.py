"""`bayes-pfl register`: a finished training run's bundle becomes a version of the registered model, if it passes the gates.

The gates: the bundle loads and is what its checksums say; and on every evaluation that both have (or the named one), no
metric is worse than that of the model the alias names now by more than a margin.
"""

import argparse
import getpass
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayes_pfl.errors import BundleError, ConfigError
from bayes_pfl.inference.detector import Detector
from pipelines.platform.settings import TrackingSettings
from pipelines.platform.tracking import dataset_key, present_model, register_bundle, run_bundle

COMPARED = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_pro", "pixel_f1_max")
MARGIN = 0.01

Evaluations = dict[str, dict[str, float]]
"""Dataset -> metric -> value."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl register`."""
    parser.add_argument("run_id", help="MLflow run of a training")
    parser.add_argument("--alias", default="champion", help="alias that will name this version; default: champion")
    parser.add_argument(
        "--evaluation", metavar="DATASET", help="compare on this dataset alone; default: on all that both models have"
    )
    parser.add_argument(
        "--metrics", type=Path, metavar="FILE", help="metrics.json that `bayes-pfl evaluate` wrote for this model"
    )
    parser.add_argument(
        "--margin", type=float, default=MARGIN, help=f"how much worse a metric may be; default: {MARGIN}"
    )
    parser.add_argument("--force", action="store_true", help="register although a gate refuses; your name is recorded")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Register and say how to use the model."""
    result = register(
        TrackingSettings(), args.run_id, args.alias, args.evaluation, args.metrics, args.margin, args.force
    )
    if args.json:
        print(json.dumps(result))
        return 0
    if result["overridden"]:
        print(f"Forced by {result['forced_by']}: {result['overridden']}")
    print(
        f"Version {result['version']} of {result['model']} is now {result['uri']}: bayes-pfl serve --model {result['uri']}"
    )
    return 0


def register(
    settings: TrackingSettings,
    run_id: str,
    alias: str = "champion",
    evaluation: str | None = None,
    metrics_file: Path | None = None,
    margin: float = MARGIN,
    force: bool = False,
) -> dict[str, Any]:
    """Pass the gates, then make the run's bundle a version under `alias`; with `force`, a worse model passes and that is recorded.

    Raises BundleError if the bundle is damaged (force or not) or a gate refuses, ConfigError for metrics of another model.
    """
    evaluation = evaluation and dataset_key(evaluation)
    folder, logged = run_bundle(settings, run_id)
    bundle = Detector.load(folder).bundle
    measured = evaluations(logged)
    if metrics_file is not None:
        measured |= _read_metrics(metrics_file, bundle.version)
    refusal = ""
    present = present_model(settings, alias)
    if present is not None:
        rival = evaluations(present.metrics) | {
            key.removeprefix("evaluation."): json.loads(value)
            for key, value in present.tags.items()
            if key.startswith("evaluation.")
        }
        refusal = compare(measured, rival, evaluation, margin, f"version {present.version} ({alias})")
    elif evaluation is not None and evaluation not in measured:
        refusal = f"this model has no metrics on '{evaluation}'"
    if refusal and not force:
        raise BundleError(
            f"Not registered: {refusal}. Register another run, or override with --force, which records your name."
        )
    tags = {f"evaluation.{name}": json.dumps(values) for name, values in measured.items()}
    by = f"{getpass.getuser()}@{socket.gethostname()}"
    if refusal:
        tags |= {"forced_by": by, "forced_over": refusal}
    version = register_bundle(settings, run_id, alias, tags)
    uri = f"models:/{settings.model_name}@{alias}"
    result = {"model": settings.model_name, "version": version, "alias": alias, "uri": uri, "overridden": refusal}
    return result | ({"forced_by": by} if refusal else {})


def evaluations(metrics: Mapping[str, float]) -> Evaluations:
    """The figures named `dataset.metric` among a run's metrics."""
    found: Evaluations = {}
    for key, value in metrics.items():
        dataset, _, metric = key.rpartition(".")
        if dataset and metric in COMPARED:
            found.setdefault(dataset, {})[metric] = value
    return found


def compare(candidate: Evaluations, present: Evaluations, evaluation: str | None, margin: float, who: str) -> str:
    """Why the candidate must not replace the present model; empty if it may."""
    if not present and evaluation is None:
        return ""  # nothing is known of the present model
    shared = sorted(set(candidate) & set(present)) if evaluation is None else [evaluation]
    if not shared:
        return f"it was not evaluated on any dataset that {who} was ({', '.join(sorted(present))}): run `bayes-pfl evaluate` on one of them"
    worse = []
    for dataset in shared:
        for side, label in ((candidate, "this model"), (present, who)):
            if dataset not in side:
                return f"{label} has no metrics on '{dataset}': run `bayes-pfl evaluate` on it"
        for metric in COMPARED:
            mine, theirs = candidate[dataset].get(metric), present[dataset].get(metric)
            if mine is not None and theirs is not None and mine < theirs - margin:
                worse.append(f"{dataset} {metric} is {mine:.4f}, {who} has {theirs:.4f}")
    return f"{'; '.join(worse)} (margin {margin:g})" if worse else ""


def _read_metrics(file: Path, version: str) -> Evaluations:
    """Means per dataset of a metrics.json. Raises ConfigError if it cannot be read or is of another model."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        about = content["model"]["version"]
        values = {name: dataset["mean"]["values"] for name, dataset in content["datasets"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is no metrics.json of `bayes-pfl evaluate` ({error}).") from error
    if about != version:
        raise ConfigError(f"{file} measures model {about}, but this run's model is {version}: evaluate this one.")
    return {
        dataset_key(name): {key: value for key, value in of.items() if value is not None} for name, of in values.items()
    }
