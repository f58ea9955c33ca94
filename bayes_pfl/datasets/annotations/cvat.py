"""CVAT for images XML -> regions by image: polygons, boxes, ellipses and masks of run lengths."""

from xml.etree import ElementTree

import numpy as np

from bayes_pfl.datasets.annotations.entry import AnnotatedImage, annotated
from bayes_pfl.datasets.annotations.runs import runs_of
from bayes_pfl.datasets.record import Shape


def read_cvat(root: ElementTree.Element) -> list[AnnotatedImage]:
    """The images of a CVAT file.

    Args:
        root: the XML's ``<annotations>``.

    Returns:
        One entry for each image that the file lists. Points and lines mark no area and are left out.

    Raises:
        ValueError, KeyError, TypeError: the file is not of this form.
    """
    entries = []
    for image in root.iter("image"):
        size = (int(image.attrib["width"]), int(image.attrib["height"]))
        shapes = [(drawn.get("label") or "", _shape(drawn, size)) for drawn in image]
        regions = [(label, shape) for label, shape in shapes if shape is not None]
        entries.append(annotated(image.attrib["name"], regions))
    return entries


def _shape(drawn: ElementTree.Element, size: tuple[int, int]) -> Shape | None:
    values = drawn.attrib
    if drawn.tag == "polygon":
        points = (number for point in values["points"].split(";") for number in point.split(","))
        return Shape("polygon", tuple(float(number) for number in points), size=size)
    if drawn.tag == "box":
        return Shape("box", tuple(float(values[side]) for side in ("xtl", "ytl", "xbr", "ybr")), size=size)
    if drawn.tag == "ellipse":
        x, y, rx, ry = (float(values[name]) for name in ("cx", "cy", "rx", "ry"))
        return Shape("ellipse", (x - rx, y - ry, x + rx, y + ry), size=size)
    if drawn.tag == "mask":
        left, top, width, height = (int(values[name]) for name in ("left", "top", "width", "height"))
        runs = [int(run) for run in values["rle"].split(",")]
        part = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8).reshape(height, width)
        whole = np.zeros(size[::-1], np.uint8)
        whole[top : top + height, left : left + width] = part
        return runs_of(whole)
    return None
