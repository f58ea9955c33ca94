"""Rows -> a CSV file that spreadsheets open without running anything of it."""

import csv
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a text begins with that spreadsheets take for a formula."""


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows under the names of their columns, whole or not at all.

    A text that a spreadsheet would take for a formula gets a single quote in front; numbers stay as they are.

    Args:
        path: the file.
        rows: values by column; columns come in the order in which they appear.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: plain_cell(value) for name, value in row.items()} for row in rows)
    Path(temporary).chmod(0o644)
    Path(temporary).replace(path)


def plain_cell(value: Any) -> Any:
    """A value that no spreadsheet runs.

    Args:
        value: a cell.

    Returns:
        The value; a text that looks like a formula with a single quote in front.

    >>> plain_cell("=1+1"), plain_cell(-0.5)
    ("'=1+1", -0.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
