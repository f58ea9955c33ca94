"""Manufactured and grown objects on a plain support, one painter each."""

import math

import numpy as np
from numpy.random import Generator

from bayes_pfl.synthetic.fields import (
    Colour,
    Field,
    any_colour,
    dots,
    grain,
    mix,
    near,
    over,
    polar,
    ramp,
    saw,
    smooth,
    wave,
)
from bayes_pfl.synthetic.layers import LayerPainter, Layers, assembled, box, inside, posed, table

DARK: Colour = (0.12, 0.12, 0.13)
LIGHT: Colour = (0.88, 0.88, 0.87)
STEEL: Colour = (0.62, 0.63, 0.65)


def _flat(rng: Generator, size: int, colour: Colour, rough: float = 0.015) -> Field:
    tone = rough * grain(rng, size) + rough * smooth(rng, size, 6, 2)
    return np.asarray(near(rng, colour), np.float32) + tone[..., None]


def _dome(body: Field, distance: Field, depth: float) -> Field:
    """Shade a body as if it bulged: brighter at the middle, darker at the rim."""
    return body + (depth * (0.6 - np.clip(distance, 0, 1) ** 2))[..., None].astype(np.float32)


def capsule(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.6, 0.42)
    distance = box(v, u, 0.42, 0.98, 0.42)
    body = _flat(rng, size, (0.78, 0.2, 0.16))
    body = over(body, near(rng, (0.9, 0.86, 0.76)), inside(u, pixel, 0.05))
    return assembled(_dome(body, np.abs(v) / 0.42, 0.3), inside(distance, pixel), table(rng, size, LIGHT))


def tablet(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.36)
    radius, _ = polar(v, u)
    body = _dome(_flat(rng, size, (0.9, 0.88, 0.84), 0.02), radius, 0.12)
    groove = inside(np.abs(v), pixel, 0.05) * (radius < 0.8)
    return assembled(over(body, (0.68, 0.66, 0.62), groove), inside(radius, pixel), table(rng, size, (0.2, 0.3, 0.42)))


def hex_nut(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.4)
    hexagon = np.max([np.abs(u * math.cos(a) + v * math.sin(a)) for a in (0, 1.0472, 2.0944)], 0)
    radius, angle = polar(v, u)
    body = mix((0.5, 0.5, 0.52), (0.85, 0.85, 0.87), wave(angle / math.pi) * 0.5 + 0.3 * (hexagon < 0.85))
    body = body + 0.02 * grain(rng, size)[..., None]
    cover = inside(hexagon, pixel, 0.92) * (1 - inside(radius, pixel, 0.48))
    body = over(body, (0.34, 0.34, 0.36), inside(radius, pixel, 0.56))
    return assembled(body, cover, table(rng, size, (0.8, 0.8, 0.78)))


def washer(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.4)
    radius, angle = polar(v, u)
    body = mix((0.52, 0.5, 0.46), (0.84, 0.81, 0.74), wave(angle / math.pi)) + 0.02 * grain(rng, size)[..., None]
    cover = inside(radius, pixel, 0.97) * (1 - inside(radius, pixel, 0.45))
    return assembled(body, cover, table(rng, size, (0.22, 0.23, 0.26)))


def screw(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.5, 0.44)
    thread = 0.14 + 0.05 * wave(u * 9)
    shaft = inside(np.abs(v) / thread, pixel / 0.15) * (u > -0.7) * (u < 1.0)
    head = inside(box(v, u + 0.8, 0.4, 0.16), pixel / 0.2)
    body = mix((0.3, 0.3, 0.32), (0.86, 0.86, 0.88), 0.75 - 1.6 * np.abs(v) + 0.25 * wave(u * 9 + v * 2))
    return assembled(body, np.maximum(shaft, head).astype(np.float32), table(rng, size, (0.75, 0.76, 0.78)))


