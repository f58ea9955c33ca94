"""`bayes-pfl tune`: a sweep over B, K, R and any other setting with Ray Tune; R never causes a training.

Every combination of the other settings is trained once, from frozen features that all trials share, and its model is
evaluated once with the largest R, which yields every smaller R (draws are nested). Results are files: a sweep that was
stopped anywhere goes on with the trials that have none.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bayes_pfl.config import DetectorOptions, read_config
from bayes_pfl.data.remote import Store, is_remote
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.errors import ConfigError, OutputError
from bayes_pfl.metrics.resampling import too_few
from pipelines.features import compute_features
from pipelines.options.features import FeatureSettings
from pipelines.options.tune import TuneSettings
from pipelines.platform.cluster import start_ray, with_gpus
from pipelines.platform.html import table
from pipelines.platform.mlflow_store import check_store
from pipelines.platform.progress import progress, waiting
from pipelines.platform.settings import home
from pipelines.platform.tracking import UNRECORDED, Run, closing, start_run
from pipelines.sweep.results import EARLIER, gather, next_commands, printable
from pipelines.sweep.search import Overrides, combine, optuna_search, space, trial_name
from pipelines.sweep.trial import (
    FAILED_FILE,
    RESULT_FILE,
    STOPPED_FILE,
    Outcome,
    outcome_of,
    trial,
    trial_settings,
    write_stopped,
)
from pipelines.training.images import (
    images_digest,
    require_masks,
    require_selection,
    split_samples,
    weights_by_content,
)
from pipelines.training.loop import SELECTION
from pipelines.training.places import with_absolute_paths
from pipelines.training.provenance import flat, provenance

SWEEP_FILE = "sweep.json"
SHOWN = 20
"""Combinations that the terminal shows; the report has all."""
OWN_NAMES = ("trials", "results", "features", "ray")
"""Folders that a sweep writes beside its file."""


def run(args: argparse.Namespace) -> int:
    """Sweep and print the results, best first.

    Args:
        args: parsed options.

    Returns:
        Exit code; 1 if a trial has failed although there are results, else `UNRECORDED` if MLflow has not all.
    """
    settings = read_config(TuneSettings, args.config, args.set)
    results = tune(settings, fresh=args.fresh, resume=args.resume)
    if args.json:
        print(json.dumps(results))
    else:
        shown = results["combinations"][:SHOWN]
        print(table(printable(shown)))
        if len(results["combinations"]) > len(shown):
            print(f"... and {len(results['combinations']) - len(shown)} more in the report")
        print("", *results["statements"], f"Report: {results['report']}", sep="\n")
        for which in ("best", "cheapest"):
            if row := results[which]:
                print(f"Measure the {which} on a dataset that it has not seen (its SHARDS), then register it:")
                print(*(f"  {command}" for command in next_commands(row, settings.tracking)), sep="\n")
        print("R is no part of a model: `score` takes it as --num-samples, requests as num_samples. Without, it is 10.")
    for failure in results["failed"]:
        print(f"Failed: {trial_name(failure['overrides'])}: {failure['error']}", file=sys.stderr)
    if results["failed"]:
        return 1
    return UNRECORDED if results.get("tracking_problem") else 0


def tune(settings: TuneSettings, fresh: bool = False, resume: bool = False) -> dict[str, Any]:
    """Run the trials that have no outcome yet, then gather all; a sweep that was stopped goes on when it is run again.

    Args:
        settings: the sweep.
        fresh: delete an earlier sweep in the same folder and start over.
        resume: finish a sweep that must exist.

    Returns:
        All rows, the best one, the failed trials and the report, as they are in results.json.

    Raises:
        ConfigError: a setting does not exist, there are no validation images, or the folder holds another sweep.
        OutputError: `fresh` and the folder holds something that is no sweep.
        TrainingError: no trial has a result.
    """
    if settings.data.init is not None:
        raise ConfigError("A sweep trains new heads, of several sizes: leave data.init out.")
    settings = with_absolute_paths(settings)
    settings = settings.model_copy(update={"cluster": with_gpus(settings.cluster, 1)})
    sweep, store = settings.sweep, Store(settings.output)
    wanted = [] if sweep.bayesian_trials else combine(sweep)
    for overrides in wanted or combine(sweep.model_copy(update={"bayesian_trials": None, "random_trials": 5})):
        trial_settings(settings, overrides)  # every value is valid before anything starts
    training, validation = split_samples(settings)
    require_masks(training)
    require_selection(validation, settings.backbone.image_size, "A sweep")
    check_store(settings.tracking)
    if fresh:
        clear(store)
    begun = _claim(settings, store, resume, training, validation)
    missing = [overrides for overrides in wanted if not outcome_of(store, overrides).is_done(sweep)]
    searched = max(len(ended(store)), begun.get("searched", 0))  # a search may have proposed a combination twice
    remaining = len(missing) if wanted else max(0, (sweep.bayesian_trials or 0) - searched)
    _announce(settings, len(wanted) or (sweep.bayesian_trials or 0), remaining, validation)
    with waiting("Opening the run in MLflow"):
        tracked = _parent_run(settings, begun, training, validation)
    begun["run_id"] = tracked.run_id
    store.write_json(SWEEP_FILE, begun)
    broken: list[Outcome] = []
    with closing(tracked):
        if remaining:
            settings = _with_features(settings)
            start_ray(sweep.cpus_per_trial, settings.cluster.gpus)
            broken = _run_trials(settings, store, missing, remaining, training, validation, tracked.run_id)
            store.write_json(SWEEP_FILE, {**begun, "searched": searched + remaining - len(broken)})
        outcomes = [outcome for outcome in ended(store) if not wanted or _overrides(outcome) in wanted]
        with waiting("Drawing the results"):
            results, folder = gather(settings, store, [*outcomes, *broken], validation)
        tracked.log_folder(folder, "sweep")
    return results | ({"tracking_problem": tracked.problem} if tracked.problem else {})


def clear(store: Store) -> None:
    """Delete an earlier sweep: only what a sweep writes.

    Args:
        store: the sweep's folder.

    Raises:
        OutputError: the folder holds something and is no sweep.
    """
    if store.read_json(SWEEP_FILE) is None:
        _refuse_foreign(store)
    store.clear(*OWN_NAMES)
    store.remove(SWEEP_FILE)


def _refuse_foreign(store: Store) -> None:
    """A folder without a sweep may be empty, or hold features. Raises OutputError with what else it holds."""
    foreign = sorted(name for name in store.names() if name != "features" and not name.startswith(EARLIER))
    if foreign:
        raise OutputError(
            f"{store.root} holds {foreign[0]}{f' and {len(foreign) - 1} more' if foreign[1:] else ''}, which is no "
            "sweep: nothing was deleted or written. Choose another output."
        )


def _overrides(outcome: Outcome) -> Overrides | None:
    """The combination of an outcome; None for one that early stopping ended."""
    record = outcome.result or outcome.failure
    return None if record is None else record["overrides"]


def _claim(
    settings: TuneSettings, store: Store, resume: bool, training: list[SampleRef], validation: list[SampleRef]
) -> dict[str, Any]:
    """What the folder's sweep file says, once it is sure that its trials are of these settings and images."""
    varied: Any = {
        "sweep": True,
        "output": True,
        "tracking": True,
        "cluster": {"cpus_per_worker", "gpus_per_worker", "cpus_per_loader", "max_failures", "storage"},
        "data": {"train", "features"},
    }
    text = weights_by_content(settings).model_dump_json(exclude=varied) + str(settings.sweep.early_stopping)
    text += images_digest(training, validation, settings.data.features)
    if (settings.sweep.features_dtype, settings.sweep.options) != ("float32", DetectorOptions()):
        text += settings.sweep.features_dtype + settings.sweep.options.model_dump_json()
    digest = hashlib.sha256(text.encode()).hexdigest()
    begun: dict[str, Any] | None = store.read_json(SWEEP_FILE)
    if begun is None and resume:
        raise ConfigError(f"There is no sweep to resume in {store.root}; leave --resume out to begin one.")
    if begun is None:
        _refuse_foreign(store)
    if begun is not None and begun["settings"] != digest:
        raise ConfigError(
            f"{store.root} holds a sweep of other data or other fixed settings: choose another output, or --fresh to "
            "delete it."
        )
    store.make()
    return begun or {"settings": digest}


