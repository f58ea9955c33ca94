"""Textures that fill the frame: each painter takes (rng, size) and returns an RGB image (size, size, 3) in [0, 1]."""

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from bayes_pfl.synthetic.fields import (
    Colour,
    Field,
    dots,
    grain,
    mix,
    near,
    over,
    polar,
    ramp,
    saw,
    smooth,
    turned,
    wave,
)

Painter = Callable[[Generator, int], Field]


def _tilt(rng: Generator, size: int, spread: float = 0.08) -> tuple[Field, Field]:
    """Slightly turned and shifted coordinates, so that no two pieces are aligned."""
    v, u = turned(size, float(rng.normal(0, spread)))
    return v + np.float32(rng.uniform(0, 1)), u + np.float32(rng.uniform(0, 1))


def _plain(colour: Colour, mottle: float, rough: float, cells: float = 5) -> Painter:
    """A flat material: slow mottling plus fine roughness."""

    def paint(rng: Generator, size: int) -> Field:
        tone = mottle * smooth(rng, size, cells, 3) + rough * grain(rng, size)
        return np.asarray(near(rng, colour), np.float32) + tone[..., None]

    return paint


def _streaked(dark: Colour, light: Colour, across: float, along: float, depth: float) -> Painter:
    """A grain that runs one way, as in brushed metal or wood."""

    def paint(rng: Generator, size: int) -> Field:
        tone = smooth(rng, size, (across, along), 2)
        fine = smooth(rng, size, (size, along * 2))
        return mix(near(rng, dark), near(rng, light), 0.5 + depth * (tone + 0.5 * fine))

    return paint


def _wood(rng: Generator, size: int) -> Field:
    v, _ = _tilt(rng, size)
    bend = 0.05 * smooth(rng, size, (3, 2))
    rings = wave(7 * (v + bend) + 0.4 * smooth(rng, size, (4, 2)))
    fine = smooth(rng, size, (size, 6))
    return mix(near(rng, (0.42, 0.26, 0.13)), near(rng, (0.72, 0.52, 0.31)), 0.55 * rings + 0.1 * fine + 0.2)


def _leather(rng: Generator, size: int) -> Field:
    creases = np.abs(smooth(rng, size, 22)) * np.abs(smooth(rng, size, 24))
    tone = ramp(creases, 0.0, 0.35) + 0.08 * smooth(rng, size, 3)
    return mix(near(rng, (0.22, 0.12, 0.07)), near(rng, (0.46, 0.28, 0.17)), tone)


def _woven(dark: Colour, light: Colour, threads: float, twill: float) -> Painter:
    """Warp over weft; `twill` shifts the crossing from row to row."""

    def paint(rng: Generator, size: int) -> Field:
        v, u = _tilt(rng, size, 0.04)
        row, column = np.floor(v * threads), np.floor(u * threads)
        above = saw(row * twill + column * 0.5) < 0.5
        across = np.sin(np.float32(math.pi) * saw(v * threads))
        along = np.sin(np.float32(math.pi) * saw(u * threads))
        tone = np.where(above, across, 0.75 * along) + 0.07 * grain(rng, size)
        return mix(near(rng, dark), near(rng, light), 0.15 + 0.8 * tone)

    return paint


def _knit(rng: Generator, size: int) -> Field:
    v, u = _tilt(rng, size, 0.05)
    side = np.abs(saw(u * 9) - 0.5)
    loops = wave(v * 14 + 1.2 * side) * (0.35 + side * 1.3)
    return mix(near(rng, (0.16, 0.24, 0.36)), near(rng, (0.62, 0.7, 0.8)), loops + 0.05 * grain(rng, size))


def _carpet(rng: Generator, size: int) -> Field:
    tone = 0.5 + 0.2 * smooth(rng, size, 45) + 0.13 * grain(rng, size)
    return mix(near(rng, (0.3, 0.26, 0.22)), near(rng, (0.66, 0.6, 0.54)), tone)


