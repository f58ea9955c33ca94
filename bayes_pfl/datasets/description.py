"""The description of a data set: one short entry in `industrial` or `medical` is a data set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from bayes_pfl.data.walk import SkippedFile
from bayes_pfl.datasets.record import Record
from bayes_pfl.datasets.source import Source


class Counts(NamedTuple):
    """How many images a category has."""

    test_normal: int = 0
    test_anomalous: int = 0
    train_normal: int = 0
    train_anomalous: int = 0


@dataclass(frozen=True)
class Category:
    """One kind of object or texture."""

    name: str
    """As the published folder calls it."""
    class_name: str
    """As the prompt calls it: the paper's class name, lower-cased."""
    complete: Counts | None = None
    """Images of the published dataset; None where no count is known."""
    paper: Counts | None = None
    """Images of the paper's evaluation where that is another set; None where it is the same."""
    aliases: tuple[str, ...] = ()
    """Names in re-arranged copies, beside ``name`` and ``class_name``."""

    def expected(self, subset: str) -> Counts | None:
        """How many images the category has.

        Args:
            subset: "complete" or "paper".

        Returns:
            The counts; None where they are not known.
        """
        return self.paper if subset == "paper" and self.paper is not None else self.complete


@dataclass(frozen=True)
class PaperSubset:
    """How the paper's evaluation set follows from the complete one."""

    categories: tuple[str, ...] = ()
    """Only these; empty for all."""
    names: tuple[str, ...] = ()
    """Case-sensitive patterns of ``<folder>/<file>``; empty for all."""
    merge_splits: bool = False
    """Train and test together are the test set."""
    test_only: bool = False
    """The training images are no part of it."""
    balanced: bool = False
    """As many normal images as anomalous ones in each category: the first by name."""
    unavailable: str = ""
    """Why it does not follow from the published files, where it does not."""


class LayoutReading(NamedTuple):
    """What a reader makes of the files below one root, before anything is left out."""

    records: list[Record]
    set_aside: list[SkippedFile]
    used: set[str]
    """Every file that the layout accounts for: images, masks, lists."""
    reasons: dict[str, str] = {}  # noqa: RUF012  # readers that have some give a dictionary of their own
    """Why files that are not used are none of the layout, where the reader knows more than their place."""


@runtime_checkable
class Reader(Protocol):
    """One way in which datasets lie on disk."""

    @property
    def expects(self) -> str:
        """The layout in one line, for the message when nothing matches."""
        ...

    def read(self, source: Source, root: str, dataset: "Dataset") -> LayoutReading:
        """The records of a data set below a root.

        Args:
            source: the folder.
            root: a folder inside it, "" for itself.
            dataset: the description.

        Returns:
            Records and used files; no records when the data set does not lie there in this layout.
        """
        ...


@dataclass(frozen=True)
class Dataset:
    """One dataset: where its images, masks and labels are, and what may be computed from them."""

    name: str
    """What ``bayes-pfl ingest`` calls it."""
    title: str
    categories: tuple[Category, ...]
    """Empty: every folder is a category, and its name, without underscores, is the class name."""
    published: tuple[Reader, ...]
    """The published layout, in each form in which it is found."""
    has_masks: bool = True
    """Defective images come with a mask; without one they cannot be used."""
    has_normals: bool = True
    """There are normal images, so image-level metrics are defined."""
    mask_above: int | None = 128
    """A mask's pixel is defective above this gray value; None: any that is not black."""
    defect: str = ""
    """The one kind of defect, where folders do not name it."""
    lists: tuple[str, ...] = ()
    """Names under which the community's ``meta_<name>.json`` lists go."""
    paper: PaperSubset = PaperSubset()
    splits_counted: bool = True
    """False: `Counts` hold both splits together, as test images."""
    licence: str = ""
    url: str = ""
    notes: str = ""
    _by_name: Mapping[str, Category] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = {
            plain(name): category
            for category in self.categories
            for name in (category.name, category.class_name, *category.aliases)
        }
        object.__setattr__(self, "_by_name", names)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The levels that can be measured: ``image`` needs both labels, ``pixel`` needs masks."""
        return ("image",) * self.has_normals + ("pixel",) * self.has_masks

    def category(self, name: str) -> Category | None:
        """The category that a folder or list names.

        Args:
            name: in any spelling.

        Returns:
            The category; None if the data set has no such one.
        """
        if not self.categories:
            return Category(name, name.replace("_", " ").lower())
        return self._by_name.get(plain(name))

    def only_category(self, folder: str) -> Category | None:
        """The category of a layout without category folders.

        Args:
            folder: name of the folder that holds the images.

        Returns:
            The data set's only category, or the one of the folder's name; None if there is none.
        """
        if len(self.categories) == 1:
            return self.categories[0]
        return self.category(folder)


def plain(name: str) -> str:
    """A name without the differences that re-packing makes: case, spaces, underscores, dashes.

    Args:
        name: any name.

    Returns:
        The name for comparisons.
    """
    return name.lower().translate(str.maketrans("", "", " _-"))
