"""Images done -> a bar or lines on standard error."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Images done: a bar on a terminal, a line every ten seconds elsewhere; both on standard error."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.entered = self.last_line = time.monotonic()
        self.started: float | None = None
        self.bar = tqdm(total=total, unit=" images", disable=not (total and sys.stderr.isatty()))

    def begin(self, seconds_ago: float = 0.0) -> None:
        """Start the clock, unless it runs: what came before the first piece of work was start-up.

        Args:
            seconds_ago: how long the first piece of work has run.
        """
        if self.started is None:
            self.started = time.monotonic() - seconds_ago
            self.bar.reset()  # its rate leaves out the start-up too

    def advance(self, images: int) -> None:
        """Count finished images.

        Args:
            images: how many more are done.
        """
        self.done += images
        self.bar.update(images)
        now = time.monotonic()
        if self.bar.disable and now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            print(
                f"ingest: {self.done:,} of {self.total:,} images, {self.images_per_second:,.0f} images/s",
                file=sys.stderr,
                flush=True,
            )

    @property
    def startup_seconds(self) -> float:
        """From the plan to the first piece of work; 0 if there was none."""
        return 0.0 if self.started is None else self.started - self.entered

    @property
    def images_per_second(self) -> float:
        """Since the first piece of work; 0 if there was none."""
        return 0.0 if self.started is None else self.done / max(time.monotonic() - self.started, 1e-9)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
