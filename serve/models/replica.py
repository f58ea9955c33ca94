"""A model replica: loads a bundle, tests itself, scores batches, follows its source to newer models without a pause."""

import asyncio
import contextlib
import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from bayes_pfl import Detector
from bayes_pfl.errors import BackboneError, BayesPFLError, BundleError
from bayes_pfl.inference.bundle import EMBEDDED, Bundle, load_bundle, resolve
from serve.measures import ReplicaMeasures
from serve.messages import BatchOutcome, Job, ModelInfo, Outcome, Outgrown, Refused, ReplicaAnswer
from serve.models.drift import Watch, WatchedBackbone
from serve.settings import ReplicaSettings

logger = logging.getLogger("ray.serve")


class ModelReplica:
    """One process with one Detector. Ray Serve makes as many as the deployment asks for.

    Raises BundleError or BackboneError from its first `reconfigure` if the model cannot be loaded or fails its self-test.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = uuid.uuid4().hex
        self.settings = ReplicaSettings()
        self.detector: Detector | None = None
        self.model: ModelInfo | None = None
        self.watch: Watch | None = None
        self.measures = ReplicaMeasures(name)
        self.follower: asyncio.Task[None] | None = None
        self.loading = asyncio.Lock()
        # One thread for all predictions: torch keeps a pool of workers for every thread that calls it.
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="predict")

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Apply new settings; a changed source or revision loads the model beside the old one and swaps them."""
        self.settings = ReplicaSettings.model_validate(user_config)
        # OpenMP keeps the number for each calling thread: said elsewhere, it would not hold where predictions are made.
        await asyncio.get_running_loop().run_in_executor(self.worker, torch.set_num_threads, self.settings.threads)
        if self.detector is None:
            await self._load()
        else:
            await self.refresh()
        if self.follower is None:
            self.follower = asyncio.create_task(self._follow())

    async def score(self, jobs: list[Job]) -> BatchOutcome:
        """Score a batch: images of any class names, samples and seeds together, each with an outcome of its own."""
        return await asyncio.get_running_loop().run_in_executor(self.worker, self.score_all, jobs)

    def score_all(self, jobs: list[Job]) -> BatchOutcome:
        """Score jobs one after the other with the model that is loaded now."""
        detector, model, watch = self.detector, self.model, self.watch
        assert detector is not None
        assert model is not None
        assert watch is not None
        outcomes = [self._score_one(detector, model, watch, job) for job in jobs]
        self.measures.batches.observe(len(jobs), tags=self.measures.tags)
        if watch.due():
            self.measures.drift(watch.drift())
        return BatchOutcome(self.id, outcomes)

    async def describe(self) -> ModelInfo:
        """Which model answers now."""
        assert self.model is not None
        return self.model

    async def refresh(self) -> ModelInfo:
        """Look at the source now: load what is new there. A model that fails is logged and the old one stays."""
        try:
            await self._load()
        except BayesPFLError as error:
            self.measures.refused.inc(tags=self.measures.tags)
            logger.error("reload refused", extra={"model": self.name, "reason": str(error)})
        return await self.describe()

    async def _follow(self) -> None:
        """Look at the source again and again."""
        while True:
            await asyncio.sleep(self.settings.refresh_s or 60)
            if self.settings.refresh_s:
                with contextlib.suppress(Exception):  # a source that is away for a while: the next look tells
                    await self.refresh()

    async def _load(self) -> None:
        """Load the source's model in a thread unless it is the one that runs; swap only after its self-test."""
        async with self.loading:
            current = self.model
            loaded = await asyncio.to_thread(load_newer, self.settings, current)
            if loaded is None:
                return
            self.detector, self.model, self.watch = loaded
            self.measures.loaded.inc(tags=self.measures.tags)
            logger.info(
                "model loaded", extra={"model": self.name, "version": loaded[1].version, "kind": loaded[1].kind}
            )

    def _score_one(self, detector: Detector, model: ModelInfo, watch: Watch, job: Job) -> Outcome:
        if job.pixels.shape[0] != model.image_size:
            return Outgrown(model)
        question, start = job.question, time.perf_counter()
        try:
            prediction = detector.predict([job.pixels], [question.class_name], question.num_samples, question.seed)[0]
        except BackboneError as error:  # the class name has too many tokens
            return Refused(str(error))
        seconds = time.perf_counter() - start
        watch.note(prediction.image_score)
        self.measures.compute.observe(seconds, tags=self.measures.tags)
        anomaly_map = prediction.anomaly_map if question.want_map or model.threshold is not None else None
        return ReplicaAnswer(prediction.image_score, prediction.uncertainty, anomaly_map, model, seconds * 1000)


def load_newer(settings: ReplicaSettings, current: ModelInfo | None) -> tuple[Detector, ModelInfo, Watch] | None:
    """Load and test the model at the source; nothing if it is the current one.

    Raises BundleError if it cannot be read or its self-test fails, BackboneError if its CLIP cannot be built.
    """
    torch.set_num_threads(settings.threads)
    bundle = load_bundle(resolve(settings.source))
    model = describe_bundle(bundle, settings.source)
    if model == current:
        return None
    backbone = WatchedBackbone(bundle.config.backbone)
    detector = Detector(bundle, backbone, torch.device(settings.device))
    self_test(detector)
    return detector, model, Watch(bundle, backbone)


def describe_bundle(bundle: Bundle, source: str) -> ModelInfo:
    """What a client may know of a bundle: no paths of this machine."""
    config = bundle.config
    # The small CLIP inside the package has only ever seen generated images, whatever head is trained on it.
    demonstration = bool(bundle.kind) or config.backbone.pretrained.startswith("package:")
    return ModelInfo(
        version=bundle.version,
        kind="demonstration" if demonstration else "trained",
        source=source if source == EMBEDDED or source.startswith("models:/") else bundle.folder.name,
        backbone=config.backbone.name.removeprefix("package:").rpartition("/")[2].removesuffix(".json"),
        image_size=config.backbone.image_size,
        num_prompts=config.model.num_prompts,
        flow_length=config.model.flow_length,
        threshold=config.scoring.threshold,
    )


def self_test(detector: Detector) -> None:
    """Score one made-up picture. Raises BundleError if the answer is not finite or not of the promised shape."""
    size = detector.config.backbone.image_size
    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    prediction = detector.predict([picture], ["object"], num_samples=1)[0]
    finite = np.isfinite([prediction.image_score, prediction.uncertainty]).all()
    if not finite or prediction.anomaly_map.shape != (size, size) or not np.isfinite(prediction.anomaly_map).all():
        raise BundleError(
            f"The model in {detector.bundle.folder} fails its self-test: its scores are not finite. Train it again."
        )
