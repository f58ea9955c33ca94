"""Checkpoints that the workers hand in -> one line for each finished epoch on the driver, and a bar on a terminal."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

from tqdm import tqdm

from bayes_pfl.data.remote import Store, is_remote
from bayes_pfl.datasets.checks import counted
from bayes_pfl.errors import DataError, OutputError
from pipelines.platform.progress import LINE_EVERY_S
from pipelines.training.checkpoints import PROGRESS_FILE, checkpoint_names
from pipelines.training.loop import SELECTION

POLL_S = 0.5
POLL_REMOTE_S = 5.0


class Start(NamedTuple):
    """A group of workers that began: the first one, or one that took the place of another."""

    epochs: int
    """Finished before."""
    workers: int


class StepCounter:
    """A small Ray actor that knows how many steps are done, so that the driver's bar can move within an epoch."""

    def __init__(self) -> None:
        self._steps = 0
        self._starts: list[Start] = []

    def begin(self, epochs: int, workers: int) -> None:
        """Called by the first worker of a group before its first step.

        Args:
            epochs: finished before.
            workers: of the group.
        """
        self._starts.append(Start(epochs, workers))

    def put(self, steps: int) -> None:
        """Called by the first worker after a step.

        Args:
            steps: optimiser steps done.
        """
        self._steps = steps

    def get(self) -> tuple[int, list[Start]]:
        """Called by the driver.

        Returns:
            Optimiser steps done, and the groups that began.
        """
        return self._steps, self._starts


class EpochLines:
    """While the block runs, print a line for every epoch whose checkpoint appears in `store`, with the time left.

    On a terminal a bar over `epochs` x `steps_per_epoch` stands below the lines; elsewhere a line now and then says how
    many steps are done. A line says when workers take the place of others.

    Args:
        store: of the checkpoints.
        epochs: of the run.
        steps_per_epoch: optimiser steps.
        workers: that were asked for.
        counter: a handle of `StepCounter`.
        keep: gets the metrics of all epochs so far after each.
    """

    def __init__(
        self,
        store: Store,
        epochs: int,
        steps_per_epoch: int,
        workers: int,
        counter: Any,
        keep: Callable[[list[dict[str, float]]], None],
    ) -> None:
        self._store, self._epochs, self._workers, self._counter, self._keep = store, epochs, workers, counter, keep
        self._last_line, self._last_steps, self._starts = time.monotonic(), 0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._seen = len(self._finished())
        self._bar = tqdm(
            total=epochs * steps_per_epoch, unit="step", leave=False, disable=not sys.stderr.isatty(), file=sys.stderr
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
            try:
                steps, starts = ray.get(self._counter.get.remote(), timeout=POLL_REMOTE_S)
                self._show_starts(starts)
                self._show_steps(steps)
            except ray.exceptions.RayError:
                continue  # the machine with the counter is gone; the lines go on

    def _show_starts(self, starts: list[Start]) -> None:
        """Say where new workers go on, and count the time left from there."""
        for number, (done, workers) in enumerate(starts[self._starts :], self._starts):
            self._began, self._already = time.monotonic(), done
            where = f"going on after epoch {done} of {self._epochs}" if done else "beginning with epoch 1"
            where += f", on {counted(workers, 'worker')}."
            if number:
                tqdm.write(f"Workers have started again: {where}", file=sys.stderr)
            elif done or workers != self._workers:
                tqdm.write(where[0].upper() + where[1:], file=sys.stderr)
        self._starts = len(starts)

    def _show_steps(self, steps: int) -> None:
        """Move the bar, or print a line where there is none and the last one is long ago."""
        if not self._bar.disable:
            self._bar.update(steps - self._bar.n)
            return
        if time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            same = ", as before: validation runs, or a lost worker is waited for" if steps == self._last_steps else ""
            what = f"step {steps} of {self._bar.total}{same}" if steps else "The workers start ..."
            print(what, file=sys.stderr)
            self._last_steps = steps

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
            left = f"{each * max(0, self._epochs - done):.0f} s left"
            self._last_line = time.monotonic()
            tqdm.write(f"epoch {done}/{self._epochs}  {left}  {epoch_line(history, done - 1)}", file=sys.stderr)
        if len(history) > self._seen:
            with contextlib.suppress(OSError, OutputError):  # it is written once more at the end
                self._keep(history)
        self._seen = max(self._seen, len(history))


def epoch_line(history: list[dict[str, float]], index: int) -> str:
    """What a person wants to know of an epoch: loss and validation metrics, and last whether it got better or worse.

    Args:
        history: metrics of the epochs so far.
        index: which of them.

    Returns:
        A part of a line. It ends with the validation pixel AP against the best before, without one with the loss
        against that of the epoch before.

    >>> epoch_line([{"total": 2.0, "stage": 1}, {"total": 1.5, "stage": 1, "images_per_second": 12.3}], 1)
    '12.3 images/s  loss 1.5, better by 0.5'
    >>> first, second = ({"total": 2.0, "stage": 1, "validation_pixel_ap": ap} for ap in (0.5, 0.4321))
    >>> epoch_line([first, second], 0)
    'loss 2  validation pixel AP 50.0 %'
    >>> epoch_line([first, second], 1)
    'loss 2  validation pixel AP 43.2 %, worse than 50.0 % in epoch 1'
    """
    metrics = history[index]
    parts = [f"{metrics['images_per_second']:.1f} images/s"] if "images_per_second" in metrics else []
    loss, judged = f"loss {metrics['total']:.4g}", metrics.get(SELECTION)
    if judged is None:
        before = history[index - 1] if index > 0 and history[index - 1]["stage"] == metrics["stage"] else None
        change = "" if before is None else f", {_compared(before['total'] - metrics['total'])}"
        return "  ".join([*parts, loss + change])
    earlier = [(entry[SELECTION], number) for number, entry in enumerate(history[:index], 1) if SELECTION in entry]
    figure = f"validation pixel AP {100 * judged:.1f} %"
    if earlier:
        best, epoch = max(earlier, key=lambda pair: pair[0])
        figure += f", {'better' if judged > best else 'worse'} than {100 * best:.1f} % in epoch {epoch}"
    return "  ".join([*parts, loss, figure])


def _compared(gain: float) -> str:
    return f"{'better' if gain > 0 else 'worse'} by {abs(gain):.4g}"
