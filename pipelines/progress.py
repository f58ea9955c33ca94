"""One line per finished epoch on the driver, read from the checkpoints that workers hand in."""

import json
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

POLL_S = 0.5


class EpochLines:
    """While the block runs, print a line for every epoch whose checkpoint appears in `folder`, with the time left."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self._folder, self._epochs = folder, epochs
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._seen = len(self._finished())

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._already = self._seen
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._print_new()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_S):
            self._print_new()

    def _finished(self) -> list[dict[str, float]]:
        """History of the newest readable checkpoint: every epoch so far."""
        for path in sorted(self._folder.glob("epoch_*/progress.json"), reverse=True):
            try:
                history: list[dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))["history"]
            except (OSError, ValueError):
                continue  # being written or just removed
            return history
        return []

    def _print_new(self) -> None:
        history = self._finished()
        for metrics in history[self._seen :]:
            done = int(metrics["epoch"]) + 1
            each = (time.monotonic() - self._began) / max(1, done - self._already)
            values = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name != "epoch")
            print(f"epoch {done}/{self._epochs}  {values}  left {each * (self._epochs - done):.0f} s", file=sys.stderr)
        self._seen = max(self._seen, len(history))
