"""Kinds of defects: each changes an object and says, pixel by pixel, how far it covers it.

A painter takes (rng, layers, severity in (0, 1]) and returns the altered image (size, size, 3) and
its coverage (size, size) in [0, 1]; severity governs extent and contrast.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from bayes_pfl.synthetic.fields import (
    Colour,
    Field,
    any_colour,
    grain,
    grid,
    mix,
    over,
    polar,
    polygon,
    ramp,
    smooth,
    stroke,
    walk,
    wave,
)
from bayes_pfl.synthetic.layers import Layers

DefectPainter = Callable[[Generator, Layers, float], tuple[Field, Field]]


def _place(rng: Generator, layers: Layers, margin: float = 0.05) -> tuple[float, float]:
    """A random point (y, x) of the object, away from its silhouette where it is wide enough."""
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


def _tone(layers: Layers, place: tuple[float, float]) -> np.ndarray:
    """Mean colour (3,) of the object around a place."""
    size = len(layers.cover)
    reach = max(2, size // 12)
    row, column = int(place[0] * size), int(place[1] * size)
    window = np.s_[max(0, row - reach) : row + reach, max(0, column - reach) : column + reach]
    return layers.image[window].mean((0, 1))


def _against(rng: Generator, tone: np.ndarray, severity: float) -> Colour:
    """A colour that stands out: darker on light ground, lighter on dark ground."""
    step = (0.28 + 0.3 * severity) * float(rng.uniform(0.85, 1.15))
    up = tone.mean() < 0.33 or (tone.mean() < 0.55 and rng.uniform() < 0.4)
    r, g, b = np.clip(tone + (step if up else -step), 0.02, 0.98)
    return float(r), float(g), float(b)


def _rgb(colour: Colour) -> Field:
    return np.asarray(colour, np.float32)


def _blob(rng: Generator, size: int, place: tuple[float, float], radius: float, edge: float, rough: float) -> Field:
    """Irregular patch about `place`: coverage falls from 1 to 0 over `edge` (shares of radius)."""
    y, x = grid(size)
    stretch, angle = float(np.exp(rng.normal(0, 0.25))), float(rng.uniform(0, math.pi))
    dy, dx = y - np.float32(place[0]), x - np.float32(place[1])
    a = (math.cos(angle) * dy - math.sin(angle) * dx) * stretch
    b = (math.sin(angle) * dy + math.cos(angle) * dx) / stretch
    distance = np.hypot(a, b) / np.float32(radius)
    distance = distance + rough * smooth(rng, size, float(np.clip(1.2 / radius, 4, 24)))
    return ramp(distance.astype(np.float32), 1 + edge / 2, 1 - edge / 2)


def _radius(rng: Generator, severity: float, low: float = 0.045, high: float = 0.13) -> float:
    return (low + (high - low) * severity) * float(rng.uniform(0.85, 1.2))


def scratch(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = _place(rng, layers)
    heading = float(rng.uniform(0, 2 * math.pi))
    cover = np.zeros_like(layers.cover)
    for shift in range(int(rng.integers(1, 3))):
        start = (place[1] + 0.03 * shift, place[0] + 0.02 * shift)
        path = walk(rng, start, heading, 0.2 + 0.3 * severity, 0.05)
        cover = np.maximum(cover, stroke(path, (1.1 + 0.9 * severity) * size / 128, size))
    return np.broadcast_to(_rgb(_against(rng, _tone(layers, place), severity)), layers.image.shape), cover


def scuff(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = _place(rng, layers)
    heading = float(rng.uniform(0, math.pi))
    cover = np.zeros_like(layers.cover)
    spread = 0.03 + 0.05 * severity
    for _ in range(int(7 + 9 * severity)):
        start = np.array(place[::-1]) + rng.normal(0, spread, 2)
        end = start + 0.1 * np.array([math.cos(heading), math.sin(heading)]) * rng.uniform(0.5, 1.3)
        cover = np.maximum(cover, stroke(np.stack([start, end]), 1.0 * size / 128, size))
    colour = _rgb(_against(rng, _tone(layers, place), severity))
    return np.broadcast_to(colour, layers.image.shape), 0.9 * cover


def crack(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = _place(rng, layers)
    heading = float(rng.uniform(0, 2 * math.pi))
    trunk = walk(rng, place[::-1], heading, 0.25 + 0.35 * severity, 0.5)
    cover = stroke(trunk, (1.3 + 1.2 * severity) * size / 128, size)
    for _ in range(int(rng.integers(1, 4))):
        fork = trunk[rng.integers(3, len(trunk) - 2)]
        twig = walk(rng, tuple(fork), heading + rng.choice([-0.9, 0.9]), 0.14, 0.5)
        cover = np.maximum(cover, stroke(twig, 1.2 * size / 128, size))
    tone = _tone(layers, place)
    colour = np.clip(tone - 0.5, 0.02, 1) if tone.mean() > 0.3 else np.clip(tone + 0.45, 0, 0.98)
    return np.broadcast_to(colour.astype(np.float32), layers.image.shape), cover


def hole(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = _place(rng, layers, 0.07)
    radius = _radius(rng, severity, 0.03, 0.075)
    falloff = _blob(rng, size, place, radius * 1.2, 0.5, 0.03)
    whole, core = ramp(falloff, 0.05, 0.35), ramp(falloff, 0.55, 0.85)
    tone = _tone(layers, place)
    depth = (0.02, 0.02, 0.02) if tone.mean() > 0.25 else (0.7, 0.68, 0.62)
    rim = np.clip(tone + (0.22 if tone.mean() < 0.6 else -0.22), 0, 1)
    rim_image = np.broadcast_to(rim.astype(np.float32), layers.image.shape)
    return over(rim_image, depth, core), whole


def stain(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = _place(rng, layers)
    cover = _blob(rng, size, place, _radius(rng, severity, 0.06, 0.16), 0.35, 0.12)
    colour = _rgb(_against(rng, _tone(layers, place), 0.3 + 0.7 * severity))
    tinted = over(layers.image, colour * rng.uniform(0.8, 1.1, 3), np.full_like(cover, 0.72))
    return tinted.astype(np.float32), cover


def discolouration(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = _place(rng, layers)
    cover = _blob(rng, size, place, _radius(rng, severity, 0.08, 0.18), 0.3, 0.1)
    shift = rng.permutation(np.array([0.32, 0.0, -0.26])) * (0.75 + 0.5 * severity)
    if np.any((_tone(layers, place) + shift < -0.05) | (_tone(layers, place) + shift > 1.05)):
        shift = -shift
    return layers.image + shift.astype(np.float32), cover


def bleach(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """The surface's own pattern fades to a flat, paler tone."""
    size = len(layers.cover)
    place = _place(rng, layers)
    cover = _blob(rng, size, place, _radius(rng, severity, 0.08, 0.17), 0.25, 0.08)
    tone = _tone(layers, place)
    flat = tone + (0.9 - tone) * 0.55 if tone.mean() < 0.62 else tone * 0.66
    return over(layers.image, flat.astype(np.float32), np.full_like(cover, 0.9)), cover


