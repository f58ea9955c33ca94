"""Defects that lie on an object: scratches, cracks, stains, particles, fibres.

A painter takes (rng, layers, severity in (0, 1]) and returns the altered image (size, size, 3) and
its coverage (size, size) in [0, 1]; severity governs extent and contrast.
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
from bayes_pfl.synthetic.placement import against, blob, place_on, radius_for, rgb, tone_at


def scratch(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = place_on(rng, layers)
    heading = float(rng.uniform(0, 2 * math.pi))
    cover = np.zeros_like(layers.cover)
    for shift in range(int(rng.integers(1, 3))):
        start = (place[1] + 0.03 * shift, place[0] + 0.02 * shift)
        path = walk(rng, start, heading, 0.2 + 0.3 * severity, 0.05)
        cover = np.maximum(cover, stroke(path, (1.1 + 0.9 * severity) * size / 128, size))
    return np.broadcast_to(rgb(against(rng, tone_at(layers, place), severity)), layers.image.shape), cover


def scuff(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = place_on(rng, layers)
    heading = float(rng.uniform(0, math.pi))
    cover = np.zeros_like(layers.cover)
    spread = 0.03 + 0.05 * severity
    for _ in range(int(7 + 9 * severity)):
        start = np.array(place[::-1]) + rng.normal(0, spread, 2)
        end = start + 0.1 * np.array([math.cos(heading), math.sin(heading)]) * rng.uniform(0.5, 1.3)
        cover = np.maximum(cover, stroke(np.stack([start, end]), 1.0 * size / 128, size))
    colour = rgb(against(rng, tone_at(layers, place), severity))
    return np.broadcast_to(colour, layers.image.shape), 0.9 * cover


def crack(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = place_on(rng, layers)
    heading = float(rng.uniform(0, 2 * math.pi))
    trunk = walk(rng, place[::-1], heading, 0.25 + 0.35 * severity, 0.5)
    cover = stroke(trunk, (1.3 + 1.2 * severity) * size / 128, size)
    for _ in range(int(rng.integers(1, 4))):
        fork = trunk[rng.integers(3, len(trunk) - 2)]
        twig = walk(rng, tuple(fork), heading + rng.choice([-0.9, 0.9]), 0.14, 0.5)
        cover = np.maximum(cover, stroke(twig, 1.2 * size / 128, size))
    tone = tone_at(layers, place)
    colour = np.clip(tone - 0.5, 0.02, 1) if tone.mean() > 0.3 else np.clip(tone + 0.45, 0, 0.98)
    return np.broadcast_to(colour.astype(np.float32), layers.image.shape), cover


def dark_dots(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = place_on(rng, layers)
    cover = np.zeros_like(layers.cover)
    for _ in range(int(3 + 6 * severity)):
        spot = (place[0] + rng.normal(0, 0.05), place[1] + rng.normal(0, 0.05))
        cover = np.maximum(cover, blob(rng, size, spot, float(rng.uniform(0.012, 0.022)), 0.3, 0.0))
    tone = tone_at(layers, place)
    colour = np.clip(tone - 0.5, 0.02, 1) if tone.mean() > 0.28 else np.clip(tone + 0.5, 0, 1)
    return np.broadcast_to(colour.astype(np.float32), layers.image.shape), cover


def contamination(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """Foreign particles with sharp outlines and a colour of their own."""
    size = len(layers.cover)
    place = place_on(rng, layers)
    tone = tone_at(layers, place)
    colour = max((any_colour(rng) for _ in range(4)), key=lambda c: float(np.abs(tone - c).sum()))
    cover = np.zeros_like(layers.cover)
    for _ in range(int(rng.integers(1, 4))):
        angles = np.sort(rng.uniform(0, 2 * math.pi, 6))
        radii = radius_for(rng, severity, 0.025, 0.06) * rng.uniform(0.6, 1.3, 6)
        centre = np.array(place[::-1]) + rng.normal(0, 0.045, 2)
        corners = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        cover = np.maximum(cover, polygon(corners, size))
    body = rgb(colour) + (0.06 * smooth(rng, size, 30))[..., None]
    return body, cover


def ink_mark(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = place_on(rng, layers)
    turns = rng.uniform(1.5, 3) * np.linspace(0, 2 * math.pi, 26)
    reach = radius_for(rng, severity, 0.05, 0.1)
    path = np.stack(
        [
            place[1] + np.linspace(-1.2, 1.2, 26) * reach + 0.4 * reach * np.cos(turns),
            place[0] + reach * np.sin(turns),
        ],
        axis=1,
    )
    tone = tone_at(layers, place)
    inks: list[Colour] = [(0.1, 0.12, 0.5), (0.7, 0.08, 0.1), (0.05, 0.05, 0.06), (0.9, 0.9, 0.3)]
    ink = max(rng.permutation(np.array(inks))[:3], key=lambda c: float(np.abs(tone - c).sum()))
    body = np.broadcast_to(ink.astype(np.float32), layers.image.shape)
    return body, stroke(path, 2.0 * size / 128, size)


def thread(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A curled fibre lying on the object."""
    size = len(layers.cover)
    place = place_on(rng, layers)
    headings = rng.uniform(0, 6.28) + np.cumsum(rng.normal(0, 0.25, 40)) + np.linspace(0, 5, 40)
    steps = np.stack([np.cos(headings), np.sin(headings)], 1) * (0.35 + 0.35 * severity) / 40
    path = np.asarray([place[::-1]]) + np.cumsum(steps, 0)
    tone = tone_at(layers, place)
    colour = max((any_colour(rng) for _ in range(4)), key=lambda c: float(np.abs(tone - c).sum()))
    return np.broadcast_to(rgb(colour), layers.image.shape), stroke(path, 1.6 * size / 128, size)