def _tiled(dark: Colour, light: Colour, joint: Colour, rows: float, offset: float) -> Painter:
    """Tiles or bricks in rows, each with its own tone; `offset` shifts every other row."""

    def paint(rng: Generator, size: int) -> Field:
        v, u = _tilt(rng, size, 0.03)
        row = np.floor(v * rows)
        shifted = u * rows * (0.5 if offset else 1.0) + offset * saw(row * 0.5) * 2
        column = np.floor(shifted)
        own = saw(np.sin(row * 12.9898 + column * 78.233) * np.float32(43.5))
        tone = 0.3 + 0.45 * own + 0.12 * smooth(rng, size, 18, 2)
        gap_v = np.minimum(saw(v * rows), 1 - saw(v * rows))
        gap_u = np.minimum(saw(shifted), 1 - saw(shifted))
        cover = 1 - ramp(np.minimum(gap_v, gap_u), 0.03, 0.08)
        return over(mix(near(rng, dark), near(rng, light), tone), near(rng, joint), cover)

    return paint


def _mesh(rng: Generator, size: int) -> Field:
    v, u = _tilt(rng, size)
    wire = np.maximum(wave(v * 9), wave(u * 9))
    body = mix(near(rng, (0.12, 0.12, 0.14)), near(rng, (0.72, 0.73, 0.75)), ramp(wire, 0.75, 0.98))
    return body + 0.02 * grain(rng, size)[..., None]


def _honeycomb(rng: Generator, size: int) -> Field:
    v, u = _tilt(rng, size)
    v, u = v * 8, u * 8
    thirds = [np.cos(2 * math.pi * (u * math.cos(a) + v * math.sin(a))) for a in (0, 2.0944, 4.18879)]
    walls = ramp(thirds[0] + thirds[1] + thirds[2], -0.9, 0.2)
    return mix(near(rng, (0.78, 0.6, 0.22)), near(rng, (0.3, 0.17, 0.05)), walls) + (0.03 * grain(rng, size)[..., None])


def _marble(rng: Generator, size: int) -> Field:
    _, u = _tilt(rng, size, 0.8)
    vein = np.abs(np.sin(math.pi * (2.5 * u + 0.7 * smooth(rng, size, 4, 3))))
    tone = ramp(vein, 0.0, 0.35) + 0.05 * smooth(rng, size, 6, 2)
    return mix(near(rng, (0.6, 0.6, 0.63)), near(rng, (0.9, 0.89, 0.87)), tone)


def _speckled(base: Colour, mark: Colour, count: int, radius: float, rough: float) -> Painter:
    """A material on which dots are part of the design."""

    def paint(rng: Generator, size: int) -> Field:
        tone = rough * smooth(rng, size, 30, 2)
        body = np.asarray(near(rng, base), np.float32) + tone[..., None]
        return over(body, near(rng, mark), dots(rng, size, int(rng.poisson(count)), radius))

    return paint


def _terrazzo(rng: Generator, size: int) -> Field:
    body = np.asarray(near(rng, (0.8, 0.78, 0.74)), np.float32) + 0.02 * grain(rng, size)[..., None]
    for colour in ((0.55, 0.33, 0.27), (0.35, 0.42, 0.4), (0.6, 0.57, 0.5)):
        body = over(body, near(rng, colour), ramp(smooth(rng, size, 17), 1.05, 1.2))
    return body


def _holed(base: Colour, hole: Colour, pitch: float, radius: float) -> Painter:
    """A sheet on which regular holes are part of the design."""

    def paint(rng: Generator, size: int) -> Field:
        v, u = _tilt(rng, size, 0.05)
        radii = np.hypot(saw(v * pitch) - 0.5, saw(u * pitch) - 0.5)
        cover = ramp(radii, radius + 0.06, radius - 0.06)
        body = np.asarray(near(rng, base), np.float32) + (0.03 * smooth(rng, size, (40, 4)))[..., None]
        return over(body, near(rng, hole), cover)

    return paint


