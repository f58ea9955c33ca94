"""Jobs -> outcomes, from an ingress replica to the replicas of a model: jobs gather into batches, one call each."""

import asyncio
import contextvars
import logging
import time
from itertools import islice
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.exceptions import DeploymentUnavailableError

from serve.measures import Measures
from serve.messages import BatchOutcome, CalibrationReport, Job, ModelInfo, Outcome
from serve.problems import Problem
from serve.settings import ModelSettings

logger = logging.getLogger("ray.serve")

TRIES = 4
"""A batch may be scored again: equal jobs have equal outcomes."""
BUSY_RETRY_S = 1
CALLS_PER_REPLICA = 2
"""One batch is scored while the next one is there already."""
FORGET_S = 60
"""A replica that has not answered for so long may have gone."""


class BatchingHandle:
    """A deployment's handle that gathers jobs, for one ingress replica.

    While there are fewer calls under way than replicas, whatever waits leaves at once. Otherwise a batch leaves when it
    is full or has waited `batch_wait_ms` for company. With `CALLS_PER_REPLICA` calls for each replica under way it
    stays, and up to `max_queued` jobs wait. Replicas that have answered within `FORGET_S` count: Ray sends a call to
    one that has less to do.

    Args:
        name: of the model, for logs, metrics and problems.
        settings: of the model.
        measures: where retries and the queue's length are counted.
        handle: of the deployment.
    """

    def __init__(self, name: str, settings: ModelSettings, measures: Measures, handle: Any) -> None:
        self.name = name
        self.settings = settings
        self.measures = measures
        self.handle = handle
        self.waiting: dict[asyncio.Future[Outcome], Job] = {}
        self.calls: set[asyncio.Task[None]] = set()
        self.timer: asyncio.TimerHandle | None = None
        self.answered: dict[str, float] = {}
        """By replica, when it answered last, monotonic seconds."""

    def answers_lately(self) -> int:
        """How many replicas have answered within `FORGET_S`.

        Returns:
            Their number; 0 also before the first answer.
        """
        since = time.monotonic() - FORGET_S
        self.answered = {replica: then for replica, then in self.answered.items() if then > since}
        return len(self.answered)

    @property
    def replicas(self) -> int:
        """How many replicas there are, as far as is known."""
        return max(self.settings.replicas, self.answers_lately())

    async def describe(self) -> ModelInfo:
        """Which model answers now.

        Returns:
            The model of one replica.

        Raises:
            Problem: 503 if no replica can say.
        """
        model: ModelInfo = await self._ask(self.handle.describe)
        return model

    async def calibration(self) -> CalibrationReport | None:
        """The calibration of the model that answers now.

        Returns:
            That of one replica's model; None: it has none.

        Raises:
            Problem: 503 if no replica can say.
        """
        report: CalibrationReport | None = await self._ask(self.handle.calibration)
        return report

    async def score(self, job: Job, again: bool = False) -> Outcome:
        """Score a job in a batch with others.

        Args:
            job: an image and the question about it.
            again: it has been through the queue before: it is not refused because the queue is full.

        Returns:
            The outcome of this job.

        Raises:
            Problem: 503 if the queue is full, or if no replica can do it.
        """
        full = len(self.calls) >= CALLS_PER_REPLICA * self.replicas and len(self.waiting) >= self.settings.max_queued
        if full and not again:
            raise Problem(503, "All replicas are busy and the queue is full; try again.", BUSY_RETRY_S)
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.waiting[outcome] = job
        self._send_due()
        try:
            return await outcome
        finally:
            self.waiting.pop(outcome, None)  # the client has gone, or its time is up

    def _send_due(self, has_waited: bool = False) -> None:
        """Send what is due; if something stays though it might leave, look again when it has waited."""
        if has_waited:
            self.timer = None
        replicas = self.replicas
        while self.waiting and len(self.calls) < CALLS_PER_REPLICA * replicas:
            may_gather = len(self.calls) >= replicas and len(self.waiting) < self.settings.max_batch
            if may_gather and not has_waited:
                if self.timer is None:
                    wait_s = self.settings.batch_wait_ms / 1000
                    self.timer = asyncio.get_running_loop().call_later(wait_s, self._send_due, True)
                break
            outcomes = list(islice(self.waiting, self.settings.max_batch))
            self._send({outcome: self.waiting.pop(outcome) for outcome in outcomes})
            has_waited = False
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None
        self.measures.queued.set(len(self.waiting), tags={"model": self.name})

    def _send(self, batch: dict["asyncio.Future[Outcome]", Job]) -> None:
        """Start the call of one batch; it ends early if nobody waits for it any more."""
        # In a context of its own: Ray Serve cancels the calls made in a request's context when its client goes away.
        call = asyncio.create_task(self._call(batch), context=contextvars.Context())
        self.calls.add(call)

        def cancel_if_unwanted(_: Any) -> None:
            if all(outcome.cancelled() for outcome in batch):
                call.cancel()

        for outcome in batch:
            outcome.add_done_callback(cancel_if_unwanted)

    async def _call(self, batch: dict["asyncio.Future[Outcome]", Job]) -> None:
        """Have one replica score a batch, and hand out the outcomes."""
        failure: Exception = Problem(503, "The replica has stopped; try again.", BUSY_RETRY_S)  # if Ray cancels it
        try:
            answer: BatchOutcome = await self._ask(self.handle.score, list(batch.values()))
            self.answered[answer.replica] = time.monotonic()
            for outcome, value in zip(batch, answer.outcomes, strict=True):
                if not outcome.done():
                    outcome.set_result(value)
        except Exception as error:
            failure = error
        finally:
            for outcome in batch:
                if not outcome.done():
                    outcome.set_exception(failure)
            self.calls.discard(asyncio.current_task())
            self._send_due()

    async def _ask(self, method: Any, *arguments: Any) -> Any:
        """Call a replica; another one if it dies over it."""
        for attempt in range(TRIES):
            pending = method.remote(*arguments)
            try:
                return await pending
            except asyncio.CancelledError:  # nobody waits for it: the replica need not go on
                pending.cancel()
                raise
            except DeploymentUnavailableError as error:
                raise Problem(503, f"The model {self.name} is not running; try later.", 5) from error
            except (RayActorError, ObjectLostError):
                self.measures.retries.inc(tags={"model": self.name})
                logger.warning("replica lost", extra={"model": self.name, "attempt": attempt + 1})
                await asyncio.sleep(0.05 * 2**attempt)
        raise Problem(503, "Replicas are being restarted; try again.", BUSY_RETRY_S)
