"""The folder of a reproduction: which files hold its models and results, and which jobs are left to do."""

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import BackboneConfig
from bayes_pfl.data.remote import Store
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.machine import describe_machine
from bayes_pfl.methods.builder import frozen_encoder
from pipelines.options.features import FeatureSettings
from pipelines.platform.settings import TrainSettings
from pipelines.reproduction import recipes
from pipelines.reproduction.images import MeasuredImages
from pipelines.reproduction.jobs import Conditions, Machine, Scorable, measuring_job, probe_job, timing_job, train_job
from pipelines.reproduction.plan import Measurement, Model, PlannedTime
from pipelines.reproduction.recipes import BAYES_PFL
from pipelines.reproduction.settings import ReproduceSettings, Scale
from pipelines.reproduction.work import PendingJob
from pipelines.scoring.options import Actors
from pipelines.training.images import weights_by_content

FULL_TOP_PIXELS, FULL_SIZE = 2000, 518
"""What Bayes-PFL's released score averages, of a map of how many pixels a side."""


class Workplace:
    """Names of models and results by all that decides them, and the jobs that make what is missing.

    Args:
        settings: of the reproduction.
        folder: of its output.
        actors: what it computes on.
        images: datasets by name.
        given: bundle that stands for Bayes-PFL; None: it is trained.
    """

    def __init__(
        self,
        settings: ReproduceSettings,
        folder: Path,
        actors: Actors,
        images: Mapping[str, MeasuredImages],
        given: Bundle | None,
    ) -> None:
        self.settings, self.folder, self.actors, self.images, self.given = settings, folder, actors, images, given
        self._digests = {name: each.digest for name, each in images.items()}
        self.store = Store(folder)
        self.machine = Machine(actors.device, settings.options)

    def training_jobs(self, models: Iterable[Model]) -> list[PendingJob]:
        """Trainings whose bundles are missing; `encodings` names the features that they need.

        Args:
            models: that are measured.

        Returns:
            One for each training, whichever of its epochs are wanted.
        """
        return [self._training_job(model, folders) for model, folders in self._missing(models).items()]

    def encodings(self, models: Iterable[Model]) -> list[FeatureSettings]:
        """Features at rest that the missing trainings read.

        Args:
            models: that are measured.

        Returns:
            One for each auxiliary dataset and kind of features.
        """
        each = [self._encoding(self._run(model), self.images[model.auxiliary]) for model in self._missing(models)]
        return list({encoding.output: encoding for encoding in each}.values())

    def measuring_jobs(self, wanted: Mapping[Measurement, tuple[int, ...]]) -> list[PendingJob]:
        """Measurements whose results are missing.

        Args:
            wanted: numbers of samples of each.

        Returns:
            A job for each, with the numbers that are missing.
        """
        jobs = []
        for measurement, numbers in wanted.items():
            missing = tuple(number for number in numbers if str(number) not in self.rows(measurement))
            if missing:
                jobs.append(self._measuring_job(measurement, missing))
        return jobs

    def timing_jobs(self, wanted: Iterable[PlannedTime], dataset: str) -> list[PendingJob]:
        """Times that were not measured here yet.

        Args:
            wanted: models and numbers of samples.
            dataset: whose images are timed.

        Returns:
            A job for each model.
        """
        numbers: dict[Model, list[int]] = {}
        for each in wanted:
            if str(each.num_samples) not in self.times(each.model):
                numbers.setdefault(each.model, []).append(each.num_samples)
        jobs, count = [], self.settings.timed_images
        for model, missing in numbers.items():
            arguments = (self._scorable(model), self.images[dataset], sorted(set(missing)), count, self.machine)
            label, file = f"times of {_titled(model)}", self._times_file(model)
            jobs.append(
                PendingJob(
                    ("times", model), label, "timing", count * len(missing), timing_job, arguments, self._adding(file)
                )
            )
        return jobs

    def probe(self, dataset: str) -> dict[str, float]:
        """Measure how fast Bayes-PFL is on this machine, in a task like the jobs; nothing where that fails.

        Args:
            dataset: whose images are used; any other where it is not there.

        Returns:
            Seconds an image of `training` and `measuring`.
        """
        import ray

        images = self.images.get(dataset) or next(iter(self.images.values()))
        run = _recipe(BAYES_PFL, 0, self.settings.scale, "visa")
        task = ray.remote(num_gpus=1) if self.actors.use_gpu else ray.remote(num_cpus=1)
        try:
            seconds: dict[str, float] = ray.get(task(probe_job).remote(run, images, self.machine))
        except ray.exceptions.RayError:  # an estimate is not worth a run
            return {}
        return seconds

    def rows(self, measurement: Measurement) -> dict[str, Any]:
        """What was measured.

        Args:
            measurement: of a model that is made.

        Returns:
            Figures by number of samples; empty where there are none yet.
        """
        result = self.store.read_json(self._result_file(measurement))
        return dict(result["rows"]) if result else {}

    def times(self, model: Model) -> dict[str, Any]:
        """Times of a model.

        Args:
            model: that is made.

        Returns:
            `ms` and `std` by number of samples.
        """
        result = self.store.read_json(self._times_file(model))
        return dict(result["rows"]) if result else {}

    def is_made(self, model: Model) -> bool:
        """Whether a model can be measured.

        Args:
            model: which one.

        Returns:
            False while its training is missing.
        """
        return not self.learns(model) or (self._bundle(model) / "bundle.json").exists()

    def learns(self, model: Model) -> bool:
        """Whether a model is trained here.

        Args:
            model: which one.

        Returns:
            False for one that learns nothing or is given.
        """
        return recipes.trains(model.title) and not (self.given and model.title == BAYES_PFL)

    def _missing(self, models: Iterable[Model]) -> dict[Model, dict[int, str]]:
        """Trainings with bundles that are missing, by epoch."""
        wanted: dict[Model, dict[int, str]] = {}
        for model in models:
            if not self.is_made(model):
                epoch = model.epoch or self._run(model).training.epochs
                training = model._replace(epoch=None, text_ensemble=False)
                wanted.setdefault(training, {})[epoch] = str(self._bundle(model))
        return wanted

    def _scorable(self, model: Model) -> Scorable:
        if self.learns(model):
            return Scorable(str(self._bundle(model)), model.text_ensemble)
        if self.given and model.title == BAYES_PFL:
            return Scorable(str(self.given.folder), model.text_ensemble)
        return Scorable(self._run(model).detector())

    def _run(self, model: Model) -> TrainSettings:
        return _recipe(model.title, model.seed, self.settings.scale, model.auxiliary)

    def _bundle(self, model: Model) -> Path:
        """Where a trained model lies: named by its training, which images it saw, and on what it was computed."""
        places: Any = {"output": True, "tracking": True, "cluster": True, "data": True}
        training = weights_by_content(self._run(model)).model_dump_json(exclude=places)
        options, device = list(self.machine.options), self.machine.device
        deciding = [training, self._digests[model.auxiliary], self._dtype, options, device]
        after = f"-epoch-{model.epoch:02d}" if model.epoch else ""
        return self.folder / "models" / f"{_slug(model.title)}-{model.seed}-{_digest(deciding)}{after}"

    @property
    def _dtype(self) -> str:
        """Of features at rest."""
        return "float32" if self.settings.embedded else "float16"

    def _training_job(self, model: Model, folders: dict[int, str]) -> PendingJob:
        run, images = self._run(model), self.images[model.auxiliary]
        arguments = (run, images, self._encoding(run, images).output, folders, self.machine)
        units = len(images.refs) * run.training.epochs
        label = f"training of {model.title}, seed {model.seed}, on {images.title}"
        return PendingJob(
            model, label, f"training of {run.model.method}", units, train_job, arguments, lambda result: None
        )

    def _encoding(self, run: TrainSettings, images: MeasuredImages) -> FeatureSettings:
        """Frozen features of a dataset as a method takes them: methods that take the same share a folder."""
        backbone, size = _backbone(run.backbone), run.backbone.image_size
        kind = frozen_encoder(run.model, backbone).kind
        computed = self._dtype, self.settings.options.precision, self.machine.device
        name = _digest([backbone.digest, run.backbone.feature_layers, size, kind.passes, images.digest, *computed])
        return FeatureSettings(
            model=run.model,
            backbone=run.backbone,
            shards=images.shards,
            split="test",
            output=str(self.folder / "features" / f"{images.name}-{name}"),
            dtype=self._dtype,
            workers=self.actors.number,
            use_gpu=self.actors.use_gpu,
            options=self.settings.options,
        )

    def _measuring_job(self, measurement: Measurement, numbers: tuple[int, ...]) -> PendingJob:
        model, images = measurement.model, self.images[measurement.dataset]
        run = self._run(model)
        conditions = Conditions(numbers, measurement.draw_seed, self.settings.protocol, self._top_pixels(model))
        arguments = (self._scorable(model), images, conditions, self.machine)
        label = f"measuring of {_titled(model)} on {images.title}, draws {measurement.draw_seed}, R = {numbers}"
        kind = f"measuring of {run.model.method}"
        units = len(images.refs) * max(1, max(numbers) // 10)
        return PendingJob(
            measurement, label, kind, units, measuring_job, arguments, self._adding(self._result_file(measurement))
        )

    def _top_pixels(self, model: Model) -> int:
        share, given = FULL_TOP_PIXELS / FULL_SIZE**2, self.given if model.title == BAYES_PFL else None
        backbone = given.config.backbone if given else self._run(model).backbone
        return self.settings.top_pixels or max(1, round(share * backbone.image_size**2))

    def _model_digest(self, model: Model) -> str:
        if self.learns(model):
            name: Any = self._bundle(model).name
        elif self.given and model.title == BAYES_PFL:
            name = [self.given.record["head_sha256"], self.given.config.model_dump_json()]
        else:
            name = weights_by_content(self._run(model)).detector().model_dump_json()
        return _digest([name, model.text_ensemble, list(self.machine.options), self.machine.device])

    def _result_file(self, measurement: Measurement) -> str:
        images, protocol = self.images[measurement.dataset], self.settings.protocol
        top = self._top_pixels(measurement.model) if protocol == "released" else None
        digests = self._model_digest(measurement.model), self._digests[images.name]
        deciding = [*digests, images.levels, measurement.draw_seed, protocol, top]
        return f"results/{_slug(_titled(measurement.model))}-{images.name}-{_digest(deciding)}.json"

    def _times_file(self, model: Model) -> str:
        machine = describe_machine("cpu", 1)
        deciding = [self._model_digest(model), self.settings.timed_images, machine]
        return f"times/{_slug(_titled(model))}-{_digest(deciding)}.json"

    def _adding(self, file: str) -> Any:
        """Adds the rows of a result to those of a file."""

        def add(result: dict[str, Any]) -> None:
            earlier = self.store.read_json(file) or {"rows": {}}
            self.store.write_json(file, {"rows": earlier["rows"] | result["rows"]})

        return add


@functools.lru_cache(maxsize=4)
def _backbone(config: BackboneConfig) -> Backbone:
    return Backbone(config)


@functools.lru_cache(maxsize=256)
def _recipe(title: str, seed: int, scale: Scale, auxiliary: str) -> TrainSettings:
    return recipes.recipe(title, seed, scale, auxiliary)


def _titled(model: Model) -> str:
    after = f", epoch {model.epoch}" if model.epoch else ""
    return f"{model.title}{', text ensemble' if model.text_ensemble else ''}, seed {model.seed}{after}"


def _slug(text: str) -> str:
    return re.sub("[^A-Za-z0-9]+", "-", text).strip("-").lower()


def _digest(deciding: Any) -> str:
    return hashlib.sha256(json.dumps(deciding, default=str).encode()).hexdigest()[:12]
