"""Where a defect lies, how large it is and what colour stands out there."""

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from bayes_pfl.synthetic.fields import (
    Colour,
    Field,
    grid,
    ramp,
    smooth,
)
from bayes_pfl.synthetic.layers import Layers

DefectPainter = Callable[[Generator, Layers, float], tuple[Field, Field]]


def random_point(rng: Generator, layers: Layers, margin: float = 0.05) -> tuple[float, float]:
    """A random point of the object, away from its silhouette where it is wide enough.

    Args:
        rng: random generator.
        layers: the object.
        margin: distance from the silhouette, as a share of the side.

    Returns:
        (y, x) in [0, 1].
    """
    size = len(layers.cover)
    solid = layers.cover > 0.9
    # The frame cuts off whatever lies outside it, so its border counts as silhouette too.
    inner = np.zeros_like(solid)
    edge = max(1, round(margin * size))
    inner[edge:-edge, edge:-edge] = solid[edge:-edge, edge:-edge]
    core = inner & (ndimage.uniform_filter(layers.cover, 2 * edge + 1) > 0.97)
    where = np.flatnonzero(core if core.any() else inner if inner.any() else solid)
    row, column = divmod(int(where[rng.integers(len(where))]), size)
    return (row + 0.5) / size, (column + 0.5) / size


def tone_at(layers: Layers, point: tuple[float, float]) -> np.ndarray:
    """Mean colour of the object around a point.

    Args:
        layers: the object.
        point: (y, x) in [0, 1].

    Returns:
        (3,).
    """
    size = len(layers.cover)
    reach = max(2, size // 12)
    row, column = int(point[0] * size), int(point[1] * size)
    window = np.s_[max(0, row - reach) : row + reach, max(0, column - reach) : column + reach]
    return layers.image[window].mean((0, 1))


def against(rng: Generator, tone: np.ndarray, severity: float) -> Colour:
    """A colour that stands out: darker on light ground, lighter on dark ground.

    Args:
        rng: random generator.
        tone: mean colour of the ground, (3,).
        severity: in (0, 1]; the contrast grows with it.

    Returns:
        A colour.
    """
    step = (0.28 + 0.3 * severity) * float(rng.uniform(0.85, 1.15))
    up = tone.mean() < 0.33 or (tone.mean() < 0.55 and rng.uniform() < 0.4)
    r, g, b = np.clip(tone + (step if up else -step), 0.02, 0.98)
    return float(r), float(g), float(b)


def rgb(colour: Colour) -> Field:
    """A colour as an array.

    Args:
        colour: RGB in [0, 1].

    Returns:
        (3,) float32.
    """
    return np.asarray(colour, np.float32)


def blob(rng: Generator, size: int, point: tuple[float, float], radius: float, edge: float, rough: float) -> Field:
    """Irregular patch about a point.

    Args:
        rng: random generator.
        size: side of the image, pixels.
        point: (y, x) in [0, 1].
        radius: share of the side.
        edge: width over which coverage falls from 1 to 0, as a share of the radius.
        rough: strength of the outline's irregularity.

    Returns:
        Coverage in [0, 1].
    """
    y, x = grid(size)
    stretch, angle = float(np.exp(rng.normal(0, 0.25))), float(rng.uniform(0, math.pi))
    dy, dx = y - np.float32(point[0]), x - np.float32(point[1])
    a = (math.cos(angle) * dy - math.sin(angle) * dx) * stretch
    b = (math.sin(angle) * dy + math.cos(angle) * dx) / stretch
    distance = np.hypot(a, b) / np.float32(radius)
    distance = distance + rough * smooth(rng, size, float(np.clip(1.2 / radius, 4, 24)))
    return ramp(distance.astype(np.float32), 1 + edge / 2, 1 - edge / 2)


def radius_for(rng: Generator, severity: float, low: float = 0.045, high: float = 0.13) -> float:
    """A random radius that grows with severity.

    Args:
        rng: random generator.
        severity: in (0, 1].
        low: median radius at severity 0, as a share of the side.
        high: median radius at severity 1.

    Returns:
        The radius, as a share of the side.
    """
    return (low + (high - low) * severity) * float(rng.uniform(0.85, 1.2))
