"""Defects that change the object itself: its shape, its shading, its pattern.

A painter takes (rng, layers, severity in (0, 1]) and returns the altered image (size, size, 3) and its coverage
(size, size) in [0, 1]; severity governs extent and contrast.
"""

import math

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from bayes_pfl.synthetic.fields import (
    Field,
    grid,
    over,
    polar,
    polygon,
    ramp,
    smooth,
)
from bayes_pfl.synthetic.layers import Layers
from bayes_pfl.synthetic.placement import DefectPainter, blob, radius_for, random_point, tone_at


def _hole(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    point = random_point(rng, layers, 0.07)
    radius = radius_for(rng, severity, 0.03, 0.075)
    falloff = blob(rng, size, point, radius * 1.2, 0.5, 0.03)
    whole, core = ramp(falloff, 0.05, 0.35), ramp(falloff, 0.55, 0.85)
    tone = tone_at(layers, point)
    depth = (0.02, 0.02, 0.02) if tone.mean() > 0.25 else (0.7, 0.68, 0.62)
    rim = np.clip(tone + (0.22 if tone.mean() < 0.6 else -0.22), 0, 1)
    rim_image = np.broadcast_to(rim.astype(np.float32), layers.image.shape)
    return over(rim_image, depth, core), whole


def _discolouration(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    point = random_point(rng, layers)
    cover = blob(rng, size, point, radius_for(rng, severity, 0.08, 0.18), 0.3, 0.1)
    shift = rng.permutation(np.array([0.32, 0.0, -0.26])) * (0.75 + 0.5 * severity)
    if np.any((tone_at(layers, point) + shift < -0.05) | (tone_at(layers, point) + shift > 1.05)):
        shift = -shift
    return layers.image + shift.astype(np.float32), cover


def _bleach(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """The surface's own pattern fades to a flat, paler tone."""
    size = len(layers.cover)
    point = random_point(rng, layers)
    cover = blob(rng, size, point, radius_for(rng, severity, 0.08, 0.17), 0.25, 0.08)
    tone = tone_at(layers, point)
    flat = tone + (0.9 - tone) * 0.55 if tone.mean() < 0.62 else tone * 0.66
    return over(layers.image, flat.astype(np.float32), np.full_like(cover, 0.9)), cover


def _dent(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """Shading of a hollow lit from one side."""
    size = len(layers.cover)
    point = random_point(rng, layers)
    y, x = grid(size)
    radius = radius_for(rng, severity, 0.06, 0.14)
    dy, dx = (y - np.float32(point[0])) / radius, (x - np.float32(point[1])) / radius
    light = float(rng.uniform(0, 2 * math.pi))
    slope = (math.cos(light) * dy + math.sin(light) * dx) * np.exp(-1.2 * (dy**2 + dx**2))
    shade = (0.75 + 0.5 * severity) * slope
    return layers.image + shade[..., None].astype(np.float32), ramp(np.abs(slope), 0.06, 0.16)


def _missing_piece(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A bite out of the object: what lies behind shows through."""
    size = len(layers.cover)
    solid = layers.cover > 0.5
    border = solid & ~ndimage.binary_erosion(solid, iterations=2, border_value=1)
    where = np.flatnonzero(border if border.any() else solid)
    row, column = divmod(int(where[rng.integers(len(where))]), size)
    point = ((row + 0.5) / size, (column + 0.5) / size)
    cover = blob(rng, size, point, radius_for(rng, severity, 0.08, 0.15), 0.1, 0.1)
    behind = layers.behind
    if np.abs(behind - layers.image).mean() < 0.01:  # a surface: the gap is dark or pale
        tone = layers.image.mean((0, 1))
        gap = tone - 0.45 if tone.mean() > 0.35 else tone + 0.5
        behind = np.broadcast_to(np.clip(gap, 0.02, 0.98).astype(np.float32), behind.shape)
    return behind, cover


def _smear(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """The pattern is dragged along one direction."""
    size = len(layers.cover)
    point = random_point(rng, layers)
    cover = blob(rng, size, point, radius_for(rng, severity, 0.1, 0.2), 0.15, 0.06)
    axis = int(rng.integers(2))
    dragged = ndimage.uniform_filter1d(layers.image, max(5, size // 7), axis=axis)
    side = ndimage.uniform_filter1d(dragged, max(3, size // 40), axis=1 - axis)
    return np.clip(side - np.float32(rng.choice([-0.14, 0.14])), 0, 1), cover


def _warp(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """The pattern is twisted about a point."""
    size = len(layers.cover)
    point = random_point(rng, layers)
    y, x = grid(size)
    dy, dx = y - np.float32(point[0]), x - np.float32(point[1])
    radius = radius_for(rng, severity, 0.12, 0.22)
    distance, angle = polar(dy, dx)
    falloff = np.clip(1 - distance / radius, 0, 1)
    turned_by = angle + (2.2 + 1.6 * severity) * falloff
    rows = (point[0] + distance * np.sin(turned_by)) * size - 0.5
    columns = (point[1] + distance * np.cos(turned_by)) * size - 0.5
    altered = np.stack(
        [ndimage.map_coordinates(layers.image[..., c], [rows, columns], order=1, mode="reflect") for c in range(3)],
        axis=-1,
    )
    return altered, ramp(falloff, 0.02, 0.2)


def _misplacement(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A patch of the object cut out, turned and put down elsewhere."""
    size = len(layers.cover)
    point = random_point(rng, layers)
    half = int(size * radius_for(rng, severity, 0.07, 0.13))
    shifted = np.rot90(np.roll(layers.image, rng.integers(size // 4, size // 2, 2), (0, 1)))
    altered = np.clip(shifted + np.float32(rng.choice([-0.1, 0.1])), 0, 1)
    row, column = int(point[0] * size), int(point[1] * size)
    cover = np.zeros_like(layers.cover)
    cover[max(0, row - half) : row + half, max(0, column - half) : column + half] = 1
    return altered, cover


def _lesion(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A soft rounded growth, brighter or darker than its surroundings."""
    size = len(layers.cover)
    point = random_point(rng, layers)
    cover = blob(rng, size, point, radius_for(rng, severity, 0.05, 0.12), 0.5, 0.06)
    tone = tone_at(layers, point)
    step = (0.3 + 0.15 * severity) * (1 if tone.mean() < 0.55 else -1)
    return layers.image + np.float32(step) + (0.03 * smooth(rng, size, 14, 2))[..., None], cover


def _tear(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A ragged triangular rip with a pale frayed edge."""
    size = len(layers.cover)
    point = random_point(rng, layers)
    heading, length = float(rng.uniform(0, 2 * math.pi)), 0.16 + 0.16 * severity
    along = np.linspace(0, length, 9)
    gape = 0.22 * length * np.linspace(1, 0, 9) * rng.uniform(0.6, 1.3, 9)
    cos, sin = math.cos(heading), math.sin(heading)
    sides = [
        np.stack([point[1] + cos * along - s * sin * gape, point[0] + sin * along + s * cos * gape], 1)
        for s in (1.0, -1.0)
    ]
    inner = polygon(np.concatenate([sides[0], sides[1][::-1]]), size)
    whole = np.clip(ndimage.grey_dilation(inner, 3), 0, 1)
    tone = tone_at(layers, point)
    edge = np.clip(tone + 0.3, 0, 1) if tone.mean() < 0.65 else np.clip(tone - 0.25, 0, 1)
    gap = (0.03, 0.03, 0.03) if tone.mean() > 0.25 else (0.75, 0.72, 0.66)
    return over(np.broadcast_to(edge.astype(np.float32), layers.image.shape), gap, inner), whole


def _bubbles(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """Blisters: round, with a bright crescent on one side and a dark one on the other."""
    size = len(layers.cover)
    point = random_point(rng, layers)
    y, x = grid(size)
    altered, cover = layers.image, np.zeros_like(layers.cover)
    for _ in range(int(2 + 4 * severity)):
        cy, cx = np.asarray(point) + rng.normal(0, 0.06, 2)
        radius = radius_for(rng, severity, 0.022, 0.045)
        dy, dx = (y - np.float32(cy)) / radius, (x - np.float32(cx)) / radius
        distance = np.hypot(dy, dx)
        disc = ramp(distance, 1.08, 0.92)
        shade = (dx + dy) * distance * (0.32 + 0.12 * severity)
        altered = np.where(disc[..., None] > 0, layers.image + shade[..., None], altered)
        cover = np.maximum(cover, disc)
    return altered.astype(np.float32), cover


DAMAGE: dict[str, DefectPainter] = {
    "hole": _hole,
    "discolouration": _discolouration,
    "bleach": _bleach,
    "dent": _dent,
    "missing piece": _missing_piece,
    "smear": _smear,
    "warp": _warp,
    "misplacement": _misplacement,
    "lesion": _lesion,
    "tear": _tear,
    "bubbles": _bubbles,
}
"""Painters by kind of defect."""