def _parent_run(
    settings: TuneSettings, begun: dict[str, Any], training: list[SampleRef], validation: list[SampleRef]
) -> Run:
    """The MLflow run of the sweep: the one begun before, or a new one with settings, versions and digests."""
    if begun.get("run_id"):
        return Run(settings.tracking, begun["run_id"])
    tracked = start_run(settings.tracking, "sweep", {"stage": "tune"})
    tracked.log_params(flat(settings.model_dump(mode="json")) | provenance(settings.data.train, training, validation))
    return tracked


def _announce(settings: TuneSettings, trainings: int, remaining: int, validation: list[SampleRef]) -> None:
    combinations = trainings * len(settings.sweep.num_samples)
    print(
        f"{trainings} trainings give {combinations} combinations; {trainings - remaining} are done already.",
        file=sys.stderr,
    )
    few = too_few([ref.label for ref in validation])
    if few is not None:
        lacking = f"Of the {len(validation)} validation images, {few} of each kind."
        print(f"{lacking} Combinations will not be told apart: raise data.validation_share.", file=sys.stderr)


def ended(store: Store) -> list[Outcome]:
    """Outcomes of all trials that have one: results, those stopped early, those that failed.

    Args:
        store: the sweep's folder.

    Returns:
        One outcome for each of them.
    """
    outcomes = []
    for name in Store(f"{store.root}/trials").names():
        result, stopped, failure = (
            store.read_json(f"trials/{name}/{file}") for file in (RESULT_FILE, STOPPED_FILE, FAILED_FILE)
        )
        if result is not None or stopped is not None or failure is not None:
            outcomes.append(Outcome(result, stopped is not None, failure))
    return outcomes


