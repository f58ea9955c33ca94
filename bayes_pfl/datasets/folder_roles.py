"""The folders of one's own images -> the part each plays: category, split, normal, a kind of defect, masks.

A name is read together with the names beside it: in ``bottle/{good,scratch,dent}`` the two folders beside "good" are
kinds of defects, in ``{bottle,cable}/{good,bad}`` the outer ones are categories. What cannot be told is told to people,
not guessed.
"""

from collections import Counter
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
    shortened_names,
    split_inside,
    state_beside,
    state_of,
    stripped_stems,
)
from bayes_pfl.datasets.record import ANOMALOUS, NORMAL

Folder = tuple[str, ...]
"""Names from the source down; () is the source itself."""

GENERIC = "*bad*"
"""How `FolderRoles.essence` writes words for defects of any kind: images may lie in "NG" and their masks in "bad"."""

NAMED = 5
"""Folders that one message names."""

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


class _Siblings(NamedTuple):
    """What the folders in one folder say."""

    stated: tuple[str, ...]
    """Those that are normal or anomalous, each with a "/"."""
    normal: bool
    """Whether one is normal."""
    generic: bool
    """Whether one means defects of any kind."""
    splits: tuple[str, ...]
    split_words: dict[str, str]
    """Folders with the word of a split in their name, such as "trainA", and which."""


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
        self._words = {parent: frozenset(map(plain_word, names)) for parent, names in self._children.items()}
        self._states = {folder: self._state(folder) for folder in self.folders}
        self._structured = self._above_states_and_splits()
        shortened = {
            parent: Counter(short for name in names for short in shortened_names(name))
            for parent, names in self._children.items()
        }
        for folder in self.folders:
            if self._states[folder] is None and folder not in self._structured and self._meaning(folder[-1]).unknown:
                parent = folder[:-1]
                self._states[folder] = state_beside(folder[-1], self._words[parent], shortened[parent])
        self._structured = self._above_states_and_splits()
        self._beside = {parent: self._siblings(parent) for parent in self._children}
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

    def _above_states_and_splits(self) -> set[Folder]:
        """Folders inside which others say something: they are categories, not kinds of defects."""
        above: set[Folder] = set()
        for folder in self.folders:
            if self._states[folder] is not None or self._split(folder) is not None:
                above.update(folder[:depth] for depth in range(len(folder)))
        return above

    def _siblings(self, parent: Folder) -> "_Siblings":
        folders = [(*parent, name) for name in sorted(self._children[parent])]
        stated = {folder[-1]: self._states[folder] for folder in folders if self._states[folder] is not None}
        inside = {name: split for folder in folders if (split := self._split_inside(folder)) for name in folder[-1:]}
        return _Siblings(
            tuple(f"{name}/" for name in stated),
            NORMAL in stated.values(),
            any(state == ANOMALOUS and self._is_generic((*parent, name)) for name, state in stated.items()),
            tuple(f"{folder[-1]}/" for folder in folders if self._split(folder)),
            inside,
        )

    def _state(self, folder: Folder) -> int | None:
        chosen = self.choices.state(folder)
        if chosen is not None:
            return chosen
        meaning = self._meaning(folder[-1])
        if meaning.state:
            return state_of(meaning.state)
        return state_of(folder[-1], self._words[folder[:-1]]) if meaning.unknown else None

    def _role(self, folder: Folder, in_split: bool) -> str:
        """ "category", "kind", "kind by its place", or why it is neither, for a name in no list."""
        parent, name = folder[:-1], folder[-1]
        beside = self._beside[parent]
        if folder in self._structured:
            own_split = beside.split_words.get(name)
            like = next((other for other, split in beside.split_words.items() if split != own_split), None)
            if own_split and like:
                return (
                    f"has the name of a split in it, as {like}/ beside it, and would become a category of its own; "
                    f"--split {name}=train or =test says what it is"
                )
            if beside.splits and parent not in self._masks:
                return (
                    f"stands beside {', '.join(beside.splits)} and would become a category of its own; "
                    f"--split {name}=train or =test says what it is, --split {name}=none leaves it out"
                )
            return "category"
        if beside.splits and beside.normal:
            return f"stands beside {', '.join(beside.splits)}; --anomalous {name} or --normal {name} takes it"
        if beside.normal and (in_split or not beside.generic or names_a_defect(name)):
            return "kind"
        if beside.normal or beside.generic:
            return (
                f"stands beside {', '.join(beside.stated[:NAMED])} and is neither normal nor anomalous by its name; "
                f"--anomalous {name} or --normal {name} takes it"
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
