"""One image of a dataset as its folder tells it, before anything is opened."""

from typing import Literal, NamedTuple

NORMAL = 0
ANOMALOUS = 1

Split = Literal["train", "test"]


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
