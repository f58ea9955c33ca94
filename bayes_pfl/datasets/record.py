"""One image of a data set as its folder tells it, before anything is opened."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

NORMAL = 0
ANOMALOUS = 1

Split = Literal["train", "test"]


LONELY_MASK = "a mask without an image"
"""Why a mask is ignored."""


class Shape(NamedTuple):
    """A drawn region of an annotation file, in pixels of the image, or in shares of its sides."""

    form: str
    """"polygon" (x, y, x, y, ...), "box" (left, top, right, bottom), "ellipse" (the same box) or "runs": lengths of
    background and region in turn, down the columns, after height and width."""
    values: tuple[float, ...]
    relative: bool = False
    """Whether coordinates are shares of width and height."""
    size: tuple[int, int] | None = None
    """Width and height of the image that was annotated, where the file says them."""


class Record(NamedTuple):
    """Where an image and its mask lie, and what the dataset says about them."""

    image: str
    """POSIX path relative to the source folder."""
    mask: str | None
    """POSIX path relative to the source folder; None where the dataset marks no pixels."""
    label: int
    """0 normal, 1 anomalous."""
    category: str
    """The category's name in the dataset, e.g. ``metal_nut``."""
    class_name: str
    """What the prompt calls it, e.g. ``metal nut``."""
    split: Split
    defect: str
    """``good`` for a normal image, else the kind of defect, e.g. ``crack``."""
    more_masks: tuple[str, ...] = ()
    """Further masks of the image, whose union with ``mask`` counts."""
    shapes: tuple[Shape, ...] | None = None
    """Regions of an annotation file instead of a mask; () for an image that is annotated as free of them."""

    @property
    def masks(self) -> tuple[str, ...]:
        """All mask files."""
        return () if self.mask is None else (self.mask, *self.more_masks)

    def plain(self) -> list[Any]:
        """The record as JSON has it, without trailing fields that say nothing.

        Returns:
            A list for `from_plain`.
        """
        values: list[Any] = list(self)
        if self.shapes is None:
            values.pop()
            if not self.more_masks:
                values.pop()
        return values

    @classmethod
    def from_plain(cls, values: Sequence[Any]) -> "Record":
        """The inverse of `plain`.

        Args:
            values: as JSON gives them.

        Returns:
            The record.
        """
        record = cls(*values)
        shapes = record.shapes
        if shapes is not None:
            shapes = tuple(
                Shape(form, tuple(numbers), relative, size and (size[0], size[1]))
                for form, numbers, relative, size in shapes
            )
        return record._replace(more_masks=tuple(record.more_masks), shapes=shapes)
