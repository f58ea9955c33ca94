"""Medical-like images: slices, films, fundus, endoscopy and smears, simplified to their look."""

import numpy as np
from numpy.random import Generator

from bayes_pfl.synthetic.fields import (
    dots,
    grain,
    mix,
    near,
    over,
    polar,
    ramp,
    smooth,
    stroke,
    turned,
    walk,
    wave,
)
from bayes_pfl.synthetic.layers import LayerPainter, Layers, assembled, box, inside, posed, table

BLACK = (0.02, 0.02, 0.02)


def _grey(rng: Generator, tone: np.ndarray, noise: float = 0.02) -> np.ndarray:
    noisy = tone + noise * grain(rng, tone.shape[0])
    return np.repeat(noisy[..., None], 3, axis=2).astype(np.float32)


def _brain_slice(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.1, 0.45)
    distance = np.hypot(v, u * 1.22)
    folds = 0.1 * np.abs(smooth(rng, size, 12, 2)) + 0.03 * smooth(rng, size, 4)
    tone = 0.42 + folds - 0.14 * inside(np.abs(u), pixel, 0.03)
    ventricle = np.minimum(np.hypot(v + 0.05, (u - 0.14) * 2.6), np.hypot(v + 0.05, (u + 0.14) * 2.6))
    tone = tone - 0.26 * inside(ventricle, 2 * pixel, 0.32)
    tone = np.where(distance > 0.88, 0.12, tone) + 0.7 * inside(np.abs(distance - 0.95), pixel, 0.05)
    body = _grey(rng, tone)
    return assembled(body, inside(distance, pixel), table(rng, size, BLACK, 0.004))


def _chest_film(rng: Generator, size: int) -> Layers:
    v, u, _ = posed(rng, size, 0.05, 0.5)
    lung = np.minimum(np.hypot(v * 0.9, (u - 0.46) * 2), np.hypot(v * 0.9, (u + 0.46) * 2))
    tone = 0.68 - 0.45 * ramp(lung, 0.85, 0.6) + 0.2 * ramp(np.abs(u), 0.14, 0.05)
    tone = tone + 0.07 * wave(v * 4 + 0.8 * np.abs(u)) + 0.02 * smooth(rng, size, 14, 2)
    body = _grey(rng, tone * 0.9)
    return Layers(body, np.ones((size, size), np.float32), body)


def _fundus(rng: Generator, size: int) -> Layers:
    """A retina, on which dark branching vessels are normal."""
    v, u, pixel = posed(rng, size, 0.1, 0.47)
    radius, _ = polar(v, u)
    body = mix(
        near(rng, (0.5, 0.16, 0.06)), near(rng, (0.8, 0.4, 0.16)), 0.7 - 0.4 * radius + 0.06 * smooth(rng, size, 6, 2)
    )
    disc = (0.5 + 0.47 * 0.5, 0.5)
    for heading in rng.uniform(0, 6.28, 7):
        vessel = stroke(walk(rng, disc, float(heading), 0.55, 0.22), 1.8 * size / 128, size)
        body = over(body, (0.36, 0.06, 0.04), 0.8 * vessel)
    return assembled(
        over(body, (0.97, 0.86, 0.56), inside(np.hypot(v, u - 0.5), 3 * pixel, 0.16)),
        inside(radius, pixel),
        table(rng, size, BLACK, 0.004),
    )


def _skin_image(rng: Generator, size: int) -> np.ndarray:
    tone = 0.03 * smooth(rng, size, 5, 2) + 0.02 * np.abs(smooth(rng, size, 40))
    return np.asarray(near(rng, (0.84, 0.64, 0.53)), np.float32) + tone[..., None]


def _skin(rng: Generator, size: int) -> Layers:
    body = _skin_image(rng, size)
    return Layers(body, np.ones((size, size), np.float32), body)


def _freckled_skin(rng: Generator, size: int) -> Layers:
    """Skin on which small brown freckles are normal."""
    body = over(_skin_image(rng, size), near(rng, (0.52, 0.32, 0.22)), 0.8 * dots(rng, size, 45, 0.015, 0.4))
    return Layers(body, np.ones((size, size), np.float32), body)


