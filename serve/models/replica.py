"""Jobs -> outcomes in a model replica, which loads a bundle, tests it, and follows its source to newer models."""

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from bayes_pfl import Detector
from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import DetectorOptions, ModelConfig
from bayes_pfl.decisions.calibration import CALIBRATION
from bayes_pfl.errors import BayesPFLError, BundleError, ConfigError
from bayes_pfl.inference.bundle import EMBEDDED, Bundle, load_bundle, resolve
from bayes_pfl.inference.prediction import Prediction
from bayes_pfl.inference.view import WHOLE
from serve.measures import ReplicaMeasures
from serve.messages import (
    BatchOutcome,
    CalibrationReport,
    Failed,
    Job,
    ModelInfo,
    Outcome,
    Outgrown,
    Refused,
    ReplicaAnswer,
)
from serve.models.drift import REFERENCE, Watch
from serve.models.judging import Judge
from serve.settings import ReplicaSettings

logger = logging.getLogger("ray.serve")

FAILURES_IN_A_ROW = 3
"""Jobs that break off one after the other until the replica is replaced."""


class LoadedModel(NamedTuple):
    """A model that answers: replaced as a whole: a score never comes with another model's version or verdict."""

    detector: Detector
    info: ModelInfo
    watch: Watch
    judge: Judge
    identity: str
    """Digest of all that its answers depend on: weights, configuration, device."""


