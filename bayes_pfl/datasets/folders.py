"""Readers of layouts whose folders give split, kind of defect and mask: templates of paths -> records."""

import re
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import PurePosixPath
from typing import NamedTuple

from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.data.walk import SkippedFile, is_image
from bayes_pfl.datasets.description import Category, Dataset, LayoutReading
from bayes_pfl.datasets.masks import decode_any_mask
from bayes_pfl.datasets.record import ANOMALOUS, NORMAL, Record, Split
from bayes_pfl.datasets.source import Source, paths_inside, stem_key
from bayes_pfl.errors import ImageError

SPLITS: dict[str, Split] = {"train": "train", "training": "train", "test": "test"}
GOOD = frozenset({"good", "ok", "no", "normal"})
NOT_KINDS = frozenset({*SPLITS, "ground_truth"})
"""Folders beside the kinds of defects that are none."""


class LabelFrom(Enum):
    """What decides that an image is defective."""

    KIND = "the name of its folder"
    MASK_FILE = "that it has a mask"
    MASK_PIXELS = "any pixel of its mask above the threshold"
    DATASET = "the dataset, which has defective images only"


@dataclass(frozen=True)
class FolderTemplate:
    """Where images and their masks lie, as templates of ``{category}``, ``{split}``, ``{kind}``.

    ``{part}`` stands for any other folder. Letter case does not matter.
    """

    images: str
    masks: str | None = None
    """None where no mask is looked for."""
    split: Split = "test"
    """For templates without ``{split}``."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The template of the images as an expression, with the file's name at its end.

        Returns:
            The compiled expression; its groups are the template's fields.
        """
        pieces = re.split(r"\{(\w+)\}", self.images)
        folders = "".join(
            f"(?P<{piece}>[^/]+)" if index % 2 else re.escape(piece) for index, piece in enumerate(pieces)
        )
        return re.compile(rf"{folders}[^/]+", re.IGNORECASE)


class _Hit(NamedTuple):
    """A file that fits a place."""

    path: str
    template: FolderTemplate
    fields: dict[str, str]
    category: Category
    split: Split

    @property
    def kind(self) -> str:
        return self.fields.get("kind", "")


@dataclass(frozen=True)
class FolderLayout:
    """Reads images from `FolderTemplate`s; the mask of an image is the file named like ``mask_stems``."""

    templates: tuple[FolderTemplate, ...]
    mask_stems: tuple[str, ...] = ("{stem}_mask", "{stem}")
    label: LabelFrom = LabelFrom.KIND
    kinds: frozenset[str] = frozenset()
    """The only kinds there are; empty: every folder that is not one of `GOOD` is a defect."""
    image_stem: str = ".+"
    """An expression for the names of images, where other files lie between them."""
    masks_optional: bool = False
    """A category without a single mask is one with labels only; where there are masks, all count."""

    @property
    def expects(self) -> str:
        """The templates in one line."""
        images = ", ".join(f"{template.images}*" for template in self.templates)
        masks = ", ".join(f"{p.masks}{self.mask_stems[0]}.*" for p in self.templates if p.masks is not None)
        return images + (f" with masks {masks}" if masks else "")

    def read(self, source: Source, root: str, dataset: Dataset) -> LayoutReading:
        """The records below a root; each file goes to the first template that it fits.

        Args:
            source: the folder.
            root: a folder inside it, "" for itself.
            dataset: the description.

        Returns:
            Records, images that cannot be used, and every file that the layout accounts for.
        """
        reading = LayoutReading([], [], set())
        owners: dict[str, str] = {}
        for path, inner in paths_inside(root, source.files):
            hit = self._hit(source, root, dataset, path, inner) if is_image(path) else None
            if hit is None:
                continue
            masks = self._masks(source, root, hit)
            reading.used.update((path, *masks))
            try:
                reading.records.append(self._record(source, root, dataset, hit, masks, owners))
            except ImageError as error:
                reading.set_aside.append(SkippedFile(path, str(error)))
        return reading

    def _hit(self, source: Source, root: str, dataset: Dataset, path: str, inner: str) -> _Hit | None:
        if not re.fullmatch(self.image_stem, PurePosixPath(path).stem, re.DOTALL):
            return None
        for template in self.templates:
            match = template.pattern.fullmatch(inner)
            if match is None:
                continue
            fields = match.groupdict()
            kind = fields.get("kind", "").lower()
            split = SPLITS.get(fields["split"].lower()) if "split" in fields else template.split
            category = (
                dataset.category(fields["category"])
                if "category" in fields
                else dataset.only_category(source.name_of(root))
            )
            fits = kind not in NOT_KINDS and (not self.kinds or kind in self.kinds)
            if fits and split is not None and category is not None:
                return _Hit(path, template, fields, category, split)
        return None

    def _masks(self, source: Source, root: str, hit: _Hit) -> list[str]:
        """The files that could be the image's mask; more than one is a riddle left to people."""
        if hit.template.masks is None:
            return []
        folder = _join(root, hit.template.masks.format(**hit.fields))
        stem = PurePosixPath(hit.path).stem
        for template in self.mask_stems:
            key = stem_key(folder + template.format(stem=stem))
            masks = [path for path in source.by_stem.get(key, ()) if path != hit.path]
            if masks:
                return masks
        return []

    def _record(
        self,
        source: Source,
        root: str,
        dataset: Dataset,
        hit: _Hit,
        masks: list[str],
        owners: dict[str, str],
    ) -> Record:
        """One image as a record; ImageError with the reason if it cannot be one."""
        if len(masks) > 1:
            raise ImageError(f"has {len(masks)} masks: {', '.join(masks)}")
        mask = masks[0] if masks else None
        if mask is not None and owners.setdefault(mask, hit.path) != hit.path:
            raise ImageError(f"shares its mask with {owners[mask]}")
        label = self._label(source, dataset, hit, mask)
        if label == NORMAL or not dataset.has_masks:
            mask = None
        elif mask is None and self._needs_mask(source, root, hit):
            raise ImageError("is defective and has no mask")
        defect = "good" if label == NORMAL else dataset.defect or hit.kind or "defect"
        names = hit.category.name, hit.category.class_name
        return Record(hit.path, mask, label, *names, hit.split, defect)

    def _label(self, source: Source, dataset: Dataset, hit: _Hit, mask: str | None) -> int:
        if self.label is LabelFrom.KIND:
            return NORMAL if hit.kind.lower() in GOOD else ANOMALOUS
        if self.label is LabelFrom.MASK_FILE:
            return NORMAL if mask is None else ANOMALOUS
        if self.label is LabelFrom.MASK_PIXELS:
            if mask is None:
                raise ImageError("has no mask, and only the mask tells whether it is defective")
            try:
                pixels = decode_any_mask(source.read(mask), dataset.mask_above, MAX_PIXELS)
            except ImageError as error:
                raise ImageError(f"its mask {mask}: {error}") from error
            return ANOMALOUS if pixels.any() else NORMAL
        return ANOMALOUS

    def _needs_mask(self, source: Source, root: str, hit: _Hit) -> bool:
        if hit.template.masks is None or not self.masks_optional:
            return hit.template.masks is not None
        folder = _join(root, hit.template.masks.partition("{kind}")[0].format(**hit.fields))
        return stem_key(folder) in source.folders_with_images


def _join(root: str, inner: str) -> str:
    return f"{root}/{inner}" if root else inner