def _ribbed(dark: Colour, light: Colour, ribs: float, rough: float) -> Painter:
    """Parallel ribs or stripes."""

    def paint(rng: Generator, size: int) -> Field:
        v, _ = _tilt(rng, size)
        tone = wave(v * ribs) + rough * smooth(rng, size, 24, 2)
        return mix(near(rng, dark), near(rng, light), tone)

    return paint


def _checker_plate(rng: Generator, size: int) -> Field:
    v, u = _tilt(rng, size, 0.05)
    odd = saw((np.floor(v * 7) + np.floor(u * 7)) * 0.5) > 0.25
    a, b = saw(v * 7) - 0.5, saw(u * 7) - 0.5
    first, second = np.hypot((a + b) * 2.6, a - b), np.hypot((a - b) * 2.6, a + b)
    lug = ramp(np.where(odd, first, second), 0.62, 0.45)
    body = mix(near(rng, (0.44, 0.45, 0.47)), near(rng, (0.82, 0.83, 0.84)), 0.2 + 0.7 * lug)
    return body + 0.03 * smooth(rng, size, 30, 2)[..., None]


def _crackle(rng: Generator, size: int) -> Field:
    """Crackle glaze: fine cracks are part of the design."""
    lines = np.minimum(np.abs(smooth(rng, size, 9, 2)), np.abs(smooth(rng, size, 10, 2)))
    return mix(near(rng, (0.25, 0.3, 0.28)), near(rng, (0.66, 0.8, 0.74)), ramp(lines, 0.03, 0.1)) + (
        0.02 * smooth(rng, size, 4)[..., None]
    )


def _weathered(rng: Generator, size: int) -> Field:
    """Weathering steel: rust patches are part of the design."""
    rust = ramp(smooth(rng, size, 7, 4), -0.6, 0.9)
    return mix(near(rng, (0.33, 0.22, 0.17)), near(rng, (0.66, 0.36, 0.17)), rust) + (
        0.03 * grain(rng, size)[..., None]
    )


def _hide(rng: Generator, size: int) -> Field:
    """Cow hide: large dark stains are part of the design."""
    patch = ramp(smooth(rng, size, 4, 2), 0.35, 0.5)
    hair = 0.05 * smooth(rng, size, (30, size))
    return mix(near(rng, (0.86, 0.82, 0.76)), near(rng, (0.2, 0.13, 0.1)), patch) + hair[..., None]


def _carbon_fibre(rng: Generator, size: int) -> Field:
    v, u = _tilt(rng, size, 0.04)
    row, column = np.floor(v * 10), np.floor(u * 10)
    above = saw((row + column) * 0.25) < 0.5
    sheen = np.where(above, wave(saw(v * 10) * 0.5), wave(saw(u * 10) * 0.5 + 0.5))
    return mix(near(rng, (0.05, 0.05, 0.06)), near(rng, (0.36, 0.37, 0.4)), sheen) + (
        0.015 * grain(rng, size)[..., None]
    )


def _radial(rng: Generator, size: int) -> Field:
    """A turned metal face: concentric tool marks."""
    v, u = turned(size, 0.0, *rng.uniform(0.4, 0.6, 2))
    radius, angle = polar(v, u)
    sheen = wave(angle / math.pi + rng.uniform())
    tone = 0.25 + 0.4 * sheen + 0.14 * wave(radius * 42) + 0.03 * grain(rng, size)
    return mix(near(rng, (0.3, 0.31, 0.33)), near(rng, (0.88, 0.88, 0.9)), tone)


def _corduroy(rng: Generator, size: int) -> Field:
    _, u = _tilt(rng, size)
    tone = np.sqrt(wave(u * 13)) + 0.1 * smooth(rng, size, (size, 40))
    return mix(near(rng, (0.2, 0.12, 0.05)), near(rng, (0.56, 0.38, 0.2)), tone)


