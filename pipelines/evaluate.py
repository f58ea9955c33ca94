"""`bayes-pfl evaluate`: shards of datasets a model has not seen -> metrics by category and dataset, table, report."""

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bayes_pfl.command_line import model_source
from bayes_pfl.config import parse_config, read_config
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import SampleRef, index_shards
from bayes_pfl.datasets.checks import counted
from bayes_pfl.datasets.own import FOLDER
from bayes_pfl.errors import ClassNameError, DamagedError, DataError, OutputError
from bayes_pfl.inference.bundle import Bundle, load_bundle, training_images
from bayes_pfl.inference.view import WHOLE, View
from bayes_pfl.methods.builder import class_names
from bayes_pfl.training.trainer import check_class_names
from pipelines.embedded_study import run as run_study
from pipelines.ingest import ingest
from pipelines.ingestion.summary import summary_text
from pipelines.options.evaluate import EvaluateSettings
from pipelines.options.ingest import IngestConfig
from pipelines.options.model import typed_options
from pipelines.platform.cluster import start_ray
from pipelines.platform.html import table
from pipelines.platform.mlflow_store import check_store
from pipelines.platform.progress import progress
from pipelines.platform.settings import home
from pipelines.platform.storage import absolute, check_writable, dataset_manifest
from pipelines.platform.tracking import UNRECORDED, Run, run_of_model, start_run
from pipelines.scoring.command import require_weights
from pipelines.scoring.decided import decide_all, decision_tables, decisions_made, labelling_of
from pipelines.scoring.evaluation import FinishedChunks, ScoredSamples, score_samples
from pipelines.scoring.evaluation_files import FinishedEvaluation, write_beside, write_evaluation
from pipelines.scoring.evaluation_tables import printed
from pipelines.scoring.figures import EvaluatedDataset, Resampling, images_digest, measured, pixels_at
from pipelines.scoring.folders import cannot_copy, check_folder, check_folders, say_class_names, temporary_folder
from pipelines.scoring.hub_results import hub_files, model_folder
from pipelines.scoring.inputs import make_view
from pipelines.scoring.model_card import model_card
from pipelines.scoring.options import Actors, choose_actors
from pipelines.scoring.protocol import check_protocol, released_scores
from pipelines.scoring.report_images import extreme_images
from pipelines.scoring.run_record import latency, run_record, settings_text
from pipelines.scoring.task import ScoringTask
from pipelines.scoring.thresholds import check_auto, label_threshold
from pipelines.training.provenance import git_revision

PIPE_COLUMNS = 240
"""Width of the tables where the output is no terminal."""

