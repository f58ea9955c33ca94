"""What an annotation file says of one image."""

from typing import NamedTuple

from bayes_pfl.datasets.record import Shape


class AnnotatedImage(NamedTuple):
    """One image of an annotation file."""

    name: str
    """As the file names it: a path or a bare file name."""
    shapes: tuple[Shape, ...]
    """Empty for an image without a region."""
    kind: str = ""
    """Label of the first region."""
