"""Probability maps and masks -> focal and Dice loss, as sums over images that workers and parts of a batch add up.

The form that the released codes of APRIL-GAN, CLIP-AD, AnomalyCLIP and AdaCLIP share.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.config import SegmentationLoss


class ClassMaps(NamedTuple):
    """Probabilities of both classes: near 0 one of them has digits that 1 minus the other lacks."""

    normal: Float[Tensor, "layers batch height width"]
    abnormal: Float[Tensor, "layers batch height width"]


class Sums(NamedTuple):
    """Sums of a loss term over what this worker or part has, and of how many pixels, rows or images."""

    total: Float[Tensor, "layers"]
    number: int


def upsampled(grid: Float[Tensor, "layers batch patches"], size: int, align_corners: bool) -> Tensor:
    """Patches of a square grid to the image's size, bilinearly.

    Args:
        grid: values patch by patch.
        size: side of the image, pixels.
        align_corners: the outermost points coincide, instead of the outermost edges.

    Returns:
        (layers, batch, size, size).
    """
    side = round(grid.shape[-1] ** 0.5)
    square = grid.unflatten(-1, (side, side))
    return F.interpolate(square, size=(size, size), mode="bilinear", align_corners=align_corners)


def focal_sums(maps: ClassMaps, target: Float[Tensor, "batch height width"], loss: SegmentationLoss) -> Sums:
    """Focal loss -(1 - p)^gamma ln p of every pixel, p = (1 - e) p_true + e p_other + e.

    Args:
        maps: probabilities.
        target: 1 where a pixel is abnormal.
        loss: gamma and e.

    Returns:
        Sums over pixels, layer by layer.
    """
    is_abnormal = target > 0.5
    values = focal(
        torch.where(is_abnormal, maps.abnormal, maps.normal),
        torch.where(is_abnormal, maps.normal, maps.abnormal),
        loss,
    )
    return Sums(values.flatten(1).sum(1), target.numel())


def focal(
    true: Float[Tensor, "*values"], other: Float[Tensor, "*values"], loss: SegmentationLoss
) -> Float[Tensor, "*values"]:
    """Focal loss of single values.

    Args:
        true: probability of the true class.
        other: probability of the other class.
        loss: gamma and e.

    Returns:
        -(1 - p)^gamma ln p.
    """
    smoothing = loss.focal_smoothing
    p = (1 - smoothing) * true + smoothing * other + smoothing
    return -((1 - p) ** loss.focal_gamma) * p.log()


def dice_sums(
    probability: Float[Tensor, "layers *groups pixels"],
    target: Float[Tensor, "*groups pixels"],
    loss: SegmentationLoss,
) -> Sums:
    """Dice loss of groups of pixels: 1 - (2 sum p g + e) / (sum p + sum g + e).

    Args:
        probability: of the class that `target` marks.
        target: 1 or 0.
        loss: e.

    Returns:
        Sums over groups, layer by layer.
    """
    both, either = (probability * target).sum(-1), probability.sum(-1) + target.sum(-1)
    dice = 1 - (2 * both + loss.dice_smoothing) / (either + loss.dice_smoothing)
    return Sums(dice.flatten(1).sum(1), dice[0].numel())


def map_sums(
    maps: ClassMaps,
    mask: Float[Tensor, "batch height width"],
    loss: SegmentationLoss,
    both_classes: bool,
    over_rows: bool = False,
) -> dict[str, Sums]:
    """The terms of maps: focal loss, Dice of the abnormal class and, where asked for, of the normal class.

    Args:
        maps: probabilities.
        mask: 1 where the image is defective.
        loss: its constants.
        both_classes: AnomalyCLIP and AdaCLIP have Dice of the normal class too.
        over_rows: Dice of every row of pixels instead of every image.

    Returns:
        Sums by name.
    """
    target = (mask > 0.5).to(maps.abnormal.dtype)
    sums = {"focal": focal_sums(maps, target, loss)}
    axis = 3 if over_rows else 2
    wanted = target.flatten(axis - 1)
    sums["dice_abnormal"] = dice_sums(maps.abnormal.flatten(axis), wanted, loss)
    if both_classes:
        sums["dice_normal"] = dice_sums(maps.normal.flatten(axis), 1 - wanted, loss)
    return sums


def means(sums: dict[str, Sums], add: Callable[[Tensor], Tensor]) -> dict[str, Float[Tensor, "layers"]]:
    """Ratios of sums over all workers and parts, with one addition.

    Args:
        sums: of what is here, by name.
        add: adds a vector up over all workers and parts, and passes gradients.

    Returns:
        Means by name, layer by layer.
    """
    lengths = [len(each.total) for each in sums.values()]
    counts = torch.tensor([float(each.number) for each in sums.values()])
    totals = torch.cat([each.total for each in sums.values()])
    whole = add(torch.cat([totals, counts.to(totals)]))
    parts = whole[: -len(counts)].split(lengths)
    return {name: part / count for name, part, count in zip(sums, parts, whole[-len(counts) :], strict=True)}


def identity(local: Tensor) -> Tensor:
    """`add` of a worker that is alone.

    Args:
        local: sums.

    Returns:
        The same.
    """
    return local
