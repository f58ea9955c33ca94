"""A data set's name and a folder -> its records: find the layout, read it, select from it."""

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from bayes_pfl.data.walk import ARCHIVE_SUFFIXES, SkippedFile, is_image, no_image, printable, suffix_of
from bayes_pfl.datasets.description import Dataset, LayoutReading, Reader, plain
from bayes_pfl.datasets.folders import FolderLayout, FolderTemplate
from bayes_pfl.datasets.industrial import INDUSTRIAL
from bayes_pfl.datasets.lists import COMMUNITY_LIST, MetaListLayout, find_list
from bayes_pfl.datasets.medical import MEDICAL
from bayes_pfl.datasets.own import FOLDER
from bayes_pfl.datasets.record import NORMAL, Record
from bayes_pfl.datasets.source import DatasetListing, Source
from bayes_pfl.errors import DataError

DATASETS = {dataset.name: dataset for dataset in (*INDUSTRIAL, *MEDICAL)}
"""The paper's fifteen, by name."""

REARRANGED = FolderLayout(
    (FolderTemplate("{category}/{split}/{kind}/", "{category}/ground_truth/{kind}/"),),
    mask_stems=("{stem}_mask", "{stem}", "{stem}_Segmentation", "{stem}_label"),
)
"""The form into which the community brings every dataset, with or without a list."""

LAYOUTS = ("published", "meta", "rearranged")
SUBSETS = ("complete", "paper")
ROOT_DEPTH = 3


def get_dataset(name: str) -> Dataset:
    """The description of a data set.

    Args:
        name: of the data set, or "folder" for images of one's own.

    Returns:
        Its description.

    Raises:
        DataError: there is none of this name.
    """
    datasets = {**DATASETS, FOLDER.name: FOLDER}
    if name in datasets:
        return datasets[name]
    near = difflib.get_close_matches(plain(name), datasets, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise DataError(f"There is no dataset {name!r}.{hint} Known: {', '.join(datasets)}.")


def find(
    dataset: Dataset,
    source: Source,
    layout: str | None = None,
    subset: str = "complete",
    splits: Collection[str] = (),
    categories: Sequence[str] = (),
    limit: int | None = None,
) -> DatasetListing:
    """All records of a data set in a folder, and what became of every other file.

    Args:
        dataset: its description.
        source: the folder.
        layout: one of `LAYOUTS`; None tries them in order.
        subset: one of `SUBSETS`.
        splits: only these; empty for all.
        categories: only these, by any of their names; empty for all.
        limit: at most so many records, taken in turn from every category, split and label.

    Returns:
        Records, and files that are set aside, ignored or left out, with reasons.

    Raises:
        DataError: the folder does not hold the data set in a known layout, or a choice is unknown.
    """
    listing = _read(dataset, source, layout)
    if subset == "paper":
        listing = _paper(dataset, source, listing)
    if splits:
        reason = f"not of the split {', '.join(splits)}"
        listing = _keep(listing, lambda record: record.split in splits, reason)
    if categories:
        names = _category_names(dataset, listing.records, categories)
        reason = f"not of the categories {', '.join(categories)}"
        listing = _keep(listing, lambda record: record.category in names, reason)
    if limit is not None:
        chosen = set(_spread(listing.records, limit))
        listing = _keep(listing, chosen.__contains__, f"beyond the limit of {limit}")
    return listing


def _read(dataset: Dataset, source: Source, layout: str | None) -> DatasetListing:
    tried: list[str] = []
    unusable = list(source.unusable)
    for name, reader in _readers(dataset, layout):
        for root in _roots(dataset, source):
            reading = reader.read(source, root, dataset)
            if reading.records:
                return _listing(name, root, source, reading)
            unusable = unusable or reading.set_aside
        tried.append(f"  {name}: {reader.expects}")
    where = f"under {source.folder}" + (f" in the layout {layout}" if layout else "")
    images = f"images of {dataset.title}" if dataset.name != FOLDER.name else "images"
    if unusable:
        path, reason = unusable[0]
        raise DataError(
            f"There are no {images} {where} that can be used: {len(unusable):,} were found or listed, "
            f"the first of them, {printable(path)}, {reason}. Complete or mend the folder."
        )
    archives = [path for path in source.files if suffix_of(path) in ARCHIVE_SUFFIXES]
    unpack = f"{printable(archives[0])} is an archive: unpack it. " if archives else ""
    raise DataError(
        f"There are no {images} {where}. {unpack}"
        f"Give {'their' if dataset.name == FOLDER.name else 'its unpacked'} folder as --source; it should hold one of\n"
        + "\n".join(tried)
    )


def _readers(dataset: Dataset, layout: str | None) -> Iterator[tuple[str, Reader]]:
    """The published form first: a list beside it was made from it."""
    if layout in (None, "published"):
        yield from (("published", reader) for reader in dataset.published)
    if dataset.name != FOLDER.name:
        if layout in (None, "meta"):
            yield "meta", MetaListLayout()
        if layout in (None, "rearranged"):
            yield "rearranged", REARRANGED
    elif layout not in (None, "published"):
        raise DataError(f"--layout {layout} is not for {dataset.name}; leave it out.")


def _roots(dataset: Dataset, source: Source) -> list[str]:
    """Folders that may hold the dataset: those that bear its name, then the shallow ones."""
    names = {plain(name) for name in (dataset.name, dataset.title, *dataset.lists)}
    folders = source.folders(ROOT_DEPTH)
    return sorted(folders, key=lambda root: bool(root) and plain(source.name_of(root)) not in names)


def _listing(layout: str, root: str, source: Source, reading: LayoutReading) -> DatasetListing:
    prefix = f"{root}/" if root else ""
    ignored = list(source.junk)
    for path in source.files:
        if path not in reading.used:
            if not path.startswith(prefix):
                reason = f"outside {root}, where the dataset was found"
            else:
                reason = reading.reasons.get(path) or ("not part of the layout" if is_image(path) else no_image(path))
            ignored.append(SkippedFile(path, reason))
    return DatasetListing(
        layout=layout,
        root=root,
        records=tuple(sorted(reading.records)),
        set_aside=tuple(sorted((*reading.set_aside, *source.unusable))),
        ignored=tuple(sorted(ignored)),
    )


def _keep(listing: DatasetListing, wanted: Callable[[Record], bool], reason: str) -> DatasetListing:
    records = tuple(record for record in listing.records if wanted(record))
    if not records:
        raise DataError(f"No image is left: of {len(listing.records):,} all are {reason}.")
    out = [SkippedFile(record.image, reason) for record in listing.records if not wanted(record)]
    return listing._replace(records=records, left_out=(*listing.left_out, *out))


def _category_names(dataset: Dataset, records: Iterable[Record], wanted: Sequence[str]) -> frozenset[str]:
    present = {record.category for record in records}
    names = set()
    for name in wanted:
        category = dataset.category(name)
        if category is None or category.name not in present:
            raise DataError(
                f"There is no category {name!r} in {dataset.name} here. There are: {', '.join(sorted(present))}."
            )
        names.add(category.name)
    return frozenset(names)


def _spread(records: Sequence[Record], limit: int) -> Iterator[Record]:
    """Up to ``limit`` records, taken in turn from every category, split and label."""
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.category, record.split, record.label), []).append(record)
    position = 0
    while limit > 0 and any(position < len(group) for group in groups.values()):
        for group in groups.values():
            if position < len(group) and limit > 0:
                limit -= 1
                yield group[position]
        position += 1


