"""`bayes-pfl reproduce table1|...|all`: datasets or painted images -> models, measurements, tables with verdicts."""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bayes_pfl.config import parse_config, read_config
from bayes_pfl.data.walk import printable
from bayes_pfl.datasets.catalogue import DATASETS
from bayes_pfl.datasets.checks import counted
from bayes_pfl.datasets.output import claim
from bayes_pfl.errors import ConfigError, DataError
from bayes_pfl.inference.bundle import load_bundle, training_images
from pipelines.features import compute_features
from pipelines.ingestion.paths import local_path
from pipelines.platform.cluster import gpus_in_reach, start_ray
from pipelines.platform.mlflow_store import check_store
from pipelines.platform.settings import home
from pipelines.platform.tracking import closing, start_run
from pipelines.reproduction import images, recipes, writing
from pipelines.reproduction.cells import PAPER, cells, checked, expected_figures
from pipelines.reproduction.images import AUXILIARY, HELD_OUT, MeasuredImages
from pipelines.reproduction.plan import TARGETS, Measurement, Plan, Scope, measurements, planned
from pipelines.reproduction.settings import ReproduceSettings
from pipelines.reproduction.work import Rates, do_all, minutes
from pipelines.reproduction.workplace import Workplace
from pipelines.scoring.options import Actors, choose_actors
from pipelines.training.places import absolute_files

FIGURE_5 = ("mvtec", "btad", "ksdd2", "rsdd", "dagm", "dtd")
"""Six industrial datasets: the seven without the auxiliary one. The paper does not name its six."""

CORES = 2
"""Jobs at a time without a GPU."""

INCOMPLETE = 1
"""Exit code where something could not be measured."""


def run(args: argparse.Namespace) -> int:
    """Reproduce tables and figures, and print them, or JSON.

    Args:
        args: parsed options.

    Returns:
        Exit code: 0, or 1 where a job failed.
    """
    settings = read_config(ReproduceSettings, args.config, args.set)
    names = ("data", "model", "output", "seeds", "protocol", "use_gpu")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    given |= {"embedded": True} if args.embedded else {}
    settings = parse_config(ReproduceSettings, {**settings.model_dump(), **given}, "the command line")
    targets = TARGETS if args.study == "all" else (args.study,)
    result = reproduce(targets, settings)
    print(json.dumps(result, indent=1) if args.json else writing.printed(result))
    return INCOMPLETE if result["failures"] else 0


def reproduce(targets: Sequence[str], settings: ReproduceSettings) -> dict[str, Any]:
    """Measure what some tables and figures need, what is there already excepted, and write them.

    Args:
        targets: among `TARGETS`.
        settings: on what, how often, where.

    Returns:
        Each target's figures and claims, the datasets, and why jobs failed.

    Raises:
        ConfigError: the settings do not fit each other.
        DataError: there is no dataset to measure on.
        OutputError: another process writes there.
    """
    settings = _checked(targets, settings)
    folder = local_path(settings.output or str(home() / "reproduce" / settings.clip), "--output")
    gpus = 0 if settings.use_gpu is False else int(gpus_in_reach())
    actors = choose_actors(settings.options, settings.use_gpu, settings.workers or gpus or CORES)
    places, problems = _places(targets, settings)
    check_store(settings.tracking)
    scope = _scope(settings, places)
    plans = [planned(name, scope) for name in targets]
    began = time.monotonic()
    with claim(folder):
        start_ray(actors.number if not actors.use_gpu else 1, actors.gpus)
        datasets = _images(settings, folder, places, plans)
        given = None if settings.model is None else load_bundle(settings.model)
        workplace = Workplace(settings, folder, actors, datasets, given)
        wanted = measurements(plans)
        reasons = _reasons(wanted, workplace, problems)
        possible = {each: numbers for each, numbers in wanted.items() if each not in reasons}
        failures = _work(workplace, plans, possible, scope)
        results = {each: rows for each in possible if (rows := workplace.rows(each))}
        reasons |= {each: _failure(each, failures) for each in possible if each not in results}
        result = {
            "targets": [_target(plan, workplace, results, reasons) for plan in plans],
            "conditions": settings.conditions,
            "embedded": settings.embedded,
            "protocol": settings.protocol,
            "tolerance": settings.tolerance,
            "datasets": images.as_plain(datasets.values()),
            "failures": sorted(failures.values()),
            "output": str(folder),
        }
        files = writing.write_all(folder / "tables", result)
        _record(settings, result, files)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes; tables in {folder / 'tables'}.", file=sys.stderr)
    return result


