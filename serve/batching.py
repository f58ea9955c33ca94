"""The way from one ingress replica to a deployment's replicas: jobs gather into batches, and one call carries a batch."""

import asyncio
import contextvars
import logging
from itertools import islice
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.exceptions import DeploymentUnavailableError

from serve.measures import Measures
from serve.messages import Job, ModelInfo, Outcome
from serve.problems import Problem
from serve.settings import ModelSettings

logger = logging.getLogger("ray.serve")

TRIES = 4
"""A batch may be scored again: equal jobs have equal outcomes."""
BUSY_RETRY_S = 1
CALLS_PER_REPLICA = 2
"""One batch is scored while the next one is there already."""


class Busy(Problem):
    """The queue is full."""


class BatchingHandle:
    """A deployment's handle that gathers jobs.

    A batch leaves at once while a replica has nothing to do. With a call for each under way it leaves when it is full or has
    waited for `batch_wait_ms`; with `CALLS_PER_REPLICA` for each it stays, and the queue grows up to `max_queued` jobs. ingress replica has a queue of its own; where several send more than the replicas take, calls wait in Ray.
    """

    def __init__(self, name: str, settings: ModelSettings, measures: Measures, handle: Any) -> None:
        self.name = name
        self.settings = settings
        self.measures = measures
        self.handle = handle
        self.most_calls = CALLS_PER_REPLICA * (settings.max_replicas or settings.replicas)
        self.waiting: dict[asyncio.Future[Outcome], Job] = {}
        self.calls: set[asyncio.Task[None]] = set()
        self.timer: asyncio.TimerHandle | None = None

    async def describe(self) -> ModelInfo:
        """Which model answers now. Raises Problem 503 if no replica can say."""
        model: ModelInfo = await self._ask(self.handle.describe)
        return model

    async def score(self, job: Job) -> Outcome:
        """Score a job in a batch with others. Raises Busy if the queue is full, Problem 503 if no replica can do it."""
        if len(self.calls) >= self.most_calls and len(self.waiting) >= self.settings.max_queued:
            raise Busy(503, "All replicas are busy and the queue is full; try again.", BUSY_RETRY_S)
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
        while self.waiting and len(self.calls) < self.most_calls:
            may_gather = len(self.calls) >= self.settings.replicas and len(self.waiting) < self.settings.max_batch
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
        try:
            found: list[Outcome] = await self._ask(self.handle.score, list(batch.values()))
            for outcome, value in zip(batch, found, strict=True):
                if not outcome.done():
                    outcome.set_result(value)
        except Exception as error:
            for outcome in batch:
                if not outcome.done():
                    outcome.set_exception(error)
        finally:
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