def gear(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.4)
    radius, angle = polar(v, u)
    rim = 0.86 + 0.1 * np.clip(3 * np.sin(14 * angle), -1, 1)
    body = _flat(rng, size, (0.48, 0.47, 0.44), 0.02) + (0.08 * wave(angle / math.pi))[..., None]
    body = over(body, (0.3, 0.3, 0.29), inside(np.abs(radius - 0.6), pixel, 0.04))
    cover = inside(radius / rim, pixel) * (1 - inside(radius, pixel, 0.22))
    return assembled(body, cover, table(rng, size, (0.86, 0.86, 0.84)))


def bottle_top(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.43)
    radius, _ = polar(v, u)
    body = mix((0.12, 0.16, 0.1), (0.5, 0.56, 0.38), wave(radius * 2.1 + 0.1)) + 0.015 * grain(rng, size)[..., None]
    body = over(body, (0.05, 0.06, 0.05), inside(radius, pixel, 0.52))
    return assembled(body, inside(radius, pixel), table(rng, size, (0.94, 0.94, 0.93)))


def button(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.38)
    radius, _ = polar(v, u)
    body = _dome(_flat(rng, size, (0.34, 0.22, 0.48)), radius, 0.15)
    body = over(body, (0.5, 0.38, 0.62), inside(np.abs(radius - 0.8), pixel, 0.06))
    holes = np.hypot(np.abs(v) - 0.24, np.abs(u) - 0.24)
    return assembled(
        over(body, (0.08, 0.05, 0.1), inside(holes, pixel, 0.12)),
        inside(radius, pixel),
        table(rng, size, (0.84, 0.8, 0.7)),
    )


def coin(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.3, 0.42)
    radius, angle = polar(v, u)
    relief = np.maximum(inside(np.hypot(v * 1.1 + 0.1, u), pixel, 0.4), inside(box(v - 0.48, u, 0.2, 0.42, 0.1), pixel))
    tone = 0.45 + 0.3 * relief * (0.4 + wave(v + u)) + 0.2 * (radius > 0.88) * wave(angle * 9)
    body = mix(near(rng, (0.45, 0.32, 0.12)), near(rng, (0.92, 0.76, 0.42)), tone)
    return assembled(
        body + 0.02 * grain(rng, size)[..., None], inside(radius, pixel), table(rng, size, (0.15, 0.18, 0.2))
    )


def biscuit(rng: Generator, size: int) -> Layers:
    """A biscuit whose chocolate chips are part of the recipe."""
    v, u, pixel = posed(rng, size, 3.1, 0.4)
    radius, _ = polar(v, u)
    body = _dome(_flat(rng, size, (0.76, 0.56, 0.32), 0.04), radius, 0.12)
    body = over(body, near(rng, (0.24, 0.13, 0.07)), dots(rng, size, 22, 0.022))
    return assembled(body, inside(radius + 0.03 * smooth(rng, size, 7), pixel), table(rng, size, (0.9, 0.92, 0.93)))


def hazel_nut(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.4)
    distance = np.hypot(v * (1.05 + 0.18 * u), u)
    stripes = wave(u * 1.5 + v * 4 + 0.2 * smooth(rng, size, 5)) * 0.25
    body = mix((0.38, 0.2, 0.09), (0.72, 0.46, 0.22), 0.55 + stripes - 0.5 * distance**2 + 0.05 * smooth(rng, size, 30))
    body = over(body, (0.72, 0.6, 0.45), inside(np.hypot(v, u + 0.85), pixel, 0.32))
    return assembled(body, inside(distance, pixel, 0.95), table(rng, size, (0.08, 0.08, 0.08)))


def cable(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.2, 0.44)
    radius, _ = polar(v, u)
    body = _flat(rng, size, (0.3, 0.3, 0.31))
    for turn, colour in enumerate(((0.2, 0.5, 0.25), (0.5, 0.3, 0.15), (0.25, 0.35, 0.7))):
        a = 2.0944 * turn - 1.57
        core = np.hypot(v - 0.48 * math.sin(a), u - 0.48 * math.cos(a))
        body = over(body, near(rng, colour), inside(core, pixel, 0.4))
        strands = mix((0.5, 0.27, 0.12), (0.9, 0.6, 0.38), 0.5 + 0.35 * smooth(rng, size, 34))
        body = over(body, strands, inside(core, pixel, 0.27))
    return assembled(body, inside(radius, pixel), table(rng, size, (0.82, 0.8, 0.8)))