def _record(settings: ReproduceSettings, result: dict[str, Any], files: Sequence[Path]) -> None:
    """Keep the tables in MLflow, and how many figures are within."""
    clip = "embedded" if settings.embedded else "full size"
    tags = {"stage": "reproduce", "clip": clip, "protocol": settings.protocol}
    names = ", ".join(target["target"] for target in result["targets"])
    with closing(start_run(settings.tracking, f"reproduce {names}", tags)) as tracked:
        for target in result["targets"]:
            verdicts = Counter(figure["verdict"] for figure in target["figures"])
            tracked.log_metrics({f"{target['target']}.{name.replace(' ', '_')}": n for name, n in verdicts.items()})
        for file in files:
            tracked.log_file(file, "tables")


def _checked(targets: Sequence[str], settings: ReproduceSettings) -> ReproduceSettings:
    """The settings with a bundle and files of weights by absolute path. Raises ConfigError where they contradict."""
    if not settings.embedded and settings.data is None:
        raise ConfigError(
            "Say where the datasets are (--data DIR), or reproduce with the CLIP inside this package (--embedded)."
        )
    if settings.model is not None and tuple(targets) != ("table1",):
        raise ConfigError("--model stands for Bayes-PFL in table1 alone: the other tables train variants of it.")
    if settings.embedded and settings.backbone is not None:
        raise ConfigError("backbone is for datasets of the paper: leave it out, or --embedded.")
    changes: dict[str, Any] = {}
    if settings.model is not None:
        changes["model"] = str(load_bundle(settings.model).folder.resolve())
    if settings.backbone is not None:
        changes["backbone"] = absolute_files(settings.backbone)
    return settings.model_copy(update=changes)


def _places(targets: Sequence[str], settings: ReproduceSettings) -> tuple[dict[str, Path], dict[str, str]]:
    """Folders of the datasets that are needed, and why others cannot be used; says which are not there."""
    if settings.data is None:
        return {}, {}
    plans = [planned(name, _scope(settings, dict.fromkeys(DATASETS, Path()))) for name in targets]
    needed = {name for each in measurements(plans) for name in (each.dataset, each.model.auxiliary)} & DATASETS.keys()
    places, problems = images.sources(settings.data, needed)
    where = printable(settings.data)
    if not places and not settings.embedded:
        reasons = "".join(f"\n  {sentence}" for sentence in problems.values())
        raise DataError(f"None of the {len(needed)} datasets that are needed is in {where}.{reasons}")
    print(f"{counted(len(places), 'dataset')} in {where}: {', '.join(places) or 'none'}.", file=sys.stderr)
    missing = [problems.get(name) or images.where_to_get(name) for name in DATASETS if name in needed - places.keys()]
    if missing:
        lines = "\n  ".join(missing)
        print(f"Not in {where}, so not measured: {counted(len(missing), 'dataset')}.\n  {lines}", file=sys.stderr)
    return places, problems


def _scope(settings: ReproduceSettings, places: dict[str, Path]) -> Scope:
    """Rows and trainings: of the paper, or of the painted images with whatever datasets there are."""
    epochs = recipes.recipe(recipes.BAYES_PFL, 0, settings.scale, "visa").training.epochs
    amounts = (settings.trainings, settings.draws, settings.num_samples, epochs, settings.model is not None)
    levels = {name: dataset.metrics for name, dataset in DATASETS.items()}
    if settings.embedded:
        measured = {HELD_OUT: ("image", "pixel")} | {name: levels[name] for name in places}
        return Scope(measured, HELD_OUT, (HELD_OUT,), dict.fromkeys(measured, AUXILIARY), *amounts)
    auxiliary = dict.fromkeys(levels, "visa") | {"visa": "mvtec"}
    return Scope(levels, "mvtec", FIGURE_5, auxiliary, *amounts)


def _images(
    settings: ReproduceSettings, folder: Path, places: dict[str, Path], plans: Sequence[Plan]
) -> dict[str, MeasuredImages]:
    """Shards of all datasets that the plans need and that are there."""
    needed = dict.fromkeys(each.dataset for each in measurements(plans))
    needed |= dict.fromkeys(each.model.auxiliary for each in measurements(plans))
    datasets = {}
    if settings.embedded:
        print("Painting and ingesting images, about a minute; what is there is kept.", file=sys.stderr)
        datasets[AUXILIARY] = images.painted(AUXILIARY, settings.auxiliary_normal, settings.auxiliary_defective, folder)
        datasets[HELD_OUT] = images.painted(HELD_OUT, settings.normal, settings.defective, folder)
    for name in needed:
        if name in places:
            datasets[name] = images.ingested(name, places[name], folder)
    return datasets


