"""Anomaly map -> colours: a heat map, and the heat map over the image.

This is the only colour scale: reports, endpoint and page use it.
"""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from bayes_pfl.inference.arguments import check_share

HEAT_ANCHORS = (
    (0.00, (10, 12, 34)),
    (0.25, (66, 34, 118)),
    (0.50, (168, 52, 110)),
    (0.75, (236, 118, 62)),
    (1.00, (255, 236, 158)),
)
"""Position and red, green, blue from cold to hot. Lightness rises evenly, so the colours keep their order in gray and
for readers who tell few hues apart."""


def heat_map(anomaly_map: Float[np.ndarray, "height width"], low: float = 0.0, high: float = 1.0) -> Image.Image:
    """Colour each pixel by its value, linearly between the anchors, in 256 levels.

    Args:
        anomaly_map: (height, width).
        low: value that is darkest; so are those below.
        high: value that is brightest; so are those above.

    Returns:
        An RGB image of the map's size.
    """
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
    """The heat map over the image: opacity is alpha times the scaled value, so what is normal stays as it was.

    Args:
        image: of any size.
        anomaly_map: (height, width), stretched over the image.
        alpha: opacity of the highest value, 0 to 1.
        low: value that is darkest.
        high: value that is brightest.

    Returns:
        An RGB image of the image's size.

    Raises:
        ConfigError: alpha is no number from 0 to 1.
    """
    check_share("alpha", alpha)
    heat = heat_map(anomaly_map, low, high).resize(image.size, Image.Resampling.BILINEAR)
    opacity = Image.fromarray(np.rint(alpha * _scaled(anomaly_map, low, high)).astype(np.uint8))
    opacity = opacity.resize(image.size, Image.Resampling.BILINEAR)
    return Image.composite(heat, image.convert("RGB"), opacity)


def css_gradient() -> list[tuple[float, str]]:
    """The colour scale for a web page.

    Returns:
        Positions from 0 to 1 and colours as #rrggbb.
    """
    return [(position, "#{:02x}{:02x}{:02x}".format(*color)) for position, color in HEAT_ANCHORS]


def _scaled(
    anomaly_map: Float[np.ndarray, "height width"], low: float, high: float
) -> UInt8[np.ndarray, "height width"]:
    share = (np.asarray(anomaly_map, dtype=float) - low) / (high - low)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
