"""An object before light falls on it: its colours, its silhouette and what lies behind it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from bayes_pfl.synthetic.fields import Colour, Field, grain, near, over, ramp, smooth, turned


class Layers(NamedTuple):
    """A painted object.

    image: (size, size, 3), laid over what is behind. cover: (size, size) in [0, 1], the silhouette. behind:
    (size, size, 3).
    """

    image: Field
    cover: Field
    behind: Field


LayerPainter = Callable[[Generator, int], Layers]


def posed(rng: Generator, size: int, turn: float = 0.15, reach: float = 0.4) -> tuple[Field, Field, float]:
    """Object coordinates in a random pose.

    Args:
        rng: random generator.
        size: side of the image, pixels.
        turn: largest rotation, radians.
        reach: half of the object's size, as a share of the side.

    Returns:
        v and u, about 1 at the silhouette, and the width of one pixel in them.
    """
    half = reach * float(rng.uniform(0.92, 1.08))
    v, u = turned(size, float(rng.uniform(-turn, turn)), *(0.5 + rng.normal(0, 0.015, 2)))
    return v / np.float32(half), u / np.float32(half), 1 / (half * size)


def table(rng: Generator, size: int, colour: Colour, rough: float = 0.012) -> Field:
    """The plain support an object lies on.

    Args:
        rng: random generator.
        size: side of the image, pixels.
        colour: its mean colour.
        rough: standard deviation of its grain.

    Returns:
        A colour image.
    """
    tone = rough * grain(rng, size) + 0.6 * rough * smooth(rng, size, 3)
    return np.asarray(near(rng, colour), np.float32) + tone[..., None]


def inside(distance: Field, pixel: float, limit: float = 1.0) -> Field:
    """Anti-aliased coverage of the points whose distance is below a limit.

    Args:
        distance: field in object coordinates.
        pixel: width of one pixel in them.
        limit: the distance at the edge.

    Returns:
        Coverage in [0, 1].
    """
    return ramp(distance, limit + 0.7 * pixel, limit - 0.7 * pixel)


def box(v: Field, u: Field, height: float, width: float, corner: float = 0.0) -> Field:
    """Distance that is below 1 inside a rectangle.

    Args:
        v: rows in object coordinates.
        u: columns in object coordinates.
        height: half of the rectangle's height.
        width: half of the rectangle's width.
        corner: radius of round corners; 0 for sharp ones.

    Returns:
        A field; 1 at the edge.
    """
    dv = np.maximum(np.abs(v) - np.float32(height - corner), 0)
    du = np.maximum(np.abs(u) - np.float32(width - corner), 0)
    edge = np.maximum(np.abs(v) / np.float32(height), np.abs(u) / np.float32(width))
    return edge if corner == 0 else np.where((dv > 0) & (du > 0), np.hypot(dv, du) / corner, edge)


def assembled(body: Field, cover: Field, behind: Field) -> Layers:
    """A body laid over what is behind it.

    Args:
        body: colour image.
        cover: its silhouette.
        behind: colour image.

    Returns:
        The object.
    """
    return Layers(over(behind, body, cover), cover, behind)


def flat(rng: Generator, size: int, colour: Colour, rough: float = 0.015) -> Field:
    """A plain body, slightly rough and mottled.

    Args:
        rng: random generator.
        size: side of the image, pixels.
        colour: its mean colour.
        rough: standard deviation of grain and mottling.

    Returns:
        A colour image.
    """
    tone = rough * grain(rng, size) + rough * smooth(rng, size, 6, 2)
    return np.asarray(near(rng, colour), np.float32) + tone[..., None]


def dome(body: Field, distance: Field, depth: float) -> Field:
    """A body shaded as if it bulged: brighter at the middle, darker at the rim.

    Args:
        body: colour image.
        distance: 0 at the middle, 1 at the rim.
        depth: strength of the shading.

    Returns:
        A colour image.
    """
    return body + (depth * (0.6 - np.clip(distance, 0, 1) ** 2))[..., None].astype(np.float32)