def _colon(rng: Generator, size: int) -> Layers:
    v, u = turned(size, 0.0, *rng.uniform(0.35, 0.65, 2))
    radius, _ = polar(v, u)
    folds = wave(radius * 4 + 0.25 * smooth(rng, size, 4))
    tone = np.clip(radius * 1.8, 0, 0.75) + 0.18 * folds + 0.04 * smooth(rng, size, 10, 2)
    body = mix((0.2, 0.05, 0.04), near(rng, (0.93, 0.55, 0.45)), tone)
    return Layers(body, np.ones((size, size), np.float32), body)


def _ultrasound(rng: Generator, size: int) -> Layers:
    v, u, _ = posed(rng, size, 0.05, 0.5)
    layers = 0.34 + 0.14 * wave(v * 1.6 + 0.25 * smooth(rng, size, 3) + 0.1 * u)
    speckle = np.abs(1 + 0.5 * smooth(rng, size, (40, 24)))
    body = _grey(rng, layers * speckle, 0.015)
    return Layers(body, np.ones((size, size), np.float32), body)


def _cell_smear(rng: Generator, size: int) -> Layers:
    """A smear, on which round purple cells are normal."""
    body = np.asarray(near(rng, (0.93, 0.84, 0.87)), np.float32) + (0.012 * smooth(rng, size, 8, 2))[..., None]
    cells = dots(rng, size, 30, 0.05, 0.15)
    body = over(body, near(rng, (0.86, 0.55, 0.62)), 0.85 * cells)
    return Layers(body, np.ones((size, size), np.float32), body)


def _bone_film(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.15, 0.5)
    half = 0.22 + 0.2 * np.abs(u) ** 3
    inner = np.clip(1 - (v / half) ** 2, 0, 1)
    bone = inside(np.abs(v) / half, pixel * 4)
    tone = 0.16 + 0.1 * ramp(np.abs(v), 0.9, 0.4) + bone * (0.62 - 0.22 * inner + 0.04 * smooth(rng, size, (20, 12), 2))
    body = _grey(rng, tone)
    return assembled(body, bone, body)


def _liver_slice(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.1, 0.46)
    distance = np.hypot(v * 1.25, u) + 0.04 * smooth(rng, size, 4)
    tone = 0.5 + 0.02 * smooth(rng, size, 30) + 0.2 * inside(np.abs(distance - 0.94), pixel, 0.05)
    tone = tone - 0.1 * inside(np.hypot(v - 0.1, u - 0.45), 2 * pixel, 0.3)
    tone = tone + 0.42 * inside(np.hypot(v - 0.52, u * 1.1), pixel, 0.12)
    return assembled(_grey(rng, tone, 0.03), inside(distance, pixel), table(rng, size, BLACK, 0.004))


def _tooth_film(rng: Generator, size: int) -> Layers:
    v, u, pixel = posed(rng, size, 0.08, 0.46)
    tone = 0.14 + 0.05 * smooth(rng, size, 18, 2)
    for centre in (-0.62, 0.0, 0.62):
        crown = inside(box(v + 0.3, u - centre, 0.5, 0.27, 0.18), pixel)
        root = inside(np.abs(u - centre) / (0.24 - 0.16 * np.clip(v, 0, 1)), 4 * pixel) * (v > 0) * (v < 0.9)
        pulp = inside(np.abs(u - centre), 2 * pixel, 0.05) * (np.abs(v - 0.15) < 0.5)
        tone = tone + np.maximum(crown * 0.66, root * 0.5) - 0.22 * pulp
    body = _grey(rng, np.clip(tone, 0, 0.9))
    return Layers(body, np.ones((size, size), np.float32), body)


MEDICAL: dict[str, LayerPainter] = {
    "brain scan": _brain_slice,
    "chest x-ray": _chest_film,
    "retina": _fundus,
    "skin": _skin,
    "freckled skin": _freckled_skin,
    "colon": _colon,
    "ultrasound": _ultrasound,
    "cell smear": _cell_smear,
    "bone x-ray": _bone_film,
    "liver scan": _liver_slice,
    "dental x-ray": _tooth_film,
}
