"""Anomaly maps as pictures: a heat map, and the heat map over the image."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

HEAT_ANCHORS = (
    (0.00, (10, 12, 34)),
    (0.25, (66, 34, 118)),
    (0.50, (168, 52, 110)),
    (0.75, (236, 118, 62)),
    (1.00, (255, 236, 158)),
)
"""Colours from cold to hot. Lightness rises evenly, so that they keep their order in gray and to
readers who tell few hues apart."""


def heat_map(anomaly_map: Float[np.ndarray, "height width"], low: float = 0.0, high: float = 1.0) -> Image.Image:
    """A map as an RGB picture of its size, `low` and below darkest, `high` and above brightest."""
    stops = [position for position, _ in HEAT_ANCHORS]
    channels = np.array([color for _, color in HEAT_ANCHORS], dtype=float).T
    levels = np.stack([np.interp(np.linspace(0, 1, 256), stops, c) for c in channels], axis=1)
    return Image.fromarray(np.rint(levels).astype(np.uint8)[_scaled(anomaly_map, low, high)])


def overlay(
    image: Image.Image,
    anomaly_map: Float[np.ndarray, "height width"],
    alpha: float = 0.6,
    low: float = 0.0,
    high: float = 1.0,
) -> Image.Image:
    """The heat map over the image, at the image's size.

    Opacity is alpha x the scaled value: what the detector finds normal stays as it was.
    """
    heat = heat_map(anomaly_map, low, high).resize(image.size, Image.Resampling.BILINEAR)
    opacity = Image.fromarray(np.rint(alpha * _scaled(anomaly_map, low, high)).astype(np.uint8))
    opacity = opacity.resize(image.size, Image.Resampling.BILINEAR)
    return Image.composite(heat, image.convert("RGB"), opacity)


def _scaled(
    anomaly_map: Float[np.ndarray, "height width"], low: float, high: float
) -> UInt8[np.ndarray, "height width"]:
    share = (np.asarray(anomaly_map, dtype=float) - low) / (high - low)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
