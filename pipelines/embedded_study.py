"""`bayes-pfl evaluate --embedded`: the embedded recipe, trained with several seeds -> metrics on held-out categories.

Beside it, on the same backbone and images: hand-written prompts, one learned prompt, a linear probe and a rule without
a model. Other methods and the paper's ablations: `bayes-pfl reproduce`.

Every result is a file named by what decides it: a study that was stopped goes on.
"""

import argparse
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field
from tqdm import tqdm

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import Settings, parse_config, read_config
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import index_shards, refs_digest
from bayes_pfl.errors import TrainingError
from bayes_pfl.inference.bundle import load_bundle, training_images
from pipelines.features import compute_features
from pipelines.options.features import FeatureSettings
from pipelines.platform.cluster import start_ray
from pipelines.platform.settings import TrackingSettings, TrainSettings
from pipelines.platform.tracking import closing, start_run
from pipelines.reproduction.recipes import embedded_recipe
from pipelines.reproduction.work import last_words
from pipelines.study.jobs import Images, dataset_job, head_job, probe_job, prompts_job, rule_job, timing_job
from pipelines.study.painting import painted_shards
from pipelines.study.report import metrics_of, printed, summarise, write_study

MAIN = "Bayes-PFL"

LEARNED_PROMPT = {
    "num_prompts": 1,
    "flow_length": 0,
    "context_from_image": False,
    "state_distribution": False,
}
"""One static pair of learned prompts: nothing is sampled, nothing depends on the image."""

ONE_PROMPT: dict[str, dict[str, Any]] = {
    "one learned prompt": {"model": LEARNED_PROMPT | {"residual_attention": False}},
    "one learned prompt, with RCA": {"model": LEARNED_PROMPT},
}


class StudySettings(Settings):
    """How much is trained and measured on what."""

    seeds: int = Field(5, ge=1, description="trainings of the full model, seeds 0, 1, ...")
    baseline_seeds: int = Field(5, ge=0, description="trainings of each learned-prompt baseline")
    draw_seeds: int = Field(8, ge=1, description="seeds of the Monte Carlo draws, for the first training")
    num_samples: tuple[int, ...] = Field((1, 3, 5, 10, 20), description="R that are measured; 10 is reported")
    categories: Literal["held-out", "validation"] = Field("held-out", description="set of categories that is measured")
    normal: int = Field(20, ge=1, description="flawless images of each category that is measured")
    defective: int = Field(40, ge=1, description="defective images of each category that is measured")
    auxiliary_normal: int = Field(12, ge=1, description="flawless training images of each auxiliary category")
    auxiliary_defective: int = Field(30, ge=1, description="defective training images of each auxiliary category")
    shards: tuple[str, ...] = Field((), description="folders of other shards for the embedded bundle and the rules")
    split: str | None = Field("test", description="split of those; none: all")
    workers: int = Field(2, ge=1, description="jobs at a time, one core each")
    output: str = Field("runs/embedded-study", description="folder for images, features, results and the report")
    tracking: TrackingSettings = TrackingSettings()


class StudyJob(NamedTuple):
    """One unit of work: a function of `study_jobs` and its arguments."""

    method: str
    seed: int
    work: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...]
    data: str
    """Digest of the images it works on."""
    minutes: float
    """About how long it takes on one core."""

    @property
    def file(self) -> str:
        """Name of its result: its method and seed, and a hash of all that decides it, places excepted."""
        plain = [a.model_dump_json() if isinstance(a, Settings) else a for a in self.arguments]
        plain = [value for value in plain if not isinstance(value, Images)]
        digest = hashlib.sha256(json.dumps([self.data, self.work.__name__, plain]).encode()).hexdigest()[:12]
        return f"results/{re.sub('[^A-Za-z0-9]+', '-', self.method)}-{self.seed}-{digest}.json"


