"""Scalar fields and colours with which textures, objects and defects are painted.

A field is a float array (size, size), a colour image (size, size, 3), colours are RGB in [0, 1]. Coordinates and
lengths are shares of the image's side unless pixels are named. ``rng`` is the only source of randomness.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Field = NDArray[np.floating[Any]]
Colour = tuple[float, float, float]


@lru_cache(maxsize=16)
def grid(size: int) -> tuple[Field, Field]:
    """Pixel centres (y, x) in [0, 1), read-only.

    Args:
        size: side of the image, pixels.

    Returns:
        y and x, each (size, size).
    """
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    y, x = np.meshgrid(axis, axis, indexing="ij")
    y.setflags(write=False)
    x.setflags(write=False)
    return y, x


def turned(size: int, angle: float, y0: float = 0.5, x0: float = 0.5) -> tuple[Field, Field]:
    """Coordinates (v, u) about (y0, x0), turned by an angle.

    Args:
        size: side of the image, pixels.
        angle: radians.
        y0: row of the centre.
        x0: column of the centre.

    Returns:
        v and u, each (size, size).
    """
    y, x = grid(size)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    dy, dx = y - np.float32(y0), x - np.float32(x0)
    return cos * dy - sin * dx, cos * dx + sin * dy


def polar(v: Field, u: Field) -> tuple[Field, Field]:
    """Polar coordinates of centred Cartesian ones.

    Args:
        v: rows from the centre.
        u: columns from the centre.

    Returns:
        Radius, and angle in radians.
    """
    return np.hypot(v, u), np.arctan2(v, u)


def smooth(rng: Generator, size: int, cells: float | tuple[float, float], octaves: int = 1) -> Field:
    """Smooth random field of about unit variance: enlarged normal grids, each finer one at half the weight.

    Args:
        rng: random generator.
        size: side of the image, pixels.
        cells: cells of the coarsest grid, for both axes or (rows, columns).
        octaves: how many grids, each twice as fine as the one before.

    Returns:
        (size, size) float32.
    """
    cells_y, cells_x = cells if isinstance(cells, tuple) else (cells, cells)
    total = np.zeros((size, size), np.float32)
    weight = 1.0
    for octave in range(octaves):
        rows = int(np.clip(cells_y * 2**octave, 2, size))
        columns = int(np.clip(cells_x * 2**octave, 2, size))
        coarse = rng.standard_normal((rows, columns), dtype=np.float32)
        total += np.float32(weight) * np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
        weight *= 0.5
    return total


def grain(rng: Generator, size: int) -> Field:
    """White noise of unit variance.

    Args:
        rng: random generator.
        size: side of the image, pixels.

    Returns:
        (size, size) float32.
    """
    return rng.standard_normal((size, size), dtype=np.float32)


def ramp(value: Field, low: float, high: float) -> Field:
    """0 below ``low``, 1 above ``high``, linear between.

    Args:
        value: any field.
        low: where the ramp is 0.
        high: where the ramp is 1; may be below ``low``.

    Returns:
        A field in [0, 1].
    """
    return np.clip((value - np.float32(low)) / np.float32(high - low), 0.0, 1.0)


def wave(phase: Field) -> Field:
    """Sine of a phase, mapped to [0, 1].

    Args:
        phase: in turns.

    Returns:
        A field in [0, 1].
    """
    return np.float32(0.5) + np.float32(0.5) * np.sin(np.float32(2 * math.pi) * phase)


def saw(phase: Field) -> Field:
    """Fractional part of a phase.

    Args:
        phase: in turns.

    Returns:
        A field in [0, 1).
    """
    return phase - np.floor(phase)


def mix(dark: Colour, light: Colour, amount: Field) -> Field:
    """Linear blend of two colours.

    Args:
        dark: the colour at 0.
        light: the colour at 1.
        amount: field.

    Returns:
        A colour image.
    """
    low, high = np.asarray(dark, np.float32), np.asarray(light, np.float32)
    return low + (high - low) * amount[..., None]


def over(image: Field, colour: Colour | Field, alpha: Field) -> Field:
    """A colour laid over an image with some coverage.

    Args:
        image: colour image below.
        colour: one colour, or a colour image.
        alpha: coverage in [0, 1].

    Returns:
        A colour image.
    """
    return image + (np.asarray(colour, np.float32) - image) * alpha[..., None]


def brightness(image: Field) -> Field:
    """Mean of the three channels; several times faster than a reduction over an axis of 3.

    Args:
        image: (..., 3).

    Returns:
        (...).
    """
    return (image[..., 0] + image[..., 1] + image[..., 2]) / np.float32(3)


def near(rng: Generator, colour: Colour, spread: float = 0.04) -> Colour:
    """A random colour close to a given one, in brightness first and in hue a little.

    Args:
        rng: random generator.
        colour: the given colour.
        spread: standard deviation of the brightness.

    Returns:
        A colour.
    """
    shift = rng.normal(0, spread)
    r, g, b = (float(np.clip(c + shift + rng.normal(0, spread / 3), 0, 1)) for c in colour)
    return r, g, b


def any_colour(rng: Generator, low: float = 0.08, high: float = 0.92) -> Colour:
    """A colour drawn uniformly.

    Args:
        rng: random generator.
        low: least value of a channel.
        high: largest value of a channel.

    Returns:
        A colour.
    """
    r, g, b = rng.uniform(low, high, 3)
    return float(r), float(g), float(b)


def dots(rng: Generator, size: int, count: int, radius: float, spread: float = 0.3) -> Field:
    """Soft discs at random points.

    Args:
        rng: random generator.
        size: side of the image, pixels.
        count: number of discs.
        radius: median radius.
        spread: standard deviation of the radius' logarithm.

    Returns:
        Coverage in [0, 1].
    """
    y, x = grid(size)
    cover = np.zeros((size, size), np.float32)
    for _ in range(count):
        cy, cx = rng.uniform(0, 1, 2)
        r = radius * float(np.exp(rng.normal(0, spread)))
        reach = r + 2 / size
        top, bottom = int(max(0, (cy - reach) * size)), int(min(size, (cy + reach) * size + 2))
        left, right = int(max(0, (cx - reach) * size)), int(min(size, (cx + reach) * size + 2))
        window = np.s_[top:bottom, left:right]
        distance = np.hypot(y[window] - np.float32(cy), x[window] - np.float32(cx))
        cover[window] = np.maximum(cover[window], ramp(distance, r + 0.7 / size, r - 0.7 / size))
    return cover


def stroke(points: NDArray[np.float64], width: float, size: int) -> Field:
    """Anti-aliased coverage of a line through points.

    Args:
        points: (n, 2), (x, y) in [0, 1].
        width: pixels.
        size: side of the image, pixels.

    Returns:
        Coverage in [0, 1].
    """
    scale = 2
    canvas = Image.new("L", (size * scale, size * scale), 0)
    flat = [tuple(p) for p in (points * size * scale).tolist()]
    ImageDraw.Draw(canvas).line(flat, fill=255, width=max(1, round(width * scale)), joint="curve")
    reduced = canvas.reduce(scale)
    return np.asarray(reduced, np.float32) / np.float32(255)


def walk(rng: Generator, start: tuple[float, float], angle: float, length: float, wobble: float) -> NDArray[np.float64]:
    """Points of a random walk of 12 steps.

    Args:
        rng: random generator.
        start: (x, y).
        angle: first heading, radians.
        length: of the whole walk.
        wobble: standard deviation of a turn, radians.

    Returns:
        (13, 2), (x, y).
    """
    steps = 12
    headings = angle + np.cumsum(rng.normal(0, wobble, steps))
    moves = np.stack([np.cos(headings), np.sin(headings)], 1) * (length / steps)
    return np.concatenate([np.asarray([start]), np.asarray([start]) + np.cumsum(moves, 0)])


def polygon(points: NDArray[np.float64], size: int) -> Field:
    """Anti-aliased coverage of a filled polygon.

    Args:
        points: (n, 2), (x, y) in [0, 1].
        size: side of the image, pixels.

    Returns:
        Coverage in [0, 1].
    """
    scale = 2
    canvas = Image.new("L", (size * scale, size * scale), 0)
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in (points * size * scale).tolist()], fill=255)
    return np.asarray(canvas.reduce(scale), np.float32) / np.float32(255)
