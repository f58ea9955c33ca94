"""One model as the ingress sees it: pictures of the size it wants, its outcomes, and its challenger in the shadow."""

import asyncio
import logging
import random
from typing import Any

from serve.measures import Measures
from serve.messages import Failed, Job, ModelInfo, Outgrown, Question, Refused, ReplicaAnswer
from serve.models.batching import BUSY_RETRY_S, BatchingHandle
from serve.models.images import Decoder, Prepared
from serve.problems import Problem
from serve.settings import ModelSettings

logger = logging.getLogger("ray.serve")

SIZES_TRIED = 4
"""New models of other input sizes that may come while one image is being scored."""
DESCRIBE_S = 5
SHADOW_S = 60
SHADOWS_AT_ONCE = 4
"""Shadow jobs under way; beyond it the challenger misses some instead of holding memory."""


class ModelClient:
    """One model, however many replicas run it. `handle` is its deployment's, `challenger` the shadow's or none."""

    def __init__(
        self, settings: ModelSettings, decoder: Decoder, measures: Measures, handle: Any, challenger: Any
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
        self.latest: ModelInfo | None = None
        self.shadows: set[asyncio.Task[None]] = set()

    async def describe(self) -> ModelInfo:
        """Which model answers now; while the replicas are too busy to say, which one answered last. Raises Problem 503 while none does."""
        try:
            async with asyncio.timeout(DESCRIBE_S):
                self.latest = await self.champion.describe()
        except TimeoutError as error:
            if self.latest is None or not self.champion.answers_lately():
                raise Problem(503, f"The model {self.name} does not answer; try later.", 5) from error
        return self.latest

    async def ready(self) -> ModelInfo:
        """The model that answers. Raises Problem 503 if there is none."""
        try:
            return await self.describe()
        except Problem as problem:
            raise Problem(503, f"The model {self.name} is not ready; ask again in a second.", BUSY_RETRY_S) from problem

    async def score(self, data: bytes, question: Question) -> tuple[ReplicaAnswer, Prepared]:
        """Score one encoded image. Raises Problem 413 or 415 for the image, 422 if the model refuses it, 503 if it is busy or gone."""
        model = self.latest or await self.describe()
        for attempt in range(SIZES_TRIED):
            prepared = await self.decoder.prepare(data, model.image_size)
            job = Job(prepared.pixels, question)
            outcome = await self.champion.score(job, again=attempt > 0)
            if isinstance(outcome, Refused):
                raise Problem(422, outcome.detail)
            if isinstance(outcome, Failed):
                raise Problem(500, "The model broke off over this image; quote the request id.")
            if isinstance(outcome, ReplicaAnswer):
                self.latest = outcome.model
                self._shadow(data, job._replace(question=question._replace(want_map=False)), outcome)
                return outcome, prepared
            model = outcome.model
        raise Problem(503, "The model is being replaced; try again.", BUSY_RETRY_S)

    def _shadow(self, data: bytes, job: Job, champion: ReplicaAnswer) -> None:
        """Have the challenger score the same picture behind the client's back, if it has room."""
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
                    pixels = (await self.decoder.prepare(data, outcome.model.image_size)).pixels
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
