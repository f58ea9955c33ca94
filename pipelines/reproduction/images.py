"""A folder with datasets, or the generator -> shards and frozen features of them; what is there is kept."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from bayes_pfl.data.samples import SampleRef, index_shards
from bayes_pfl.data.walk import printable
from bayes_pfl.datasets.catalogue import DATASETS, find
from bayes_pfl.datasets.checks import counted
from bayes_pfl.datasets.description import Dataset, plain
from bayes_pfl.datasets.source import Source
from bayes_pfl.errors import DataError
from pipelines.ingest import IngestConfig, ingest
from pipelines.ingestion.paths import local_path
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


def sources(data: str) -> tuple[dict[str, Path], list[str]]:
    """Which of the paper's datasets lie in a folder, each in a folder of its own or the folder itself.

    A folder is taken for the dataset whose name it bears if that dataset can be read from it; of several the one with
    the most images.

    Args:
        data: the folder.

    Returns:
        Folders by dataset, and remarks on folders that were not taken.

    Raises:
        DataError: there is no such folder.
    """
    root = local_path(data, "--data")
    if not root.is_dir():
        raise DataError(f"There is no folder {root}: give the folder that holds the datasets as --data.")
    sizes: dict[str, dict[Path, int]] = {}
    remarks = []
    for folder in [root, *sorted(path for path in root.iterdir() if path.is_dir())]:
        dataset = _named_by(folder)
        if dataset is None:
            continue
        try:
            sizes.setdefault(dataset.name, {})[folder] = _images_in(dataset, folder)
        except DataError as error:
            reason = str(error).splitlines()[0]
            remarks.append(f"{printable(str(folder))} was not taken for {dataset.title}: {reason}")
    places = {name: max(folders, key=lambda each: (folders[each], len(each.name))) for name, folders in sizes.items()}
    for name, folders in sizes.items():
        others = [printable(str(folder)) for folder in folders if folder != places[name]]
        if others:
            remarks.append(f"{', '.join(others)} was not taken: {DATASETS[name].title} is read from {places[name]}")
    return {name: places[name] for name in DATASETS if name in places}, remarks


def where_to_get(name: str) -> str:
    """Where a dataset is published.

    Args:
        name: of the dataset.

    Returns:
        Title and address.
    """
    return f"{DATASETS[name].title} ({DATASETS[name].url})"


def ingested(name: str, source: Path, output: Path) -> MeasuredImages:
    """The paper's test images of a dataset as shards.

    Args:
        name: of the dataset.
        source: its folder.
        output: gets `shards/NAME`.

    Returns:
        The images.
    """
    shards = output / "shards" / name
    ingest(name, source, shards, IngestConfig(splits=("test",), subset="paper"))
    dataset = DATASETS[name]
    refs = tuple(index_shards(str(shards), "test"))
    return MeasuredImages(name, dataset.title, str(shards), dataset.metrics, refs, _incomplete(dataset, refs))


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


def say_what_is_missing(names: Iterable[str], data: str) -> None:
    """Name the datasets that are not there, and where each is published.

    Args:
        names: of the datasets.
        data: where they were looked for.
    """
    missing = [where_to_get(name) for name in names]
    if missing:
        lines = "\n  ".join(missing)
        print(f"Not in {data}, so not measured: {counted(len(missing), 'dataset')}.\n  {lines}", file=sys.stderr)


def _named_by(folder: Path) -> Dataset | None:
    """The dataset whose name a folder's name holds; of several the one with the longest name."""
    called = plain(folder.absolute().name)
    best: tuple[int, Dataset | None] = (0, None)
    for dataset in DATASETS.values():
        names = {plain(name) for name in (dataset.name, dataset.title, *dataset.lists)} | {
            *FOLDER_NAMES.get(dataset.name, ())
        }
        longest = max((len(name) for name in names if called.startswith(name)), default=0)
        if longest > best[0]:
            best = longest, dataset
    return best[1]


def _incomplete(dataset: Dataset, refs: Iterable[SampleRef]) -> str:
    """How the paper's numbers of images differ from those of a copy; empty where they do not or are not known."""
    differing = []
    for category in dataset.categories:
        counts = category.expected("paper")
        if counts is None:
            continue
        expected = counts.test_normal + counts.test_anomalous
        actual = sum(ref.category == category.name for ref in refs)
        if actual != expected:
            differing.append(f"{category.name} {actual:,} of {expected:,} images")
    if not differing:
        return ""
    others = f" and {len(differing) - 1} other categories" if len(differing) > 1 else ""
    return f"this copy of {dataset.title} is not the paper's test set ({differing[0]}{others})"


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
