"""What the tests of recordings share: where they lie, and which lines of a report are marked."""

from pathlib import Path

RECORDINGS = Path(__file__).parent


def marked(printed: str) -> list[str]:
    """Lines of a report whose difference is too large."""
    return [line for line in printed.splitlines() if line.endswith("TOO FAR")]
