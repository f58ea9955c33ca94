"""A CSV file that lists images -> their paths, what they show, and what a person said of them."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bayes_pfl.data.remote import is_remote
from bayes_pfl.datasets.names import state_of
from bayes_pfl.datasets.tables import YES_NO
from bayes_pfl.errors import ConfigError
from pipelines.platform.csv_files import FORMULA

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
        ConfigError: it cannot be read, has no column path or no row, an image is not there, a label is unknown, or a
            path has two of them.
    """
    try:
        rows = list(read_rows(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"The list {path} cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    if not rows or "path" not in rows[0][1]:
        raise ConfigError(f"{path} lists no images: its first line names the columns, and must name path.")
    column = "verdict" if "verdict" in rows[0][1] else "label"
    listed: dict[str, ListedImage] = {}
    missing = []
    for number, row in rows:
        image = _image(row["path"].strip(), path, number)
        label = _label(row[column], path, number) if column in row else None
        entry = ListedImage(image, row.get("class_name", "").strip(), label)
        if listed.setdefault(image, entry) != entry:
            raise ConfigError(f"{path}, line {number}: {row['path']} is listed twice, and the rows differ.")
        if not is_remote(image) and not Path(image).is_file():
            missing.append(f"{path}, line {number}: there is no file {image}")
    if missing:
        raise ConfigError(missing[0] + (f", and {len(missing) - 1:,} more are missing." if len(missing) > 1 else "."))
    return list(listed.values())


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file whose header shows what separates values: comma, semicolon or tab.

    Args:
        path: the file, UTF-8.

    Yields:
        The number of a row's last line, and its values by column in small letters; rows without any are left out.

    Raises:
        OSError, UnicodeDecodeError, csv.Error: it cannot be read.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        separator = max(",;\t", key=file.readline().count)
        file.seek(0)
        reader = csv.DictReader(file, delimiter=separator, restval="")
        for row in reader:
            named = {name.strip().lower(): _unquoted(value) for name, value in row.items() if name is not None}
            if any(value.strip() for value in named.values()):
                yield reader.line_num, named


def _unquoted(value: str) -> str:
    """A cell as it was before it was kept from running as a formula."""
    return value[1:] if value.startswith("'") and value[1:].startswith(FORMULA) else value


def _image(text: str, path: Path, number: int) -> str:
    """The image of a row."""
    if not text or "\0" in text:
        raise ConfigError(f"{path}, line {number}: path is empty, or none.")
    return text if is_remote(text) else str((path.resolve().parent / text).resolve())


def _label(text: str, path: Path, number: int) -> int:
    word = text.strip().lower()
    if word in ("", "unsure"):
        return UNDECIDED
    label = YES_NO.get(word, state_of(word))
    if label is None:
        raise ConfigError(f"{path}, line {number}: {text!r} is no verdict; write good or defective, or leave it empty.")
    return label
