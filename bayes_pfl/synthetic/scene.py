"""One rendered image: an object under light, through a sensor, with or without a defect and its exact mask."""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bayes_pfl.errors import DataError
from bayes_pfl.synthetic.catalogue import defects_of, paint, stream
from bayes_pfl.synthetic.composites import composite
from bayes_pfl.synthetic.defects import DEFECTS
from bayes_pfl.synthetic.fields import Field, brightness, grain, grid, ramp
from bayes_pfl.synthetic.layers import Layers

ATTEMPTS = 6
MIN_AREA = 0.0015
"""Smallest share of the frame a mask may cover; smaller draws are painted again."""

__all__ = ["Scene", "defects_of", "render", "render_composite"]


class Scene(NamedTuple):
    """A rendered image with its truth; `image` equals `twin` wherever `mask` is false.

    image: (size, size, 3) uint8. mask: (size, size) bool. twin: the same image without the defect. defect: its kind,
    or "good".
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    twin: NDArray[np.uint8]
    defect: str


def _lighting(rng: Generator, size: int) -> tuple[Field, Field, float]:
    """Light falling off across the frame, sensor noise and exposure of one shot."""
    y, x = grid(size)
    tilt = rng.normal(0, 0.09, 2).astype(np.float32)
    light = np.float32(rng.uniform(0.88, 1.1)) * (1 + tilt[0] * (y - 0.5) + tilt[1] * (x - 0.5))
    noise = np.float32(rng.uniform(0.002, 0.014)) * grain(rng, size)
    return light[..., None], noise[..., None], float(rng.uniform(0.9, 1.12))


def _expose(image: Field, shot: tuple[Field, Field, float]) -> NDArray[np.uint8]:
    light, noise, gamma = shot
    exposed = np.clip(image, 0, 1) ** np.float32(gamma) * light + noise
    return (np.clip(exposed, 0, 1) * 255 + 0.5).astype(np.uint8)


def _contrast(image: Field, twin: Field, mask: NDArray[np.bool_]) -> float:
    """Mean difference inside the mask, in its strongest channel."""
    if not mask.any():
        return 0.0
    red, green, blue = np.abs(image[mask] - twin[mask]).T
    return float(np.maximum(np.maximum(red, green), blue).mean())


def _required_contrast(layers: Layers) -> float:
    """The rougher the object's own pattern, the more a defect has to stand out of it."""
    spread = float(brightness(layers.image)[layers.cover > 0.5].std())
    return min(0.1 + 0.5 * spread, 0.2)


def _spoil(rng: Generator, layers: Layers, defect: str, severity: float) -> tuple[Field, NDArray[np.bool_]]:
    """Paint the defect, anew until it is large and visible enough; keep the most visible draw."""
    needed = _required_contrast(layers)
    twin = np.clip(layers.image, 0, 1)
    best: tuple[float, Field, NDArray[np.bool_]] | None = None
    for _ in range(ATTEMPTS):
        altered, cover = DEFECTS[defect](rng, layers, severity)
        # Coverage is cut at one quarter, so that no pixel outside the mask carries any trace.
        alpha = ramp(cover * (layers.cover > 0.5), 0.25, 0.75)[..., None]
        image: Field = twin + (np.clip(altered, 0, 1) - twin) * alpha
        mask = alpha[..., 0] > 0
        contrast = _contrast(image, twin, mask)
        enough = mask.mean() >= MIN_AREA
        if best is None or (contrast if enough else 0.0) > best[0]:
            best = (contrast if enough else 0.0, image, mask)
        if enough and contrast >= needed:
            break
    assert best is not None
    contrast, image, mask = best
    if 0 < contrast < needed:
        image = np.clip(twin + (image - twin) * np.float32(needed / contrast), 0, 1)
    return image, mask


def _rendered(layers: Layers, light: Generator, wear: Generator, defect: str | None, severity: float) -> Scene:
    if not 0 < severity <= 1:
        raise DataError(f"A defect's severity lies in (0, 1]; {severity} was asked for.")
    shot = _lighting(light, len(layers.cover))
    twin = _expose(layers.image, shot)
    if defect is None:
        return Scene(twin, np.zeros(layers.cover.shape, bool), twin, "good")
    spoiled, mask = _spoil(wear, layers, defect, severity)
    image = np.where(mask[..., None], _expose(spoiled, shot), twin)
    return Scene(image, mask, twin, defect)


def render(category: str, index: int, seed: int, size: int, defect: str | None, severity: float = 0.6) -> Scene:
    """Render piece ``index`` of a category, flawless or with one kind of defect.

    The same (category, index, seed, size) gives the same piece whatever the defect.

    Args:
        category: its name.
        index: number of the piece.
        seed: of the data set.
        size: side of the image, pixels.
        defect: kind of defect; None for a flawless piece.
        severity: extent and contrast of the defect, in (0, 1].

    Returns:
        The image, its mask and its flawless twin.

    Raises:
        DataError: unknown category, or a kind that is no defect on it.
    """
    if defect is not None and defect not in defects_of(category):
        raise DataError(f"{defect!r} is no defect on {category!r}; choose among: {', '.join(defects_of(category))}.")
    layers = paint(category, stream(seed, category, index, 0), size)
    light, wear = stream(seed, category, index, 1), stream(seed, category, index, 2)
    return _rendered(layers, light, wear, defect, severity)


def render_composite(
    sources: tuple[str, ...],
    index: int,
    seed: int,
    size: int,
    defect: str | None,
    severity: float = 0.6,
) -> Scene:
    """Render an invented object: textures and silhouettes of ``sources``, mixed anew.

    Args:
        sources: names of categories.
        index: number of the piece.
        seed: of the data set.
        size: side of the image, pixels.
        defect: kind of defect; None for a flawless piece.
        severity: extent and contrast of the defect, in (0, 1].

    Returns:
        The image, its mask and its flawless twin.
    """
    layers = composite(sources, stream(seed, "composite", index, 0), size)
    light, wear = stream(seed, "composite", index, 1), stream(seed, "composite", index, 2)
    return _rendered(layers, light, wear, defect, severity)