def circuit_board(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.04, 0.46)
    lanes = inside(np.abs(saw(v * 3.5) - 0.5), 3.5 * pixel, 0.06) * (np.abs(u) < 0.85)
    body = over(_flat(rng, size, (0.06, 0.32, 0.2)), (0.22, 0.52, 0.34), 0.9 * lanes.astype(np.float32))
    body = over(body, DARK, inside(box(v + 0.2, u + 0.2, 0.3, 0.36), pixel))
    pads = np.hypot(saw(v * 4) - 0.5, saw(u * 4) - 0.5)
    body = over(body, (0.86, 0.76, 0.42), inside(pads, 4 * pixel, 0.17) * ((u > 0.35) | (v > 0.4)))
    return assembled(body, inside(box(v, u, 0.95, 0.98, 0.06), pixel), table(rng, size, LIGHT))


def chip(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.1, 0.42)
    case = inside(box(v, u, 0.55, 0.95, 0.05), pixel)
    legs = inside(np.abs(saw(u * 4) - 0.5), 4 * pixel, 0.2) * inside(box(v, u, 0.85, 0.9), pixel)
    body = over(_flat(rng, size, (0.72, 0.72, 0.74)), near(rng, DARK), case)
    mark = inside(box(v, u, 0.16, 0.5), pixel) * (wave(u * 7) > 0.4)
    body = over(body, (0.6, 0.6, 0.6), mark.astype(np.float32))
    return assembled(body, np.maximum(case, legs).astype(np.float32), table(rng, size, (0.2, 0.42, 0.3)))


def solar_cell(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.03, 0.47)
    body = mix(near(rng, (0.05, 0.09, 0.2)), near(rng, (0.14, 0.23, 0.44)), 0.5 + 0.25 * smooth(rng, size, 9))
    fingers = 0.35 * inside(np.abs(saw(v * 10) - 0.5), 10 * pixel, 0.07)
    body = over(body, (0.7, 0.72, 0.76), np.maximum(fingers, inside(np.abs(np.abs(u) - 0.45), pixel, 0.05)))
    return assembled(body, inside(box(v, u, 0.97, 0.97, 0.15), pixel), table(rng, size, LIGHT))


def zipper(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.05, 0.47)
    body = over(_flat(rng, size, (0.12, 0.14, 0.22), 0.03), (0.2, 0.22, 0.32), 0.4 * wave(v * 22))
    side = saw(v * 9 + 0.5 * (u > 0))
    teeth = inside(np.abs(side - 0.5), 9 * pixel, 0.3) * inside(np.abs(u), pixel, 0.24)
    body = over(body, near(rng, (0.78, 0.7, 0.46)), teeth)
    return assembled(body, inside(np.abs(u), pixel, 0.75), table(rng, size, LIGHT))


def bearing(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.43)
    radius, angle = polar(v, u)
    body = mix((0.46, 0.47, 0.5), (0.86, 0.87, 0.9), wave(angle / math.pi))
    body = over(body, (0.2, 0.2, 0.22), inside(np.abs(radius - 0.66), pixel, 0.15))
    balls = np.hypot(radius - 0.66, 0.66 * (saw(angle * 9 / (2 * math.pi)) - 0.5) * 2 * math.pi / 9)
    body = over(body, mix((0.5, 0.5, 0.52), (0.97, 0.97, 0.98), 1 - balls * 6), inside(balls, pixel, 0.13))
    cover = inside(radius, pixel) * (1 - inside(radius, pixel, 0.32))
    return assembled(body + 0.01 * grain(rng, size)[..., None], cover, table(rng, size, (0.55, 0.42, 0.3)))


def key(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.4, 0.45)
    bow = np.hypot(v, u + 0.62)
    teeth = 0.1 + 0.12 * (wave(u * 4.5) > 0.5) * (u > 0.15)
    blade = inside(np.abs(v - 0.5 * teeth + 0.05) / (0.08 + teeth * 0.6), pixel / 0.12) * (u > -0.4) * (u < 0.97)
    cover = np.maximum(inside(bow, pixel, 0.36), blade) * (1 - inside(np.hypot(v, u + 0.72), pixel, 0.12))
    body = mix((0.55, 0.42, 0.18), (0.92, 0.8, 0.5), 0.5 + 0.12 * smooth(rng, size, (30, 3)) + v)
    return assembled(body, cover.astype(np.float32), table(rng, size, (0.3, 0.32, 0.36)))


