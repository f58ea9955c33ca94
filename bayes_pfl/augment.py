"""Seeded training augmentation of an image together with its mask, after the released implementation's recipe."""

import hashlib

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

PROBABILITY = 0.5
MAX_ROTATION_DEG = 30.0


def augment(image: Image.Image, mask: np.ndarray, key: str) -> tuple[Image.Image, np.ndarray]:
    """Rotation, quarter turns, brightness and contrast, noise, and one of two blurs or colour jitter, each with p = 0.5.

    The same key gives the same result, whatever the worker or the order. Pixels turned in from outside are filled
    with the border's mean colour and count as normal.
    """
    digest = hashlib.sha256(key.encode()).digest()
    random = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
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
        image = _one_of(image, int(random.integers(3)), float(random.uniform()))
    return image, mask


def _rotate(image: Image.Image, mask: np.ndarray, degrees: float) -> tuple[Image.Image, np.ndarray]:
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean(0)
    fill = tuple(round(float(value)) for value in border)
    turned = Image.fromarray(mask).rotate(degrees, Image.Resampling.NEAREST)
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=fill), np.array(turned)


def _one_of(image: Image.Image, which: int, strength: float) -> Image.Image:
    if which == 0:
        return image.filter(ImageFilter.BoxBlur(1 + strength))
    if which == 1:
        return image.filter(ImageFilter.GaussianBlur(0.5 + strength))
    return ImageEnhance.Color(image).enhance(0.6 + 0.8 * strength)
