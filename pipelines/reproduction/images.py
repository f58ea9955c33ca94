"""A folder with datasets, or the generator -> shards and frozen features of them; what is there is kept."""

import contextlib
import sys
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from bayes_pfl.data.samples import SampleRef, index_shards
from bayes_pfl.data.walk import ARCHIVE_SUFFIXES, printable, suffix_of
from bayes_pfl.datasets.catalogue import DATASETS, find
from bayes_pfl.datasets.checks import counted
from bayes_pfl.datasets.description import Dataset, plain
from bayes_pfl.datasets.source import Source
from bayes_pfl.errors import DataError, OutputError
from pipelines.ingest import ingest
from pipelines.ingestion.paths import local_path
from pipelines.options.ingest import IngestConfig
from pipelines.scoring.figures import images_digest
from pipelines.study.painting import painted_shards

HELD_OUT, AUXILIARY = "held-out", "auxiliary"
"""The painted sets of categories: what is measured, and what is trained on."""

FOLDER_NAMES = {
    "mvtec": ("mvtecanomalydetection", "mvtecad"),
    "visa": ("visa20220922",),
    "btad": ("btechdatasettransformed", "btech"),
    "ksdd2": ("kolektorsdd2", "kolektor"),
    "rsdd": ("rsdds", "raildefects"),
    "headct": ("headcthemorrhage",),
    "brainmri": ("brainmriimagesforbraintumordetection", "braintumordataset"),
    "br35h": ("braintumordetection",),
    "isic": ("isbi2016isic",),
}
"""Names of the published folders and archives, beside the dataset's own name and title, as `plain` has them."""


CHOSEN_BY_HAND = {
    "ksdd2": "its authors picked other normal images by hand",
    "dagm": "its authors drew finer masks by hand",
}
"""Where the published dataset, without the authors' own list, gives other test images or masks than the paper's."""


class MeasuredImages(NamedTuple):
    """A dataset in shards."""

    name: str
    title: str
    shards: str
    levels: tuple[str, ...]
    """What can be measured: image, pixel."""
    refs: tuple[SampleRef, ...]
    incomplete: str = ""
    """In what it is not the set that the paper measured, if it is not."""

    @property
    def digest(self) -> str:
        """Of its images, masks, labels and names."""
        return images_digest(self.refs)


