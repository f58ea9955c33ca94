"""Logits of one image -> anomaly map, text score, uncertainty (section 3.5), without statistics of the dataset.

The L x B x R maps at full resolution never exist together: upsampling is separable, so columns come first (a small
product), rows follow band by band (another), and each band is turned into probabilities and summed while it is in the
cache.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


class PromptScores(NamedTuple):
    """Result of the first R samples of one image, or of a batch of them, not smoothed."""

    anomaly_map: Float[Tensor, "*batch height width"]
    """Mean over layers, prompts and samples of the abnormal probability (eq. 12)."""
    uncertainty_map: Float[Tensor, "*batch height width"] | None
    """Standard deviation over the B x R prompts of the layers' mean probability; None for a method that has no
    distribution, and therefore no uncertainty: it is not 0."""
    text_scores: Float[Tensor, "*batch samples bank"]
    """Abnormal probability of the global feature, prompt by prompt (s_text before its mean)."""
    map_maxima: Float[Tensor, "*batch samples bank"]
    """Largest value of every prompt's own map."""


def single_scores(anomaly_map: Float[Tensor, "batch height width"], text: Float[Tensor, "batch"]) -> PromptScores:
    """Scores of a method without samples: one map and one text score an image, and no uncertainty.

    Args:
        anomaly_map: in [0, 1].
        text: abnormal probability of the image as a whole.

    Returns:
        The scores, with the images as first axis.
    """
    return PromptScores(anomaly_map, None, text.view(-1, 1, 1), anomaly_map.amax((1, 2)).view(-1, 1, 1))


BAND = 2**19
"""Values of all maps of a group that a band of rows holds at most: 2 MB, which a core's cache takes. A GPU, where each
operation costs a launch, takes all rows at once: 64 MB for 4 layers, 5 samples and 3 prompts at 518 px."""


VALUES_AT_ONCE = 2**27
"""Values of all maps of some images that a GPU holds at once: 512 MB, and twice as much for what they are made of."""


