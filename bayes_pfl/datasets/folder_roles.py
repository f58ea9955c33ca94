"""The folders of one's own images -> the part each plays: category, split, normal, a kind of defect, masks.

A name is read together with the names beside it: in ``bottle/{good,scratch,dent}`` the two folders beside "good" are
kinds of defects, in ``{bottle,cable}/{good,bad}`` the outer ones are categories. What cannot be told is told to people,
not guessed.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import PurePosixPath
from typing import NamedTuple

from bayes_pfl.data.walk import composed
from bayes_pfl.datasets.names import (
    NameChoices,
    is_generic,
    meaning_of,
    names_a_defect,
    plain_word,
    split_inside,
    state_of,
    stripped_stems,
)
from bayes_pfl.datasets.record import ANOMALOUS, NORMAL

Folder = tuple[str, ...]
"""Names from the source down; () is the source itself."""

GENERIC = "*bad*"
"""How `FolderRoles.essence` writes words for defects of any kind: images may lie in "NG" and their masks in "bad"."""

MIRRORED = 50
"""Files of a folder such as "labels" that are compared with the images, to tell masks from a category."""


class Placement(NamedTuple):
    """What the folders of an image say."""

    category: Folder
    """The folders that name it; () for the source's own name."""
    split: str | None
    """"train", "test", `names.VALIDATION`, `names.LEAVE_OUT`; None where no folder says."""
    split_folder: Folder
    """The folder that says it; () for none."""
    label: int | None
    """None where no folder says."""
    kind: str
    """The kind of defect, "" for none."""
    sure: bool
    """False where only the place of the folder makes it a kind of defect, not its name or a normal one beside it."""
    folder: Folder
    """The folder that decides, for messages."""
    unclear: str = ""
    """Why the folder cannot be taken for anything."""


