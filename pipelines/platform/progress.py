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
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, unit=unit) as bar:
            yield lambda amount: _ignore(bar.update(amount))
        return
    began = last = time.monotonic()
    count = done

    def advance(amount: int) -> None:
        nonlocal count, last
        count += amount
        now = time.monotonic()
        if now - last >= LINE_EVERY_S and count < total:
            last = now
            left = (now - began) * (total - count) / max(1, count - done)
            print(f"{count:,} of {total:,} {unit}s, about {left:.0f} s left", file=sys.stderr, flush=True)

    yield advance


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


def _ignore(_value: object) -> None:
    return None
