"""Seeded training augmentation of an image together with its mask, after the released implementation's recipe."""

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

PROBABILITY = 0.5
MAX_ROTATION_DEG = 30.0


def augment(image: Image.Image, mask: np.ndarray, key: str) -> tuple[Image.Image, np.ndarray]:
    """Rotation, quarter turns, brightness and contrast, noise, and a blur or colour jitter, each with p = 0.5.

    The same key gives the same result, whatever the worker or the order. Pixels turned in from outside are filled
    with the border's mean colour and count as normal.

    Args:
        image: RGB.
        mask: (height, width) of 0 and 1.
        key: what the random numbers depend on.

    Returns:
        Image and mask; quarter turns exchange height and width.
    """
    random = keyed_random(key)
    chosen = random.random(5) < PROBABILITY
    if chosen[0]:
        image, mask = _rotate(image, mask, float(random.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG)))
    if chosen[1]:
        turns = int(random.integers(1, 4))
        image, mask = image.rotate(90 * turns, expand=True), np.ascontiguousarray(np.rot90(mask, turns))
    if chosen[2]:
        image = ImageEnhance.Brightness(image).enhance(float(random.uniform(0.8, 1.2)))
        image = ImageEnhance.Contrast(image).enhance(float(random.uniform(0.8, 1.2)))
    if chosen[3]:
        noise = random.normal(0, float(random.uniform(2, 8)), (image.height, image.width, 3))
        image = Image.fromarray(np.clip(np.asarray(image, np.float64) + noise, 0, 255).astype(np.uint8))
    if chosen[4]:
        image = _blurred_or_coloured(image, int(random.integers(3)), float(random.uniform()))
    return image, mask


def mosaic(images: Sequence[Image.Image], masks: Sequence[np.ndarray]) -> tuple[Image.Image, np.ndarray]:
    """Four images and their masks as the quarters of one: left to right, top to bottom.

    Args:
        images: four, RGB.
        masks: theirs, (height, width) of 0 and 1.

    Returns:
        Image and mask of the size of the first.
    """
    width, height = images[0].size
    joined, mask = Image.new("RGB", (width, height)), np.zeros((height, width), np.uint8)
    xs, ys = (0, width // 2, width), (0, height // 2, height)
    for index, (image, truth) in enumerate(zip(images, masks, strict=True)):
        column, row = index % 2, index // 2
        left, top = xs[column], ys[row]
        size = (xs[column + 1] - left, ys[row + 1] - top)
        joined.paste(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0), (left, top))
        small = Image.fromarray(truth).resize(size, Image.Resampling.NEAREST)
        mask[top : top + size[1], left : left + size[0]] = np.asarray(small)
    return joined, mask


def keyed_random(key: str) -> np.random.Generator:
    """A generator that is a function of its key alone.

    Args:
        key: any text.

    Returns:
        The generator.
    """
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _rotate(image: Image.Image, mask: np.ndarray, degrees: float) -> tuple[Image.Image, np.ndarray]:
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean(0)
    fill = tuple(round(float(value)) for value in border)
    turned = Image.fromarray(mask).rotate(degrees, Image.Resampling.NEAREST)
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=fill), np.array(turned)


def _blurred_or_coloured(image: Image.Image, which: int, strength: float) -> Image.Image:
    if which == 0:
        return image.filter(ImageFilter.BoxBlur(1 + strength))
    if which == 1:
        return image.filter(ImageFilter.GaussianBlur(0.5 + strength))
    return ImageEnhance.Color(image).enhance(0.6 + 0.8 * strength)