class ModelReplica:
    """One process with one Detector. Ray Serve makes as many as the deployment asks for.

    Its first `reconfigure` raises BundleError or BackboneError if the model cannot be loaded or fails its self-test.

    Args:
        name: of the deployment, for logs and metrics.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = uuid.uuid4().hex
        self.settings = ReplicaSettings()
        self.model: LoadedModel | None = None
        self.measures = ReplicaMeasures(name)
        self.follower: asyncio.Task[None] | None = None
        self.loading = asyncio.Lock()
        self.failures = 0
        """Jobs in a row that broke off."""
        # One thread for all predictions: torch keeps a pool of workers for every thread that calls it.
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="predict")

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Apply new settings; a changed source, device or revision loads the model beside the old one and swaps them.

        Args:
            user_config: fields of `ReplicaSettings`.
        """
        self.settings = ReplicaSettings.model_validate(user_config)
        # OpenMP keeps the number for each calling thread: set elsewhere, it would not hold where predictions are made.
        await asyncio.get_running_loop().run_in_executor(self.worker, torch.set_num_threads, self.settings.threads)
        if self.model is None:
            await self._load()
        else:
            await self.refresh()
        if self.follower is None:
            self.follower = asyncio.create_task(self._follow())

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces a replica whose check fails.

        Raises:
            RuntimeError: the last jobs all broke off, as they do for good after an error of the device.
        """
        if self.failures >= FAILURES_IN_A_ROW:
            raise RuntimeError(f"the last {self.failures} jobs of {self.name} broke off")

    async def score(self, jobs: list[Job]) -> BatchOutcome:
        """Score a batch: images of any class names, samples and seeds together.

        Args:
            jobs: the batch.

        Returns:
            An outcome for each job.
        """
        return await asyncio.get_running_loop().run_in_executor(self.worker, self.score_all, jobs)

    def score_all(self, jobs: list[Job]) -> BatchOutcome:
        """Score jobs with the model that is loaded now: one after the other, or on a GPU those that are alike together.

        Args:
            jobs: the batch.

        Returns:
            An outcome for each job.
        """
        model = self.model
        assert model is not None
        groups: dict[Hashable, list[int]] = {}
        for position, job in enumerate(jobs):
            groups.setdefault(_company(model, job) or position, []).append(position)
        outcomes: dict[int, Outcome] = {}
        step = model.detector.images_at_once
        for group in groups.values():
            for positions in (group[start : start + step] for start in range(0, len(group), step)):
                scored = self._score_together(model, [jobs[position] for position in positions])
                outcomes |= zip(positions, scored, strict=True)
        self.measures.batches.observe(len(jobs), tags=self.measures.tags)
        if model.watch.due():
            self.measures.drift(model.watch.drift())
        return BatchOutcome(self.id, [outcomes[position] for position in range(len(jobs))])

    async def describe(self) -> ModelInfo:
        """Which model answers now.

        Returns:
            What a client may know of it.
        """
        assert self.model is not None
        return self.model.info

    async def calibration(self) -> CalibrationReport | None:
        """The calibration of the model that answers now.

        Returns:
            What it promises, and the scores that drift is measured against; None: the model has none.
        """
        assert self.model is not None
        judge = self.model.judge
        return await asyncio.to_thread(lambda: judge.report)

    async def refresh(self) -> ModelInfo:
        """Look at the source now and load what is new there.

        A model that fails is logged and counted, and the old one stays.

        Returns:
            The model that answers afterwards.
        """
        try:
            await self._load()
        except Exception as error:  # whatever it is: the model that runs is not to suffer
            self.measures.refused.inc(tags=self.measures.tags)
            reason = str(error) if isinstance(error, BayesPFLError) else f"{type(error).__name__}: {error}"
            logger.error("reload refused", extra={"model": self.name, "reason": reason})
        return await self.describe()

    async def _follow(self) -> None:
        """Look at the source again and again."""
        while True:
            await asyncio.sleep(self.settings.refresh_s or 60)
            if self.settings.refresh_s:
                await self.refresh()

    async def _load(self) -> None:
        """Load the source's model in a thread unless it is the one that runs; swap only after its self-test."""
        async with self.loading:
            current = self.model
            loaded = await asyncio.to_thread(load_newer, self.settings, None if current is None else current.identity)
            if loaded is None:
                return
            self.model, self.failures = loaded, 0
            self.measures.loaded.inc(tags=self.measures.tags)
            before = "none" if current is None else current.info.version
            values = {"model": self.name, "version": loaded.info.version, "kind": loaded.info.kind, "before": before}
            logger.info("model loaded", extra=values)

    def _score_together(self, model: LoadedModel, jobs: list[Job]) -> list[Outcome]:
        """The outcomes of jobs that ask alike; if anything goes wrong, each is tried alone."""
        if len(jobs) > 1:
            question, start = jobs[0].question, time.perf_counter()
            images, names = [job.pixels for job in jobs], [job.question.class_name for job in jobs]
            try:
                predictions = model.detector.predict(images, names, question.num_samples, question.seed)
            except Exception:  # whichever job it is: alone, it is told
                logger.info("batch broke off: its jobs are scored one by one", extra={"model": self.name})
            else:
                seconds = (time.perf_counter() - start) / len(jobs)
                model.watch.note([prediction.image_score for prediction in predictions])
                return [self._answer(model, *pair, seconds) for pair in zip(jobs, predictions, strict=True)]
        return [self._score_one(model, job) for job in jobs]

    def _score_one(self, model: LoadedModel, job: Job) -> Outcome:
        """The outcome of one job; whatever goes wrong is this job's alone."""
        question, start = job.question, time.perf_counter()
        whole = question.view == WHOLE
        if whole and job.pixels.shape[0] != model.info.image_size:
            return Outgrown(model.info)
        try:
            prediction = _predict(model.detector, job)
        except BayesPFLError as error:  # such as a class name with too many tokens
            return Refused(str(error))
        except Exception as error:
            self.failures += 1
            self.measures.failed.inc(tags=self.measures.tags)
            logger.exception("job failed", extra={"model": self.name, "in_a_row": self.failures})
            return Failed(type(error).__name__)
        if whole:  # scores of tiles or a region are not those of the reference window
            model.watch.note([prediction.image_score])
        return self._answer(model, job, prediction, time.perf_counter() - start)

    def _answer(self, model: LoadedModel, job: Job, prediction: Prediction, seconds: float) -> ReplicaAnswer:
        """What a client gets of a prediction that took so long."""
        self.failures = 0
        self.measures.compute.observe(seconds, tags=self.measures.tags)
        score, uncertainty = prediction.image_score, prediction.uncertainty
        verdict, reason = model.judge.verdict(job, score, uncertainty)
        has_regions = model.info.threshold is not None or (verdict is not None and verdict.region_from is not None)
        anomaly_map = prediction.anomaly_map if job.question.want_map or has_regions else None
        return ReplicaAnswer(score, uncertainty, anomaly_map, model.info, seconds * 1000, verdict, reason)