def _reasons(wanted: Iterable[Measurement], workplace: Workplace, problems: dict[str, str]) -> dict[Measurement, str]:
    """Why some measurements cannot be made."""
    reasons, given, data = {}, workplace.given, workplace.settings.data
    for each in wanted:
        model = each.model
        needed = {each.dataset: "", **({model.auxiliary: ", to train on,"} if workplace.learns(model) else {})}
        missing = [name for name in needed if name not in workplace.images]
        if missing:
            name = missing[0]
            reasons[each] = problems.get(name) or f"{images.where_to_get(name)}{needed[name]} is not in {data}"
        elif given is not None and model.title == recipes.BAYES_PFL:
            seen = training_images(given) & {ref.sha256 for ref in workplace.images[each.dataset].refs}
            if seen:
                reasons[each] = (
                    f"{workplace.settings.model} was trained on {counted(len(seen), 'image')} of this dataset"
                )
    return reasons


def _work(
    workplace: Workplace, plans: Sequence[Plan], possible: dict[Measurement, tuple[int, ...]], scope: Scope
) -> dict[Any, str]:
    """Train, measure, and take times, one stage after the other; returns why jobs failed."""
    actors = workplace.actors
    rates = Rates(workplace.store, lambda: workplace.probe(scope.main))
    models = dict.fromkeys(each.model for each in possible)
    times = [each for plan in plans for each in plan.times if each.model in models]
    trainings, measuring = workplace.training_jobs(models), workplace.measuring_jobs(possible)
    timing = workplace.timing_jobs(times, scope.main)
    print(
        f"{counted(len(trainings), 'training')}, {counted(len(measuring), 'measurement')} and "
        f"{counted(len(timing), 'timing')} are left to do on "
        f"{counted(actors.number, 'GPU' if actors.use_gpu else 'core')}: "
        f"{minutes([*trainings, *measuring, *timing], rates, actors)}.",
        file=sys.stderr,
    )
    for encoding in workplace.encodings(models):
        compute_features(encoding)
    failures = do_all(trainings, actors, rates)
    made = {each: numbers for each, numbers in possible.items() if workplace.is_made(each.model)}
    failures |= do_all(workplace.measuring_jobs(made), actors, rates)
    timing = workplace.timing_jobs([each for each in times if workplace.is_made(each.model)], scope.main)
    return failures | do_all(timing, Actors(1, actors.use_gpu), rates)  # one at a time: each measures itself


def _failure(measurement: Measurement, failures: dict[Any, str]) -> str:
    """Why a measurement is missing: its training failed, or it did itself."""
    training = measurement.model._replace(epoch=None, text_ensemble=False)
    return failures.get(training) or failures.get(measurement, "not measured")


def _target(plan: Plan, workplace: Workplace, results: Any, reasons: Any) -> dict[str, Any]:
    """A table or figure as JSON holds it."""
    settings, paper = workplace.settings, expected_figures(PAPER)
    differing = {each: _other_than_paper(each, workplace) for each in measurements([plan])}
    made = cells(plan, results, reasons, settings.embedded, settings.as_recorded, differing, settings.tolerance)
    times = []
    for each in plan.times:
        measurable = each.model.auxiliary in workplace.images or not workplace.learns(each.model)
        row = workplace.times(each.model).get(str(each.num_samples)) if measurable else None
        published = paper.get((plan.name, each.row, "", "time_ms"))
        if row:
            beside = None if published is None else published.value
            times.append({"row": each.row, "column": each.column, **row, "paper": beside})
    return {
        "target": plan.name,
        "title": plan.title,
        "figures": [cell._asdict() for cell in made],
        "claims": [checked(each, made, settings.tolerance)._asdict() for each in plan.claims],
        "times": times,
    }


def _other_than_paper(measurement: Measurement, workplace: Workplace) -> str:
    """In what a measurement is not one of the paper's: its settings, its images, or those that were trained on."""
    model, datasets = measurement.model, workplace.images
    names = [measurement.dataset, *([model.auxiliary] if workplace.learns(model) else [])]
    remarks = [datasets[name].incomplete for name in names if name in datasets]
    return "; ".join(filter(None, [workplace.settings.not_as_paper, *remarks]))
