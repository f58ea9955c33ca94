"""Encoded image and question -> a replica's answer: one model as the ingress sees it, and its challenger."""

import asyncio
import contextvars
import logging
import random
import time
from typing import Any

from bayes_pfl.inference.view import WHOLE
from serve.measures import Measures
from serve.messages import CalibrationReport, Failed, Job, ModelInfo, Outgrown, Question, Refused, ReplicaAnswer
from serve.models.batching import BUSY_RETRY_S, BatchingHandle
from serve.models.images import Decoder, Prepared
from serve.models.stream import StreamAlarm
from serve.problems import Problem
from serve.settings import ModelSettings

logger = logging.getLogger("ray.serve")

SIZES_TRIED = 4
"""New models of other input sizes that may come while one image is being scored."""
DESCRIBE_S = 5
READY_FOR_S = 1.0
"""Probes get an answer up to so old: anyone may ask, and asking a replica takes a place in its queue."""
SHADOW_S = 60
SHADOWS_AT_ONCE = 4
"""Shadow jobs under way; beyond it the challenger misses some instead of holding memory."""


class ModelClient:
    """One model, however many replicas run it.

    Args:
        settings: of the model.
        decoder: shared by all models.
        measures: where scores and retries are counted.
        handle: of the model's deployment.
        challenger: handle of the shadow's deployment, or none.
        ingress_replicas: how many such clients of the model there are.
    """

    def __init__(
        self,
        settings: ModelSettings,
        decoder: Decoder,
        measures: Measures,
        handle: Any,
        challenger: Any,
        ingress_replicas: int = 1,
    ) -> None:
        self.name = settings.name
        self.settings = settings
        self.decoder = decoder
        self.measures = measures
        self.champion = BatchingHandle(settings.name, settings, measures, handle)
        self.challenger = (
            None
            if challenger is None
            else BatchingHandle(f"{settings.name} (challenger)", settings, measures, challenger)
        )
        self.stream = StreamAlarm(settings, ingress_replicas, measures, self.calibration)
        self.latest: ModelInfo | None = None
        self.report: CalibrationReport | None = None
        self.shadows: set[asyncio.Task[None]] = set()
        self.probe: asyncio.Task[ModelInfo] | None = None
        self.probed = 0.0

    async def describe(self) -> ModelInfo:
        """Which model answers now; while the replicas are too busy to say, which one answered last.

        Returns:
            The model.

        Raises:
            Problem: 503 while none answers.
        """
        try:
            async with asyncio.timeout(DESCRIBE_S):
                self.latest = await self.champion.describe()
        except TimeoutError as error:
            if self.latest is None or not self.champion.answers_lately():
                raise Problem(503, f"The model {self.name} does not answer; try later.", 5) from error
        return self.latest

    async def calibration(self) -> CalibrationReport | None:
        """The calibration of the model that answers now.

        Returns:
            What it promises; None: the model has none.

        Raises:
            Problem: 503 while no replica answers.
        """
        version = (await self.describe()).calibration
        if version is None:
            return None
        if self.report is not None and self.report.version == version:
            return self.report
        try:
            async with asyncio.timeout(DESCRIBE_S):
                self.report = await self.champion.calibration()
                return self.report
        except TimeoutError as error:
            raise Problem(503, f"The model {self.name} does not answer; try later.", 5) from error

    async def ready(self) -> ModelInfo:
        """The model that answers, found at most `READY_FOR_S` ago; probes that come together ask once.

        Returns:
            The model.

        Raises:
            Problem: 503 if there is none.
        """
        if self.probe is None or (self.probe.done() and time.monotonic() - self.probed > READY_FOR_S):
            # In a context of its own: Ray Serve cancels calls made in a request's context when its client goes away.
            self.probe = asyncio.create_task(self._probe(), context=contextvars.Context())
        try:
            return await asyncio.shield(self.probe)
        except Problem as problem:
            raise Problem(503, f"The model {self.name} is not ready; ask again in a second.", BUSY_RETRY_S) from problem

    async def score(self, data: bytes, question: Question) -> tuple[ReplicaAnswer, Prepared]:
        """Score one encoded image.

        Args:
            data: an encoded file.
            question: about the image.

        Returns:
            The replica's answer, and the image as it was sent to it.

        Raises:
            Problem: 413 or 415 for the image, 422 if the model refuses it, 503 if it is busy or gone.
        """
        if question.view == WHOLE:
            return await self._score(data, question)
        async with self.decoder.large:
            return await self._score(data, question)

    async def _score(self, data: bytes, question: Question) -> tuple[ReplicaAnswer, Prepared]:
        model = self.latest or await self.describe()
        for attempt in range(SIZES_TRIED):
            prepared = await self.decoder.prepare(data, model.image_size, question.view, question.bits)
            job = Job(prepared.pixels, question, self.decoder.limits.answer_timeout_s, prepared.sha256)
            outcome = await self.champion.score(job, again=attempt > 0)
            if isinstance(outcome, Refused):
                raise Problem(422, outcome.detail)
            if isinstance(outcome, Failed):
                raise Problem(500, "The model broke off over this image; quote the request id.")
            if isinstance(outcome, ReplicaAnswer):
                self.latest = outcome.model
                await self.stream.note(outcome, prepared.sha256)
                self._shadow(data, job._replace(question=question._replace(want_map=False)), outcome)
                return outcome, prepared
            model = outcome.model
        raise Problem(503, "The model is being replaced; try again.", BUSY_RETRY_S)

    async def _probe(self) -> ModelInfo:
        try:
            return await self.describe()
        finally:
            self.probed = time.monotonic()

    def _shadow(self, data: bytes, job: Job, champion: ReplicaAnswer) -> None:
        """Have the challenger score the same image, if there is room; the client neither waits for it nor sees it."""
        if self.challenger is None or len(self.shadows) >= SHADOWS_AT_ONCE:
            return
        if random.random() < self.settings.shadow_fraction:
            task = asyncio.create_task(self._score_shadow(self.challenger, data, job, champion))
            self.shadows.add(task)
            task.add_done_callback(self.shadows.discard)

    async def _score_shadow(self, challenger: BatchingHandle, data: bytes, job: Job, champion: ReplicaAnswer) -> None:
        """Log both scores side by side. Whatever goes wrong stays here."""
        try:
            async with asyncio.timeout(SHADOW_S):
                outcome = await challenger.score(job)
                if isinstance(outcome, Outgrown):
                    side, bits = outcome.model.image_size, job.question.bits
                    pixels = (await self.decoder.prepare(data, side, bits=bits)).pixels
                    outcome = await challenger.score(job._replace(pixels=pixels))
        except Exception as error:
            logger.warning("shadow failed", extra={"model": self.name, "reason": type(error).__name__})
            return
        if isinstance(outcome, ReplicaAnswer):
            values = {
                "model": self.name,
                "champion": champion.model.version,
                "challenger": outcome.model.version,
                "champion_score": champion.image_score,
                "challenger_score": outcome.image_score,
            }
            logger.info("shadow", extra=values)
            self.measures.gaps.observe(abs(outcome.image_score - champion.image_score), tags={"model": self.name})