def spring(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.2, 0.44)
    coil = np.abs(saw(u * 4 + 0.18 * v) - 0.5)
    cover = inside(coil, 4 * pixel, 0.27) * inside(box(v, u, 0.55, 0.98), pixel)
    body = mix((0.25, 0.25, 0.27), (0.9, 0.9, 0.92), 1 - 3 * coil) + (0.2 * (0.5 - np.abs(v)))[..., None]
    return assembled(body.astype(np.float32), cover, table(rng, size, (0.74, 0.7, 0.64)))


def leaf(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.6, 0.46)
    distance = np.abs(v) / (0.02 + 0.5 * np.clip(1 - u * u, 0, 1) * (1.1 - 0.3 * u))
    body = mix(near(rng, (0.1, 0.3, 0.1)), near(rng, (0.3, 0.54, 0.2)), 0.5 + 0.12 * smooth(rng, size, 8, 2))
    veins = np.maximum(
        inside(np.abs(v), pixel, 0.025), 0.5 * inside(np.abs(saw(u * 4 - np.abs(v) * 3) - 0.5), 4 * pixel, 0.06)
    )
    return assembled(
        over(body, (0.56, 0.72, 0.4), veins), inside(distance, pixel * 3), table(rng, size, (0.9, 0.9, 0.86))
    )


def egg(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.42)
    distance = np.hypot(v * (1.3 + 0.3 * u), u)
    body = _dome(_flat(rng, size, (0.82, 0.64, 0.5), 0.012), distance, 0.28)
    return assembled(body, inside(distance, pixel, 0.95), table(rng, size, (0.3, 0.34, 0.4)))


def quail_egg(rng: Generator, size: int) -> Layers:
    """An egg whose dark blots are part of its kind."""
    plain_egg = egg(rng, size)
    blots = np.maximum(dots(rng, size, 45, 0.016, 0.6), ramp(smooth(rng, size, 12, 2), 1.1, 1.3))
    body = over(over(plain_egg.image, (0.88, 0.84, 0.74), np.full_like(blots, 0.6)), (0.25, 0.18, 0.13), blots)
    return assembled(body, plain_egg.cover, plain_egg.behind)


def battery(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.5, 0.45)
    case, pole = inside(box(v, u + 0.03, 0.36, 0.9, 0.08), pixel), inside(box(v, u - 0.9, 0.12, 0.08), pixel)
    body = over(_flat(rng, size, (0.1, 0.1, 0.11)), near(rng, (0.76, 0.5, 0.16)), inside(-u, pixel, -0.3))
    body = over(body, (0.75, 0.75, 0.77), np.maximum(pole, inside(-u, pixel, -0.82)))
    return assembled(_dome(body, np.abs(v) / 0.36, 0.3), np.maximum(case, pole), table(rng, size, (0.85, 0.85, 0.87)))


def label(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.08, 0.45)
    body = _flat(rng, size, (0.93, 0.93, 0.9), 0.01)
    bars = (saw(np.sin(np.floor((u + 1) * 17) * 12.9898) * 43.5) > 0.45) * inside(box(v + 0.25, u, 0.3, 0.78), pixel)
    text = (
        (wave(u * 11) > 0.35)
        * inside(np.abs(saw(v * 4.5) - 0.5), 4.5 * pixel, 0.2)
        * inside(box(v - 0.4, u, 0.24, 0.78), pixel)
    )
    body = over(body, (0.1, 0.1, 0.12), np.maximum(bars, 0.8 * text).astype(np.float32))
    return assembled(body, inside(box(v, u, 0.8, 0.95, 0.08), pixel), table(rng, size, (0.62, 0.48, 0.33)))


