"""LabelMe JSON, one file beside each image -> its regions."""

import base64
import math
from typing import Any

import numpy as np

from bayes_pfl.data.preprocess import decode_mask
from bayes_pfl.datasets.annotations.entry import AnnotatedImage, annotated
from bayes_pfl.datasets.annotations.runs import runs_of
from bayes_pfl.datasets.record import Shape


def read_labelme(content: dict[str, Any]) -> AnnotatedImage:
    """The image of a LabelMe file.

    Args:
        content: the parsed JSON.

    Returns:
        Its entry. Points and lines mark no area and are left out.

    Raises:
        ValueError, KeyError, TypeError: the file is not of this form.
    """
    width, height = content.get("imageWidth"), content.get("imageHeight")
    size = (int(width), int(height)) if width and height else None
    shapes = [(str(drawn.get("label") or ""), _shape(drawn, size)) for drawn in content["shapes"]]
    regions = [(label, shape) for label, shape in shapes if shape is not None]
    return annotated(str(content.get("imagePath") or ""), regions)


def _shape(drawn: dict[str, Any], size: tuple[int, int] | None) -> Shape | None:
    points = [(float(x), float(y)) for x, y in drawn["points"]]
    values = tuple(value for point in points for value in point)
    form = drawn.get("shape_type") or "polygon"
    if form == "polygon":
        return Shape("polygon", values, size=size)
    if form == "rectangle":
        return Shape("box", values, size=size)
    if form == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = math.hypot(edge_x - x, edge_y - y)
        return Shape("ellipse", (x - radius, y - radius, x + radius, y + radius), size=size)
    if form == "mask" and size is not None:
        part = decode_mask(base64.b64decode(drawn["mask"]))
        left, top = (round(value) for value in points[0])
        whole = np.zeros(size[::-1], np.uint8)
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part
        return runs_of(whole)
    return None