def _run_trials(
    settings: TuneSettings,
    store: Store,
    missing: list[Overrides],
    count: int,
    training: list[SampleRef],
    validation: list[SampleRef],
    parent: str,
) -> list[Outcome]:
    """Ray Tune over the missing combinations, or `count` proposed ones; returns those that broke off."""
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    sweep, epochs = settings.sweep, _count_epochs(settings)
    shared = {
        "settings": settings.model_dump(mode="json"),
        "training": [tuple(ref) for ref in training],
        "validation": [tuple(ref) for ref in validation],
        "parent": parent,
        "provenance": provenance(settings.data.train, training, validation),
    }
    measured = [(outcome.result["overrides"], outcome.selection) for outcome in ended(store) if outcome.result]
    asha = ASHAScheduler(time_attr="epoch", metric=SELECTION, mode="max", max_t=settings.training.epochs)
    resources = {"CPU": sweep.cpus_per_trial, "GPU": settings.cluster.gpus}
    storage = home() / "ray" if is_remote(store.root) else Path(store.root) / "ray"
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(ray_tune.with_parameters(trial, shared=shared), resources),
        param_space={"overrides": ray_tune.grid_search(missing)} if missing else space(sweep),
        tune_config=ray_tune.TuneConfig(
            search_alg=None
            if missing
            else optuna_search(sweep, SELECTION, [(o, v) for o, v in measured if math.isfinite(v)]),
            num_samples=1 if missing else count,
            scheduler=asha if sweep.early_stopping else FIFOScheduler(),
            reuse_actors=True,  # a trial's process has torch and CLIP's library loaded already
        ),
        run_config=ray_tune.RunConfig(
            name=f"tune-{time.time_ns()}",
            storage_path=str(storage),
            verbose=0,
            callbacks=[_note_stopped(settings, store), epochs],
            failure_config=ray_tune.FailureConfig(max_failures=settings.cluster.max_failures),
        ),
    )
    with progress(count * settings.training.epochs, "epoch") as epochs.advance:
        results = tuner.fit()
    broken = [results[index] for index in range(len(results)) if results[index].error is not None]
    return [
        Outcome(None, False, {"overrides": (result.config or {})["overrides"], "error": _reason(result.error)})
        for result in broken
    ]


def _reason(error: Exception | None) -> str:
    """What a trial broke off with, without Ray's frames."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[-1]} (the next run tries it again)"


def _note_stopped(settings: TuneSettings, store: Store) -> Any:
    """A callback of Tune: a trial that completes without an outcome was stopped early, and its MLflow run is closed.

    Ray may end the trial's process before it has closed its run itself.
    """
    from ray import tune as ray_tune

    class NoteStopped(ray_tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            outcome = outcome_of(store, trial.config["overrides"])
            if outcome.result is None and outcome.failure is None:
                write_stopped(store, trial.config["overrides"])
                Run(settings.tracking, trial.last_result.get("run_id", "")).finish("KILLED")

    return NoteStopped()


def _count_epochs(settings: TuneSettings) -> Any:
    """A callback of Tune that calls its `advance` with epochs; those that a trial has not needed count at its end."""
    from ray import tune as ray_tune

    class CountEpochs(ray_tune.Callback):
        advance: Callable[[int], None]

        def __init__(self) -> None:
            self.done: dict[str, int] = {}

        def _at(self, trial: Any, epochs: int) -> None:
            self.advance(epochs - self.done.get(trial.trial_id, 0))
            self.done[trial.trial_id] = epochs

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
            self._at(trial, int(result.get("epoch", 0)) + 1)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._at(trial, settings.training.epochs)

    return CountEpochs()


def _with_features(settings: TuneSettings) -> TuneSettings:
    """Frozen features that all trials share, computed unless the settings name some."""
    if settings.data.features is not None:
        return settings
    features = f"{settings.output}/features"
    compute_features(
        FeatureSettings(
            model=settings.model,
            backbone=settings.backbone,
            shards=settings.data.train,
            split=settings.data.split,
            output=features,
            dtype=settings.sweep.features_dtype,
            options=settings.sweep.options,
            views=4 if settings.training.augment else 0,
            mosaic_probability=settings.training.mosaic_probability,
            workers=settings.cluster.num_workers,
            use_gpu=None if settings.cluster.use_gpu else False,  # on as many as there are
        )
    )
    return settings.model_copy(update={"data": settings.data.model_copy(update={"features": features})})
