"""A model and shards -> what its prompt spread, scores and thresholds are worth, as tables and a picture."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from bayes_pfl.config import DetectorOptions, Settings, parse_config, read_config
from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import SampleRef, index_shards, refs_digest
from bayes_pfl.datasets.checks import counted
from bayes_pfl.errors import DataError, OutputError
from bayes_pfl.inference.bundle import load_bundle, training_images
from bayes_pfl.synthetic.splits import SPLITS
from pipelines.platform.storage import absolute, dataset_manifest
from pipelines.scoring.options import choose_actors
from pipelines.scoring.task import ScoringTask
from pipelines.study.painting import painted_shards
from pipelines.study.uncertainty.abstention import abstention
from pipelines.study.uncertainty.groups import ScoredGroup, pools
from pipelines.study.uncertainty.probabilities import probabilities
from pipelines.study.uncertainty.promises import elsewhere, promises
from pipelines.study.uncertainty.report import printed, write_study
from pipelines.study.uncertainty.scores import grouped, relit_shards, scored_columns, without_copies

RESULT = "uncertainty.json"
SECONDS_AN_IMAGE = 0.06
"""With the embedded model on one core, R = 10."""


class UncertaintySettings(Settings):
    """What is measured of which model on what."""

    model: str = Field("embedded", description="bundle by path or URI, embedded, or models:/NAME@ALIAS")
    shards: tuple[str, ...] = Field((), description="folders of shards, one dataset each; none: held-out painted ones")
    split: str | None = Field(None, description="split of those that is taken; none: all")
    normal: int = Field(100, ge=2, description="painted flawless images of each held-out category")
    defective: int = Field(40, ge=1, description="painted defective images of each held-out category")
    light: float | None = Field(
        0.8, gt=0, description="normal images are scored at this brightness too, a factor; none: they are not"
    )
    num_samples: int = Field(10, ge=1, description="R, Monte Carlo samples")
    seed: int = Field(0, ge=0, description="of the noise, the splits and the resampling")
    false_alarms: float = Field(0.1, gt=0, lt=1, description="rate of the threshold whose verdicts may be withheld")
    rates: tuple[float, ...] = Field((0.01, 0.05, 0.1), description="promised rates of false alarms that are checked")
    splits: int = Field(200, ge=2, description="random splits of the images into halves")
    workers: int = Field(2, ge=1, description="actors that hold a model")
    use_gpu: bool | None = Field(None, description="one GPU for every actor; none: where there are GPUs")
    output: str = Field("runs/uncertainty", description="folder for images, scores, tables and the picture")


class StudiedDataset(NamedTuple):
    """A dataset's images, each once, and how many copies of them were left out."""

    name: str
    refs: list[SampleRef]
    relit: list[SampleRef]
    """The normal ones at another brightness; empty: not made."""
    copies: int


