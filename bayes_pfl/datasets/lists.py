"""The lists of re-arranged copies: ``meta.json`` (AnomalyCLIP, AdaCLIP), ``meta_<name>.json`` (Bayes-PFL).

``{"train": {category: [record]}, "test": {...}}``, a record being img_path, mask_path ("" for none),
cls_name, specie_name and anomaly (0 or 1). Paths are relative to the list, or absolute on the
machine where the list was made; masks may be named that were never there.
"""

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from bayes_pfl.data.walk import SkippedFile
from bayes_pfl.datasets.description import Dataset, LayoutReading
from bayes_pfl.datasets.folders import SPLITS
from bayes_pfl.datasets.record import ANOMALOUS, NORMAL, Record, Split
from bayes_pfl.datasets.source import Source, paths_inside, stem_key
from bayes_pfl.errors import DataError, ImageError

COMMUNITY_LIST = "meta.json"


@dataclass(frozen=True)
class MetaListLayout:
    """Reads ``meta.json`` or, of the Bayes-PFL authors' lists, the one that is named after the dataset."""

    @property
    def expects(self) -> str:
        """The file in one line."""
        return "meta.json, or meta_<name>.json beside the folder <name>"

    def read(self, source: Source, root: str, dataset: Dataset) -> LayoutReading:
        """The records of the list below a root, in the order of their paths.

        Args:
            source: the folder.
            root: a folder inside it, "" for itself.
            dataset: the description.

        Returns:
            Records, listed images that cannot be used, and every file that the list accounts for.

        Raises:
            DataError: the list is not JSON of the form above.
        """
        reading = LayoutReading([], [], set())
        path = find_list(source, root, dataset)
        if path is None:
            return reading
        reading.used.add(path)
        seen: set[str] = set()
        for split, entry in _entries(source, path):
            listed = entry["img_path"]
            if not listed:
                continue  # the authors' mark for a category without training images
            image = _resolve(source, root, listed)
            mask = _resolve(source, root, entry.get("mask_path") or "")
            reading.used.update(name for name in (image, mask) if name is not None)
            try:
                if image is None:
                    raise ImageError("is listed and does not exist")
                if image in seen:
                    raise ImageError("is listed twice")
                seen.add(image)
                reading.records.append(_record(dataset, split, entry, image, mask))
            except ImageError as error:
                reading.set_aside.append(SkippedFile(image or listed, f"{error} (in {path})"))
        return reading


def find_list(source: Source, root: str, dataset: Dataset) -> str | None:
    """The list of a data set directly below a root; one with its own name comes first.

    Args:
        source: the folder.
        root: a folder inside it, "" for itself.
        dataset: the description.

    Returns:
        The list's path; None if there is none.
    """
    names = [f"meta_{name}.json".lower() for name in dataset.lists] + [COMMUNITY_LIST]
    inside = {inner.lower(): path for path, inner in paths_inside(root, source.files)}
    return next((inside[name] for name in names if name in inside), None)


def _entries(source: Source, path: str) -> list[tuple[Split, dict[str, Any]]]:
    try:
        content = json.loads(source.read(path))
        splits = {SPLITS[name.lower()]: groups for name, groups in content.items()}
        return [
            (split, {"cls_name": category, **entry, "anomaly": int(entry["anomaly"])})
            for split, groups in splits.items()
            for category, entries in groups.items()
            for entry in entries
            if isinstance(entry["img_path"], str)
        ]
    except (ImageError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a list of the known form ({type(error).__name__}: {error}). Make it "
            "again, or read the folders with --layout published or --layout rearranged."
        ) from error


def _record(dataset: Dataset, split: Split, entry: dict[str, Any], image: str, mask: str | None) -> Record:
    category = dataset.category(entry["cls_name"])
    if category is None:
        raise ImageError(f"is of the unknown category {entry['cls_name']!r}")
    label = ANOMALOUS if entry["anomaly"] else NORMAL
    if label == NORMAL or not dataset.has_masks:
        mask = None
    elif mask is None:
        listed = entry.get("mask_path")
        raise ImageError(f"has a mask {listed} that does not exist" if listed else "has no mask")
    elif not _named_after(mask, image):
        # These lists are made by sorting two folders: one file too many shifts every later pair.
        raise ImageError(f"is listed with {mask}, the mask of another image")
    kind = dataset.defect or entry.get("specie_name") or "anomaly"
    defect = "good" if label == NORMAL else kind
    return Record(image, mask, label, category.name, category.class_name, split, defect)


def _named_after(mask: str, image: str) -> bool:
    mask_stem, stem = stem_key(PurePosixPath(mask).stem), stem_key(PurePosixPath(image).stem)
    return mask_stem == stem or mask_stem.startswith(f"{stem}_")


def _resolve(source: Source, root: str, listed: str) -> str | None:
    """The file that a listed path means: its longest ending, of at least a folder, that exists."""
    parts = PurePosixPath(listed.replace("\\", "/")).parts
    for start in range(len(parts) - 1):
        path = source.find("/".join((*filter(None, [root]), *parts[start:])))
        if path is not None:
            return path
    return None
