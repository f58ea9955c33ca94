"""Losses of the pretraining: captions against global features, and defective patches against a spare head."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def multi_positive(logits: Float[Tensor, "rows columns"], truth: Bool[Tensor, "rows columns"]) -> Float[Tensor, ""]:
    """Mean over rows that have a positive of the mean of -log softmax over that row's positives.

    Khosla et al., "Supervised Contrastive Learning", 2020, eq. 2.

    Args:
        logits: similarity times inverse temperature.
        truth: which pairs belong together.

    Returns:
        The loss in nats.
    """
    log_probability = logits.log_softmax(dim=1)
    count = truth.sum(1)
    rows = count > 0
    mean = (log_probability * truth).sum(1)[rows] / count[rows]
    return -mean.mean()


def own_pair_loss(logits: Float[Tensor, "images captions"], damaged: Bool[Tensor, " images"]) -> Float[Tensor, ""]:
    """Cross-entropy between the flawless (2p) and damaged (2p + 1) caption of the image's own pair p.

    Args:
        logits: of each image and caption.
        damaged: which images are.

    Returns:
        The loss in nats, mean over images.
    """
    pairs = torch.arange(len(logits), device=logits.device) // 2
    own = torch.stack([logits.gather(1, (2 * pairs + k)[:, None])[:, 0] for k in (0, 1)], dim=1)
    return F.cross_entropy(own, damaged.long())


def patch_targets(masks: Bool[Tensor, "images side side"], patches: int) -> Float[Tensor, "images patches"]:
    """Share of each patch that is defective, times 3 and at most 1: thin marks count as well.

    Args:
        masks: defective pixels.
        patches: number of patches, a square.

    Returns:
        Targets in [0, 1].
    """
    grid = math.isqrt(patches)
    share = F.adaptive_avg_pool2d(masks.float()[:, None], grid)[:, 0]
    return (3 * share).clamp(max=1).flatten(1)


def dense_loss(
    logits: Float[Tensor, "layers images patches"], target: Float[Tensor, "images patches"]
) -> Float[Tensor, ""]:
    """Balanced cross-entropy (defective and sound patches weigh the same) plus dice, mean over layers.

    Args:
        logits: of the dense head.
        target: of `patch_targets`.

    Returns:
        The loss.
    """
    positive = target / target.sum().clamp(min=1)
    negative = (1 - target) / (1 - target).sum().clamp(min=1)
    log_yes, log_no = F.logsigmoid(logits), F.logsigmoid(-logits)
    cross_entropy = -0.5 * (positive * log_yes + negative * log_no).sum((1, 2))
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum((1, 2)) + 1
    dice = 1 - overlap / (probability.sum((1, 2)) + target.sum() + 1)
    return (cross_entropy + dice).mean()