def dent(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """Shading of a hollow lit from one side."""
    size = len(layers.cover)
    place = _place(rng, layers)
    y, x = grid(size)
    radius = _radius(rng, severity, 0.06, 0.14)
    dy, dx = (y - np.float32(place[0])) / radius, (x - np.float32(place[1])) / radius
    light = float(rng.uniform(0, 2 * math.pi))
    slope = (math.cos(light) * dy + math.sin(light) * dx) * np.exp(-1.2 * (dy**2 + dx**2))
    shade = (0.75 + 0.5 * severity) * slope
    return layers.image + shade[..., None].astype(np.float32), ramp(np.abs(slope), 0.06, 0.16)


def dark_dots(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = _place(rng, layers)
    cover = np.zeros_like(layers.cover)
    for _ in range(int(3 + 6 * severity)):
        spot = (place[0] + rng.normal(0, 0.05), place[1] + rng.normal(0, 0.05))
        cover = np.maximum(cover, _blob(rng, size, spot, float(rng.uniform(0.012, 0.022)), 0.3, 0.0))
    tone = _tone(layers, place)
    colour = np.clip(tone - 0.5, 0.02, 1) if tone.mean() > 0.28 else np.clip(tone + 0.5, 0, 1)
    return np.broadcast_to(colour.astype(np.float32), layers.image.shape), cover


def missing_piece(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A bite out of the object: what lies behind shows through."""
    size = len(layers.cover)
    solid = layers.cover > 0.5
    border = solid & ~ndimage.binary_erosion(solid, iterations=2, border_value=1)
    where = np.flatnonzero(border if border.any() else solid)
    row, column = divmod(int(where[rng.integers(len(where))]), size)
    place = ((row + 0.5) / size, (column + 0.5) / size)
    cover = _blob(rng, size, place, _radius(rng, severity, 0.08, 0.15), 0.1, 0.1)
    behind = layers.behind
    if np.abs(behind - layers.image).mean() < 0.01:  # a surface: the gap is dark or pale
        tone = layers.image.mean((0, 1))
        gap = tone - 0.45 if tone.mean() > 0.35 else tone + 0.5
        behind = np.broadcast_to(np.clip(gap, 0.02, 0.98).astype(np.float32), behind.shape)
    return behind, cover


def contamination(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """Foreign particles with sharp outlines and a colour of their own."""
    size = len(layers.cover)
    place = _place(rng, layers)
    tone = _tone(layers, place)
    colour = max((any_colour(rng) for _ in range(4)), key=lambda c: float(np.abs(tone - c).sum()))
    cover = np.zeros_like(layers.cover)
    for _ in range(int(rng.integers(1, 4))):
        angles = np.sort(rng.uniform(0, 2 * math.pi, 6))
        radii = _radius(rng, severity, 0.025, 0.06) * rng.uniform(0.6, 1.3, 6)
        centre = np.array(place[::-1]) + rng.normal(0, 0.045, 2)
        corners = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        cover = np.maximum(cover, polygon(corners, size))
    body = _rgb(colour) + (0.06 * smooth(rng, size, 30))[..., None]
    return body, cover


def glue(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A translucent drop with a bright edge."""
    size = len(layers.cover)
    place = _place(rng, layers)
    radius = _radius(rng, severity, 0.06, 0.14)
    cover = _blob(rng, size, place, radius, 0.16, 0.12)
    depth = ndimage.gaussian_filter(cover, size * 0.012)
    edge = np.clip(np.hypot(ndimage.sobel(depth, 0), ndimage.sobel(depth, 1)) * 0.7, 0, 1)
    pale = over(layers.image, (0.9, 0.9, 0.82), np.full_like(cover, 0.42 + 0.2 * severity))
    dull = pale if _tone(layers, place).mean() < 0.6 else layers.image * np.float32(0.68)
    return over(dull, (1.0, 1.0, 0.97), edge), cover


def smear(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """The pattern is dragged along one direction."""
    size = len(layers.cover)
    place = _place(rng, layers)
    cover = _blob(rng, size, place, _radius(rng, severity, 0.1, 0.2), 0.15, 0.06)
    axis = int(rng.integers(2))
    dragged = ndimage.uniform_filter1d(layers.image, max(5, size // 7), axis=axis)
    side = ndimage.uniform_filter1d(dragged, max(3, size // 40), axis=1 - axis)
    return np.clip(side - np.float32(rng.choice([-0.14, 0.14])), 0, 1), cover


def warp(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """The pattern is twisted about a point."""
    size = len(layers.cover)
    place = _place(rng, layers)
    y, x = grid(size)
    dy, dx = y - np.float32(place[0]), x - np.float32(place[1])
    radius = _radius(rng, severity, 0.12, 0.22)
    distance, angle = polar(dy, dx)
    falloff = np.clip(1 - distance / radius, 0, 1)
    turned_by = angle + (2.2 + 1.6 * severity) * falloff
    rows = (place[0] + distance * np.sin(turned_by)) * size - 0.5
    columns = (place[1] + distance * np.cos(turned_by)) * size - 0.5
    altered = np.stack(
        [ndimage.map_coordinates(layers.image[..., c], [rows, columns], order=1, mode="reflect") for c in range(3)],
        axis=-1,
    )
    return altered, ramp(falloff, 0.02, 0.2)


def misplacement(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A patch of the object cut out, turned and put down elsewhere."""
    size = len(layers.cover)
    place = _place(rng, layers)
    half = int(size * _radius(rng, severity, 0.07, 0.13))
    shifted = np.rot90(np.roll(layers.image, rng.integers(size // 4, size // 2, 2), (0, 1)))
    altered = np.clip(shifted + np.float32(rng.choice([-0.1, 0.1])), 0, 1)
    row, column = int(place[0] * size), int(place[1] * size)
    cover = np.zeros_like(layers.cover)
    cover[max(0, row - half) : row + half, max(0, column - half) : column + half] = 1
    return altered, cover


def corrosion(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = _place(rng, layers)
    cover = _blob(rng, size, place, _radius(rng, severity, 0.07, 0.15), 0.3, 0.3)
    rust = mix((0.3, 0.13, 0.05), (0.72, 0.36, 0.12), 0.5 + 0.35 * smooth(rng, size, 30, 2))
    if np.abs(_tone(layers, place) - rust.mean((0, 1))).max() < 0.2:
        rust = mix((0.1, 0.32, 0.26), (0.45, 0.72, 0.6), 0.5 + 0.35 * smooth(rng, size, 30, 2))
    return rust, cover


def lesion(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A soft rounded growth, brighter or darker than its surroundings."""
    size = len(layers.cover)
    place = _place(rng, layers)
    cover = _blob(rng, size, place, _radius(rng, severity, 0.05, 0.12), 0.5, 0.06)
    tone = _tone(layers, place)
    step = (0.3 + 0.15 * severity) * (1 if tone.mean() < 0.55 else -1)
    return layers.image + np.float32(step) + (0.03 * smooth(rng, size, 14, 2))[..., None], cover


def ink_mark(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = _place(rng, layers)
    turns = rng.uniform(1.5, 3) * np.linspace(0, 2 * math.pi, 26)
    reach = _radius(rng, severity, 0.05, 0.1)
    path = np.stack(
        [
            place[1] + np.linspace(-1.2, 1.2, 26) * reach + 0.4 * reach * np.cos(turns),
            place[0] + reach * np.sin(turns),
        ],
        axis=1,
    )
    tone = _tone(layers, place)
    inks: list[Colour] = [(0.1, 0.12, 0.5), (0.7, 0.08, 0.1), (0.05, 0.05, 0.06), (0.9, 0.9, 0.3)]
    ink = max(rng.permutation(np.array(inks))[:3], key=lambda c: float(np.abs(tone - c).sum()))
    body = np.broadcast_to(ink.astype(np.float32), layers.image.shape)
    return body, stroke(path, 2.0 * size / 128, size)


def tear(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A ragged triangular rip with a pale frayed edge."""
    size = len(layers.cover)
    place = _place(rng, layers)
    heading, length = float(rng.uniform(0, 2 * math.pi)), 0.16 + 0.16 * severity
    along = np.linspace(0, length, 9)
    gape = 0.22 * length * np.linspace(1, 0, 9) * rng.uniform(0.6, 1.3, 9)
    cos, sin = math.cos(heading), math.sin(heading)
    sides = [
        np.stack([place[1] + cos * along - s * sin * gape, place[0] + sin * along + s * cos * gape], 1)
        for s in (1.0, -1.0)
    ]
    inner = polygon(np.concatenate([sides[0], sides[1][::-1]]), size)
    whole = np.clip(ndimage.grey_dilation(inner, 3), 0, 1)
    tone = _tone(layers, place)
    edge = np.clip(tone + 0.3, 0, 1) if tone.mean() < 0.65 else np.clip(tone - 0.25, 0, 1)
    gap = (0.03, 0.03, 0.03) if tone.mean() > 0.25 else (0.75, 0.72, 0.66)
    return over(np.broadcast_to(edge.astype(np.float32), layers.image.shape), gap, inner), whole


def burn(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A charred core in a brown halo."""
    size = len(layers.cover)
    place = _place(rng, layers)
    radius = _radius(rng, severity, 0.08, 0.16)
    halo = _blob(rng, size, place, radius, 0.7, 0.08)
    core = ramp(halo, 0.55, 1.0)
    brown = layers.image * _rgb((0.62, 0.42, 0.28))
    ash = np.float32(0.05 if _tone(layers, place).mean() > 0.2 else 0.5)
    charred = ash + 0.05 * np.abs(grain(rng, size))[..., None]
    return brown + (charred - brown) * core[..., None], ramp(halo, 0.1, 0.45)


def thread(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A curled fibre lying on the object."""
    size = len(layers.cover)
    place = _place(rng, layers)
    headings = rng.uniform(0, 6.28) + np.cumsum(rng.normal(0, 0.25, 40)) + np.linspace(0, 5, 40)
    steps = np.stack([np.cos(headings), np.sin(headings)], 1) * (0.35 + 0.35 * severity) / 40
    path = np.asarray([place[::-1]]) + np.cumsum(steps, 0)
    tone = _tone(layers, place)
    colour = max((any_colour(rng) for _ in range(4)), key=lambda c: float(np.abs(tone - c).sum()))
    return np.broadcast_to(_rgb(colour), layers.image.shape), stroke(path, 1.6 * size / 128, size)


def bubbles(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """Blisters: round, with a bright crescent on one side and a dark one on the other."""
    size = len(layers.cover)
    place = _place(rng, layers)
    y, x = grid(size)
    altered, cover = layers.image, np.zeros_like(layers.cover)
    for _ in range(int(2 + 4 * severity)):
        cy, cx = np.asarray(place) + rng.normal(0, 0.06, 2)
        radius = _radius(rng, severity, 0.022, 0.045)
        dy, dx = (y - np.float32(cy)) / radius, (x - np.float32(cx)) / radius
        distance = np.hypot(dy, dx)
        disc = ramp(distance, 1.08, 0.92)
        shade = (dx + dy) * distance * (0.32 + 0.12 * severity)
        altered = np.where(disc[..., None] > 0, layers.image + shade[..., None], altered)
        cover = np.maximum(cover, disc)
    return altered.astype(np.float32), cover


def mould(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """Fuzzy colonies in grey-green, pale or dark against the ground."""
    size = len(layers.cover)
    place = _place(rng, layers)
    cover = np.zeros_like(layers.cover)
    for _ in range(int(2 + 3 * severity)):
        spot = (place[0] + rng.normal(0, 0.06), place[1] + rng.normal(0, 0.06))
        cover = np.maximum(cover, _blob(rng, size, spot, _radius(rng, severity, 0.03, 0.065), 0.8, 0.1))
    pale = _tone(layers, place).mean() < 0.5
    dark, light = ((0.5, 0.62, 0.5), (0.9, 0.96, 0.88)) if pale else ((0.1, 0.2, 0.12), (0.42, 0.5, 0.4))
    fuzz = mix(dark, light, 0.5 + 0.3 * smooth(rng, size, 50) + 0.2 * wave(cover))
    return fuzz, ramp(cover, 0.05, 0.5)


DEFECTS: dict[str, DefectPainter] = {
    "scratch": scratch,
    "scuff": scuff,
    "crack": crack,
    "hole": hole,
    "stain": stain,
    "discolouration": discolouration,
    "bleach": bleach,
    "dent": dent,
    "dark dots": dark_dots,
    "missing piece": missing_piece,
    "contamination": contamination,
    "glue": glue,
    "smear": smear,
    "warp": warp,
    "misplacement": misplacement,
    "corrosion": corrosion,
    "lesion": lesion,
    "ink mark": ink_mark,
    "tear": tear,
    "burn": burn,
    "thread": thread,
    "bubbles": bubbles,
    "mould": mould,
}