def stain(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = place_on(rng, layers)
    cover = blob(rng, size, place, radius_for(rng, severity, 0.06, 0.16), 0.35, 0.12)
    colour = rgb(against(rng, tone_at(layers, place), 0.3 + 0.7 * severity))
    tinted = over(layers.image, colour * rng.uniform(0.8, 1.1, 3), np.full_like(cover, 0.72))
    return tinted.astype(np.float32), cover


def glue(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A translucent drop with a bright edge."""
    size = len(layers.cover)
    place = place_on(rng, layers)
    radius = radius_for(rng, severity, 0.06, 0.14)
    cover = blob(rng, size, place, radius, 0.16, 0.12)
    depth = ndimage.gaussian_filter(cover, size * 0.012)
    edge = np.clip(np.hypot(ndimage.sobel(depth, 0), ndimage.sobel(depth, 1)) * 0.7, 0, 1)
    pale = over(layers.image, (0.9, 0.9, 0.82), np.full_like(cover, 0.42 + 0.2 * severity))
    dull = pale if tone_at(layers, place).mean() < 0.6 else layers.image * np.float32(0.68)
    return over(dull, (1.0, 1.0, 0.97), edge), cover


def corrosion(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    size = len(layers.cover)
    place = place_on(rng, layers)
    cover = blob(rng, size, place, radius_for(rng, severity, 0.07, 0.15), 0.3, 0.3)
    rust = mix((0.3, 0.13, 0.05), (0.72, 0.36, 0.12), 0.5 + 0.35 * smooth(rng, size, 30, 2))
    if np.abs(tone_at(layers, place) - rust.mean((0, 1))).max() < 0.2:
        rust = mix((0.1, 0.32, 0.26), (0.45, 0.72, 0.6), 0.5 + 0.35 * smooth(rng, size, 30, 2))
    return rust, cover


def mould(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """Fuzzy colonies in grey-green, pale or dark against the ground."""
    size = len(layers.cover)
    place = place_on(rng, layers)
    cover = np.zeros_like(layers.cover)
    for _ in range(int(2 + 3 * severity)):
        spot = (place[0] + rng.normal(0, 0.06), place[1] + rng.normal(0, 0.06))
        cover = np.maximum(cover, blob(rng, size, spot, radius_for(rng, severity, 0.03, 0.065), 0.8, 0.1))
    pale = tone_at(layers, place).mean() < 0.5
    dark, light = ((0.5, 0.62, 0.5), (0.9, 0.96, 0.88)) if pale else ((0.1, 0.2, 0.12), (0.42, 0.5, 0.4))
    fuzz = mix(dark, light, 0.5 + 0.3 * smooth(rng, size, 50) + 0.2 * wave(cover))
    return fuzz, ramp(cover, 0.05, 0.5)


def burn(rng: Generator, layers: Layers, severity: float) -> tuple[Field, Field]:
    """A charred core in a brown halo."""
    size = len(layers.cover)
    place = place_on(rng, layers)
    radius = radius_for(rng, severity, 0.08, 0.16)
    halo = blob(rng, size, place, radius, 0.7, 0.08)
    core = ramp(halo, 0.55, 1.0)
    brown = layers.image * rgb((0.62, 0.42, 0.28))
    ash = np.float32(0.05 if tone_at(layers, place).mean() > 0.2 else 0.5)
    charred = ash + 0.05 * np.abs(grain(rng, size))[..., None]
    return brown + (charred - brown) * core[..., None], ramp(halo, 0.1, 0.45)