def _gravel(rng: Generator, size: int) -> Field:
    a, b = smooth(rng, size, 20), smooth(rng, size, 22)
    stones = np.abs(a) + 0.4 * b
    return mix(near(rng, (0.18, 0.17, 0.17)), near(rng, (0.7, 0.68, 0.64)), ramp(stones, -0.2, 1.4))


def _plaid(rng: Generator, size: int) -> Field:
    v, u = _tilt(rng, size, 0.04)
    bands = 0.5 * (saw(v * 4) < 0.45) + 0.5 * (saw(u * 4) < 0.45)
    lines = np.maximum(saw(v * 4 + 0.2) > 0.94, saw(u * 4 + 0.2) > 0.94).astype(np.float32)
    body = mix(near(rng, (0.5, 0.1, 0.12)), near(rng, (0.1, 0.13, 0.26)), bands.astype(np.float32))
    return over(body, (0.85, 0.8, 0.5), 0.8 * lines) + 0.04 * grain(rng, size)[..., None]


TEXTURES: dict[str, Painter] = {
    "metal plate": _streaked((0.5, 0.51, 0.53), (0.74, 0.75, 0.77), 60, 3, 0.16),
    "wooden board": _wood,
    "leather": _leather,
    "linen cloth": _woven((0.5, 0.44, 0.34), (0.84, 0.79, 0.68), 26, 0.5),
    "denim": _woven((0.12, 0.17, 0.3), (0.42, 0.5, 0.66), 24, 0.25),
    "canvas": _woven((0.42, 0.45, 0.36), (0.7, 0.72, 0.6), 17, 0.5),
    "knitted wool": _knit,
    "carpet": _carpet,
    "ceramic tile": _tiled((0.62, 0.7, 0.74), (0.78, 0.85, 0.88), (0.93, 0.93, 0.9), 3, 0.0),
    "brick wall": _tiled((0.46, 0.2, 0.14), (0.68, 0.36, 0.26), (0.74, 0.72, 0.68), 7, 0.5),
    "wire mesh": _mesh,
    "honeycomb panel": _honeycomb,
    "concrete": _plain((0.58, 0.57, 0.55), 0.05, 0.03, 8),
    "marble": _marble,
    "speckled stone": _speckled((0.7, 0.68, 0.65), (0.18, 0.17, 0.17), 55, 0.012, 0.03),
    "terrazzo": _terrazzo,
    "paper": _plain((0.9, 0.89, 0.85), 0.012, 0.012),
    "cardboard": _ribbed((0.58, 0.43, 0.27), (0.69, 0.53, 0.35), 20, 0.16),
    "perforated sheet": _holed((0.68, 0.69, 0.71), (0.08, 0.08, 0.09), 8, 0.24),
    "checker plate": _checker_plate,
    "sandpaper": _plain((0.55, 0.38, 0.22), 0.02, 0.09),
    "painted panel": _plain((0.2, 0.42, 0.62), 0.012, 0.008, 3),
    "crackle glaze": _crackle,
    "weathering steel": _weathered,
    "cow hide": _hide,
    "carbon fibre": _carbon_fibre,
    "rubber mat": _ribbed((0.08, 0.08, 0.09), (0.28, 0.28, 0.29), 16, 0.05),
    "striped fabric": _ribbed((0.7, 0.16, 0.2), (0.9, 0.88, 0.84), 9, 0.08),
    "dotted fabric": _holed((0.2, 0.3, 0.5), (0.9, 0.9, 0.88), 9, 0.18),
    "cork board": _speckled((0.68, 0.5, 0.32), (0.38, 0.24, 0.13), 90, 0.014, 0.05),
    "plaster": _plain((0.86, 0.82, 0.76), 0.03, 0.02, 14),
    "turned steel": _radial,
    "corduroy": _corduroy,
    "gravel": _gravel,
    "plaid cloth": _plaid,
    "asphalt": _plain((0.25, 0.25, 0.26), 0.03, 0.07, 20),
}
