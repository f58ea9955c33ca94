"""Work that takes long -> lines on standard error: what is waited for, what happens meanwhile, that it goes on."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator

LOOK_S = 0.5
"""How often it looks for news."""
AGAIN_S = 20.0
"""Longest time without a line."""


def tell(sentence: str) -> None:
    """Print a line on standard error at once.

    Args:
        sentence: the line.
    """
    print(sentence, file=sys.stderr, flush=True)


@contextlib.contextmanager
def waiting(sentence: str, news: Callable[[], Iterable[str]] = tuple) -> Iterator[None]:
    """Say what is waited for while the block runs.

    Args:
        sentence: what happens, without a full stop.
        news: asked every half second: lines that are to be printed now.

    Yields:
        Once the first line is printed.
    """
    tell(f"{sentence} ...")
    stop = threading.Event()
    thread = threading.Thread(target=_tell_news, args=(sentence, news, stop), name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _tell_news(sentence: str, news: Callable[[], Iterable[str]], stop: threading.Event) -> None:
    """Look until the work has ended, and once more then."""
    began = told = time.monotonic()
    is_over = False
    while not is_over:
        is_over = stop.wait(LOOK_S)
        for line in news():
            tell(line)
            told = time.monotonic()
        now = time.monotonic()
        if not is_over and now - told >= AGAIN_S:
            tell(f"{sentence}: still at it after {now - began:.0f} s")
            told = now
