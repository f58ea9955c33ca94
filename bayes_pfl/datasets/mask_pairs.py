"""Image files of a folder -> which of them are masks, and of which image.

A mask belongs to an image by its name and place, never by its position in a sorted folder:
``ground_truth/crack/7.png``, ``masks/7_mask.png``, ``crack/7_gt.png`` and ``ground_truth/crack/7/*.png`` are all masks
of ``crack/7.png``.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from bayes_pfl.data.walk import JPEG_SUFFIXES, composed, suffix_of
from bayes_pfl.datasets.folder_roles import Folder, FolderRoles
from bayes_pfl.datasets.names import (
    CERTAIN_MASK_WORDS,
    IMAGE_PREFIX,
    MASK_PREFIX,
    MASK_SUFFIX,
    stripped_stems,
)


def folder_of(path: str) -> Folder:
    """The folders of a path.

    Args:
        path: relative to the source.

    Returns:
        Their names, from the source down.
    """
    return tuple(path.split("/")[:-1])


def separate_masks(
    paths: Iterable[str], roles: FolderRoles, looks_like_a_mask: Callable[[str], bool]
) -> tuple[list[str], list[str]]:
    """Tell the masks among image files from the images.

    Args:
        paths: image files relative to the source.
        roles: of their folders.
        looks_like_a_mask: whether the content of a file could be a mask's, for PNG files beside JPEGs of their name.

    Returns:
        Images and masks, each in the order of ``paths``.
    """
    images: list[str] = []
    masks: list[str] = []
    by_folder: dict[Folder, list[str]] = {}
    for path in paths:
        by_folder.setdefault(folder_of(path), []).append(path)
    for folder, files in by_folder.items():
        if roles.mask_folder(folder) is not None:
            masks += files
            continue
        stems = {stem for path in files for stem in (_stem(path), _without_prefix(_stem(path)))}
        beside = [path for path in files if _is_beside(_stem(path), stems)]
        others = [path for path in files if path not in set(beside)]
        twins = _twins(others, looks_like_a_mask)
        masks += [*beside, *twins]
        images += [path for path in others if path not in twins]
    return images, masks


def _stem(path: str) -> str:
    return composed(PurePosixPath(path).stem).lower()


def _beginnings(stem: str) -> list[str]:
    """ "7_scratch_mask" -> "7_scratch", "7": names of images that may have it for one of several masks."""
    cuts = [match.start() for match in re.finditer(r"[ _.\-]+", stem) if match.start()]
    return [stem[:cut] for cut in reversed(cuts)]


def _is_beside(stem: str, stems: set[str]) -> bool:
    """Whether a file is called like the mask of an image in the same folder, or like a mask anyway."""
    suffixed = MASK_SUFFIX.fullmatch(stem)
    if suffixed:
        certain = bool(suffixed["separator"]) and CERTAIN_MASK_WORDS.fullmatch(suffixed["word"])
        if certain or suffixed["stem"] in stems:
            return True
    prefixed = MASK_PREFIX.fullmatch(stem)
    return prefixed is not None and prefixed["stem"] in stems


def _without_prefix(stem: str) -> str:
    prefixed = IMAGE_PREFIX.fullmatch(stem)
    return prefixed["stem"] if prefixed else stem


def _twins(paths: list[str], looks_like_a_mask: Callable[[str], bool]) -> set[str]:
    """PNG files that are all called like a JPEG beside them, and look like masks."""
    photographs = {_stem(path) for path in paths if suffix_of(path) in JPEG_SUFFIXES}
    others = [path for path in paths if suffix_of(path) not in JPEG_SUFFIXES]
    if not others or not photographs.issuperset(_stem(path) for path in others):
        return set()
    return set(others) if all(looks_like_a_mask(path) for path in others[:3]) else set()


class MaskPairs:
    """The masks of each image.

    Args:
        roles: of all folders.
        masks: mask files relative to the source.
        images: the images that may have masks.
    """

    def __init__(self, roles: FolderRoles, masks: Iterable[str], images: Iterable[str]) -> None:
        self._roles = roles
        self._by_name: dict[tuple[Folder, str], list[str]] = {}
        self._by_folder: dict[tuple[Folder, str], list[str]] = {}
        self._by_beginning: dict[tuple[Folder, str], list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        self.folders: set[Folder] = set()
        """What the folders of masks say, as `FolderRoles.essence`."""
        self._same_names = Counter(_stem(path) for path in images)
        for path in masks:
            folder = folder_of(path)
            essence, stem = roles.essence(folder), _stem(path)
            self.folders.add(essence)
            for name in stripped_stems(stem):
                self._by_name.setdefault((essence, name), []).append(path)
                self._by_stem.setdefault(name, []).append(path)
            if self._same_names.keys().isdisjoint(stripped_stems(stem)):
                for start in _beginnings(stem):
                    self._by_beginning.setdefault((essence, start), []).append(path)
            outer = roles.mask_folder(folder)
            if outer is not None and len(folder) > len(outer):
                for name in stripped_stems(folder[-1]):
                    self._by_folder.setdefault((roles.essence(folder[:-1]), name), []).append(path)

    def masks_in_like_folder(self, image: str) -> list[str]:
        """The masks of an image whose folders say just what the image's say, as those of normal images do.

        Args:
            image: its path.

        Returns:
            Their paths, sorted.
        """
        return sorted(set(self._by_name.get((self._roles.essence(folder_of(image)), _stem(image)), ())))

    def masks_of(self, image: str, category: Folder) -> list[str]:
        """The masks of an image.

        Args:
            image: its path.
            category: the folders that name its category.

        Returns:
            Their paths, sorted; all of them count.
        """
        essence = self._roles.essence(folder_of(image))
        of_category = self._roles.essence(category)
        stems = stripped_stems(_stem(image))
        contexts = [
            essence,
            self._roles.without_split(essence),
            self._roles.without_generic(self._roles.without_split(essence)),
            *((split, *of_category) for split in essence[:1]),
            (*of_category, *essence[len(of_category) : len(of_category) + 1]),
            of_category,
        ]
        for index in (self._by_name, self._by_folder, self._by_beginning):
            for context in dict.fromkeys(contexts):
                for stem in stems:
                    if hits := index.get((context, stem)):
                        return sorted(set(hits))
        return self._anywhere(stems, of_category)

    def _anywhere(self, stems: list[str], category: Folder) -> list[str]:
        """Masks of this name in one other folder, of the category or of all, where no second image has the name."""
        for stem in stems:
            if self._same_names[stem] > 1:
                continue
            hits = [
                path
                for path in self._by_stem.get(stem, ())
                if set(category) <= (meaning := set(self._roles.essence(folder_of(path)))) or not meaning
            ]
            if len({folder_of(path) for path in hits}) == 1:
                return sorted(set(hits))
        return []