def run(args: argparse.Namespace) -> int:
    """Run the study and print its tables, or its result as JSON.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    settings = read_config(StudySettings, args.config, args.set)
    given = {"seeds": args.seeds, "output": args.output, "shards": args.shards}
    changes = {key: value for key, value in given.items() if value is not None}
    result = study(parse_config(StudySettings, {**settings.model_dump(), **changes}, "the command line"))
    print(json.dumps(result, indent=1) if args.json else f"{printed(result)}\n\nReport: {result['report']}")
    return 0


def study(settings: StudySettings) -> dict[str, Any]:
    """Paint, encode, train, measure and sum up; writes study.json, a plot of the metrics over R and report.html.

    Args:
        settings: how much is trained and measured on what.

    Returns:
        Content of study.json.

    Raises:
        TrainingError: a job failed; it is the first one, and the results of the others are kept.
    """
    folder = Path(settings.output).resolve()
    store = Store(folder)
    recipe = embedded_recipe()
    print(
        f"The embedded recipe on {settings.categories} categories, in {folder}: painting and encoding first, about "
        "3 minutes; what is done already is kept.",
        file=sys.stderr,
    )
    auxiliary = _images(settings, recipe, folder, "auxiliary", settings.auxiliary_normal, settings.auxiliary_defective)
    reported = _images(settings, recipe, folder, settings.categories, settings.normal, settings.defective)
    trained_on, measured_on = index_shards(auxiliary.shards), index_shards(reported.shards)
    jobs = planned(settings, recipe, auxiliary, reported)
    missing = [job for job in jobs if store.read_json(job.file) is None]
    start_ray(settings.workers)
    minutes = sum(job.minutes for job in missing) / settings.workers
    print(
        f"{len(jobs)} jobs, {len(jobs) - len(missing)} done; the others take about {minutes:.0f} minutes on "
        f"{settings.workers} cores.",
        file=sys.stderr,
    )
    _run(settings, store, [job for job in missing if job.work is not timing_job])
    _run(settings, store, [job for job in missing if job.work is timing_job])  # alone, so that it measures itself
    results = [(job.method, job.seed, store.read_json(job.file) or {}) for job in jobs]
    facts = {
        "model": load_bundle("embedded").version,
        "set": settings.categories,
        "images": len(measured_on),
        "auxiliary_images": len(trained_on),
        "auxiliary_as_shipped": {ref.sha256 for ref in trained_on} == training_images(load_bundle("embedded")),
    }
    result = facts | summarise(results, MAIN)
    write_study(folder, result)
    with closing(start_run(settings.tracking, "embedded study", {"stage": "evaluate"})) as tracked:
        tracked.log_metrics(metrics_of(result))
        for name in ("study.json", "report.html", "samples.png"):
            tracked.log_file(folder / name, "study")
    return result


def varied(recipe: TrainSettings, changes: dict[str, dict[str, Any]], seed: int) -> TrainSettings:
    """The recipe with some settings replaced, section by section, and another training seed.

    Args:
        recipe: the run to start from.
        changes: values by section and setting.
        seed: of the training.

    Returns:
        The changed run.
    """
    values = recipe.model_dump()
    for section, replaced in changes.items():
        values[section] |= replaced
    values["training"]["seed"] = seed
    return parse_config(TrainSettings, values, "the embedded study")


def planned(settings: StudySettings, recipe: TrainSettings, auxiliary: Images, reported: Images) -> list[StudyJob]:
    """All jobs in the order in which they start.

    Args:
        settings: how much is trained and measured.
        recipe: the shipped head's training run.
        auxiliary: images to train on.
        reported: images to measure on.

    Returns:
        Jobs, each with the name of its result's file.
    """
    sampled, first = settings.num_samples, tuple(range(settings.draw_seeds))
    model, backbone = load_bundle("embedded").version, Backbone(recipe.backbone).digest
    measured_on = f"{backbone}/{refs_digest(index_shards(reported.shards))}"
    data = f"{refs_digest(index_shards(auxiliary.shards))}/{measured_on}"
    jobs = [
        StudyJob("hand-written prompts", 0, prompts_job, (recipe, reported), data, 0.5),
        StudyJob("linear probe", 0, probe_job, (recipe, auxiliary, reported), data, 1.0),
        StudyJob("median deviation", 0, rule_job, (recipe, reported), data, 0.5),
    ]

    def _add_head(
        method: str, changes: dict[str, Any], seed: int, draws: tuple[int, ...], numbers: tuple[int, ...]
    ) -> None:
        arguments = (varied(recipe, changes, seed), auxiliary, reported, draws, numbers)
        jobs.append(StudyJob(method, seed, head_job, arguments, data, 1.5 + len(draws) * max(numbers) / 20))

    for seed in range(settings.seeds):
        _add_head(MAIN, {}, seed, first if seed == 0 else (0,), sampled)
    for method, changes in ONE_PROMPT.items():
        for seed in range(settings.baseline_seeds):
            _add_head(method, changes, seed, (0,), (1,))
    for shards in settings.shards:
        path = str(Path(shards).resolve())
        images = f"{model}/{refs_digest(index_shards(path, settings.split))}"
        arguments = ("embedded", path, settings.split, 10)
        jobs.append(StudyJob(f"dataset {Path(path).name}", 0, dataset_job, arguments, images, 1.0))
    jobs.append(StudyJob("timing", 0, timing_job, ("embedded", reported.shards), f"{model}/{measured_on}", 0.3))
    return jobs


def _images(
    settings: StudySettings, recipe: TrainSettings, folder: Path, name: str, normal: int, defective: int
) -> Images:
    """Painted, ingested and encoded images of one set of categories; what is there is kept."""
    shards = painted_shards(folder, name, normal, defective)
    features = folder / "features" / shards.name
    encoding = FeatureSettings(
        backbone=recipe.backbone,
        shards=str(shards),
        output=str(features),
        dtype="float32",
        workers=settings.workers,
    )
    compute_features(encoding)
    return Images(str(shards), str(features))


def _run(settings: StudySettings, store: Store, jobs: list[StudyJob]) -> None:
    """The jobs as Ray tasks of one core each; every result is written when it arrives."""
    import ray

    ahead = iter(jobs)
    running: dict[Any, StudyJob] = {}
    with tqdm(total=len(jobs), unit="job", disable=None) as bar:
        while True:
            # no more than there are cores, so that they start in this order: Ray promises none among waiting tasks
            for job in itertools.islice(ahead, settings.workers - len(running)):
                running[ray.remote(num_cpus=1)(job.work).remote(*job.arguments)] = job
            if not running:
                return
            (ready,), _ = ray.wait(list(running), num_returns=1)
            job = running.pop(ready)
            try:
                store.write_json(job.file, ray.get(ready))
            except ray.exceptions.RayTaskError as error:
                raise TrainingError(
                    f"{job.method}, seed {job.seed}, failed: {last_words(error)}. Run it again."
                ) from error
            bar.set_postfix_str(f"{job.method} {job.seed}")
            bar.update()
