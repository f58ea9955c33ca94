"""Metal and electrical parts on a plain support, one painter each."""

import math

import numpy as np
from numpy.random import Generator

from bayes_pfl.synthetic.fields import (
    Colour,
    Field,
    grain,
    mix,
    near,
    over,
    polar,
    saw,
    smooth,
    wave,
)
from bayes_pfl.synthetic.layers import LayerPainter, Layers, assembled, box, dome, flat, inside, posed, table

DARK: Colour = (0.12, 0.12, 0.13)
LIGHT: Colour = (0.88, 0.88, 0.87)


def _hex_nut(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.4)
    hexagon = np.max([np.abs(u * math.cos(a) + v * math.sin(a)) for a in (0, 1.0472, 2.0944)], 0)
    radius, angle = polar(v, u)
    body = mix((0.5, 0.5, 0.52), (0.85, 0.85, 0.87), wave(angle / math.pi) * 0.5 + 0.3 * (hexagon < 0.85))
    body = body + 0.02 * grain(rng, size)[..., None]
    cover = inside(hexagon, pixel, 0.92) * (1 - inside(radius, pixel, 0.48))
    body = over(body, (0.34, 0.34, 0.36), inside(radius, pixel, 0.56))
    return assembled(body, cover, table(rng, size, (0.8, 0.8, 0.78)))


def _washer(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.4)
    radius, angle = polar(v, u)
    body = mix((0.52, 0.5, 0.46), (0.84, 0.81, 0.74), wave(angle / math.pi)) + 0.02 * grain(rng, size)[..., None]
    cover = inside(radius, pixel, 0.97) * (1 - inside(radius, pixel, 0.45))
    return assembled(body, cover, table(rng, size, (0.22, 0.23, 0.26)))


def _screw(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.5, 0.44)
    thread = 0.14 + 0.05 * wave(u * 9)
    shaft = inside(np.abs(v) / thread, pixel / 0.15) * (u > -0.7) * (u < 1.0)
    head = inside(box(v, u + 0.8, 0.4, 0.16), pixel / 0.2)
    body = mix((0.3, 0.3, 0.32), (0.86, 0.86, 0.88), 0.75 - 1.6 * np.abs(v) + 0.25 * wave(u * 9 + v * 2))
    return assembled(body, np.maximum(shaft, head).astype(np.float32), table(rng, size, (0.75, 0.76, 0.78)))


def _gear(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.4)
    radius, angle = polar(v, u)
    rim = 0.86 + 0.1 * np.clip(3 * np.sin(14 * angle), -1, 1)
    body = flat(rng, size, (0.48, 0.47, 0.44), 0.02) + (0.08 * wave(angle / math.pi))[..., None]
    body = over(body, (0.3, 0.3, 0.29), inside(np.abs(radius - 0.6), pixel, 0.04))
    cover = inside(radius / rim, pixel) * (1 - inside(radius, pixel, 0.22))
    return assembled(body, cover, table(rng, size, (0.86, 0.86, 0.84)))


def _coin(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.3, 0.42)
    radius, angle = polar(v, u)
    relief = np.maximum(inside(np.hypot(v * 1.1 + 0.1, u), pixel, 0.4), inside(box(v - 0.48, u, 0.2, 0.42, 0.1), pixel))
    tone = 0.45 + 0.3 * relief * (0.4 + wave(v + u)) + 0.2 * (radius > 0.88) * wave(angle * 9)
    body = mix(near(rng, (0.45, 0.32, 0.12)), near(rng, (0.92, 0.76, 0.42)), tone)
    return assembled(
        body + 0.02 * grain(rng, size)[..., None], inside(radius, pixel), table(rng, size, (0.15, 0.18, 0.2))
    )


def _bearing(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.43)
    radius, angle = polar(v, u)
    body = mix((0.46, 0.47, 0.5), (0.86, 0.87, 0.9), wave(angle / math.pi))
    body = over(body, (0.2, 0.2, 0.22), inside(np.abs(radius - 0.66), pixel, 0.15))
    balls = np.hypot(radius - 0.66, 0.66 * (saw(angle * 9 / (2 * math.pi)) - 0.5) * 2 * math.pi / 9)
    body = over(body, mix((0.5, 0.5, 0.52), (0.97, 0.97, 0.98), 1 - balls * 6), inside(balls, pixel, 0.13))
    cover = inside(radius, pixel) * (1 - inside(radius, pixel, 0.32))
    return assembled(body + 0.01 * grain(rng, size)[..., None], cover, table(rng, size, (0.55, 0.42, 0.3)))


def _key(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.4, 0.45)
    bow = np.hypot(v, u + 0.62)
    teeth = 0.1 + 0.12 * (wave(u * 4.5) > 0.5) * (u > 0.15)
    blade = inside(np.abs(v - 0.5 * teeth + 0.05) / (0.08 + teeth * 0.6), pixel / 0.12) * (u > -0.4) * (u < 0.97)
    cover = np.maximum(inside(bow, pixel, 0.36), blade) * (1 - inside(np.hypot(v, u + 0.72), pixel, 0.12))
    body = mix((0.55, 0.42, 0.18), (0.92, 0.8, 0.5), 0.5 + 0.12 * smooth(rng, size, (30, 3)) + v)
    return assembled(body, cover.astype(np.float32), table(rng, size, (0.3, 0.32, 0.36)))


def _spring(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.2, 0.44)
    coil = np.abs(saw(u * 4 + 0.18 * v) - 0.5)
    cover = inside(coil, 4 * pixel, 0.27) * inside(box(v, u, 0.55, 0.98), pixel)
    body = mix((0.25, 0.25, 0.27), (0.9, 0.9, 0.92), 1 - 3 * coil) + (0.2 * (0.5 - np.abs(v)))[..., None]
    return assembled(body.astype(np.float32), cover, table(rng, size, (0.74, 0.7, 0.64)))


