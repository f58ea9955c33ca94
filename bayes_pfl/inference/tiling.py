"""Large images: tiles at the image's own resolution, and the seamless blending of their maps."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """First pixels of the fewest evenly spread tiles that cover `length` and overlap by at least that share of a tile."""
    stride = max(1, math.floor(tile * (1 - overlap)))
    count = 1 + math.ceil(max(0, length - tile) / stride)
    return [round(start) for start in np.linspace(0, max(0, length - tile), count)]


def tile_window(tile: int) -> Float[Tensor, "tile"]:
    """sin^2 across a tile, positive everywhere: where two tiles overlap, the one whose centre is nearer weighs more."""
    points = (torch.arange(tile, dtype=torch.float32) + 0.5) / tile
    return torch.sin(math.pi * points).square().clamp_(min=1e-4)


class BlendedMap:
    """Weighted mean of overlapping tiles: memory for one image, whatever the number of tiles."""

    def __init__(self, height: int, width: int, tile: int) -> None:
        self.window = tile_window(tile)[:, None] * tile_window(tile)
        self.total = torch.zeros(height, width)
        self.weight = torch.zeros(height, width)

    def add(self, values: Float[Tensor, "tile tile"], top: int, left: int) -> None:
        """Add one tile's map with its upper left corner at (top, left)."""
        rows, columns = (slice(start, start + len(self.window)) for start in (top, left))
        self.total[rows, columns] += values * self.window
        self.weight[rows, columns] += self.window

    def result(self) -> Float[Tensor, "height width"]:
        """The blended map. Every pixel must have been covered."""
        return self.total / self.weight
