"""Connected parts of a map -> outlines: polygons along the edges of its pixels, that cover them exactly."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

Corner = tuple[int, int]
"""Column and row between pixels."""

BY_SIDES_AND_CORNERS = np.ones((3, 3), int)


class OutlinedRegion(NamedTuple):
    """A connected part of a map at or above a threshold, in the pixels of the image."""

    box: tuple[float, float, float, float]
    """Left, top, width, height."""
    polygons: list[list[float]]
    """x and y of the corners in turn; polygons of one region touch, and do not overlap."""
    area: float
    """Pixels of the image."""
    score: float
    """Largest value of the map inside."""


def outlined_regions(
    anomaly_map: Float[np.ndarray, "rows columns"], threshold: float, width: int, height: int
) -> list[OutlinedRegion]:
    """The parts of a map at or above a threshold that are connected by sides or corners.

    Args:
        anomaly_map: of the whole image, at any resolution.
        threshold: lowest value inside a region.
        width: of the image, pixels.
        height: of the image, pixels.

    Returns:
        Regions, the highest score first.
    """
    labels, count = ndimage.label(anomaly_map >= threshold, structure=BY_SIDES_AND_CORNERS)
    rows, columns = anomaly_map.shape
    across, down = width / columns, height / rows
    regions = []
    for number, (vertical, horizontal) in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[vertical, horizontal] == number
        polygons = [
            [value for x, y in corners for value in ((x + horizontal.start) * across, (y + vertical.start) * down)]
            for corners in polygons_of(inside)
        ]
        box = (horizontal.start * across, vertical.start * down, inside.shape[1] * across, inside.shape[0] * down)
        score = float(anomaly_map[vertical, horizontal][inside].max())
        regions.append(OutlinedRegion(box, polygons, float(inside.sum()) * across * down, score))
    assert len(regions) == count
    return sorted(regions, key=lambda region: -region.score)


def polygons_of(inside: Bool[np.ndarray, "rows columns"]) -> list[list[Corner]]:
    """Polygons without holes that cover the pixels of a mask and nothing else.

    A part with a hole is cut in two along a row through the hole: lists of polygons, as annotations have them, know no
    holes.

    Args:
        inside: the mask.

    Returns:
        Corners of each polygon.

    >>> polygons_of(np.array([[True, True], [False, True]]))
    [[(0, 0), (2, 0), (2, 2), (1, 2), (1, 1), (0, 1)]]
    """
    polygons: list[list[Corner]] = []
    todo = [inside]
    while todo:
        mask = todo.pop()
        labels, count = ndimage.label(mask)
        for number in range(1, count + 1):
            part = labels == number
            loops = _loops(part)
            if len(loops) == 1:
                polygons.append(loops[0])
                continue
            outer = min(min(loop) for loop in loops)
            row = min(min(y for _, y in loop) for loop in loops if min(loop) != outer)
            upper, lower = part.copy(), part.copy()
            upper[row + 1 :], lower[: row + 1] = False, False
            todo += [upper, lower]
    return polygons


def _loops(part: Bool[np.ndarray, "rows columns"]) -> list[list[Corner]]:
    """Closed lines around a part connected by sides, and around its holes; the part lies to the right of each."""
    padded = np.pad(part, 1)
    after: dict[Corner, list[Corner]] = {}
    for (down, along), start, end in (
        ((-1, 0), (0, 0), (1, 0)),  # nothing above: to the right along the upper side
        ((0, 1), (1, 0), (1, 1)),  # nothing on the right: down
        ((1, 0), (1, 1), (0, 1)),  # nothing below: to the left
        ((0, -1), (0, 1), (0, 0)),  # nothing on the left: up
    ):
        beside = np.roll(padded, (-down, -along), (0, 1))[1:-1, 1:-1]
        for y, x in np.argwhere(part & ~beside).tolist():
            after.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    loops = []
    while after:
        corner = first = min(after)
        direction, loop = (0, 0), []
        while corner in after:
            ways = after[corner]
            right = (corner[0] - direction[1], corner[1] + direction[0])
            following = ways.pop(ways.index(right) if right in ways else 0)
            if not ways:
                del after[corner]
            step = (following[0] - corner[0], following[1] - corner[1])
            if step != direction:
                loop.append(corner)
            corner, direction = following, step
            if corner == first and corner not in after:
                break
        loops.append(loop)
    return loops
