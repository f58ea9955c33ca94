"""How far long work has come: a bar on a terminal, else a line now and then."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

LINE_EVERY_S = 20.0
SILENT_S = 2.0
"""What takes no longer needs no line."""


@contextmanager
def progress(total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr while the block runs.

    Args:
        total: amount of work.
        unit: what is counted, in the singular.
        done: amount that was done before.

    Yields:
        A function that is called with each further amount.
    """
    bar = tqdm(total=total, initial=done, unit=unit, disable=not sys.stderr.isatty(), file=sys.stderr)
    finished, began, count = threading.Event(), time.monotonic(), done

    def advance(amount: int) -> None:
        nonlocal count
        count += amount
        bar.update(amount)

    def tick() -> None:  # also while nothing advances: workers that load a model take a while
        while not finished.wait(LINE_EVERY_S if bar.disable else 1.0):
            if not bar.disable:
                bar.refresh()
            elif count < total:
                passed = time.monotonic() - began
                left = passed * (total - count) / (count - done) if count > done else None
                when = f"{passed:.0f} s so far" if left is None else f"about {left:.0f} s left"
                print(f"{count:,} of {total:,} {unit}s, {when}", file=sys.stderr, flush=True)

    ticking = threading.Thread(target=tick, daemon=True)
    ticking.start()
    try:
        yield advance
    finally:
        finished.set()
        ticking.join()
        bar.close()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on stderr what is done while the block runs, if it takes longer than a moment.

    Args:
        what: such as `Loading CLIP ViT-L-14-336`.

    Yields:
        Nothing.
    """
    timer = threading.Timer(SILENT_S, lambda: print(f"{what} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
