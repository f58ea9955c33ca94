"""Readers of CSV tables that list images and labels: rows -> records."""

import csv
import io
import itertools
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bayes_pfl.data.walk import SkippedFile
from bayes_pfl.datasets.description import Dataset, LayoutReading
from bayes_pfl.datasets.names import LEAVE_OUT, NameChoices, meaning_of, object_name, state_of
from bayes_pfl.datasets.record import ANOMALOUS, NORMAL, Record, Split
from bayes_pfl.datasets.source import Source, paths_inside
from bayes_pfl.errors import DataError, ImageError

YES_NO = {"0": NORMAL, "1": ANOMALOUS, "no": NORMAL, "yes": ANOMALOUS, "false": NORMAL, "true": ANOMALOUS}
"""Labels that mean something in a column, where they could not as a folder's name."""


LOOKED_AT = 50
"""Rows that tell whether a CSV with other headers is a list of images."""


@dataclass(frozen=True)
class TableLayout:
    """Reads a CSV with a header; the names of its columns are fields here, "" for none."""

    file: str
    """Its path below the root; ``*.csv`` takes the only CSV there."""
    path: str
    label: str
    mask: str = ""
    category: str = ""
    split: str = ""
    defect: str = ""
    class_name: str = ""
    path_forms: tuple[str, ...] = ("{}",)
    """How the path follows from its column, relative to the CSV's root; the first that exists."""
    masks_optional: bool = False
    """A table without any mask is one with labels only."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other headers -> the column that they stand for, where it is not there."""
    choices: NameChoices = field(default_factory=NameChoices)
    """What the user says of labels and splits."""

    @property
    def expects(self) -> str:
        """The file and its columns in one line."""
        names = (self.path, self.label, self.mask, self.category, self.split)
        return f"{self.file} with columns {', '.join(name for name in names if name)}"

    def read(self, source: Source, root: str, dataset: Dataset) -> LayoutReading:
        """The records of the CSV below a root, in the order of their paths.

        Args:
            source: the folder.
            root: a folder inside it, "" for itself.
            dataset: the description.

        Returns:
            Records, listed images that cannot be used, and every file that the table accounts for.

        Raises:
            DataError: there are several such CSVs, it is no UTF-8 text, or a row has other columns than the header.
        """
        reading = LayoutReading([], [], set())
        tables = [path for path in self._files(source, root) if self._is_list(source, root, path)]
        if len(tables) > 1:
            raise DataError(f"There are {len(tables)} lists of images: {', '.join(tables)}. Make one of them.")
        for table in tables:
            rows = [self._named(row) for row in _rows(source, table)]
            reading.used.add(table)
            required = not self.masks_optional or any(row.get(self.mask) for row in rows)
            seen: set[str] = set()
            for row in rows:
                image, mask = self._image(source, root, row), row.get(self.mask) or None
                if mask is not None:
                    mask = _inside(source, root, mask)
                reading.used.update(name for name in (image, mask) if name in source.existing)
                try:
                    if image in seen:
                        raise ImageError("is listed twice")
                    seen.add(image)
                    reading.records.append(self._record(source, dataset, row, image, mask, required, root))
                except ImageError as error:
                    reading.set_aside.append(SkippedFile(image, f"{error} (in {table})"))
        return reading

    def _is_list(self, source: Source, root: str, table: str) -> bool:
        """Whether a CSV has the columns, or others of their meaning and at least one image that exists."""
        header = _header(source, table)
        if {self.path, self.label} <= {*header}:
            return True
        if not {self.path, self.label} <= {self.aliases.get(name, name) for name in header}:
            return False
        rows = (self._named(row) for row in itertools.islice(_rows(source, table), LOOKED_AT))
        return any(
            self._image(source, root, row) in source.existing and self._label(row[self.label]) is not None
            for row in rows
        )

    def _named(self, row: dict[str, str]) -> dict[str, str]:
        """A row by the names of the fields here."""
        return {self.aliases.get(name, name) if self.aliases.get(name) not in row else name: row[name] for name in row}

    def _files(self, source: Source, root: str) -> list[str]:
        if self.file != "*.csv":
            path = _inside(source, root, self.file)
            return [path] if path in source.existing else []
        inside = paths_inside(root, source.files)
        return [path for path, inner in inside if "/" not in inner and inner.lower().endswith(".csv")]

    def _image(self, source: Source, root: str, row: dict[str, str]) -> str:
        paths = [_inside(source, root, form.format(row[self.path])) for form in self.path_forms]
        return next((path for path in paths if path in source.existing), paths[0])

    def _record(
        self,
        source: Source,
        dataset: Dataset,
        row: dict[str, str],
        image: str,
        mask: str | None,
        mask_required: bool,
        root: str,
    ) -> Record:
        label = self._label(row[self.label])
        name = row.get(self.category)
        category = dataset.category(name) if name else dataset.only_category(_own_name(source, root, dataset))
        split = self._split(row.get(self.split) or "test")
        if image.startswith(("/", "../")):
            raise ImageError("is listed and lies outside the source")
        if image not in source.existing:
            raise ImageError("is listed and does not exist")
        if label is None:
            raise ImageError(
                f"has the unknown label {row[self.label]!r}; use normal or anomaly, or say --normal or --anomalous"
            )
        if category is None:
            raise ImageError(f"is of the unknown category {name!r}")
        if split is None:
            name = row[self.split]
            raise ImageError(f"is of the unknown split {name!r}; use train or test, or say --split {name}=test")
        if label == NORMAL or not dataset.has_masks:
            mask = None
        elif mask is None and mask_required:
            raise ImageError("is defective and has no mask")
        elif mask is not None and mask not in source.existing:
            raise ImageError(f"has a mask {mask} that does not exist")
        defect = "good" if label == NORMAL else row.get(self.defect) or dataset.defect or "defect"
        class_name = row.get(self.class_name) or category.class_name
        return Record(image, mask, label, category.name, class_name, split, defect)

    def _label(self, name: str) -> int | None:
        chosen = self.choices.state((name,)) if name else None
        return chosen if chosen is not None else YES_NO.get(name.lower(), state_of(name))

    def _split(self, name: str) -> Split | None:
        split = self.choices.split((name,)) or meaning_of(name).split
        if split == LEAVE_OUT:
            raise ImageError(f"is left out by --split {name}=none")
        return "train" if split == "train" else "test" if split == "test" else None