LISTED = 5
"""Images that a line names; metrics.json has all."""


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    if args.embedded:
        return run_study(args)
    settings = read_config(EvaluateSettings, args.config, args.set)
    names = (
        "model",
        "weights",
        "class_name",
        "shards",
        "num_samples",
        "output",
        "max_pixels",
        "overlap",
        "roi",
        "use_gpu",
    )
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    changes |= {name: True for name in ("allow_overlap", "tile", "full_resolution") if getattr(args, name)}
    changes |= {"images": list(map(absolute, args.images))} if args.images else {}
    changes |= {} if args.at is None else {"full_resolution": args.at == "mask"}
    changes["options"] = {**settings.options.model_dump(), **typed_options(args)}
    settings = parse_config(EvaluateSettings, {**settings.model_dump(), **changes}, "the command line")
    settings = settings.model_copy(update={"model": model_source(settings.model)})  # of a file too
    result = evaluate(settings)
    code = UNRECORDED if "tracking_problem" in result else 0
    if args.json:
        print(json.dumps(result, indent=1))
        return code
    print(f"\n{printed(result, shutil.get_terminal_size((PIPE_COLUMNS, 24)).columns)}")
    for each in decision_tables(result):
        print(f"\n{each.title}, in percent\n{table(each.rows)}", *each.notes, sep="\n")
    if vanished := result["vanished"]:
        more = f" and {len(vanished) - LISTED:,} more" if len(vanished) > LISTED else ""
        print(
            f"\n{len(vanished):,} {'image has' if len(vanished) == 1 else 'images have'} a defect that vanishes at the "
            f"model's size, and whose pixels count in no figure: {', '.join(vanished[:LISTED])}{more}. "
            "--at mask or --tile measures it.",
        )
    for problem in result["not_scored"]:
        print(f"not scored: {problem['sample_id']}: {problem['error']}", file=sys.stderr)
    print(f"\nReport: {result['report']}" + (f" (also in MLflow run {result['run_id']})" if result["run_id"] else ""))
    return code


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Score every image, measure per category, average per dataset as the paper does.

    Chunks that are scored are kept below BAYES_PFL_HOME until the end: killed and run again, an evaluation goes on. An
    earlier, other result in the same folder is moved aside.

    Args:
        settings: what is evaluated on what.

    Returns:
        The content of metrics.json, which is written last.

    Raises:
        DataError: no shards, none of the images can be scored, or images were trained on and `allow_overlap` is off.
        OutputError: the output cannot be written, or is a URI with the result of another evaluation.
    """
    if not settings.images and not settings.shards:
        raise DataError(
            "Nothing to evaluate: give a folder of images with the folders good and bad in it, or --shards with a "
            "folder of `bayes-pfl ingest`."
        )
    check_folders(settings)
    view = make_view(settings.tile, settings.overlap, settings.roi)
    check_protocol(settings.protocol, view)
    actors = choose_actors(settings.options, settings.use_gpu, settings.workers)
    check_store(settings.tracking)
    bundle = load_bundle(settings.model, settings.weights)
    require_weights(bundle)
    task = _task(settings, bundle, view, actors.device)
    check_auto(task, label_threshold(None, task))
    for folder in (_output(settings), str(home() / "evaluations")):
        check_writable(folder)
    if not settings.images:
        return _evaluate(settings, task, bundle, actors, settings.shards)
    with temporary_folder() as temporary:
        shards = (*settings.shards, *shards_of_folders(settings, temporary))
        return _evaluate(settings, task, bundle, actors, shards)


def _output(settings: EvaluateSettings) -> str:
    return absolute(settings.output or str(home() / "evaluation"))


def shards_of_folders(settings: EvaluateSettings, temporary: Path) -> list[str]:
    """Ingest the folders of images; their counts go to stderr.

    Args:
        settings: what is evaluated.
        temporary: where the shards are written.

    Returns:
        A folder of shards for each.

    Raises:
        DataError: a folder cannot be ingested, or holds no image of the split or the categories.
        ConfigError: nothing says what its images show.
        OutputError: there is no room for the shards.
    """
    shards = []
    names = {"": settings.class_name} if settings.class_name is not None else {}
    for number, source in enumerate(settings.images):
        config = IngestConfig(class_names=names, max_pixels=settings.max_pixels)
        try:
            summary = ingest(FOLDER.name, source, temporary / str(number), config)
        except DataError as error:
            raise DataError(f"{error} Options are those of `bayes-pfl ingest folder`, for --shards.") from error
        except OutputError as error:
            raise cannot_copy(source, str(error).partition(". ")[0]) from error
        print(summary_text({**summary, "output": "evaluated, not kept"}), file=sys.stderr)
        shards.append(summary["output"])
        check_folder(source, summary["counts"], settings)
        if not names:
            say_class_names(source, {ref.class_name for ref in index_shards(summary["output"])})
    return shards


def _evaluate(
    settings: EvaluateSettings, task: ScoringTask, bundle: Bundle, actors: Actors, shards: Sequence[str]
) -> dict[str, Any]:
    """Everything from the index of the shards on; `bundle` is the model as it is, without what the protocol changes."""
    datasets = _datasets(settings, shards)
    refs = [ref for dataset in datasets for ref in dataset.refs]
    overlap = overlapping(bundle, refs)
    if overlap and not settings.allow_overlap:
        raise _trained_on(overlap)
    _check_class_names(bundle, refs)
    _check_labels(datasets)
    store = Store(_output(settings))
    store.make()
    scored = _score(task, actors, datasets, refs)
    labelling = labelling_of(task)
    decisions = decide_all(labelling, datasets, scored)
    result = _result(settings, task, datasets, scored) | {
        "trained_on_images_evaluated": len(overlap),
        "decisions": decisions_made(labelling, datasets, decisions),
        "report": f"{store.root}/report.html",
    }
    tracked, own = _tracked(settings, bundle, whole=not overlap and _whole(settings, task))
    result["run_id"] = tracked.run_id
    original = task._replace(bundle=bundle)
    card, times = model_card(settings.model, original, labelling), latency(scored, actors.number)
    record = run_record(card, datasets, times, git_revision(), tracked)
    print("Writing the report ...", file=sys.stderr)
    images = extreme_images(settings.cases, original, datasets, scored)
    hub, text = hub_files(result, record["date"], settings.hub_datasets), settings_text(settings)
    write_evaluation(FinishedEvaluation(result, record, text, datasets, scored, images, decisions, hub), store, tracked)
    if not overlap and settings.categories is None:
        write_beside(model_folder(settings.model, bundle), hub)
    FinishedChunks(home() / "evaluations", task, refs).remove()
    if own:
        tracked.finish()
    return result | ({"tracking_problem": tracked.problem} if tracked.problem else {})


def _result(
    settings: EvaluateSettings, task: ScoringTask, datasets: list[EvaluatedDataset], scored: ScoredSamples
) -> dict[str, Any]:
    """What was asked and measured, as metrics.json begins."""
    refs = [ref for dataset in datasets for ref in dataset.refs]
    resampling = Resampling(settings.seed, settings.resamples)
    return {
        **_question(settings, task),
        **_images(task, refs),
        "interval": resampling.as_dict(),
        "datasets": {dataset.name: measured(dataset, scored, resampling) for dataset in datasets},
        "vanished": [refs[position].sample_id for position in sorted(scored.vanished)],
        "not_scored": [{"sample_id": refs[at].sample_id, "error": why} for at, why in sorted(scored.problems.items())],
    }


def _question(settings: EvaluateSettings, task: ScoringTask) -> dict[str, Any]:
    """What was evaluated how, as metrics.json begins."""
    bundle = task.bundle
    return {
        "model": {"source": settings.model, "version": bundle.version, "backbone": bundle.config.backbone.name},
        "num_samples": settings.num_samples,
        "seed": settings.seed,
        "options": settings.options.model_dump(),
        "protocol": settings.protocol,
        "top_pixels": settings.top_pixels if settings.protocol == "released" else None,
        "tile_overlap": task.view.overlap,
        "looked_at": task.looked_at,
        "full_resolution": settings.full_resolution,
    }


def finished_result(settings: EvaluateSettings) -> dict[str, Any] | None:
    """The result of an equal evaluation in the output, if there is one.

    Args:
        settings: what would be evaluated on what.

    Returns:
        Its metrics.json; None where evaluating is due.
    """
    store = Store(_output(settings))
    with contextlib.suppress(DamagedError):
        earlier = store.read_json("metrics.json")
        if isinstance(earlier, dict):
            view = make_view(settings.tile, settings.overlap, settings.roi)
            task = _task(settings, load_bundle(settings.model, settings.weights), view, "cpu")
            refs = [ref for dataset in _datasets(settings, settings.shards) for ref in dataset.refs]
            wanted = json.loads(json.dumps(_question(settings, task) | _images(task, refs)))
            return earlier if all(earlier.get(name) == value for name, value in wanted.items()) else None
    return None


def _images(task: ScoringTask, refs: Sequence[SampleRef]) -> dict[str, Any]:
    """Which images, and the size at which their pixels are measured."""
    return {"pixels_at": pixels_at(task), "images_digest": images_digest(refs)}


def _check_class_names(bundle: Bundle, refs: Sequence[SampleRef]) -> None:
    """Refuse a category in which no class name fits; in others the images whose name does not fit are listed."""
    names = class_names(bundle.config)
    fitting = set()
    for name in {ref.class_name for ref in refs}:
        with contextlib.suppress(ClassNameError):
            names.tokens(name)
            fitting.add(name)
    usable = {ref.category for ref in refs if ref.class_name in fitting}
    check_class_names(names, [ref for ref in refs if ref.category not in usable])


def _check_labels(datasets: Sequence[EvaluatedDataset]) -> None:
    """Refuse a dataset of which no figure can be given. Raises DataError."""
    for dataset in datasets:
        labels = {ref.label for ref in dataset.refs}
        if len(labels) == 1 and not any(ref.mask_sha256 is not None for ref in dataset.refs if ref.label == 1):
            kind, other = ("anomalous", "good") if labels == {1} else ("good", "anomalous")
            raise DataError(
                f"{counted(len(dataset.refs), 'image')} of {dataset.name}, all {kind}, and no mask: there is nothing "
                f"to measure. Give {other} images too."
            )


def _trained_on(overlap: list[str]) -> DataError:
    return DataError(
        f"{len(overlap)} of these images were trained on, {overlap[0]} among them: figures on them say nothing "
        "about unseen data. Choose other shards, or --allow-overlap to get a marked result."
    )


def overlapping(bundle: Bundle, refs: Sequence[SampleRef]) -> list[str]:
    """Samples whose very bytes a model was trained on.

    Args:
        bundle: the model.
        refs: samples to look for.

    Returns:
        Ids of those that were trained on.

    Raises:
        BundleError: the bundle's list is damaged.
    """
    trained_on = training_images(bundle)
    return [ref.sample_id for ref in refs if ref.sha256 in trained_on]


def _datasets(settings: EvaluateSettings, shards: Sequence[str]) -> list[EvaluatedDataset]:
    """The datasets with their samples, one behind the other."""
    datasets: list[EvaluatedDataset] = []
    start = 0
    for folder in map(absolute, shards):
        refs = index_shards(folder, settings.split, settings.categories)
        datasets.append(EvaluatedDataset(dataset_manifest(folder), refs, slice(start, start + len(refs))))
        start += len(refs)
    if len({dataset.name for dataset in datasets}) < len(shards):
        raise DataError(
            "Two of these folders hold the same dataset: evaluate them one by one, or name one by --name at ingestion."
        )
    return datasets


def _task(settings: EvaluateSettings, bundle: Bundle, view: View, device: str) -> ScoringTask:
    question = (settings.num_samples, settings.seed, settings.threads, device, settings.max_pixels, view)
    task = ScoringTask(bundle, *question, full_resolution=settings.full_resolution, options=settings.options)
    if settings.protocol == "image":
        return task
    scoring = bundle.config.scoring
    unsmoothed = scoring.model_copy(update={"smoothing_sigma_px": 0.0})
    config = bundle.config.model_copy(update={"scoring": unsmoothed})
    raw = Bundle(bundle.folder, config, bundle.weights, bundle.record, bundle.clip_file)
    return task._replace(bundle=raw, released=scoring, top_pixels=settings.top_pixels)


def _score(task: ScoringTask, actors: Actors, datasets: list[EvaluatedDataset], refs: list[SampleRef]) -> ScoredSamples:
    """All samples of all datasets through one pool of actors."""
    finished = FinishedChunks(home() / "evaluations", task, refs)
    start_ray(actors.number, actors.gpus)
    done = sum(map(len, finished.positions().values()))
    before = f"; {done:,} of them were done before" if done else ""
    print(
        f"Scoring {counted(len(refs), 'image')} with R = {task.num_samples} on "
        f"{counted(actors.number, 'worker')}{before}: {task.looked_at}.",
        file=sys.stderr,
    )
    groups = [f"{dataset.name}/{ref.category}" for dataset in datasets for ref in dataset.refs]
    with progress(len(refs), "image") as advance:
        scored = score_samples(task, refs, groups, finished, actors.number, advance)
    if np.isnan(scored.scores).all():
        raise DataError(f"None of the images could be scored. The first: {scored.problems[0]}")
    if task.released is None:
        return scored
    parts = scored.scores, scored.text_scores, scored.map_parts
    return scored._replace(scores=released_scores(task.bundle.config.model.method, *parts, groups))


def _whole(settings: EvaluateSettings, task: ScoringTask) -> bool:
    """Whether this is the evaluation by which models are compared."""
    parts = settings.categories is not None or task.view != WHOLE or settings.full_resolution
    return not parts and task.released is None


def _tracked(settings: EvaluateSettings, bundle: Bundle, whole: bool) -> tuple[Run, bool]:
    """The run that trained the model, or a new one of its own, and whether it is new.

    `bayes-pfl register` compares what the training run has: figures of some categories, or on images that were trained
    on, are not `whole` and stay out of it.
    """
    trained = run_of_model(settings.tracking, settings.model, bundle.record) if whole else None
    if trained is not None:
        return trained, False
    return start_run(settings.tracking, "evaluate", {"stage": "evaluate", "model": bundle.version}), True
