"""What an annotation file says of one image."""

from collections.abc import Iterable
from typing import NamedTuple

from bayes_pfl.datasets.names import state_of
from bayes_pfl.datasets.record import NORMAL, Shape


class AnnotatedImage(NamedTuple):
    """One image of an annotation file."""

    name: str
    """As the file names it: a path or a bare file name."""
    shapes: tuple[Shape, ...]
    """Empty for an image without a region."""
    kind: str = ""
    """Label of the first region."""


def annotated(name: str, regions: Iterable[tuple[str, Shape]]) -> AnnotatedImage:
    """An image's entry from its labelled regions.

    Args:
        name: as the file names the image.
        regions: label and outline of each. One whose label means normal ("good") marks no defect and is left out.

    Returns:
        The entry.
    """
    defects = [(label, shape) for label, shape in regions if not label or state_of(label, ("normal",)) != NORMAL]
    return AnnotatedImage(name, tuple(shape for _, shape in defects), defects[0][0] if defects else "")
