"""A CSV file that lists images -> their paths, what they show, and what a person said of them."""

import csv
from pathlib import Path
from typing import NamedTuple

from bayes_pfl.data.remote import is_remote
from bayes_pfl.datasets.names import state_of
from bayes_pfl.datasets.record import ANOMALOUS, NORMAL
from bayes_pfl.errors import ConfigError

YES_NO = {"0": NORMAL, "1": ANOMALOUS, "no": NORMAL, "yes": ANOMALOUS, "false": NORMAL, "true": ANOMALOUS}
"""Labels that mean something in a column, beside the words that folders are called by."""

UNDECIDED = -1
"""Label of a row whose verdict is empty or unsure."""


class ListedImage(NamedTuple):
    """A row of a list."""

    path: str
    """Absolute, or a URI."""
    class_name: str
    """Empty where the row does not say."""
    label: int | None
    """0 (good), 1 (defective) or `UNDECIDED`; None where the list has no such column."""


def read_list(path: Path) -> list[ListedImage]:
    """The rows of a list, such as a review or the page of the endpoint writes.

    Columns: `path` (relative to the list's folder, absolute, or a URI), and optionally `class_name` and `verdict` or
    `label` (good or defective, in the words that folders of datasets are called by; empty or unsure: nobody decided).

    Args:
        path: the CSV file, UTF-8.

    Returns:
        The rows in order; a path that is listed twice counts once.

    Raises:
        ConfigError: it cannot be read, has no column path or no row, a label is unknown, or a path has two of them.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [
                {(name or "").strip().lower(): value for name, value in row.items()} for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"The list {path} cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    if not rows or "path" not in rows[0]:
        raise ConfigError(f"{path} lists no images: its first line names the columns, and must name path.")
    column = "verdict" if "verdict" in rows[0] else "label"
    listed: dict[str, ListedImage] = {}
    for number, row in enumerate(rows, 2):
        image = (row.get("path") or "").strip()
        if not image:
            raise ConfigError(f"{path}, line {number}: path is empty.")
        image = image if is_remote(image) else str((path.resolve().parent / image).resolve())
        label = _label(row[column], path, number) if column in row else None
        entry = ListedImage(image, (row.get("class_name") or "").strip(), label)
        if listed.setdefault(image, entry) != entry:
            raise ConfigError(f"{path}, line {number}: {row['path']} is listed twice, and the rows differ.")
    return list(listed.values())


def _label(text: str | None, path: Path, number: int) -> int:
    word = (text or "").strip().lower()
    if word in ("", "unsure"):
        return UNDECIDED
    label = YES_NO.get(word, state_of(word))
    if label is None:
        raise ConfigError(f"{path}, line {number}: {text!r} is no verdict; write good or defective, or leave it empty.")
    return label
