"""Jobs of a reproduction as Ray tasks, as many at a time as there are cores or GPUs; each result is kept at once."""

import functools
import itertools
import math
import sys
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from bayes_pfl.data.remote import Store
from pipelines.platform.progress import progress
from pipelines.scoring.options import Actors

RATES = "rates.json"
"""Seconds a unit of each kind of job, as they were measured here."""

RELATIVE = {
    "training": {"bayes_pfl": 1.0, "april_gan": 1.0, "clip_ad": 1.0, "anomaly_clip": 1.0, "ada_clip": 5.0},
    "measuring": {
        "bayes_pfl": 1.0,
        "winclip": 3.0,
        "april_gan": 0.6,
        "clip_ad": 0.8,
        "anomaly_clip": 0.8,
        "ada_clip": 1.0,
    },
    "timing": {"": 1.0},
}
"""Seconds an image beside Bayes-PFL's, with the embedded CLIP on one core: for kinds of work not measured yet."""


class PendingJob(NamedTuple):
    """One unit of work: a function and its arguments."""

    subject: Hashable
    """The training or measurement that it makes."""
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
        probe: measures `training` and `measuring` of Bayes-PFL, seconds an image; called once, where a kind is new.
    """

    def __init__(self, store: Store, probe: Callable[[], dict[str, float]]) -> None:
        self._store = store
        self._measured: dict[str, float] = store.read_json(RATES) or {}
        self._probed = functools.cache(probe)

    def note(self, job: PendingJob, seconds: float) -> None:
        """Keep how long a job took.

        Args:
            job: that ended.
            seconds: of it.
        """
        self._measured[job.kind] = seconds / max(1, job.units)
        self._store.write_json(RATES, self._measured)

    def seconds(self, job: PendingJob) -> float:
        """How long a job takes.

        Args:
            job: that is to be done.

        Returns:
            Seconds; NaN where that could not be measured.
        """
        if job.kind in self._measured:
            return job.units * self._measured[job.kind]
        stage, _, method = job.kind.partition(" of ")
        probed = self._probed().get("training" if stage == "training" else "measuring", math.nan)
        return job.units * RELATIVE[stage][method] * probed


def minutes(jobs: Sequence[PendingJob], rates: Rates, actors: Actors) -> str:
    """How long jobs take together, in words.

    Args:
        jobs: that are to be done.
        rates: what was measured.
        actors: how many at a time.

    Returns:
        Such as `about 12 minutes`.
    """
    seconds = sum(map(rates.seconds, jobs)) / actors.number
    if math.isnan(seconds):
        return "a time that is not known yet"
    return f"about {max(1, round(seconds / 60))} minutes" if seconds > 45 else "less than a minute"


def do_all(jobs: Sequence[PendingJob], actors: Actors, rates: Rates) -> dict[Hashable, str]:
    """Do jobs; one that fails stops no other.

    Args:
        jobs: in the order in which they start.
        actors: how many at a time, and whether each has a GPU.
        rates: gets how long each took.

    Returns:
        Why jobs failed, by subject.
    """
    import ray

    task = ray.remote(num_gpus=1) if actors.use_gpu else ray.remote(num_cpus=1)
    failures: dict[Hashable, str] = {}
    ahead, running = iter(jobs), dict[Any, PendingJob]()
    seconds = {job.subject: rates.seconds(job) for job in jobs}
    weights = {subject: 1 if math.isnan(each) else max(1, round(each)) for subject, each in seconds.items()}
    with progress(sum(weights.values()), "work second") as advance:
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
                failures[job.subject] = f"{job.label} failed: {last_words(error)}"
                print(failures[job.subject], file=sys.stderr)
            advance(weights[job.subject])


def last_words(error: Exception) -> str:
    """What a task ended with, in one line: the first of its own exception, the last of Ray's.

    Args:
        error: Ray's.

    Returns:
        Words without a full stop; the exception's kind where it has none.
    """
    cause = getattr(error, "cause", None)
    lines = str(cause or error).strip().splitlines() or [type(cause or error).__name__]
    return lines[0 if cause else -1].rstrip(".")
