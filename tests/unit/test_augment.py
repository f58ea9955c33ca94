"""Augmentation: the same key gives the same bytes, and image and mask move together."""

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from bayes_pfl.data.augment import augment

SIDE = 96


def marked() -> tuple[Image.Image, np.ndarray]:
    """A gray image with one white rectangle, and the rectangle as mask."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20:50, 50:70] = 1
    pixels = np.where(mask[..., None] == 1, 255, 40).astype(np.uint8).repeat(3, axis=2)
    return Image.fromarray(pixels), mask


def test_same_key_same_result_and_other_keys_others():
    results = [augment(*marked(), key) for key in ("3/a", "3/a", "4/a", "3/b")]
    first, second, *others = [(image.tobytes(), mask.tobytes()) for image, mask in results]
    assert first == second
    assert all(other != first for other in others)


@pytest.mark.parametrize("number", range(40))
def test_mask_stays_on_what_it_marks(number):
    image, mask = augment(*marked(), f"key-{number}")
    assert mask.shape == (image.height, image.width)
    assert set(np.unique(mask)) <= {0, 1}
    brightness = np.asarray(image.convert("L"), np.float64)
    bright = brightness > (brightness.max() + 40) / 2
    overlap = (bright & (mask == 1)).sum() / (bright | (mask == 1)).sum()
    assert overlap > 0.85


def test_inputs_are_left_alone():
    image, mask = marked()
    before = image.tobytes(), mask.tobytes()
    for number in range(10):
        augment(image, mask, str(number))
    assert (image.tobytes(), mask.tobytes()) == before


def test_turned_in_pixels_have_the_border_colour_and_are_normal():
    image, mask = marked()
    corners = []
    for number in range(60):
        turned, turned_mask = augment(image, np.ones_like(mask), f"corner-{number}")
        if (turned_mask == 0).any():
            corners.append(np.asarray(turned, np.float64)[turned_mask == 0].mean())
    assert corners
    assert np.abs(np.array(corners) - 40).max() < 20  # brightness and contrast may move it


def test_every_second_image_is_rotated():
    _, mask = marked()
    image = Image.new("RGB", (SIDE, SIDE))
    turned = sum((augment(image, np.ones_like(mask), f"p-{number}")[1] == 0).any() for number in range(200))
    assert binomtest(turned, 200, 0.5).pvalue > 1e-3