def _own_name(source: Source, root: str, dataset: Dataset) -> str:
    name = source.name_of(root)
    return name if dataset.categories else object_name(name)


def _header(source: Source, table: str) -> list[str]:
    """The names of the columns, whatever follows them: most CSVs beside images are no lists of images."""
    try:
        return _names(next(_lines(source.read(table).decode("utf-8-sig", errors="replace")), []))
    except (ImageError, csv.Error):
        return []


def _rows(source: Source, table: str) -> Iterator[dict[str, str]]:
    """The rows with stripped names and values; spreadsheets leave spaces, a byte-order mark and empty rows."""
    try:
        lines = _lines(source.read(table).decode("utf-8-sig"))
        header = _names(next(lines, []))
        for line in lines:
            if not any(value.strip() for value in line):
                continue
            if len(line) != len(header):
                raise DataError(
                    f"{table}, line {lines.line_num}: {len(line)} values for {len(header)} columns. "
                    "Put values with commas in quotes."
                )
            yield {name: value.strip() for name, value in zip(header, line, strict=True)}
    except (ImageError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read ({error}). Save it as CSV in UTF-8.") from error


def _lines(text: str) -> Any:
    """The reader of a text whose header shows what separates values: comma, semicolon or tab."""
    text = io.StringIO(text, newline=None).read()  # old Macs and Windows end lines in their own ways
    separator = max(",;\t", key=text.partition("\n")[0].count)
    return csv.reader(io.StringIO(text), skipinitialspace=True, delimiter=separator)


def _names(header: list[str]) -> list[str]:
    return [name.strip().lower() for name in header]


def _inside(source: Source, root: str, path: str) -> str:
    """A listed path relative to the source; tables may hold backslashes, dots, and paths from the disk's root.

    One that starts with ``/`` or ``..`` is none of the source.
    """
    listed = posixpath.normpath(path.replace("\\", "/"))
    if posixpath.isabs(listed):
        inside = listed.removeprefix(f"{source.folder.absolute().as_posix()}/")
    else:
        inside = posixpath.normpath(posixpath.join(root, listed))
    return source.find(inside) or inside
