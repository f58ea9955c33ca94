"""`bayes-pfl register`: a training run's bundle -> a version of the registered model, if it passes the gates.

Nothing else moves an alias.

The gates: the bundle loads and is what its checksums say; and on every evaluation that both have (or the named one), no
metric is worse than that of the model the alias names now by more than a margin.
"""

import argparse
import getpass
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayes_pfl.decisions.calibration import read_calibration
from bayes_pfl.errors import BundleError, ConfigError
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.inference.detector import Detector
from pipelines.options.register import MARGIN
from pipelines.platform.registry import (
    PresentModel,
    add_version,
    download_model,
    point_alias,
    present_model,
    registered_version,
    run_bundle,
)
from pipelines.platform.settings import TrackingSettings
from pipelines.platform.tracking import dataset_key

COMPARED = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_pro", "pixel_f1_max")

SAMPLES = "num_samples"
"""R of an evaluation, kept among its figures; not where it was `auto`."""
USUAL_SAMPLES = 10
"""R where whoever scores gives none."""

Evaluations = dict[str, dict[str, float]]
"""Dataset -> metric -> value."""


def run(args: argparse.Namespace) -> int:
    """Register, or go back, and print how to use the model.

    Args:
        args: parsed options.

    Returns:
        Exit code.

    Raises:
        ConfigError, BundleError: with what to do.
    """
    settings = TrackingSettings(model_name=args.name)
    if (args.run_id is None) == (args.to_version is None):
        raise ConfigError(
            "Give the run of a training to register, or --to-version N to go back to a version: one of the two."
        )
    if args.to_version is not None:
        result = go_back(settings, args.to_version, args.alias)
    else:
        result = register(settings, args.run_id, args.alias, args.evaluation, args.metrics, args.margin, args.force)
    if args.json:
        print(json.dumps(result))
        return 0
    if result["overridden"]:
        print(f"Forced by {result['forced_by']}: {result['overridden']}")
    before = "" if result["before"] in (None, result["version"]) else f" (before: version {result['before']})"
    print(f"Version {result['version']} of {result['model']} is now {result['uri']}{before}:")
    print(f"  bayes-pfl serve --model {result['uri']}")
    for sentence in result["samples"]:
        print(sentence)
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
    """Pass the gates, then make the run's bundle a version of the registered model and let an alias name it.

    Args:
        settings: the registry and the model's name.
        run_id: run of a training, or a folder that `bayes-pfl calibrate` wrote of its model.
        alias: such as `champion`.
        evaluation: dataset to compare on; None: all that both models have.
        metrics_file: metrics.json of an evaluation of this model.
        margin: how much worse a metric may be, 0 to 1.
        force: let a worse model pass; who did so is recorded.

    Returns:
        Model, version, alias, URI, the version that the alias named before, what was overridden, and sentences on the R
        of the figures.

    Raises:
        BundleError: the bundle is damaged (force or not), or a gate refuses.
        ConfigError: metrics of another model.
    """
    evaluation = evaluation and dataset_key(evaluation)
    calibrated = Path(run_id) if Path(run_id).is_dir() else None
    run_id = run_id if calibrated is None else _calibrated_run(calibrated)
    folder, logged = run_bundle(settings, run_id)
    bundle = Detector.load(folder).bundle
    if calibrated is not None and load_bundle(calibrated).version != bundle.version:
        raise BundleError(f"{calibrated} is not the model of the run {run_id}, which its record names.")
    measured = evaluations(logged)
    if metrics_file is not None:
        measured |= _read_metrics(metrics_file, bundle.version)
    present = present_model(settings, alias)
    refusal = ""
    if present is not None:
        refusal = compare(measured, _measured(present), evaluation, margin, f"version {present.version} ({alias})")
    elif evaluation is not None and evaluation not in measured:
        refusal = f"this model has no metrics on '{evaluation}'"
    if refusal and not force:
        raise BundleError(
            f"Not registered: {refusal}. Register another run, or override with --force, which records your name."
        )
    tags = {f"evaluation.{name}": json.dumps(values) for name, values in measured.items()}
    forced = {"forced_by": _person()} if refusal else {}
    if refusal:
        tags |= forced | {"forced_over": refusal}
    version = add_version(settings, run_id, tags, calibrated)
    point_alias(settings, alias, version)
    samples = samples_to_know(measured, {} if present is None else _measured(present))
    return _result(settings, version, alias, present) | {"overridden": refusal, "samples": samples} | forced


