"""Jobs of a reproduction as Ray tasks, as many at a time as there are cores or GPUs; each result is kept at once."""

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bayes_pfl.data.remote import Store
from pipelines.platform.progress import progress
from pipelines.scoring.options import Actors

RATES = "rates.json"
"""Seconds a unit of each kind of job, as they were measured here."""

ROUGH_RATES = {
    "training of bayes_pfl": 0.02,
    "training of april_gan": 0.02,
    "training of clip_ad": 0.02,
    "training of anomaly_clip": 0.02,
    "training of ada_clip": 0.1,
    "measuring of bayes_pfl": 0.06,
    "measuring of winclip": 0.15,
    "measuring of april_gan": 0.03,
    "measuring of clip_ad": 0.04,
    "measuring of anomaly_clip": 0.04,
    "measuring of ada_clip": 0.06,
}
"""The same with the embedded CLIP on one core, before anything was measured."""


class Job(NamedTuple):
    """One unit of work: a function and its arguments."""

    label: str
    kind: str
    units: int
    """Images, or images times epochs: what its time is proportional to."""
    work: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...]
    keep: Callable[[dict[str, Any]], None]
    """Writes its result."""


class Rates:
    """Seconds a unit of each kind of job.

    Args:
        store: keeps what was measured.
        embedded: whether `ROUGH_RATES` are of these models.
    """

    def __init__(self, store: Store, embedded: bool) -> None:
        self._store = store
        self._rough = ROUGH_RATES if embedded else {}
        self._measured: dict[str, float] = store.read_json(RATES) or {}

    def note(self, job: Job, seconds: float) -> None:
        """Keep how long a job took.

        Args:
            job: that ended.
            seconds: of it.
        """
        self._measured[job.kind] = seconds / max(1, job.units)
        self._store.write_json(RATES, self._measured)

    def seconds(self, job: Job) -> float | None:
        """How long a job takes.

        Args:
            job: that is to be done.

        Returns:
            Seconds; None where none of its kind was ever measured.
        """
        rate = (self._rough | self._measured).get(job.kind)
        return None if rate is None else job.units * rate


def minutes(jobs: Sequence[Job], rates: Rates, actors: Actors) -> str:
    """How long jobs take together, in words.

    Args:
        jobs: that are to be done.
        rates: what was measured.
        actors: how many at a time.

    Returns:
        `about 12 minutes`, or what has to be known first.
    """
    each = [rates.seconds(job) for job in jobs]
    unknown = sorted({job.kind for job, seconds in zip(jobs, each, strict=True) if seconds is None})
    if unknown:
        return f"a time that is known once there was a {', a '.join(unknown)} here"
    return f"about {max(1, round(sum(filter(None, each)) / 60 / actors.number))} minutes"


def do_all(jobs: Sequence[Job], actors: Actors, rates: Rates) -> dict[str, str]:
    """Do jobs; one that fails stops no other.

    Args:
        jobs: in the order in which they start.
        actors: how many at a time, and whether each has a GPU.
        rates: gets how long each took.

    Returns:
        Why jobs failed, by label.
    """
    import ray

    task = ray.remote(num_gpus=1) if actors.use_gpu else ray.remote(num_cpus=1)
    failures: dict[str, str] = {}
    ahead, running = iter(jobs), dict[Any, Job]()
    all_known = all(rates.seconds(job) is not None for job in jobs)
    weights = {job.label: max(1, round(rates.seconds(job) or 1)) for job in jobs}
    unit = "second of work" if all_known else "job"
    with progress(sum(weights.values()), unit) as advance:
        while True:
            for job in itertools.islice(ahead, actors.number - len(running)):
                running[task(job.work).remote(*job.arguments)] = job
            if not running:
                return failures
            (ready,), _ = ray.wait(list(running), num_returns=1)
            job = running.pop(ready)
            try:
                result = ray.get(ready)
                job.keep(result)
                rates.note(job, result["seconds"])
            except ray.exceptions.RayError as error:
                failures[job.label] = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
                print(f"{job.label} failed: {failures[job.label]}", file=sys.stderr)
            advance(weights[job.label])
