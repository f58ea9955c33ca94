"""Large images -> tiles at the image's own resolution; the tiles' maps -> one seamless map."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.config import ScoringConfig
from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.errors import ImageError
from bayes_pfl.inference.prediction import Prediction, prediction, uncertainty, within
from bayes_pfl.inference.view import RegionOfInterest, tile_starts
from bayes_pfl.methods.maps import PromptScores


class TiledScores(NamedTuple):
    """Scores of an image that was looked at in tiles."""

    image: PromptScores
    """Of the whole image: blended maps, the text scores of all tiles, and the maximum of the blended map."""
    peak: PromptScores
    """Of the tile with the largest value in its map."""


def tiled_scores(
    image: Image.Image, tile: int, overlap: float | None, score: Callable[[Image.Image], PromptScores]
) -> TiledScores:
    """Score an image tile by tile and blend the maps; memory holds one tile beside the blended maps.

    Args:
        image: the image; a side below `tile` is enlarged for the tiles, and the maps are reduced again.
        tile: side of a tile, pixels.
        overlap: least share of a tile that the next one covers too, at least 0 and below 1; None: the image is scored
            as a whole.
        score: scores of one tile.

    Returns:
        Scores with maps of (height, width) of the image; as a whole, of the model's size.

    Raises:
        ImageError: the image is so narrow that it would be enlarged beyond all bounds.
    """
    if overlap is None:
        return TiledScores(*[score(image)] * 2)
    width, height = image.size
    scale = max(1.0, tile / min(width, height))
    enlarged = (round(width * scale), round(height * scale))
    if scale > 1 and math.prod(enlarged) > MAX_PIXELS:
        raise ImageError(
            f"{width} x {height} is too narrow for tiles of {tile} px: it would become {enlarged[0]} x {enlarged[1]}"
        )
    large = image.resize(enlarged, Image.Resampling.BICUBIC) if scale > 1 else image
    mean, variance = (BlendedMap(large.height, large.width, tile) for _ in range(2))
    text_scores, peak = [], None
    for top in tile_starts(large.height, tile, overlap):
        for left in tile_starts(large.width, tile, overlap):
            scores = score(large.crop((left, top, left + tile, top + tile)))
            mean.add(scores.anomaly_map, top, left)
            if scores.uncertainty_map is not None:
                variance.add(scores.uncertainty_map.square(), top, left)
            text_scores.append(scores.text_scores)
            if peak is None or scores.anomaly_map.max() > peak.anomaly_map.max():
                peak = scores
    assert peak is not None
    blended, deviation = _resize(mean.result(), height, width), None
    if peak.uncertainty_map is not None:
        deviation = _resize(variance.result().sqrt_(), height, width)
    return TiledScores(PromptScores(blended, deviation, torch.cat(text_scores), blended.max().view(1, 1)), peak)


def viewed_prediction(
    scores: TiledScores,
    scoring: ScoringConfig,
    num_samples: int,
    region: RegionOfInterest | None,
    size: tuple[int, int],
) -> Prediction:
    """The prediction of an image that was looked at in tiles, or in a region alone.

    Args:
        scores: of what was looked at.
        scoring: weights and smoothing.
        num_samples: R that the scores were computed with.
        region: that was looked at; None: all of the image.
        size: width and height of the image, pixels.

    Returns:
        The prediction; its uncertainty is that of the tile with the largest map score.
    """
    whole = prediction(scores.image, scoring, num_samples)
    whole = whole._replace(uncertainty=uncertainty(scores.peak, scoring))
    return whole if region is None else within(whole, scores.image, scoring, region, size)


def tile_window(tile: int) -> Float[Tensor, "tile"]:
    """sin^2 across a tile, positive everywhere: where tiles overlap, the one whose centre is nearer weighs more.

    Args:
        tile: side of a tile, pixels.

    Returns:
        Weights along one axis.
    """
    points = (torch.arange(tile, dtype=torch.float32) + 0.5) / tile
    return torch.sin(math.pi * points).square().clamp_(min=1e-4)


class BlendedMap:
    """Weighted mean of overlapping tiles: memory for one image, whatever the number of tiles."""

    def __init__(self, height: int, width: int, tile: int) -> None:
        self.window = tile_window(tile)[:, None] * tile_window(tile)
        self.total = torch.zeros(height, width)
        self.weight = torch.zeros(height, width)

    def add(self, values: Float[Tensor, "tile tile"], top: int, left: int) -> None:
        """Add one tile's map.

        Args:
            values: the map.
            top: row of its upper left corner.
            left: column of its upper left corner.
        """
        rows, columns = (slice(start, start + len(self.window)) for start in (top, left))
        self.total[rows, columns] += values * self.window
        self.weight[rows, columns] += self.window

    def result(self) -> Float[Tensor, "height width"]:
        """The blended map; every pixel must have been covered.

        Returns:
            Weighted means.
        """
        return self.total / self.weight


def _resize(values: Float[Tensor, "rows columns"], height: int, width: int) -> Float[Tensor, "height width"]:
    if values.shape == (height, width):
        return values
    return F.interpolate(
        values[None, None], size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )[0, 0]
