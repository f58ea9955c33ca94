"""Goods of every day on a plain support, made or grown, one painter each."""

import numpy as np
from numpy.random import Generator

from bayes_pfl.synthetic.fields import (
    Colour,
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
from bayes_pfl.synthetic.layers import LayerPainter, Layers, assembled, box, dome, flat, inside, posed, table

LIGHT: Colour = (0.88, 0.88, 0.87)


def _capsule(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.6, 0.42)
    distance = box(v, u, 0.42, 0.98, 0.42)
    body = flat(rng, size, (0.78, 0.2, 0.16))
    body = over(body, near(rng, (0.9, 0.86, 0.76)), inside(u, pixel, 0.05))
    return assembled(dome(body, np.abs(v) / 0.42, 0.3), inside(distance, pixel), table(rng, size, LIGHT))


def _tablet(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.36)
    radius, _ = polar(v, u)
    body = dome(flat(rng, size, (0.9, 0.88, 0.84), 0.02), radius, 0.12)
    groove = inside(np.abs(v), pixel, 0.05) * (radius < 0.8)
    return assembled(over(body, (0.68, 0.66, 0.62), groove), inside(radius, pixel), table(rng, size, (0.2, 0.3, 0.42)))


def _bottle_top(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.43)
    radius, _ = polar(v, u)
    body = mix((0.12, 0.16, 0.1), (0.5, 0.56, 0.38), wave(radius * 2.1 + 0.1)) + 0.015 * grain(rng, size)[..., None]
    body = over(body, (0.05, 0.06, 0.05), inside(radius, pixel, 0.52))
    return assembled(body, inside(radius, pixel), table(rng, size, (0.94, 0.94, 0.93)))


def _button(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.38)
    radius, _ = polar(v, u)
    body = dome(flat(rng, size, (0.34, 0.22, 0.48)), radius, 0.15)
    body = over(body, (0.5, 0.38, 0.62), inside(np.abs(radius - 0.8), pixel, 0.06))
    holes = np.hypot(np.abs(v) - 0.24, np.abs(u) - 0.24)
    return assembled(
        over(body, (0.08, 0.05, 0.1), inside(holes, pixel, 0.12)),
        inside(radius, pixel),
        table(rng, size, (0.84, 0.8, 0.7)),
    )


def _biscuit(rng: Generator, size: int) -> Layers:
    """A biscuit whose chocolate chips are part of the recipe."""
    v, u, pixel = posed(rng, size, 3.1, 0.4)
    radius, _ = polar(v, u)
    body = dome(flat(rng, size, (0.76, 0.56, 0.32), 0.04), radius, 0.12)
    body = over(body, near(rng, (0.24, 0.13, 0.07)), dots(rng, size, 22, 0.022))
    return assembled(body, inside(radius + 0.03 * smooth(rng, size, 7), pixel), table(rng, size, (0.9, 0.92, 0.93)))


def _hazel_nut(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.4)
    distance = np.hypot(v * (1.05 + 0.18 * u), u)
    stripes = wave(u * 1.5 + v * 4 + 0.2 * smooth(rng, size, 5)) * 0.25
    body = mix((0.38, 0.2, 0.09), (0.72, 0.46, 0.22), 0.55 + stripes - 0.5 * distance**2 + 0.05 * smooth(rng, size, 30))
    body = over(body, (0.72, 0.6, 0.45), inside(np.hypot(v, u + 0.85), pixel, 0.32))
    return assembled(body, inside(distance, pixel, 0.95), table(rng, size, (0.08, 0.08, 0.08)))


def _leaf(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.6, 0.46)
    distance = np.abs(v) / (0.02 + 0.5 * np.clip(1 - u * u, 0, 1) * (1.1 - 0.3 * u))
    body = mix(near(rng, (0.1, 0.3, 0.1)), near(rng, (0.3, 0.54, 0.2)), 0.5 + 0.12 * smooth(rng, size, 8, 2))
    veins = np.maximum(
        inside(np.abs(v), pixel, 0.025), 0.5 * inside(np.abs(saw(u * 4 - np.abs(v) * 3) - 0.5), 4 * pixel, 0.06)
    )
    return assembled(
        over(body, (0.56, 0.72, 0.4), veins), inside(distance, pixel * 3), table(rng, size, (0.9, 0.9, 0.86))
    )


def _egg(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.42)
    distance = np.hypot(v * (1.3 + 0.3 * u), u)
    body = dome(flat(rng, size, (0.82, 0.64, 0.5), 0.012), distance, 0.28)
    return assembled(body, inside(distance, pixel, 0.95), table(rng, size, (0.3, 0.34, 0.4)))


def _quail_egg(rng: Generator, size: int) -> Layers:
    """An egg whose dark blots are part of its kind."""
    plain_egg = _egg(rng, size)
    blots = np.maximum(dots(rng, size, 45, 0.016, 0.6), ramp(smooth(rng, size, 12, 2), 1.1, 1.3))
    body = over(over(plain_egg.image, (0.88, 0.84, 0.74), np.full_like(blots, 0.6)), (0.25, 0.18, 0.13), blots)
    return assembled(body, plain_egg.cover, plain_egg.behind)


def _label(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.08, 0.45)
    body = flat(rng, size, (0.93, 0.93, 0.9), 0.01)
    bars = (saw(np.sin(np.floor((u + 1) * 17) * 12.9898) * 43.5) > 0.45) * inside(box(v + 0.25, u, 0.3, 0.78), pixel)
    text = (
        (wave(u * 11) > 0.35)
        * inside(np.abs(saw(v * 4.5) - 0.5), 4.5 * pixel, 0.2)
        * inside(box(v - 0.4, u, 0.24, 0.78), pixel)
    )
    body = over(body, (0.1, 0.1, 0.12), np.maximum(bars, 0.8 * text).astype(np.float32))
    return assembled(body, inside(box(v, u, 0.8, 0.95, 0.08), pixel), table(rng, size, (0.62, 0.48, 0.33)))


def _plate(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.45)
    radius, _ = polar(v, u)
    body = flat(rng, size, (0.9, 0.9, 0.88), 0.01) - (0.12 * wave(radius * 1.4))[..., None]
    body = over(body, (0.2, 0.32, 0.62), inside(np.abs(radius - 0.86), pixel, 0.04))
    return assembled(body, inside(radius, pixel), table(rng, size, (0.42, 0.28, 0.18)))


def _candle(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.38)
    radius, _ = polar(v, u)
    body = dome(flat(rng, size, (0.86, 0.8, 0.66), 0.01), radius, 0.1)
    body = over(body, (0.97, 0.94, 0.84), inside(radius, pixel, 0.8))
    body = over(body, (0.25, 0.2, 0.16), inside(np.hypot(v * 1.6, u), pixel, 0.12))
    return assembled(body, inside(radius, pixel), table(rng, size, (0.2, 0.2, 0.24)))


def _toothed_comb(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.15, 0.46)
    teeth = inside(np.abs(saw(u * 7) - 0.5), 7 * pixel, 0.27) * inside(box(v - 0.2, u, 0.45, 0.9), pixel)
    spine = inside(box(v + 0.4, u, 0.24, 0.96, 0.1), pixel)
    body = flat(rng, size, (0.1, 0.4, 0.46)) + (0.12 * smooth(rng, size, (2, 3)))[..., None]
    return assembled(body, np.maximum(teeth, spine), table(rng, size, (0.88, 0.86, 0.84)))


def _tomato(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 3.1, 0.4)
    radius, angle = polar(v, u)
    body = dome(flat(rng, size, (0.76, 0.16, 0.1), 0.012), radius, 0.3)
    sepal = radius / (0.18 + 0.16 * np.cos(5 * angle) ** 2)
    body = over(body, near(rng, (0.25, 0.45, 0.16)), inside(sepal, 3 * pixel))
    return assembled(body, inside(radius + 0.03 * np.cos(5 * angle), pixel), table(rng, size, (0.92, 0.91, 0.88)))


def _window_pane(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.03, 0.47)
    sky = mix(near(rng, (0.5, 0.62, 0.72)), near(rng, (0.82, 0.88, 0.92)), 0.5 - 0.4 * v + 0.1 * smooth(rng, size, 3))
    bars = np.minimum(np.abs(v), np.abs(u))
    frame = np.maximum(inside(bars, pixel, 0.05), inside(-np.maximum(np.abs(v), np.abs(u)), pixel, -0.86))
    body = over(sky, near(rng, (0.92, 0.92, 0.9)), frame)
    return assembled(body, inside(box(v, u, 0.98, 0.98), pixel), table(rng, size, any_colour(rng, 0.3, 0.6)))


GOODS: dict[str, LayerPainter] = {
    "capsule": _capsule,
    "tablet": _tablet,
    "bottle top": _bottle_top,
    "button": _button,
    "biscuit": _biscuit,
    "hazel nut": _hazel_nut,
    "leaf": _leaf,
    "egg": _egg,
    "quail egg": _quail_egg,
    "label": _label,
    "plate": _plate,
    "candle": _candle,
    "comb": _toothed_comb,
    "tomato": _tomato,
    "window pane": _window_pane,
}
"""Painters by category: (rng, size) -> `Layers`."""
