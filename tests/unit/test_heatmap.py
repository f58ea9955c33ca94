"""Heat maps: size, order of brightness, and an overlay that leaves normal pixels alone."""

import numpy as np
from PIL import Image

from bayes_pfl.inference.heatmap import heat_map, overlay


def test_heat_map_brightens_with_the_value():
    ramp = np.linspace(0, 1, 64)[None].repeat(3, 0)
    luminance = np.asarray(heat_map(ramp).convert("L"), float)
    assert luminance.shape == (3, 64)
    assert np.all(np.diff(luminance[0]) >= 0)
    assert luminance[0, -1] - luminance[0, 0] > 150


def test_overlay_keeps_what_is_normal_and_the_images_size():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(overlay(image, np.zeros((8, 8)))), np.asarray(image))
    half = np.zeros((20, 30))
    half[:, 20:] = 1
    changed = np.any(np.asarray(overlay(image, half)) != np.asarray(image), axis=-1)
    assert not changed[:, :15].any()
    assert changed[:, 25:].all()
