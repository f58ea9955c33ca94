"""Defects that lie on an object: scratches, cracks, stains, particles, fibres.

A painter takes (rng, layers, severity in (0, 1]) and returns the altered image (size, size, 3) and its coverage
(size, size) in [0, 1]; severity governs extent and contrast.
"""

import math

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from bayes_pfl.synthetic.fields import (
    Colour,
    Field,
    any_colour,
    grain,
    mix,
    over,
    polygon,
    ramp,
    smooth,
    stroke,
    walk,
    wave,
)
from bayes_pfl.synthetic.layers import Layers
from bayes_pfl.synthetic.placement import DefectPainter, against, blob, radius_for, random_point, rgb, tone_at


def _scratch(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    point = random_point(rng, layers)
    heading = float(rng.uniform(0, 2 * math.pi))
    cover = np.zeros_like(layers.cover)
    for shift in range(int(rng.integers(1, 3))):
        start = (point[1] + 0.03 * shift, point[0] + 0.02 * shift)
        path = walk(rng, start, heading, 0.2 + 0.3 * severity, 0.05)
        cover = np.maximum(cover, stroke(path, (1.1 + 0.9 * severity) * size / 128, size))
    return np.broadcast_to(rgb(against(rng, tone_at(layers, point), severity)), layers.image.shape), cover


def _scuff(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    point = random_point(rng, layers)
    heading = float(rng.uniform(0, math.pi))
    cover = np.zeros_like(layers.cover)
    spread = 0.03 + 0.05 * severity
    for _ in range(int(7 + 9 * severity)):
        start = np.array(point[::-1]) + rng.normal(0, spread, 2)
        end = start + 0.1 * np.array([math.cos(heading), math.sin(heading)]) * rng.uniform(0.5, 1.3)
        cover = np.maximum(cover, stroke(np.stack([start, end]), 1.0 * size / 128, size))
    colour = rgb(against(rng, tone_at(layers, point), severity))
    return np.broadcast_to(colour, layers.image.shape), 0.9 * cover


def _crack(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    point = random_point(rng, layers)
    heading = float(rng.uniform(0, 2 * math.pi))
    trunk = walk(rng, point[::-1], heading, 0.25 + 0.35 * severity, 0.5)
    cover = stroke(trunk, (1.3 + 1.2 * severity) * size / 128, size)
    for _ in range(int(rng.integers(1, 4))):
        fork = trunk[rng.integers(3, len(trunk) - 2)]
        twig = walk(rng, tuple(fork), heading + rng.choice([-0.9, 0.9]), 0.14, 0.5)
        cover = np.maximum(cover, stroke(twig, 1.2 * size / 128, size))
    tone = tone_at(layers, point)
    colour = np.clip(tone - 0.5, 0.02, 1) if tone.mean() > 0.3 else np.clip(tone + 0.45, 0, 0.98)
    return np.broadcast_to(colour.astype(np.float32), layers.image.shape), cover


def _dark_dots(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    point = random_point(rng, layers)
    cover = np.zeros_like(layers.cover)
    for _ in range(int(3 + 6 * severity)):
        spot = (point[0] + rng.normal(0, 0.05), point[1] + rng.normal(0, 0.05))
        cover = np.maximum(cover, blob(rng, size, spot, float(rng.uniform(0.012, 0.022)), 0.3, 0.0))
    tone = tone_at(layers, point)
    colour = np.clip(tone - 0.5, 0.02, 1) if tone.mean() > 0.28 else np.clip(tone + 0.5, 0, 1)
    return np.broadcast_to(colour.astype(np.float32), layers.image.shape), cover


def _contamination(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """Foreign particles with sharp outlines and a colour of their own."""
    size = len(layers.cover)
    point = random_point(rng, layers)
    tone = tone_at(layers, point)
    colour = max((any_colour(rng) for _ in range(4)), key=lambda c: float(np.abs(tone - c).sum()))
    cover = np.zeros_like(layers.cover)
    for _ in range(int(rng.integers(1, 4))):
        angles = np.sort(rng.uniform(0, 2 * math.pi, 6))
        radii = radius_for(rng, severity, 0.025, 0.06) * rng.uniform(0.6, 1.3, 6)
        centre = np.array(point[::-1]) + rng.normal(0, 0.045, 2)
        corners = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        cover = np.maximum(cover, polygon(corners, size))
    body = rgb(colour) + (0.06 * smooth(rng, size, 30))[..., None]
    return body, cover


def _ink_mark(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    point = random_point(rng, layers)
    turns = rng.uniform(1.5, 3) * np.linspace(0, 2 * math.pi, 26)
    reach = radius_for(rng, severity, 0.05, 0.1)
    path = np.stack(
        [
            point[1] + np.linspace(-1.2, 1.2, 26) * reach + 0.4 * reach * np.cos(turns),
            point[0] + reach * np.sin(turns),
        ],
        axis=1,
    )
    tone = tone_at(layers, point)
    inks: list[Colour] = [(0.1, 0.12, 0.5), (0.7, 0.08, 0.1), (0.05, 0.05, 0.06), (0.9, 0.9, 0.3)]
    ink = max(rng.permutation(np.array(inks))[:3], key=lambda c: float(np.abs(tone - c).sum()))
    body = np.broadcast_to(ink.astype(np.float32), layers.image.shape)
    return body, stroke(path, 2.0 * size / 128, size)


def _thread(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A curled fibre lying on the object."""
    size = len(layers.cover)
    point = random_point(rng, layers)
    headings = rng.uniform(0, 6.28) + np.cumsum(rng.normal(0, 0.25, 40)) + np.linspace(0, 5, 40)
    steps = np.stack([np.cos(headings), np.sin(headings)], 1) * (0.35 + 0.35 * severity) / 40
    path = np.asarray([point[::-1]]) + np.cumsum(steps, 0)
    tone = tone_at(layers, point)
    colour = max((any_colour(rng) for _ in range(4)), key=lambda c: float(np.abs(tone - c).sum()))
    return np.broadcast_to(rgb(colour), layers.image.shape), stroke(path, 1.6 * size / 128, size)


def _stain(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    point = random_point(rng, layers)
    cover = blob(rng, size, point, radius_for(rng, severity, 0.06, 0.16), 0.35, 0.12)
    colour = rgb(against(rng, tone_at(layers, point), 0.3 + 0.7 * severity))
    tinted = over(layers.image, colour * rng.uniform(0.8, 1.1, 3), np.full_like(cover, 0.72))
    return tinted.astype(np.float32), cover


def _glue(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A translucent drop with a bright edge."""
    size = len(layers.cover)
    point = random_point(rng, layers)
    radius = radius_for(rng, severity, 0.06, 0.14)
    cover = blob(rng, size, point, radius, 0.16, 0.12)
    depth = ndimage.gaussian_filter(cover, size * 0.012)
    edge = np.clip(np.hypot(ndimage.sobel(depth, 0), ndimage.sobel(depth, 1)) * 0.7, 0, 1)
    pale = over(layers.image, (0.9, 0.9, 0.82), np.full_like(cover, 0.42 + 0.2 * severity))
    dull = pale if tone_at(layers, point).mean() < 0.6 else layers.image * np.float32(0.68)
    return over(dull, (1.0, 1.0, 0.97), edge), cover


def _corrosion(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    point = random_point(rng, layers)
    cover = blob(rng, size, point, radius_for(rng, severity, 0.07, 0.15), 0.3, 0.3)
    rust = mix((0.3, 0.13, 0.05), (0.72, 0.36, 0.12), 0.5 + 0.35 * smooth(rng, size, 30, 2))
    if np.abs(tone_at(layers, point) - rust.mean((0, 1))).max() < 0.2:
        rust = mix((0.1, 0.32, 0.26), (0.45, 0.72, 0.6), 0.5 + 0.35 * smooth(rng, size, 30, 2))
    return rust, cover


def _mould(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """Fuzzy colonies in grey-green, pale or dark against the ground."""
    size = len(layers.cover)
    point = random_point(rng, layers)
    cover = np.zeros_like(layers.cover)
    for _ in range(int(2 + 3 * severity)):
        spot = (point[0] + rng.normal(0, 0.06), point[1] + rng.normal(0, 0.06))
        cover = np.maximum(cover, blob(rng, size, spot, radius_for(rng, severity, 0.03, 0.065), 0.8, 0.1))
    pale = tone_at(layers, point).mean() < 0.5
    dark, light = ((0.5, 0.62, 0.5), (0.9, 0.96, 0.88)) if pale else ((0.1, 0.2, 0.12), (0.42, 0.5, 0.4))
    fuzz = mix(dark, light, 0.5 + 0.3 * smooth(rng, size, 50) + 0.2 * wave(cover))
    return fuzz, ramp(cover, 0.05, 0.5)


def _burn(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A charred core in a brown halo."""
    size = len(layers.cover)
    point = random_point(rng, layers)
    radius = radius_for(rng, severity, 0.08, 0.16)
    halo = blob(rng, size, point, radius, 0.7, 0.08)
    core = ramp(halo, 0.55, 1.0)
    brown = layers.image * rgb((0.62, 0.42, 0.28))
    ash = np.float32(0.05 if tone_at(layers, point).mean() > 0.2 else 0.5)
    charred = ash + 0.05 * np.abs(grain(rng, size))[..., None]
    return brown + (charred - brown) * core[..., None], ramp(halo, 0.1, 0.45)


MARKS: dict[str, DefectPainter] = {
    "scratch": _scratch,
    "scuff": _scuff,
    "crack": _crack,
    "stain": _stain,
    "dark dots": _dark_dots,
    "contamination": _contamination,
    "glue": _glue,
    "corrosion": _corrosion,
    "ink mark": _ink_mark,
    "burn": _burn,
    "thread": _thread,
    "mould": _mould,
}
"""Painters by kind of defect."""