def run(args: argparse.Namespace) -> int:
    """Run the study and print its tables, or its result as JSON.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    settings = read_config(UncertaintySettings, args.config, args.set)
    given = {"model": args.model, "output": args.output, "shards": args.shards}
    changes = {key: value for key, value in given.items() if value is not None}
    result = study(parse_config(UncertaintySettings, {**settings.model_dump(), **changes}, "the command line"))
    print(json.dumps(result, indent=1) if args.json else f"{printed(result)}\n\nFiles: {result['output']}")
    return 0


def study(settings: UncertaintySettings) -> dict[str, Any]:
    """Score, split, measure, and write tables and picture; uncertainty.json comes last.

    Args:
        settings: what is measured.

    Returns:
        Content of uncertainty.json.

    Raises:
        DataError: a model was trained on the images, or a dataset has no normal images.
        OutputError: the output holds the result of another study.
    """
    folder = Path(settings.output).expanduser().resolve()
    bundle = load_bundle(settings.model)
    actors = choose_actors(DetectorOptions(), settings.use_gpu, settings.workers)
    _announce(settings, folder)
    datasets = _datasets(settings, folder)
    seen = training_images(bundle)
    trained_on = [ref.sample_id for dataset in datasets for ref in dataset.refs if ref.sha256 in seen]
    if trained_on:
        raise DataError(
            f"{counted(len(trained_on), 'image')} of these were trained on, {trained_on[0]} among them: figures on "
            "them say nothing about unseen data. Choose other shards."
        )
    question = {
        "model": {"source": settings.model, "version": bundle.version, "backbone": bundle.config.backbone.name},
        "settings": settings.model_dump(mode="json", exclude={"output", "shards", "workers", "use_gpu", "model"}),
        "images": {dataset.name: refs_digest([*dataset.refs, *dataset.relit]) for dataset in datasets},
    }
    _refuse_another(folder, question)
    task = ScoringTask(bundle, settings.num_samples, settings.seed, 1, actors.device, MAX_PIXELS)
    groups: list[ScoredGroup] = []
    for dataset in datasets:
        columns = scored_columns(task, actors, dataset.refs, folder, dataset.name)
        relit = scored_columns(task, actors, dataset.relit, folder, f"{dataset.name}-relit") if dataset.relit else None
        groups += grouped(dataset.name, dataset.refs, columns, relit)
    if not groups:
        raise DataError("No normal image has a score, and without normal images there is no threshold.")
    print(f"Scores are there; {settings.splits} random splits of {len(groups)} groups of images.", file=sys.stderr)
    result = {**question, "datasets": _counts(settings, datasets, groups), **measured(settings, groups)}
    write_study(folder, result)
    return result


def measured(settings: UncertaintySettings, groups: list[ScoredGroup]) -> dict[str, Any]:
    """All figures of scored images.

    Args:
        settings: rates, splits and seed.
        groups: one a category.

    Returns:
        Rows of each part, and sentences about what is left out.
    """
    every = [*groups, *pools(groups)]
    abstained, no_verdicts = abstention(groups, settings.false_alarms, settings.splits, settings.seed)
    scaled, no_probabilities = probabilities(every, settings.splits, settings.seed)
    held, no_rate = promises(every, settings.rates, settings.splits, settings.seed)
    return {
        "abstention": abstained,
        "probabilities": scaled,
        "promises": held,
        "elsewhere": elsewhere(groups, settings.rates, settings.seed),
        "left_out": [*no_verdicts, *no_probabilities, *no_rate],
    }


def _announce(settings: UncertaintySettings, folder: Path) -> None:
    """How long it takes, before anything does."""
    if settings.shards:
        references = [ref for shards in settings.shards for ref in index_shards(absolute(shards), settings.split)]
        normal = sum(ref.label == 0 for ref in references)
        defective = len(references) - normal
    else:
        categories = len(SPLITS["held-out"])
        normal, defective = categories * settings.normal, categories * settings.defective
    images = normal * (1 if settings.light is None else 2) + defective
    minutes = images * SECONDS_AN_IMAGE / settings.workers / 60 + 1
    print(
        f"Uncertainty of {settings.model}, in {folder}: {counted(images, 'image')} to make and score, about "
        f"{counted(round(minutes), 'minute')} on {counted(settings.workers, 'core')} of their own with the embedded "
        "model; what is done already is kept.",
        file=sys.stderr,
    )


def _datasets(settings: UncertaintySettings, folder: Path) -> list[StudiedDataset]:
    """Painted or given images, and normal ones at another brightness."""
    shards = [absolute(path) for path in settings.shards]
    shards = shards or [str(painted_shards(folder, "held-out", settings.normal, settings.defective))]
    datasets = []
    for path in shards:
        name, rows = str(dataset_manifest(path)["dataset"]), index_shards(path, settings.split)
        refs = without_copies(rows)
        normal = [ref for ref in refs if ref.label == 0]
        relit = []
        if settings.light is not None and normal:
            relit = index_shards(relit_shards(folder, name, normal, settings.light))
        datasets.append(StudiedDataset(name, refs, relit, len(rows) - len(refs)))
    if len({dataset.name for dataset in datasets}) < len(datasets):
        raise DataError("Two of these folders hold the same dataset: name one by --name at ingestion.")
    return datasets


def _refuse_another(folder: Path, question: dict[str, Any]) -> None:
    """Leave the result of another study alone."""
    earlier = Store(folder).read_json(RESULT)
    if earlier is not None and any(earlier.get(key) != value for key, value in question.items()):
        raise OutputError(f"{folder} holds the result of another study: choose another --output.")


def _counts(
    settings: UncertaintySettings, datasets: list[StudiedDataset], groups: list[ScoredGroup]
) -> dict[str, dict[str, int]]:
    """Images of each dataset."""
    counts = {}
    for dataset in datasets:
        members = [group for group in groups if group.dataset == dataset.name]
        normal = sum(len(group.normal) for group in members)
        anomalous = sum(len(group.anomalous or ()) for group in members)
        counts[dataset.name] = {
            "categories": len(members),
            "normal": normal,
            "anomalous": anomalous,
            "copies left out": dataset.copies,
            "without a score": len(dataset.refs) - normal - anomalous,
        }
    return counts