def _company(model: LoadedModel, job: Job) -> Hashable:
    """What a job has in common with those that it can be scored together with; None: it goes alone."""
    question = job.question
    alike = question.view == WHOLE and job.pixels.shape[0] == model.info.image_size and question.num_samples != "auto"
    together = model.detector.images_at_once > 1 and not model.detector.compiled  # which compiles for every number
    return (question.num_samples, question.seed) if alike and together else None


def _predict(detector: Detector, job: Job) -> Prediction:
    """The prediction of one job."""
    question, name = job.question, job.question.class_name
    if question.view == WHOLE:
        return detector.predict([job.pixels], [name], question.num_samples, question.seed, question.threshold)[0]
    if question.num_samples == "auto":
        raise ConfigError("num_samples can be auto for whole images alone; give a number for tiles or a region.")
    return detector.predict_view(job.pixels, name, question.view, question.num_samples, question.seed, job.most_seconds)


def load_newer(settings: ReplicaSettings, current: str | None) -> LoadedModel | None:
    """Load and test the model at the source, unless it is the current one.

    Args:
        settings: source, device and threads.
        current: identity of the model that runs; None if there is none.

    Returns:
        The model; None if it is the current one.

    Raises:
        BundleError: it cannot be read, or fails its self-test.
        BackboneError: its CLIP cannot be built.
    """
    torch.set_num_threads(settings.threads)
    bundle = load_bundle(resolve(settings.source), settings.weights)
    identity = identify(bundle, settings)
    if identity == current:
        return None
    detector = Detector(bundle, Backbone(bundle.backbone), torch.device(settings.device), **dict(settings.options))
    self_test(detector)
    judge = Judge(bundle, settings.options.precision)
    info = describe_bundle(bundle, settings.source)._replace(calibration=judge.version)
    return LoadedModel(detector, info, Watch(bundle, detector), judge, identity)


def identify(bundle: Bundle, settings: ReplicaSettings) -> str:
    """A digest of all that the answers of a replica depend on.

    Args:
        bundle: the model.
        settings: of the replica.

    Returns:
        64 hexadecimal digits; others for other weights, configuration, source, device, options, reference window, or
        calibration.
    """
    parts = [bundle.record["head_sha256"], bundle.config.model_dump_json(), settings.source, settings.device]
    parts += [settings.options.model_dump_json()] if settings.options != DetectorOptions() else []
    for path in (bundle.folder / REFERENCE, bundle.folder / CALIBRATION):
        parts.append(hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def describe_bundle(bundle: Bundle, source: str) -> ModelInfo:
    """What a client may know of a bundle: no paths of this machine.

    Args:
        bundle: the model.
        source: as it is configured.

    Returns:
        Version, kind and sizes; its calibration is the judge's to tell.
    """
    config = bundle.config
    # The small CLIP inside the package has only ever seen generated images, whatever head is trained on it.
    demonstration = bool(bundle.kind) or config.backbone.pretrained.startswith("package:")
    flow = config.model if isinstance(config.model, ModelConfig) and config.model.has_uncertainty else None
    return ModelInfo(
        version=bundle.version,
        kind="demonstration" if demonstration else "untrained" if bundle.needs_no_training else "trained",
        source=source if source == EMBEDDED or source.startswith("models:/") else bundle.folder.name,
        backbone=config.backbone.name.removeprefix("package:").rpartition("/")[2].removesuffix(".json"),
        image_size=config.backbone.image_size,
        num_prompts=flow.num_prompts if flow else None,
        flow_length=flow.flow_length if flow else None,
        threshold=config.scoring.threshold,
        threshold_for=config.scoring.threshold_for or WHOLE.name(config.backbone.image_size),
        calibration=None,
    )


def self_test(detector: Detector) -> None:
    """Score one made-up image.

    Args:
        detector: a model that was just loaded.

    Raises:
        BundleError: the answer is not finite or not of the promised shape.
    """
    size = detector.config.backbone.image_size
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    prediction = detector.predict([image], ["object"], num_samples=1)[0]
    finite = np.isfinite([prediction.image_score, prediction.uncertainty or 0.0]).all()
    if not finite or prediction.anomaly_map.shape != (size, size) or not np.isfinite(prediction.anomaly_map).all():
        raise BundleError(
            f"The model in {detector.bundle.folder} fails its self-test: its scores are not finite. Train it again."
        )