def samples_to_know(candidate: Evaluations, present: Evaluations) -> list[str]:
    """What must be known of R, which is no part of a model: whoever scores gives it.

    Args:
        candidate: figures of the new model.
        present: figures of the model that the alias names now.

    Returns:
        Sentences: on figures that were compared although of another R, and on figures of another R than the usual.
    """
    sentences = []
    for dataset in sorted(set(candidate) & set(present)):
        mine, theirs = (side[dataset].get(SAMPLES) for side in (candidate, present))
        if mine is not None and theirs is not None and mine != theirs:
            sentences.append(
                f"On {dataset} this model was measured with R = {mine:g}, the one before with R = {theirs:g}."
            )
    numbers = sorted({values[SAMPLES] for values in candidate.values() if SAMPLES in values} - {USUAL_SAMPLES})
    if numbers:
        listed = " or ".join(f"R = {number:g}" for number in numbers)
        sentences.append(
            f"Its figures are of {listed}, and R is no part of a model: give it as --num-samples to `score`, as "
            f"num_samples in requests. Without, R is {USUAL_SAMPLES}."
        )
    return sentences


def _calibrated_run(folder: Path) -> str:
    """The run that trained a calibrated model."""
    run_id = load_bundle(folder).record["training"].get("run_id")
    if read_calibration(folder) is None:
        raise BundleError(f"{folder} has no calibration: give the run of its training, or calibrate it first.")
    if not isinstance(run_id, str) or not run_id:
        raise BundleError(f"{folder} does not say which run trained it, so that no version can be made of it.")
    return run_id


def go_back(settings: TrackingSettings, version: int, alias: str = "champion") -> dict[str, Any]:
    """Let an alias name a version that was registered before, if its bundle still loads.

    Args:
        settings: the registry and the model's name.
        version: the version's number.
        alias: such as `champion`.

    Returns:
        As `register`.

    Raises:
        BundleError: there is no such version, or its bundle is damaged.
    """
    registered_version(settings, version)
    Detector.load(download_model(f"models:/{settings.model_name}/{version}"))
    present = present_model(settings, alias)
    point_alias(settings, alias, version, {"returned_by": _person()})
    return _result(settings, version, alias, present) | {"overridden": "", "samples": []}


def evaluations(metrics: Mapping[str, float]) -> Evaluations:
    """Pick the figures named `dataset.metric` from a run's metrics.

    Args:
        metrics: name to value.

    Returns:
        Dataset to metric to value.
    """
    by_dataset: Evaluations = {}
    for key, value in metrics.items():
        dataset, _, metric = key.rpartition(".")
        if dataset and metric in (*COMPARED, SAMPLES):
            by_dataset.setdefault(dataset, {})[metric] = value
    return by_dataset


def compare(candidate: Evaluations, present: Evaluations, evaluation: str | None, margin: float, who: str) -> str:
    """Compare a new model's metrics with the present model's.

    Args:
        candidate: the new model's.
        present: the present model's.
        evaluation: dataset to compare on; None: all that both have.
        margin: how much worse a metric may be.
        who: the present model, for the sentence.

    Returns:
        Why the new model must not replace the present one; empty if it may.
    """
    if not present and evaluation is None:
        return ""  # nothing is known of the present model
    shared = sorted(set(candidate) & set(present)) if evaluation is None else [evaluation]
    if not shared:
        return (
            f"it was not evaluated on any dataset that {who} was ({', '.join(sorted(present))}): run `bayes-pfl "
            "evaluate` "
            "on one of them"
        )
    worse = []
    for dataset in shared:
        for side, label in ((candidate, "this model"), (present, who)):
            if dataset not in side:
                return f"{label} has no metrics on '{dataset}': run `bayes-pfl evaluate` on it"
        for metric in COMPARED:
            mine, theirs = candidate[dataset].get(metric), present[dataset].get(metric)
            if mine is not None and theirs is not None and mine < theirs - margin:
                worse.append(f"{dataset} {metric} is {100 * mine:.2f} %, {who} has {100 * theirs:.2f} %")
    return f"{'; '.join(worse)} (margin {100 * margin:g} %)" if worse else ""


def _measured(model: PresentModel) -> Evaluations:
    """The figures of a registered version: its run's, and those that were registered with it."""
    registered = {
        key.removeprefix("evaluation."): json.loads(value)
        for key, value in model.tags.items()
        if key.startswith("evaluation.")
    }
    return evaluations(model.metrics) | registered


def _result(settings: TrackingSettings, version: int, alias: str, before: PresentModel | None) -> dict[str, Any]:
    return {
        "model": settings.model_name,
        "version": version,
        "alias": alias,
        "uri": f"models:/{settings.model_name}@{alias}",
        "before": None if before is None else before.version,
    }


def _person() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _read_metrics(file: Path, version: str) -> Evaluations:
    """Means per dataset of a metrics.json. Raises ConfigError if it cannot be read or is of another model."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        measured_version = content["model"]["version"]
        samples = {SAMPLES: content[SAMPLES]} if isinstance(content.get(SAMPLES), int) else {}
        values = {name: samples | dataset["mean"]["values"] for name, dataset in content["datasets"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is no metrics.json of `bayes-pfl evaluate` ({error}).") from error
    if measured_version != version:
        raise ConfigError(
            f"{file} measures model {measured_version}, but this run's model is {version}: evaluate this one."
        )
    return {
        dataset_key(name): {key: value for key, value in metrics.items() if value is not None}
        for name, metrics in values.items()
    }
