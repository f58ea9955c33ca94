"""The queue before a model: when batches leave, what they carry, and who is told what when something is lost."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_endpoint import LIMITS, LocalHandle, LocalMethod, encoded, picture
from ray.exceptions import RayActorError

from bayes_pfl import Detector
from serve.measures import Measures
from serve.messages import BatchOutcome, Job, Question, ReplicaAnswer
from serve.models.batching import FORGET_S, TRIES, BatchingHandle
from serve.models.client import READY_FOR_S, ModelClient
from serve.models.images import Decoder
from serve.problems import Problem
from serve.settings import ModelSettings

pytestmark = pytest.mark.anyio

MODEL = {"name": "first", "max_batch": 3, "max_queued": 4, "batch_wait_ms": 60_000}


class Watched(LocalHandle):
    """A real replica whose batches are noted; each waits until it may begin."""

    def __init__(self, source: Path) -> None:
        super().__init__(source)
        self.batches: list[list[Job]] = []
        self.may_begin = threading.Event()
        self.losses: dict[str, int] = {}
        self.score = LocalMethod(self._score)

    def _score(self, jobs: list[Job]) -> BatchOutcome:
        self.batches.append(jobs)
        assert self.may_begin.wait(60)
        for job in jobs:
            if self.losses.get(job.question.class_name, 0):
                self.losses[job.question.class_name] -= 1
                raise RayActorError()
        return self.replica.score_all(jobs)

    def sizes(self) -> list[int]:
        """Images in each batch so far."""
        return [len(batch) for batch in self.batches]


@pytest.fixture
def anyio_backend() -> str:
    """Ray Serve's loop is asyncio's."""
    return "asyncio"


@pytest.fixture
def replica(bundles: dict[str, Path]) -> Watched:
    """The replica behind the queue."""
    return Watched(bundles["first"])


def queue_before(replica: Watched, **settings: Any) -> BatchingHandle:
    """A queue of three images a batch and four that wait, before one replica."""
    return BatchingHandle("first", ModelSettings(**{**MODEL, **settings}), Measures(), replica)


def jobs(number: int) -> list[Job]:
    """So many different images."""
    return [Job(picture(seed, 56, 56), Question(f"nut {seed}", 1, seed, False)) for seed in range(number)]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what must come."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_what_waits_leaves_together_and_everyone_gets_his_own(replica: Watched, detector: Detector) -> None:
    queue, asked = queue_before(replica), jobs(6)
    waiting = [asyncio.create_task(queue.score(job)) for job in asked]
    await until(lambda: len(replica.batches) == 2)
    # An idle replica is sent the first at once; with two calls under way the rest stays.
    assert replica.sizes() == [1, 3]
    assert len(queue.waiting) == 2
    replica.may_begin.set()
    outcomes = await asyncio.gather(*waiting)
    assert replica.sizes() == [1, 3, 2]
    for job, outcome in zip(asked, outcomes, strict=True):
        question = job.question
        (expected,) = detector.predict([job.pixels], [question.class_name], question.num_samples, question.seed)
        assert isinstance(outcome, ReplicaAnswer)
        assert outcome.image_score == expected.image_score
    assert not queue.waiting
    await until(lambda: not queue.calls)


async def test_an_incomplete_batch_leaves_after_its_wait(replica: Watched) -> None:
    queue = queue_before(replica, batch_wait_ms=30)
    waiting = [asyncio.create_task(queue.score(job)) for job in jobs(3)]
    await until(lambda: len(replica.batches) == 2)
    assert replica.sizes() == [1, 2]
    replica.may_begin.set()
    await asyncio.gather(*waiting)


async def test_each_replica_is_sent_something_at_once(replica: Watched) -> None:
    queue = queue_before(replica, replicas=2)
    waiting = [asyncio.create_task(queue.score(job)) for job in jobs(3)]
    await until(lambda: len(replica.batches) == 2)
    assert replica.sizes() == [1, 1]
    replica.may_begin.set()
    await asyncio.gather(*waiting)


async def test_a_full_queue_refuses(replica: Watched) -> None:
    queue = queue_before(replica)
    waiting = [asyncio.create_task(queue.score(job)) for job in jobs(1 + 3 + 4)]
    await until(lambda: len(queue.waiting) == 4)
    with pytest.raises(Problem, match="queue is full") as refused:
        await queue.score(jobs(1)[0])
    assert refused.value.status_code == 503
    replica.may_begin.set()
    assert len(await asyncio.gather(*waiting)) == 8


async def test_who_has_gone_is_not_scored(replica: Watched) -> None:
    queue, asked = queue_before(replica, batch_wait_ms=30), jobs(6)
    waiting = [asyncio.create_task(queue.score(job)) for job in asked]
    await until(lambda: len(replica.batches) == 2)
    for gone in (1, 2, 3, 4):  # the whole second batch, and one in the queue
        waiting[gone].cancel()
    await until(lambda: len(queue.waiting) == 0 and len(replica.batches) == 3)
    assert np.array_equal(replica.batches[2][0].pixels, asked[5].pixels)
    assert replica.sizes() == [1, 3, 1]  # the call of the second batch has ended, so there was room
    replica.may_begin.set()
    await waiting[0]
    await waiting[5]


async def test_one_who_has_gone_takes_nothing_from_the_others(replica: Watched) -> None:
    queue = queue_before(replica)
    waiting = [asyncio.create_task(queue.score(job)) for job in jobs(4)]
    await until(lambda: len(replica.batches) == 2)
    waiting[2].cancel()
    replica.may_begin.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [
        ReplicaAnswer,
        ReplicaAnswer,
        asyncio.CancelledError,
        ReplicaAnswer,
    ]


async def test_a_lost_batch_is_sent_again(replica: Watched) -> None:
    queue = queue_before(replica)
    replica.losses = {"nut 2": TRIES - 1}
    replica.may_begin.set()
    outcomes = await asyncio.gather(*(queue.score(job) for job in jobs(4)))
    assert all(isinstance(outcome, ReplicaAnswer) for outcome in outcomes)
    assert sorted(replica.sizes()) == [1, *[3] * TRIES]


async def test_what_fails_is_told_to_all_of_its_batch_and_to_no_other(replica: Watched) -> None:
    queue = queue_before(replica)
    replica.losses = {"nut 2": TRIES}
    replica.may_begin.set()
    outcomes = await asyncio.gather(*(queue.score(job) for job in jobs(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ReplicaAnswer, Problem, Problem, Problem, ReplicaAnswer]
    assert all(outcome.status_code == 503 for outcome in outcomes if isinstance(outcome, Problem))


async def test_replicas_that_answer_are_counted(replica: Watched) -> None:
    queue = queue_before(replica)
    replica.may_begin.set()
    for name in ("one", "other"):
        replica.replica.id = name
        await queue.score(jobs(1)[0])
    replica.may_begin.clear()
    waiting = [asyncio.create_task(queue.score(job)) for job in jobs(3)]
    await until(lambda: len(replica.batches) == 4)
    assert replica.sizes() == [1, 1, 1, 1]
    assert len(queue.waiting) == 1
    queue.answered = dict.fromkeys(queue.answered, time.monotonic() - FORGET_S)
    assert queue.replicas == 1
    replica.may_begin.set()
    waiting += [asyncio.create_task(queue.score(job)) for job in jobs(2)]
    await asyncio.gather(*waiting)
    assert replica.sizes() == [1, 1, 1, 1, 3]


async def test_a_call_that_ray_cancels_leaves_nobody_waiting(replica: Watched) -> None:
    queue = queue_before(replica)
    cancelled = LocalMethod(replica.replica.score_all)
    cancelled.remote = lambda *_: asyncio.get_running_loop().create_task(cancel_oneself())  # type: ignore[method-assign]
    replica.score = cancelled
    with pytest.raises(Problem, match="stopped") as told:
        await queue.score(jobs(1)[0])
    assert told.value.status_code == 503
    assert not queue.calls


async def cancel_oneself() -> None:
    """As a call ends whose replica is stopped."""
    raise asyncio.CancelledError


async def test_who_has_waited_once_is_not_refused(replica: Watched) -> None:
    queue = queue_before(replica)
    waiting = [asyncio.create_task(queue.score(job)) for job in jobs(1 + 3 + 4)]
    await until(lambda: len(queue.waiting) == 4)
    waiting.append(asyncio.create_task(queue.score(jobs(1)[0], again=True)))
    await until(lambda: len(queue.waiting) == 5)
    replica.may_begin.set()
    assert len(await asyncio.gather(*waiting)) == 9


async def test_a_model_too_busy_to_say_is_the_one_that_answered_last(
    replica: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.models.client.DESCRIBE_S", 0.1)
    replica.may_begin.set()
    client = ModelClient(ModelSettings(**MODEL), Decoder(LIMITS), Measures(), replica, None)
    scored, _ = await client.score(encoded(picture()), Question("nut", 1, 0, False))
    silent = threading.Event()
    replica.describe = LocalMethod(silent.wait)
    try:
        assert await client.ready() == scored.model
        client.champion.answered = dict.fromkeys(client.champion.answered, time.monotonic() - FORGET_S)
        client.probed -= READY_FOR_S + 1  # the answer of the probe before is old
        with pytest.raises(Problem, match="not ready"):
            await client.ready()
    finally:
        silent.set()
