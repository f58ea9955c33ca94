"""An object before it is photographed: its colours, its silhouette and what lies behind it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from bayes_pfl.synthetic.fields import Colour, Field, grain, near, over, ramp, smooth, turned


class Layers(NamedTuple):
    """A painted object: `image` (size, size, 3), its `cover` (size, size) in [0, 1] and `behind`."""

    image: Field
    cover: Field
    behind: Field


LayerPainter = Callable[[Generator, int], Layers]


def posed(rng: Generator, size: int, turn: float = 0.15, reach: float = 0.4) -> tuple[Field, Field, float]:
    """Object coordinates (v, u), about 1 at the silhouette, and the width of one pixel in them."""
    half = reach * float(rng.uniform(0.92, 1.08))
    v, u = turned(size, float(rng.uniform(-turn, turn)), *(0.5 + rng.normal(0, 0.015, 2)))
    return v / np.float32(half), u / np.float32(half), 1 / (half * size)


def table(rng: Generator, size: int, colour: Colour, rough: float = 0.012) -> Field:
    """The plain support an object lies on."""
    tone = rough * grain(rng, size) + 0.6 * rough * smooth(rng, size, 3)
    return np.asarray(near(rng, colour), np.float32) + tone[..., None]


def inside(distance: Field, pixel: float, limit: float = 1.0) -> Field:
    """Anti-aliased coverage of the points whose `distance` is below `limit`."""
    return ramp(distance, limit + 0.7 * pixel, limit - 0.7 * pixel)


def box(v: Field, u: Field, height: float, width: float, corner: float = 0.0) -> Field:
    """Distance that is below 1 inside a rectangle of half sides (height, width), round corners."""
    dv = np.maximum(np.abs(v) - np.float32(height - corner), 0)
    du = np.maximum(np.abs(u) - np.float32(width - corner), 0)
    edge = np.maximum(np.abs(v) / np.float32(height), np.abs(u) / np.float32(width))
    return edge if corner == 0 else np.where((dv > 0) & (du > 0), np.hypot(dv, du) / corner, edge)


def assembled(body: Field, cover: Field, behind: Field) -> Layers:
    """The body laid over what is behind it."""
    return Layers(over(behind, body, cover), cover, behind)


def flat(rng: Generator, size: int, colour: Colour, rough: float = 0.015) -> Field:
    """A plain body, slightly rough and mottled."""
    tone = rough * grain(rng, size) + rough * smooth(rng, size, 6, 2)
    return np.asarray(near(rng, colour), np.float32) + tone[..., None]


def dome(body: Field, distance: Field, depth: float) -> Field:
    """Shade a body as if it bulged: brighter at the middle, darker at the rim."""
    return body + (depth * (0.6 - np.clip(distance, 0, 1) ** 2))[..., None].astype(np.float32)