def plate(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.45)
    radius, _ = polar(v, u)
    body = _flat(rng, size, (0.9, 0.9, 0.88), 0.01) - (0.12 * wave(radius * 1.4))[..., None]
    body = over(body, (0.2, 0.32, 0.62), inside(np.abs(radius - 0.86), pixel, 0.04))
    return assembled(body, inside(radius, pixel), table(rng, size, (0.42, 0.28, 0.18)))


def bottle_cap(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.4)
    radius, angle = polar(v, u)
    rim = 0.95 + 0.045 * np.sin(21 * angle)
    body: Field = _flat(rng, size, (0.72, 0.12, 0.12)) + (0.16 * (radius > 0.8) * wave(21 * angle / (2 * math.pi)))[..., None]
    star = radius / (0.42 + 0.12 * np.cos(5 * angle))
    body = over(body, (0.92, 0.9, 0.84), inside(star, 2 * pixel))
    return assembled(body.astype(np.float32), inside(radius / rim, pixel), table(rng, size, (0.7, 0.74, 0.78)))


def candle(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.38)
    radius, _ = polar(v, u)
    body = _dome(_flat(rng, size, (0.86, 0.8, 0.66), 0.01), radius, 0.1)
    body = over(body, (0.97, 0.94, 0.84), inside(radius, pixel, 0.8))
    body = over(body, (0.25, 0.2, 0.16), inside(np.hypot(v * 1.6, u), pixel, 0.12))
    return assembled(body, inside(radius, pixel), table(rng, size, (0.2, 0.2, 0.24)))


def toothed_comb(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.15, 0.46)
    teeth = inside(np.abs(saw(u * 7) - 0.5), 7 * pixel, 0.27) * inside(box(v - 0.2, u, 0.45, 0.9), pixel)
    spine = inside(box(v + 0.4, u, 0.24, 0.96, 0.1), pixel)
    body = _flat(rng, size, (0.1, 0.4, 0.46)) + (0.12 * smooth(rng, size, (2, 3)))[..., None]
    return assembled(body, np.maximum(teeth, spine), table(rng, size, (0.88, 0.86, 0.84)))


def tomato(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.4)
    radius, angle = polar(v, u)
    body = _dome(_flat(rng, size, (0.76, 0.16, 0.1), 0.012), radius, 0.3)
    sepal = radius / (0.18 + 0.16 * np.cos(5 * angle) ** 2)
    body = over(body, near(rng, (0.25, 0.45, 0.16)), inside(sepal, 3 * pixel))
    return assembled(body, inside(radius + 0.03 * np.cos(5 * angle), pixel), table(rng, size, (0.92, 0.91, 0.88)))


def window_pane(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.03, 0.47)
    sky = mix(near(rng, (0.5, 0.62, 0.72)), near(rng, (0.82, 0.88, 0.92)), 0.5 - 0.4 * v + 0.1 * smooth(rng, size, 3))
    bars = np.minimum(np.abs(v), np.abs(u))
    frame = np.maximum(inside(bars, pixel, 0.05), inside(-np.maximum(np.abs(v), np.abs(u)), pixel, -0.86))
    body = over(sky, near(rng, (0.92, 0.92, 0.9)), frame)
    return assembled(body, inside(box(v, u, 0.98, 0.98), pixel), table(rng, size, any_colour(rng, 0.3, 0.6)))


OBJECTS: dict[str, LayerPainter] = {
    "capsule": capsule,
    "tablet": tablet,
    "hex nut": hex_nut,
    "washer": washer,
    "screw": screw,
    "gear": gear,
    "bottle top": bottle_top,
    "button": button,
    "coin": coin,
    "biscuit": biscuit,
    "hazel nut": hazel_nut,
    "cable": cable,
    "circuit board": circuit_board,
    "chip": chip,
    "solar cell": solar_cell,
    "zipper": zipper,
    "bearing": bearing,
    "key": key,
    "spring": spring,
    "leaf": leaf,
    "egg": egg,
    "quail egg": quail_egg,
    "battery": battery,
    "label": label,
    "plate": plate,
    "bottle cap": bottle_cap,
    "candle": candle,
    "comb": toothed_comb,
    "tomato": tomato,
    "window pane": window_pane,
}