def _bottle_cap(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.4)
    radius, angle = polar(v, u)
    rim = 0.95 + 0.045 * np.sin(21 * angle)
    body: Field = (
        flat(rng, size, (0.72, 0.12, 0.12)) + (0.16 * (radius > 0.8) * wave(21 * angle / (2 * math.pi)))[..., None]
    )
    star = radius / (0.42 + 0.12 * np.cos(5 * angle))
    body = over(body, (0.92, 0.9, 0.84), inside(star, 2 * pixel))
    return assembled(body.astype(np.float32), inside(radius / rim, pixel), table(rng, size, (0.7, 0.74, 0.78)))


def _cable(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.2, 0.44)
    radius, _ = polar(v, u)
    body = flat(rng, size, (0.3, 0.3, 0.31))
    for turn, colour in enumerate(((0.2, 0.5, 0.25), (0.5, 0.3, 0.15), (0.25, 0.35, 0.7))):
        a = 2.0944 * turn - 1.57
        core = np.hypot(v - 0.48 * math.sin(a), u - 0.48 * math.cos(a))
        body = over(body, near(rng, colour), inside(core, pixel, 0.4))
        strands = mix((0.5, 0.27, 0.12), (0.9, 0.6, 0.38), 0.5 + 0.35 * smooth(rng, size, 34))
        body = over(body, strands, inside(core, pixel, 0.27))
    return assembled(body, inside(radius, pixel), table(rng, size, (0.82, 0.8, 0.8)))


def _circuit_board(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.04, 0.46)
    lanes = inside(np.abs(saw(v * 3.5) - 0.5), 3.5 * pixel, 0.06) * (np.abs(u) < 0.85)
    body = over(flat(rng, size, (0.06, 0.32, 0.2)), (0.22, 0.52, 0.34), 0.9 * lanes.astype(np.float32))
    body = over(body, DARK, inside(box(v + 0.2, u + 0.2, 0.3, 0.36), pixel))
    pads = np.hypot(saw(v * 4) - 0.5, saw(u * 4) - 0.5)
    body = over(body, (0.86, 0.76, 0.42), inside(pads, 4 * pixel, 0.17) * ((u > 0.35) | (v > 0.4)))
    return assembled(body, inside(box(v, u, 0.95, 0.98, 0.06), pixel), table(rng, size, LIGHT))


def _chip(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.1, 0.42)
    case = inside(box(v, u, 0.55, 0.95, 0.05), pixel)
    legs = inside(np.abs(saw(u * 4) - 0.5), 4 * pixel, 0.2) * inside(box(v, u, 0.85, 0.9), pixel)
    body = over(flat(rng, size, (0.72, 0.72, 0.74)), near(rng, DARK), case)
    mark = inside(box(v, u, 0.16, 0.5), pixel) * (wave(u * 7) > 0.4)
    body = over(body, (0.6, 0.6, 0.6), mark.astype(np.float32))
    return assembled(body, np.maximum(case, legs).astype(np.float32), table(rng, size, (0.2, 0.42, 0.3)))


def _solar_cell(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.03, 0.47)
    body = mix(near(rng, (0.05, 0.09, 0.2)), near(rng, (0.14, 0.23, 0.44)), 0.5 + 0.25 * smooth(rng, size, 9))
    fingers = 0.35 * inside(np.abs(saw(v * 10) - 0.5), 10 * pixel, 0.07)
    body = over(body, (0.7, 0.72, 0.76), np.maximum(fingers, inside(np.abs(np.abs(u) - 0.45), pixel, 0.05)))
    return assembled(body, inside(box(v, u, 0.97, 0.97, 0.15), pixel), table(rng, size, LIGHT))


def _zipper(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.05, 0.47)
    body = over(flat(rng, size, (0.12, 0.14, 0.22), 0.03), (0.2, 0.22, 0.32), 0.4 * wave(v * 22))
    side = saw(v * 9 + 0.5 * (u > 0))
    teeth = inside(np.abs(side - 0.5), 9 * pixel, 0.3) * inside(np.abs(u), pixel, 0.24)
    body = over(body, near(rng, (0.78, 0.7, 0.46)), teeth)
    return assembled(body, inside(np.abs(u), pixel, 0.75), table(rng, size, LIGHT))


def _battery(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.5, 0.45)
    case, pole = inside(box(v, u + 0.03, 0.36, 0.9, 0.08), pixel), inside(box(v, u - 0.9, 0.12, 0.08), pixel)
    body = over(flat(rng, size, (0.1, 0.1, 0.11)), near(rng, (0.76, 0.5, 0.16)), inside(-u, pixel, -0.3))
    body = over(body, (0.75, 0.75, 0.77), np.maximum(pole, inside(-u, pixel, -0.82)))
    return assembled(dome(body, np.abs(v) / 0.36, 0.3), np.maximum(case, pole), table(rng, size, (0.85, 0.85, 0.87)))


HARDWARE: dict[str, LayerPainter] = {
    "hex nut": _hex_nut,
    "washer": _washer,
    "screw": _screw,
    "gear": _gear,
    "coin": _coin,
    "cable": _cable,
    "circuit board": _circuit_board,
    "chip": _chip,
    "solar cell": _solar_cell,
    "zipper": _zipper,
    "bearing": _bearing,
    "key": _key,
    "spring": _spring,
    "battery": _battery,
    "bottle cap": _bottle_cap,
}
"""Painters by category: (rng, size) -> `Layers`."""