def sources(data: str, wanted: Collection[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Which datasets lie in a folder, each in a folder of its own or the folder itself.

    A folder is taken for the dataset whose name it bears if that dataset can be read from it; of several the one with
    the most images.

    Args:
        data: the folder.
        wanted: names of datasets; others are not looked at.

    Returns:
        Folders by dataset, and why others that seem to be there cannot be used.

    Raises:
        DataError: there is no such folder.
    """
    root = local_path(data, "--data")
    if not root.is_dir():
        raise DataError(f"There is no folder {root}: give the folder that holds the datasets as --data.")
    sizes: dict[str, dict[Path, int]] = {}
    problems: dict[str, str] = {}
    for path in [root, *sorted(root.iterdir())]:
        dataset = _named_by(path)
        if dataset is None or dataset.name not in wanted:
            continue
        if not path.is_dir():
            if suffix_of(path.name) in ARCHIVE_SUFFIXES:
                problems.setdefault(dataset.name, f"{printable(path.name)} is an archive: unpack it")
            continue
        try:
            sizes.setdefault(dataset.name, {})[path] = _images_in(dataset, path)
        except DataError as error:
            problems[dataset.name] = f"{printable(str(path))} is not it: {str(error).splitlines()[0].rstrip('.')}"
    for name in [name for name in problems if not sizes.get(name)]:  # a dataset of several folders lies side by side
        with contextlib.suppress(DataError):
            sizes[name] = {root: _images_in(DATASETS[name], root)}
    places = {
        name: max(folders, key=lambda each: (folders[each], len(each.name)))
        for name, folders in sizes.items()
        if folders
    }
    for name, folders in sizes.items():
        for folder in folders.keys() - {places.get(name)}:
            print(
                f"{printable(str(folder))} is not used: {DATASETS[name].title} is in {places[name]}.", file=sys.stderr
            )
    return (
        {name: places[name] for name in DATASETS if name in places},
        {name: sentence for name, sentence in problems.items() if name not in places},
    )


def where_to_get(name: str) -> str:
    """Where a dataset is published.

    Args:
        name: of the dataset.

    Returns:
        Title and address.
    """
    return f"{DATASETS[name].title} ({DATASETS[name].url})"


def ingested(name: str, source: Path, output: Path) -> MeasuredImages:
    """The paper's test images of a dataset as shards; says what was left out of them.

    Args:
        name: of the dataset.
        source: its folder.
        output: gets `shards/NAME`.

    Returns:
        The images.

    Raises:
        OutputError: the shards are of an earlier state of the folder.
    """
    shards, dataset = output / "shards" / name, DATASETS[name]
    try:
        summary = ingest(name, source, shards, IngestConfig(splits=("test",), subset="paper"))
    except OutputError as error:
        raise OutputError(
            f"{dataset.title} in {source} is not what {shards} was made from ({error}). Delete {shards} to use it "
            "as it is now: models and results of other datasets stay."
        ) from error
    for remark in summary["remarks"]:
        print(f"{dataset.title}: {remark}", file=sys.stderr)
    if summary["set_aside"]:
        print(f"{dataset.title}: {counted(len(summary['set_aside']), 'file')} cannot be used.", file=sys.stderr)
    refs = tuple(index_shards(str(shards), "test"))
    incomplete = _incomplete(dataset, refs, str(summary.get("layout", "")))
    return MeasuredImages(name, dataset.title, str(shards), dataset.metrics, refs, incomplete)


def painted(name: str, normal: int, defective: int, output: Path) -> MeasuredImages:
    """Painted images of a set of categories as shards.

    Args:
        name: of the set.
        normal: flawless images of each category.
        defective: defective images of each category.
        output: gets `images/` and `shards/`.

    Returns:
        The images.
    """
    shards = painted_shards(output, name, normal, defective)
    refs = tuple(index_shards(str(shards), "test"))
    return MeasuredImages(name, f"{name} categories, painted", str(shards), ("image", "pixel"), refs)


def _named_by(path: Path) -> Dataset | None:
    """The dataset whose name a folder's or an archive's name begins with; of several the one with the longest name."""
    called = plain(path.absolute().name)
    best: tuple[int, Dataset | None] = (0, None)
    for dataset in DATASETS.values():
        names = {plain(name) for name in (dataset.name, dataset.title, *dataset.lists)} | {
            *FOLDER_NAMES.get(dataset.name, ())
        }
        longest = max((len(name) for name in names if called.startswith(name)), default=0)
        if longest > best[0]:
            best = longest, dataset
    return best[1]


def _incomplete(dataset: Dataset, refs: Iterable[SampleRef], layout: str) -> str:
    """How a copy differs from the paper's test set; empty where it does not, as far as is known."""
    counts = Counter((ref.category, ref.label) for ref in refs)
    differing = []
    for category in dataset.categories:
        expected = category.expected("paper")
        if expected is None:
            continue
        wanted, actual = expected[:2], (counts[category.name, 0], counts[category.name, 1])
        if actual != tuple(wanted):
            ours, theirs = (f"{normal:,} normal and {anomalous:,} anomalous" for normal, anomalous in (actual, wanted))
            differing.append(f"{category.name} has {ours} images, not {theirs}")
    if differing:
        others = f", and {len(differing) - 1} more" if differing[1:] else ""
        return f"this copy of {dataset.title} is not the paper's test set ({differing[0]}{others})"
    if dataset.name in CHOSEN_BY_HAND and layout != "meta":
        return f"this copy of {dataset.title} is not the paper's test set ({CHOSEN_BY_HAND[dataset.name]})"
    return ""


def _images_in(dataset: Dataset, folder: Path) -> int:
    """Images of a dataset's paper subset in a folder. Raises DataError where it is not that dataset."""
    records = find(dataset, Source(folder), subset="paper").records
    if dataset.categories and not any(dataset.category(record.category) for record in records):
        raise DataError(f"none of its categories is one of {dataset.title}")
    return len(records)


def as_plain(images: Iterable[MeasuredImages]) -> dict[str, Any]:
    """What is recorded of datasets.

    Args:
        images: the datasets.

    Returns:
        Title, numbers and digest by name.
    """
    return {
        each.name: {
            "title": each.title,
            "images": len(each.refs),
            "anomalous": sum(ref.label for ref in each.refs),
            "digest": each.digest,
        }
        for each in images
    }
