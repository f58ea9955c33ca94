"""Open-ended objects: blended and warped textures, re-textured objects, random silhouettes."""

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from bayes_pfl.synthetic.catalogue import paint, surface
from bayes_pfl.synthetic.fields import Field, any_colour, brightness, grid, mix, over, polar, ramp, smooth, turned
from bayes_pfl.synthetic.layers import Layers
from bayes_pfl.synthetic.medical import MEDICAL
from bayes_pfl.synthetic.textures import TEXTURES


def _recoloured(rng: Generator, image: Field) -> Field:
    """The pattern kept, its colours drawn anew."""
    if rng.uniform() < 0.5:
        order = rng.permutation(3)
        return image[..., order] * rng.uniform(0.75, 1.15, 3).astype(np.float32)
    tone = brightness(image)
    low, high = np.percentile(tone, (2, 98))
    return mix(any_colour(rng), any_colour(rng), ramp(tone, float(low), float(max(high, low + 0.15))))


def _bent(rng: Generator, image: Field) -> Field:
    """The pattern turned, scaled and gently bent."""
    size = len(image)
    v, u = turned(size, float(rng.uniform(0, 6.28)))
    zoom = float(np.exp(rng.uniform(-0.7, 0.3)))
    bend = float(rng.uniform(0, 0.03))
    rows = ((v * zoom + 0.5 + bend * smooth(rng, size, 4)) * size).astype(np.int32)
    columns = ((u * zoom + 0.5 + bend * smooth(rng, size, 4)) * size).astype(np.int32)
    rows, columns = np.abs(rows) % (2 * size), np.abs(columns) % (2 * size)
    rows = np.where(rows < size, rows, 2 * size - 1 - rows)
    columns = np.where(columns < size, columns, 2 * size - 1 - columns)
    return image[rows, columns]


def _invented_texture(rng: Generator, size: int, textures: list[str]) -> Field:
    """One or two textures, bent, recoloured and blended by a smooth or layered mask."""
    image = _bent(rng, paint(str(rng.choice(textures)), rng, size).image)
    if rng.uniform() < 0.5:
        other = _bent(rng, paint(str(rng.choice(textures)), rng, size).image)
        share = np.full((size, size), rng.uniform(0.25, 0.6), np.float32)
        if rng.uniform() < 0.4:
            share = ramp(turned(size, float(rng.uniform(0, 6.28)))[0], -0.01, 0.01)
        image = over(image, other, share)
    return _recoloured(rng, image) if rng.uniform() < 0.7 else image


def _silhouette(rng: Generator, size: int) -> Field:
    """Coverage of a random star-shaped outline, now and then with a hole in it."""
    y, x = grid(size)
    v, u = y - np.float32(0.5), x - np.float32(0.5)
    radius, angle = polar(v, u * np.float32(np.exp(rng.normal(0, 0.25))))
    rim = np.full_like(radius, rng.uniform(0.28, 0.4))
    for lobes in range(2, int(rng.integers(3, 9))):
        rim = rim + np.float32(rng.normal(0, 0.05 / lobes)) * np.cos(lobes * angle + rng.uniform(0, 6.28))
    cover = ramp(radius - rim, 0.006, -0.006)
    if rng.uniform() < 0.25:
        cover = cover * ramp(radius - rng.uniform(0.06, 0.14), -0.006, 0.006)
    return cover.astype(np.float32)


def composite(sources: tuple[str, ...], rng: Generator, size: int) -> Layers:
    """Invent one object out of the named categories' textures and silhouettes.

    Args:
        sources: names of categories.
        rng: random generator.
        size: side of the image, pixels.

    Returns:
        The object.
    """
    textures = [name for name in sources if name in TEXTURES]
    shapes = [name for name in sources if name not in TEXTURES and name not in MEDICAL]
    image = _invented_texture(rng, size, textures)
    choice = rng.uniform()
    if choice < 0.4 or not shapes:
        return surface(image)
    behind = np.asarray(any_colour(rng), np.float32) + (0.015 * smooth(rng, size, 4, 2))[..., None]
    if rng.uniform() < 0.3:
        behind = _invented_texture(rng, size, textures)
    if choice < 0.7:
        cover = _silhouette(rng, size)
        shade = 1 + 0.3 * (ndimage.gaussian_filter(cover, size * 0.06) - 0.8)
        body = image * shade[..., None]
    else:
        piece = paint(str(rng.choice(shapes)), rng, size)
        cover = piece.cover
        if rng.uniform() < 0.5:
            body = over(_recoloured(rng, piece.image), image, np.full_like(cover, rng.uniform(0.0, 0.4)))
        else:
            body = image * (0.5 + brightness(piece.image)[..., None])
    return Layers(over(behind, body, cover), cover, behind)
