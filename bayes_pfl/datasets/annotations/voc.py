"""Pascal VOC XML, one file for each image -> its boxes."""

from xml.etree import ElementTree

from bayes_pfl.datasets.annotations.entry import AnnotatedImage, annotated
from bayes_pfl.datasets.record import Shape


def read_voc(root: ElementTree.Element) -> AnnotatedImage:
    """The image of a Pascal VOC file.

    Args:
        root: the XML's ``<annotation>``.

    Returns:
        Its entry.

    Raises:
        ValueError, KeyError, TypeError: the file is not of this form.
    """
    width, height = (int(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    size = (width, height) if width and height else None
    regions = []
    for drawn in root.iter("object"):
        sides = [drawn.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        box = Shape("box", tuple(float(side or "nan") for side in sides), size=size)
        regions.append((drawn.findtext("name") or "", box))
    if any(value != value for _, shape in regions for value in shape.values):
        raise ValueError("an object without a box")
    return annotated(root.findtext("filename") or "", regions)
