"""Scalar fields and colours: the brushes every texture, object and defect is painted with."""

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
    """Pixel centres (y, x) in [0, 1), each (size, size) and read-only."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    y, x = np.meshgrid(axis, axis, indexing="ij")
    y.setflags(write=False)
    x.setflags(write=False)
    return y, x


def turned(size: int, angle: float, y0: float = 0.5, x0: float = 0.5) -> tuple[Field, Field]:
    """Coordinates (v, u) about (y0, x0), turned by `angle` radians."""
    y, x = grid(size)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    dy, dx = y - np.float32(y0), x - np.float32(x0)
    return cos * dy - sin * dx, cos * dx + sin * dy


def polar(v: Field, u: Field) -> tuple[Field, Field]:
    """Radius and angle (radians) of centred coordinates."""
    return np.hypot(v, u), np.arctan2(v, u)


def smooth(rng: Generator, size: int, cells: float | tuple[float, float], octaves: int = 1) -> Field:
    """Smooth random field of about unit variance: normal grids of `cells`, 2 x `cells`, ... up."""
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
    """White noise of unit variance."""
    return rng.standard_normal((size, size), dtype=np.float32)


def ramp(value: Field, low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, straight between (`low` may exceed `high`)."""
    return np.clip((value - np.float32(low)) / np.float32(high - low), 0.0, 1.0)


def wave(phase: Field) -> Field:
    """Sine of a phase given in turns, mapped to [0, 1]."""
    return np.float32(0.5) + np.float32(0.5) * np.sin(np.float32(2 * math.pi) * phase)


def saw(phase: Field) -> Field:
    """Fractional part of a phase given in turns."""
    return phase - np.floor(phase)


def mix(dark: Colour, light: Colour, amount: Field) -> Field:
    """Colour image (size, size, 3) running from `dark` at 0 to `light` at 1."""
    low, high = np.asarray(dark, np.float32), np.asarray(light, np.float32)
    return low + (high - low) * amount[..., None]


def over(image: Field, colour: Colour | Field, alpha: Field) -> Field:
    """`colour` laid over `image` with coverage `alpha` in [0, 1]."""
    return image + (np.asarray(colour, np.float32) - image) * alpha[..., None]


def brightness(image: Field) -> Field:
    """Mean of the three channels, (...); several times faster than a reduction over an axis of 3."""
    return (image[..., 0] + image[..., 1] + image[..., 2]) / np.float32(3)


def near(rng: Generator, colour: Colour, spread: float = 0.04) -> Colour:
    """A colour close to the given one, in brightness first and in hue a little."""
    shift = rng.normal(0, spread)
    r, g, b = (float(np.clip(c + shift + rng.normal(0, spread / 3), 0, 1)) for c in colour)
    return r, g, b


def any_colour(rng: Generator, low: float = 0.08, high: float = 0.92) -> Colour:
    """A colour drawn uniformly."""
    r, g, b = rng.uniform(low, high, 3)
    return float(r), float(g), float(b)


def dots(rng: Generator, size: int, count: int, radius: float, spread: float = 0.3) -> Field:
    """Soft discs at random places: coverage in [0, 1]; radius as a share of the side."""
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
    """Anti-aliased coverage of a line through (x, y) points in [0, 1]; width in pixels."""
    scale = 2
    canvas = Image.new("L", (size * scale, size * scale), 0)
    flat = [tuple(p) for p in (points * size * scale).tolist()]
    ImageDraw.Draw(canvas).line(flat, fill=255, width=max(1, round(width * scale)), joint="curve")
    reduced = canvas.reduce(scale)
    return np.asarray(reduced, np.float32) / np.float32(255)


def walk(rng: Generator, start: tuple[float, float], angle: float, length: float, wobble: float) -> NDArray[np.float64]:
    """Points (x, y) of a random walk of 12 steps; `wobble` is the turn's deviation in radians."""
    steps = 12
    headings = angle + np.cumsum(rng.normal(0, wobble, steps))
    moves = np.stack([np.cos(headings), np.sin(headings)], 1) * (length / steps)
    return np.concatenate([np.asarray([start]), np.asarray([start]) + np.cumsum(moves, 0)])


def polygon(points: NDArray[np.float64], size: int) -> Field:
    """Anti-aliased coverage of a filled polygon of (x, y) points in [0, 1]."""
    scale = 2
    canvas = Image.new("L", (size * scale, size * scale), 0)
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in (points * size * scale).tolist()], fill=255)
    return np.asarray(canvas.reduce(scale), np.float32) / np.float32(255)
