"""Checkpoints that the workers hand in -> one line for each finished epoch on the driver, and a bar on a terminal."""

import contextlib
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from bayes_pfl.data.remote import Store, is_remote
from bayes_pfl.errors import DataError
from pipelines.training.checkpoints import PROGRESS_FILE, checkpoint_names

POLL_S = 0.5
POLL_REMOTE_S = 5.0
SHOWN = ("validation_pixel_ap", "validation_image_auroc")
"""Metrics beside the loss that a line shows; all of them are in the run's metrics file and in MLflow."""


class StepCounter:
    """A small Ray actor that knows how many steps are done, so that the driver's bar can move within an epoch."""

    def __init__(self) -> None:
        self._steps = 0

    def put(self, steps: int) -> None:
        """Called by the first worker after a step.

        Args:
            steps: optimiser steps done.
        """
        self._steps = steps

    def get(self) -> int:
        """Called by the driver.

        Returns:
            Optimiser steps done.
        """
        return self._steps


class EpochLines:
    """While the block runs, print a line for every epoch whose checkpoint appears in `store`, with the time left.

    With a `counter` (a handle of `StepCounter`) a bar over `epochs` x `steps_per_epoch` stands below the lines.
    """

    def __init__(self, store: Store, epochs: int, steps_per_epoch: int, counter: Any = None) -> None:
        self._store, self._epochs, self._counter = store, epochs, counter
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._seen = len(self._finished())
        self._bar = tqdm(
            total=epochs * steps_per_epoch, unit="step", leave=False, disable=counter is None, file=sys.stderr
        )

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._already = self._seen
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._print_new()
        self._bar.close()

    def _watch(self) -> None:
        import ray

        while not self._stop.wait(POLL_REMOTE_S if is_remote(self._store.root) else POLL_S):
            self._print_new()
            if self._counter is not None:
                try:
                    self._bar.update(ray.get(self._counter.get.remote(), timeout=POLL_REMOTE_S) - self._bar.n)
                except ray.exceptions.RayError:
                    continue  # the machine with the counter is gone; the lines go on

    def _finished(self) -> list[dict[str, float]]:
        """History of the newest readable checkpoint: every epoch so far."""
        try:
            names = checkpoint_names(self._store)
        except DataError:  # the store does not answer at the moment; the lines come later
            return []
        for name in names:
            progress = None
            with contextlib.suppress(DataError):  # the store may not answer at the moment
                progress = self._store.read_json(f"{name}/{PROGRESS_FILE}")
            if progress is not None:  # else it is being written or was just removed
                history: list[dict[str, float]] = progress["history"]
                return history
        return []

    def _print_new(self) -> None:
        history = self._finished()
        for metrics in history[self._seen :]:
            done = int(metrics["epoch"]) + 1
            each = (time.monotonic() - self._began) / max(1, done - self._already)
            left = f"left {each * max(0, self._epochs - done):.0f} s"
            tqdm.write(f"epoch {done}/{self._epochs}  {epoch_line(history, done - 1)}  {left}", file=sys.stderr)
        self._seen = max(self._seen, len(history))


def epoch_line(history: list[dict[str, float]], index: int) -> str:
    """What a person wants to know of an epoch: the loss, how it changed, the validation metrics, the speed.

    Args:
        history: metrics of the epochs so far.
        index: which of them.

    Returns:
        A part of a line.

    >>> epoch_line([{"total": 2.0, "stage": 1}, {"total": 1.5, "stage": 1, "images_per_second": 12.3}], 1)
    'total 1.5 (-0.5)  images_per_second 12.3'
    >>> epoch_line([{"total": 2.0, "stage": 1, "validation_pixel_ap": 0.4321}], 0)
    'total 2  validation_pixel_ap 43.2 %'
    """
    metrics = history[index]
    before = history[index - 1] if index > 0 and history[index - 1]["stage"] == metrics["stage"] else None
    change = "" if before is None else f" ({metrics['total'] - before['total']:+.4g})"
    parts = [f"total {metrics['total']:.4g}{change}"]
    parts += [f"{name} {100 * metrics[name]:.1f} %" for name in SHOWN if name in metrics]
    parts += [f"images_per_second {metrics['images_per_second']:.3g}"] if "images_per_second" in metrics else []
    return "  ".join(parts)