class FolderRoles:
    """The roles of all folders that hold images.

    Args:
        paths: all image files, masks included, relative to the source.
        choices: what the user says of folders.
    """

    def __init__(self, paths: Iterable[str], choices: NameChoices) -> None:
        self.choices = choices
        self._meaning = lru_cache(maxsize=None)(meaning_of)
        self._children: dict[Folder, set[str]] = {}
        self._files: dict[Folder, list[str]] = {}
        for path in paths:
            *folders, name = path.split("/")
            self._files.setdefault(tuple(folders), []).append(name)
        for folder in self._files:
            for depth in range(len(folder)):
                self._children.setdefault(folder[:depth], set()).add(folder[depth])
        self.folders = sorted({folder[:depth] for folder in self._files for depth in range(1, len(folder) + 1)})
        self._states = {folder: self._state(folder) for folder in self.folders}
        self._structured: set[Folder] = set()
        for folder in self.folders:
            if self._states[folder] is not None or self._split(folder) is not None:
                self._structured.update(folder[:depth] for depth in range(len(folder)))
        self._masks = {folder for folder in self.folders if self._holds_masks(folder)}
        self.unmatched = choices.unmatched([(), *self.folders])
        """Names that the user gave and no folder has."""
        self.has_test = any(self._split(folder) == "test" for folder in self.folders)

    def mask_folder(self, folder: Folder) -> Folder | None:
        """The folder of masks that a folder is or lies in.

        Args:
            folder: any folder.

        Returns:
            The outermost one; None if it holds images.
        """
        return next((folder[:depth] for depth in range(1, len(folder) + 1) if folder[:depth] in self._masks), None)

    def essence(self, folder: Folder) -> Folder:
        """A folder without the parts that say nothing of which image is meant: "images", "masks".

        Args:
            folder: any folder.

        Returns:
            Its telling parts for comparisons; splits by their plain name.
        """
        parts: list[str] = []
        for depth, name in enumerate(folder, 1):
            meaning, outer = self._meaning(name), folder[:depth]
            if meaning.split and parts[-1:] != [meaning.split]:
                parts.append(meaning.split)
            if meaning.state or is_generic(name):
                parts.append(GENERIC if is_generic(meaning.state or name) else meaning.state)
            elif not (meaning.split or meaning.images or outer in self._masks):
                parts.append(composed(name).lower())
        return tuple(parts)

    def without_split(self, essence: Folder) -> Folder:
        """An `essence` without its splits.

        Args:
            essence: of a folder.

        Returns:
            Its other parts.
        """
        return tuple(part for part in essence if self._meaning(part).split is None)

    def without_generic(self, essence: Folder) -> Folder:
        """An `essence` without words such as "bad".

        Args:
            essence: of a folder.

        Returns:
            Its other parts.
        """
        return tuple(part for part in essence if part != GENERIC)

    def placement(self, folder: Folder) -> Placement:
        """What the folders of the images in a folder say.

        Args:
            folder: one that holds images, no masks.

        Returns:
            Category, split, label and kind of defect.
        """
        category: list[str] = []
        split = label = None
        split_folder: Folder = ()
        kind, sure, generic, decisive = "", True, False, folder
        if not folder and (chosen := self.choices.state(())) is not None:
            label = chosen
        for depth, name in enumerate(folder, 1):
            outer, meaning = folder[:depth], self._meaning(name)
            chosen_split = self.choices.split(outer)
            if chosen_split or (split is None and meaning.split):
                split, split_folder = chosen_split or meaning.split, outer
            state = self._states[outer]
            if state is not None and (label is None or self.choices.state(outer) is not None):
                label, decisive = state, outer
                kind = (meaning.state or name) if state == ANOMALOUS else ""
                generic = is_generic(name) or bool(meaning.state)
                continue
            if chosen_split or not (meaning.unknown or meaning.masks):  # what is called "label" and holds images
                continue
            if label is not None:
                if self._is_on_both_sides(decisive, label, outer[len(decisive) :]):  # good/cup/1.png, bad/cup/1.png
                    category.append(name)
                elif label == ANOMALOUS and generic:  # bad/scratch/1.png
                    kind, generic = name, False
                continue
            role = self._role(outer, in_split=split is not None)
            if role == "category":
                category.append(name)
            elif role == "kind" or role == "kind by its place":
                label, kind, decisive, generic = ANOMALOUS, name, outer, False
                sure = role == "kind"
            else:
                return Placement(tuple(category), split, split_folder, None, "", True, outer, role)
        return Placement(tuple(category), split, split_folder, label, kind, sure, decisive)

    def _is_on_both_sides(self, state: Folder, label: int, inner: Folder) -> bool:
        """Whether a folder inside a normal one is inside an anomalous one beside it too, and not just numbered."""
        if any(letter.isdigit() for letter in inner[-1]):
            return False
        parent = state[:-1]
        return any(
            self._states[(*parent, other)] == 1 - label and (*parent, other, *inner) in self._states
            for other in self._children.get(parent, ())
            if (*parent, other) in self._states and self._states[(*parent, other)] is not None
        )

    def _split(self, folder: Folder) -> str | None:
        return self.choices.split(folder) or self._meaning(folder[-1]).split

    def _state(self, folder: Folder) -> int | None:
        chosen = self.choices.state(folder)
        if chosen is not None:
            return chosen
        meaning = self._meaning(folder[-1])
        if meaning.state:
            return state_of(meaning.state, ())
        beside = self._children[folder[:-1]]
        return state_of(folder[-1], beside) if meaning.unknown else None

    def _role(self, folder: Folder, in_split: bool) -> str:
        """ "category", "kind", "kind by its place", or why it is neither, for a name in no list."""
        parent, name = folder[:-1], folder[-1]
        beside = [(*parent, other) for other in self._children[parent] if other != name]
        splits = sorted(f"{other[-1]}/" for other in beside if self._split(other))
        if folder in self._structured:
            likes = [other for other in beside if self._split_inside(other) not in (None, self._split_inside(folder))]
            if likes and self._split_inside(folder):
                return (
                    f"has the name of a split in it, as {likes[0][-1]}/ beside it, and would become a category of its "
                    f"own; --split {name}=train or =test says what it is"
                )
            if splits and parent not in self._masks:
                return (
                    f"stands beside {', '.join(splits)} and would become a category of its own; "
                    f"--split {name}=train or =test says what it is, --split {name}=none leaves it out"
                )
            return "category"
        normal = any(self._states[other] == NORMAL for other in beside)
        if splits and normal:
            return f"stands beside {', '.join(splits)}; --anomalous {name} or --normal {name} takes it"
        generic = any(self._states[other] == ANOMALOUS and self._is_generic(other) for other in beside)
        if normal and (in_split or not generic or names_a_defect(name)):
            return "kind"
        if normal or generic:
            return (
                f"stands beside {', '.join(sorted(f'{o[-1]}/' for o in beside if self._states[o] is not None))} and is "
                f"neither normal nor anomalous by its name; --anomalous {name} or --normal {name} takes it"
            )
        if in_split and (folder in self._files or names_a_defect(name)):
            return "kind" if names_a_defect(name) else "kind by its place"
        return "category"

    def _split_inside(self, folder: Folder) -> str | None:
        """The split whose word is a part of a name such as "trainA"."""
        return split_inside(folder[-1]) if folder in self._structured else None

    def _is_generic(self, folder: Folder) -> bool:
        return is_generic(folder[-1]) or bool(self._meaning(folder[-1]).state)

    def _holds_masks(self, folder: Folder) -> bool:
        meaning = self._meaning(folder[-1])
        if not meaning.masks or self.choices.state(folder) is not None or self.choices.split(folder) is not None:
            return False
        inside = [self._meaning(name) for name in self._children.get(folder, ())]
        states = any(self._states.get((*folder, name)) is not None for name in self._children.get(folder, ()))
        if any(inner.masks for inner in inside) and (states or any(inner.split for inner in inside)):
            return False  # a category with masks of its own
        product = plain_word(folder[-1]) == "mask" and any(inner.split for inner in inside)  # that people wear
        return not (meaning.perhaps_masks or product) or self._mirrors_images(folder)

    def _mirrors_images(self, folder: Folder) -> bool:
        """Whether files in ``folder`` are named and placed like images beside it."""
        parent = folder[:-1]
        images: dict[str, set[Folder]] = {}
        for other, names in self._files.items():
            if other[: len(parent)] == parent and other[: len(folder)] != folder:
                for stem in {stem for name in names for stem in stripped_stems(PurePosixPath(name).stem)}:
                    images.setdefault(stem, set()).add(self._bare(other[len(parent) :]))
        compared = 0
        for inner, names in self._files.items():
            if inner[: len(folder)] != folder:
                continue
            below = self._bare(inner[len(folder) :])
            for name in names:
                compared += 1
                for stem in stripped_stems(PurePosixPath(name).stem):
                    if any(inner[: len(below)] == below for inner in images.get(stem, ())):
                        return True
                if below and below[-1] in images:
                    return True  # a folder of masks for each image
                if compared >= MIRRORED:
                    return False
        return False

    def _bare(self, folder: Folder) -> Folder:
        return tuple(composed(name).lower() for name in folder if not self._meaning(name).images)
