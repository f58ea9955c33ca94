"""Folders of one's own images -> records: category, split, label and mask by the names that people use."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.data.walk import SkippedFile, is_image, printable, suffix_of
from bayes_pfl.datasets.annotations import Annotations, find_annotations
from bayes_pfl.datasets.description import Dataset, LayoutReading
from bayes_pfl.datasets.folder_roles import Folder, FolderRoles, Placement
from bayes_pfl.datasets.header import has_few_values, read_header
from bayes_pfl.datasets.mask_pairs import MaskPairs, folder_of, separate_masks
from bayes_pfl.datasets.masks import decode_any_mask
from bayes_pfl.datasets.names import LEAVE_OUT, VALIDATION, NameChoices, object_name
from bayes_pfl.datasets.record import ANOMALOUS, LONELY_MASK, NORMAL, Record, Split
from bayes_pfl.datasets.source import Source
from bayes_pfl.errors import ConfigError, DataError, ImageError

NAMED = 5
"""Folders that one error names."""

TABLES = frozenset({".csv", ".tsv", ".parquet", ".xlsx", ".xls", ".ods"})

SHOWN = 20
"""Names of folders that are offered for one that does not exist."""


@dataclass(frozen=True)
class OwnFolders:
    """Reads images whose folders say what they are, in any usual form and language of names."""

    choices: NameChoices = field(default_factory=NameChoices)
    label_from_masks: bool = False
    """Where no folder says, an image is anomalous if its mask or annotation marks a pixel."""
    annotations: str | None = None
    """The file or folder of annotations, relative to the source; None looks for them."""

    @property
    def expects(self) -> str:
        """The layouts in one line."""
        return (
            "[<category>/][train|test/]<good or a kind of defect>/*, masks in ground_truth/<kind>/<name>[_mask].* "
            "or beside the images as <name>_mask.*"
        )

    def read(self, source: Source, root: str, dataset: Dataset) -> LayoutReading:
        """The records of all images of the source.

        Args:
            source: the folder.
            root: "" ; other folders are read from there.
            dataset: the description.

        Returns:
            Records, images that cannot be used, and the reasons of others.

        Raises:
            DataError: a folder could be taken for several things; the error says how to name it.
        """
        reading = LayoutReading([], [], set(), {})
        if not root:
            _FolderReader(source, dataset, self).read_into(reading)
        return reading


class _FolderReader:
    """One reading of one source."""

    def __init__(self, source: Source, dataset: Dataset, layout: OwnFolders) -> None:
        self.source, self.dataset, self.layout = source, dataset, layout
        files = [path for path in source.files if is_image(path)]
        self.roles = FolderRoles(files, layout.choices)
        if self.roles.unmatched:
            names = sorted({name for folder in self.roles.folders for name in folder})
            raise ConfigError(
                f"There is no folder {self.roles.unmatched[0]} in {source.folder}. "
                f"There are: {', '.join(map(printable, names[:SHOWN]))}{', ...' if len(names) > SHOWN else ''}."
            )
        self.images, self.mask_files = separate_masks(files, self.roles, self._looks_like_a_mask)
        self.annotations: Annotations = find_annotations(source, self.images, layout.annotations)
        self._placements = lru_cache(maxsize=None)(self.roles.placement)
        self.pairs = MaskPairs(
            self.roles, self.mask_files, (path for path in self.images if self._placement(path).label != NORMAL)
        )

    def read_into(self, reading: LayoutReading) -> None:
        reading.used.update(self.annotations.files)
        usable = [path for path in self.images if self._is_usable(path, reading)]
        masks = {path: self._masks(path) for path in usable}
        self._refuse_unsure(usable, masks)
        names = self._category_names(usable)
        anomalous = [path for path in usable if self._placement(path).label != NORMAL]
        masked = {names[path] for path in anomalous if masks[path]} | self._categories_with_mask_folders(usable, names)
        owners: dict[str, list[str]] = {}
        for path in usable:
            for mask in masks[path]:
                owners.setdefault(mask, []).append(path)
        for path in usable:
            reading.used.update((path, *masks[path]))
            try:
                reading.records.append(self._record(path, masks[path], names[path], names[path] in masked, owners))
            except ImageError as error:
                reading.set_aside.append(SkippedFile(path, str(error)))
        if not reading.records and not reading.set_aside:
            self._refuse_nothing()
        for path in self.mask_files:
            reading.reasons.setdefault(path, LONELY_MASK)
        for path in self.annotations.unmatched.keys() - self.annotations.files:
            reading.reasons.setdefault(
                path, "annotations of images that are not here, or whose name is not theirs alone"
            )

    def _placement(self, path: str) -> Placement:
        return self._placements(folder_of(path))

    def _looks_like_a_mask(self, path: str) -> bool:
        try:
            data = self.source.read(path)
        except ImageError:
            return False
        normal = self.roles.placement(folder_of(path)).label == NORMAL
        return read_header(data).one_channel and (not normal or has_few_values(data))

    def _masks(self, path: str) -> list[str]:
        placement = self._placement(path)
        if placement.label == NORMAL:
            return self.pairs.masks_in_like_folder(path)
        return self.pairs.masks_of(path, placement.category)

    def _is_usable(self, path: str, reading: LayoutReading) -> bool:
        """Whether the folders, or the mask, say what the image is; else the reason is noted."""
        placement = self._placement(path)
        if placement.split == LEAVE_OUT:
            reading.reasons[path] = f"left out by --split {placement.split_folder[-1]}=none"
            return False
        if placement.label is not None or self.layout.label_from_masks or self.annotations.labels(path):
            return True
        folder = "/".join(placement.folder)
        unclear = placement.unclear or "no folder's name says whether they are normal; use --normal or --anomalous"
        reading.reasons[path] = f"in {folder or '.'}/: {unclear}"
        return False

    def _refuse_unsure(self, usable: Iterable[str], masks: dict[str, list[str]]) -> None:
        """DataError for folders that would become kinds of defects, splits or categories by their place alone."""
        blocked = {
            placement.folder: placement.unclear
            for placement in map(self._placement, self.images)
            if "category of its own" in placement.unclear
        }
        if blocked:
            folder, reason = next(iter(sorted(blocked.items())))
            raise DataError(f"{printable('/'.join(folder))}/ {reason}.")
        validation = Counter(
            self._placement(path).split_folder for path in usable if self._placement(path).split == VALIDATION
        )
        if validation and self.roles.has_test:
            name = next(iter(validation))[-1]
            raise DataError(
                f"{printable(name)}/ ({validation.total():,} files) stands beside a test folder and is neither train "
                f"nor test: --split {name}=train or --split {name}=test says what it is here, --split {name}=none "
                "leaves it out."
            )
        normal = {self._placement(p).category for p in usable if self._placement(p).label == NORMAL}
        masked = {self._placement(path).folder for path in usable if masks[path] or self.annotations.labels(path)}
        unsure: Counter[Folder] = Counter()
        for path in usable:
            placement = self._placement(path)
            told = placement.sure or placement.folder in masked
            if not told and not (placement.category in normal and placement.split != "train"):
                unsure[placement.folder] += 1
        if unsure:
            folders = [f"{printable('/'.join(folder))}/" for folder in sorted(unsure)][:NAMED]
            name = next(iter(sorted(unsure)))[-1]
            raise DataError(
                f"{', '.join(folders)} would become kinds of defects, for no folder beside them has a name that means "
                f"normal. Say which one is normal, e.g. --normal {name}, or --anomalous {name} if it is a kind of "
                "defect."
            )

    def _refuse_nothing(self) -> None:
        """DataError that says what would be needed, where there are images and no folder says what they show."""
        unsaid = Counter(self._placement(path).folder for path in self.images if self._placement(path).label is None)
        if not unsaid:
            if self.mask_files:
                raise DataError(
                    f"All {len(self.mask_files):,} images under {self.source.folder} lie in folders whose name means "
                    f"masks, such as {printable(self.mask_files[0])}. Rename it, or give the folder of the images too."
                )
            return
        folders = [
            f"{printable('/'.join(folder)) or '.'}/ ({number:,} {'image' if number == 1 else 'images'})"
            for folder, number in unsaid.most_common(NAMED)
        ]
        more = f" and {len(unsaid) - NAMED:,} more" if len(unsaid) > NAMED else ""
        hints = [
            "Name the folders: --normal NAME and --anomalous NAME, by name or path (. is the source itself), "
            "or list the images in a CSV with the columns path and label."
        ]
        if self.mask_files:
            hints.append(f"Or, as there are masks ({len(self.mask_files):,}), --label-from-masks.")
        if self.annotations.files:
            file = min(self.annotations.files)
            whole = file if len(self.annotations.files) == 1 else file.partition("/")[0] if "/" in file else "."
            hints.append(
                f"Or, as there are {' and '.join(self.annotations.forms())} annotations, --annotations {whole}."
            )
        if tables := [path for path in self.source.files if suffix_of(path) in TABLES]:
            hints.append(
                f"Or, if {printable(tables[0])} lists them, save it as CSV with the columns path and label (and mask, "
                "category, split) directly in the source."
            )
        if self.mask_files or self.annotations.files:
            hints.append("By masks or annotations an image is anomalous where something is marked.")
        raise DataError(
            f"No folder under {self.source.folder} has a name that says normal or anomalous: "
            + " ".join([f"{', '.join(folders)}{more}.", *hints])
        )

    def _category_names(self, usable: list[str]) -> dict[str, str]:
        """For each image the name of its category: the last folder's, with those before it where they differ."""
        folders = {self._placement(path).category for path in usable}
        same = Counter(folder[-1] for folder in folders if folder)
        own = object_name(self.source.name_of(""))
        name = {
            folder: own if not folder else folder[-1] if same[folder[-1]] == 1 else "_".join(folder[-2:])
            for folder in folders
        }
        return {path: name[self._placement(path).category] for path in usable}

    def _categories_with_mask_folders(self, usable: Iterable[str], names: dict[str, str]) -> set[str]:
        """Categories for which there is a folder of masks, even if no mask fits."""
        outer = {self.roles.without_split(folder)[:1] for folder in self.pairs.folders}
        everywhere = any(not folder or folder[0].startswith("*") for folder in outer)
        categories = {names[path]: self.roles.essence(self._placement(path).category) for path in usable}
        return {
            name
            for name, folder in categories.items()
            if (everywhere and not folder) or any(self._lies_in(masks, folder) for masks in self.pairs.folders)
        }

    def _lies_in(self, masks: Folder, category: Folder) -> bool:
        return set(category) <= set(masks) if category else not self.roles.without_split(masks)

    def _record(
        self, path: str, masks: list[str], category: str, masks_needed: bool, owners: dict[str, list[str]]
    ) -> Record:
        """One image as a record; ImageError with the reason if it cannot be one."""
        placement = self._placement(path)
        for mask in masks:
            if others := [owner for owner in owners[mask] if owner != path]:
                raise ImageError(f"shares its mask {mask} with {others[0]}")
        shapes = self.annotations.shapes(path)
        label = placement.label if placement.label is not None else self._label(path, masks)
        if label == NORMAL:
            shapes = None
        elif not masks and not shapes and (masks_needed or self.annotations.files):
            raise ImageError("is defective and has no mask" if masks_needed else "is defective and not annotated")
        class_name = (placement.category[-1] if placement.category else category).replace("_", " ").lower()
        split: Split = "train" if placement.split == "train" else "test"
        return Record(
            image=path,
            mask=masks[0] if masks else None,
            label=label,
            category=category,
            class_name=class_name,
            split=split,
            defect="good" if label == NORMAL else placement.kind or self.annotations.kind(path) or "defect",
            more_masks=tuple(masks[1:]),
            shapes=None if masks else shapes,
        )

    def _label(self, path: str, masks: list[str]) -> int:
        if (shapes := self.annotations.shapes(path)) is not None and not masks:
            return ANOMALOUS if shapes else NORMAL
        for mask in masks:
            try:
                if decode_any_mask(self.source.read(mask), self.dataset.mask_above, MAX_PIXELS).any():
                    return ANOMALOUS
            except ImageError as error:
                raise ImageError(f"its mask {mask}: {error}") from error
        return NORMAL