class MapAccumulator:
    """Mean and standard deviation of the maps of one image over its prompts, for several numbers of samples at once.

    The result of each number is the average over that prefix of the samples, so one pass over the largest number gives
    all of them, exactly as separate passes with the same noise would. What is summed are differences from the map of
    the first
    prompt: the variance of plain probabilities would drown in the rounding of their squares.

    Args:
        size: side of the resulting maps, pixels.
        side: patches per side.
        num_samples: numbers of samples that results are wanted of.
        align_corners: how patches are upsampled.
        device: where to compute.

    >>> maps = MapAccumulator(size=4, side=2, num_samples=[1, 2], align_corners=False)
    >>> maps.add(torch.zeros(3, 2, 1, 4), torch.zeros(2, 1))  # logits 0 of 3 layers, 2 samples, 1 prompt, 2 x 2 patches
    >>> scores = maps.result(2)
    >>> scores.anomaly_map.shape, float(scores.anomaly_map.max()), float(scores.uncertainty_map.max())
    (torch.Size([4, 4]), 0.5, 0.0)
    """

    def __init__(
        self, size: int, side: int, num_samples: list[int], align_corners: bool, device: torch.device | None = None
    ) -> None:
        self.size, self.side, self.num_samples = size, side, sorted(set(num_samples))
        self.low = interpolation(side, size, align_corners)[0].tolist()
        self.columns, self.rows = _interpolations(side, size, align_corners, device or torch.device("cpu"))
        self.first, self.total, self.squares = (torch.zeros(size, size, device=device) for _ in range(3))
        self.added = 0
        self.bank = 0
        self.text: list[Tensor] = []
        self.maxima: list[Tensor] = []
        self.snapshots: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, pixel: Float[Tensor, "layers samples bank patches"], image: Float[Tensor, "samples bank"]) -> None:
        """Add the logits of the next samples, in order; those beyond the largest wanted number are ignored.

        They are computed all the same: what a sample gives must not depend on how many are wanted, to the last bit.

        Args:
            pixel: differences abnormal - normal of the patches.
            image: differences of the global feature.
        """
        layers, group, bank = pixel.shape[:3]
        used = min(group, self.num_samples[-1] - self.added)
        numbers = range(self.added + 1, self.added + used + 1)
        snapshots = {
            number: (torch.empty_like(self.total), torch.empty_like(self.total))
            for number in numbers
            if number in self.num_samples
        }
        wide = (pixel.float().unflatten(-1, (self.side, self.side)).movedim(-2, 0) @ self.columns).flatten(1)
        maxima = wide.new_full((group, bank), -torch.inf)
        step = max(1, BAND // wide.shape[1]) if wide.device.type == "cpu" else self.size
        for rows in (slice(start, min(start + step, self.size)) for start in range(0, self.size, step)):
            between = slice(self.low[rows.start], self.low[rows.stop - 1] + 2)
            probabilities = (self.rows[rows, between] @ wide[between]).sigmoid_()
            prompts = probabilities.view(-1, layers, group, bank, self.size).mean(1)
            maxima = torch.maximum(maxima, prompts.amax((0, 3)))
            first, total, squares = self.first[rows], self.total[rows], self.squares[rows]
            if self.added == 0:
                first.copy_(prompts[:, 0, 0])
            prompts -= first[:, None, None]
            sums = zip(prompts.sum(2).unbind(1), prompts.square_().sum(2).unbind(1), strict=True)
            for number, (plain, squared) in zip(numbers, sums, strict=False):
                total += plain
                squares += squared
                if number in snapshots:
                    snapshots[number][0][rows], snapshots[number][1][rows] = total, squares
        self.snapshots.update(snapshots)
        self.added += used
        self.bank = bank
        self.text.append(image[:used].float().sigmoid())
        self.maxima.append(maxima[:used])

    def result(self, num_samples: int) -> PromptScores:
        """The average over the first samples.

        Args:
            num_samples: how many; one of the numbers that were wanted and added.

        Returns:
            The scores, in the CPU's memory.
        """
        total, squares = self.snapshots[num_samples]
        prompts = num_samples * self.bank
        difference = total / prompts
        variance = (squares / prompts - difference.square()).clamp_(min=0)
        text, maxima = torch.cat(self.text)[:num_samples], torch.cat(self.maxima)[:num_samples]
        scores = (self.first + difference, variance.sqrt_(), text, maxima)
        return PromptScores(*(part.cpu() for part in scores))


def batch_maps(
    pixel: Float[Tensor, "layers batch samples bank patches"],
    image: Float[Tensor, "batch samples bank"],
    size: int,
    align_corners: bool,
) -> PromptScores:
    """Scores of several images from the logits of all their samples, in few large operations.

    Args:
        pixel: differences abnormal - normal of the patches.
        image: differences of the global feature.
        size: side of the resulting maps, pixels.
        align_corners: how patches are upsampled.

    Returns:
        The scores that a `MapAccumulator` gives, up to rounding, with the images as first axis; on the logits' device.

    >>> scores = batch_maps(torch.zeros(3, 5, 2, 1, 4), torch.zeros(5, 2, 1), size=4, align_corners=False)
    >>> scores.anomaly_map.shape, scores.map_maxima.shape
    (torch.Size([5, 4, 4]), torch.Size([5, 2, 1]))
    """
    layers, _, samples, bank, patches = pixel.shape
    side = int(patches**0.5)
    columns, rows = _interpolations(side, size, align_corners, pixel.device)
    at_once = max(1, VALUES_AT_ONCE // (layers * samples * bank * size * size))
    parts = []
    for part in pixel.float().unflatten(-1, (side, side)).split(at_once, dim=1):
        prompts = (rows @ (part @ columns)).sigmoid_().mean(0)
        deviation, mean = torch.std_mean(prompts, dim=(1, 2), correction=0)
        parts.append((mean, deviation, prompts.amax((-2, -1))))
    anomaly, uncertainty, maxima = (torch.cat(part) for part in zip(*parts, strict=True))
    return PromptScores(anomaly, uncertainty, image.float().sigmoid(), maxima)


@functools.lru_cache(maxsize=16)
def _interpolations(side: int, size: int, align_corners: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The matrix that upsamples columns, and its transpose for rows; kept on the device."""
    columns = interpolation_matrix(side, size, align_corners).to(device)
    return columns, columns.T.contiguous()


def interpolation(side: int, size: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear upsampling of `side` to `size` points, along one axis.

    Args:
        side: number of source points.
        size: number of resulting points.
        align_corners: the outermost points of both coincide, instead of the outermost edges.

    Returns:
        Lower source index of each resulting point, and the weight of the upper one.
    """
    points = np.arange(size, dtype=np.float64)
    inside = ((points + 0.5) * side / size - 0.5).clip(min=0)
    source = points * (side - 1) / max(1, size - 1) if align_corners else inside
    low = np.floor(source).astype(np.int64).clip(max=side - 1)
    return low, (source - low).astype(np.float32)


def interpolation_matrix(side: int, size: int, align_corners: bool) -> Float[Tensor, "side size"]:
    """The same as a matrix.

    Args:
        side: number of source points.
        size: number of resulting points.
        align_corners: see `interpolation`.

    Returns:
        A row of `side` values times this matrix is the row upsampled to `size`.
    """
    low, weight = interpolation(side, size, align_corners)
    matrix = np.zeros((side, size), np.float32)
    points = np.arange(size)
    matrix[low, points] += 1 - weight
    matrix[(low + 1).clip(max=side - 1), points] += weight
    return torch.from_numpy(matrix)


def smooth(
    anomaly_map: Float[Tensor, "*batch height width"], sigma_px: float, edge_twice: bool = False
) -> Float[Tensor, "*batch height width"]:
    """Gaussian smoothing with reflected borders, cut at four standard deviations.

    Args:
        anomaly_map: any map, or several of one size.
        sigma_px: standard deviation, pixels; 0 returns the map itself.
        edge_twice: the outermost pixels are reflected too, as scipy's `gaussian_filter` does.

    Returns:
        The smoothed map.
    """
    if sigma_px == 0:
        return anomaly_map
    reach = int(4 * sigma_px + 0.5)
    radius = reach if edge_twice else min(reach, min(anomaly_map.shape[-2:]) - 1)
    points = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (points / sigma_px).square())
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).to(anomaly_map.device)
    maps = anomaly_map.reshape(-1, 1, *anomaly_map.shape[-2:])
    if edge_twice:
        rows, columns = (_with_edges(side, radius).to(maps.device) for side in maps.shape[-2:])
        padded = maps[:, :, rows][:, :, :, columns]
    else:
        padded = F.pad(maps, (radius, radius, radius, radius), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel), kernel.transpose(2, 3)).view(anomaly_map.shape)


def _with_edges(side: int, radius: int) -> Tensor:
    """Indices of an axis that is reflected about its outermost edges, as often as the radius needs."""
    steps = torch.arange(-radius, side + radius) % (2 * side)
    return torch.minimum(steps, 2 * side - 1 - steps)