def _paper(dataset: Dataset, source: Source, listing: DatasetListing) -> DatasetListing:
    """The paper's evaluation set: as the authors' own list has it, else by the description's rule."""
    rule = dataset.paper
    if listing.layout == "meta":
        path = find_list(source, listing.root, dataset)
        if path is not None and not path.endswith(COMMUNITY_LIST):
            return listing
    if _counts_are_the_papers(dataset, listing.records):
        return listing
    if rule.unavailable:
        raise DataError(
            f"The paper's subset of {dataset.title} does not follow from these files: "
            f"{rule.unavailable} with --subset complete."
        )
    reason = "not in the paper's subset"
    if rule.categories:
        listing = _keep(listing, lambda record: record.category in rule.categories, reason)
    if rule.names:
        listing = _keep(listing, lambda record: _matches(record.image, rule.names), reason)
    if rule.test_only:
        listing = _keep(listing, lambda record: record.split == "test", reason)
    if rule.merge_splits:
        merged = (record._replace(split="test") for record in listing.records)
        listing = listing._replace(records=tuple(sorted(merged)))
    if rule.balanced:
        chosen = set(_balanced(listing.records))
        listing = _keep(listing, chosen.__contains__, reason)
    return listing


def _counts_are_the_papers(dataset: Dataset, records: Iterable[Record]) -> bool:
    counts = Counter((record.category, record.label) for record in records)
    wanted = Counter[tuple[str, int]]()
    for category in dataset.categories:
        paper = category.expected("paper")
        if paper is not None:
            wanted[category.name, 0] = paper.test_normal + paper.train_normal
            wanted[category.name, 1] = paper.test_anomalous + paper.train_anomalous
    return counts == wanted  # Counters are equal whatever zeros they hold


def _matches(path: str, patterns: Iterable[str]) -> bool:
    name = "/".join(path.split("/")[-2:])
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _balanced(records: Sequence[Record]) -> Iterator[Record]:
    """All anomalous images, and of each category as many normal ones, the first by name."""
    left = Counter(record.category for record in records if record.label != NORMAL)
    for record in records:
        if record.label == NORMAL:
            left[record.category] -= 1
        if record.label != NORMAL or left[record.category] >= 0:
            yield record
