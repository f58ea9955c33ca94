"""A data set's folder -> is it complete? Compares it with the published counts and opens every image."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.data.walk import SkippedFile, is_image
from bayes_pfl.datasets.description import Dataset
from bayes_pfl.datasets.packing import PackingOptions, read_record
from bayes_pfl.datasets.record import Record
from bayes_pfl.datasets.source import DatasetListing, read_file
from bayes_pfl.errors import ImageError

THREADS = 4
"""Decoding runs outside Python's lock, reading waits for the disk."""


class CountDifference(NamedTuple):
    """A category whose number of images is not the published one."""

    category: str
    part: str
    """E.g. ``test, anomalous``."""
    expected: int
    actual: int


class Verdict(NamedTuple):
    """What is wrong with a folder; nothing in it but ``images`` and ``ignored`` means that it is complete."""

    images: int
    differences: tuple[CountDifference, ...]
    missing: tuple[SkippedFile, ...]
    """Files that are listed, needed as a partner, or a gap in their folder's numbering."""
    extra: tuple[SkippedFile, ...]
    """Images that no rule takes, or whose names are unlike their neighbours' where there are too many."""
    doubled: tuple[tuple[str, ...], ...]
    """Groups of images with the same bytes."""
    unusable: tuple[SkippedFile, ...]
    """Images that cannot be decoded, or whose masks do not fit."""
    ignored: tuple[SkippedFile, ...]
    """Other files."""

    @property
    def complete(self) -> bool:
        """Whether every expected image is there and usable."""
        return not (self.differences or self.missing or self.unusable)


def verify(
    dataset: Dataset,
    folder: Path,
    listing: DatasetListing,
    subset: str,
    advance: Callable[[int], object] = lambda images: None,
) -> Verdict:
    """Compare a folder with a data set's description, and open every image and mask.

    Args:
        dataset: the description.
        folder: the source.
        listing: what the reader made of it.
        subset: "complete" or "paper".
        advance: called with the number of images opened since the last call.

    Returns:
        What is missing, extra, doubled or unusable.
    """
    differences = tuple(_differences(dataset, listing.records, subset))
    short: Counter[str] = Counter()
    for difference in differences:
        short[difference.category] += max(0, difference.expected - difference.actual)
    long = {difference.category for difference in differences if difference.actual > difference.expected}
    missing = [skipped for skipped in listing.set_aside if _is_absence(skipped.reason)]
    if subset == "complete":  # a smaller set has gaps by its nature
        for category, number in short.items():
            missing += _gaps([r for r in listing.records if r.category == category], listing.set_aside, number)
    extra = [skipped for skipped in listing.ignored if is_image(skipped.path)]
    extra += _odd_names(record for record in listing.records if record.category in long)
    extras = frozenset(extra)
    unusable = [skipped for skipped in listing.set_aside if not _is_absence(skipped.reason)]

    options = PackingOptions(dataset.name, dataset.mask_above, None, MAX_PIXELS)
    by_hash: dict[str, list[str]] = {}

    def _check(record: Record) -> tuple[str, str | None, str]:
        try:
            digest = hashlib.sha256(read_file(folder, record.image)).hexdigest()
            read_record(folder, options, record)
        except ImageError as error:
            return record.image, None, str(error)
        return record.image, digest, ""

    with ThreadPoolExecutor(THREADS) as pool:
        for path, digest, reason in pool.map(_check, listing.records):
            if digest is None:
                unusable.append(SkippedFile(path, reason))
            else:
                by_hash.setdefault(digest, []).append(path)
            advance(1)
    return Verdict(
        images=len(listing.records),
        differences=differences,
        missing=tuple(sorted(missing)),
        extra=tuple(sorted(extra)),
        doubled=tuple(sorted(tuple(paths) for paths in by_hash.values() if len(paths) > 1)),
        unusable=tuple(sorted(unusable)),
        ignored=tuple(skipped for skipped in listing.ignored if skipped not in extras),
    )


def _is_absence(reason: str) -> bool:
    return any(words in reason for words in ("does not exist", "has no mask"))


def _differences(dataset: Dataset, records: Iterable[Record], subset: str) -> Iterator[CountDifference]:
    """Every count that is known and not met."""
    counted = dataset.splits_counted or subset == "paper"
    counts: Counter[tuple[str, str, int]] = Counter(
        (record.category, record.split if counted else "test", record.label) for record in records
    )
    for category in dataset.categories:
        expected = category.expected(subset)
        for part, number in expected._asdict().items() if expected else ():
            split, _, label = part.partition("_")
            actual = counts[category.name, split, int(label == "anomalous")]
            if actual != number:
                where = f"{split}, {label}" if counted else label
                yield CountDifference(category.name, where, number, actual)


def _gaps(records: Iterable[Record], set_aside: Iterable[SkippedFile], lacking: int) -> Iterator[SkippedFile]:
    """Names that the numbering of a folder leaves out, where its files are simply numbered.

    A folder with more gaps than there are images ``lacking`` is not: its numbers are dates, or others' to begin with.
    """
    present_anyway = {skipped.path for skipped in set_aside}
    for folder, paths in _by_folder(records).items():
        numbers = [re.findall(r"\d+", PurePosixPath(path).stem) for path in paths]
        if not all(len(parts) == 1 for parts in numbers):
            continue
        present = {int(parts[0]) for parts in numbers}
        if max(present) - min(present) + 1 - len(present) > lacking:
            continue
        name, width = PurePosixPath(paths[0]).name, len(numbers[0][0])
        for number in sorted(set(range(min(present), max(present))) - present):
            path = f"{folder}/{re.sub(r'[0-9]+', f'{number:0{width}d}', name, count=1)}"
            if path not in present_anyway:
                yield SkippedFile(path, "a gap in the numbering")


def _odd_names(records: Iterable[Record]) -> Iterator[SkippedFile]:
    """Names unlike most of their neighbours', where a category has too many images."""
    for paths in _by_folder(records).values():
        shapes = {path: re.sub(r"\d+", "#", PurePosixPath(path).name) for path in paths}
        usual, _ = Counter(shapes.values()).most_common(1)[0]
        for path, shape in shapes.items():
            if shape != usual:
                yield SkippedFile(path, "named unlike its neighbours")


def _by_folder(records: Iterable[Record]) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = {}
    for record in records:
        folders.setdefault(str(PurePosixPath(record.image).parent), []).append(record.image)
    return folders
