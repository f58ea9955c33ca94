"""Prompts, logits and ground truth -> loss terms: classification, focal, dice, orthogonality, KL (section 3.6).

Everything that is averaged over a batch is first a sum over its images. Several workers add their sums (`add`, with
gradients) before any ratio is taken, so that N workers on one global batch have the loss of one worker.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.config import LossConfig
from bayes_pfl.methods.prompt_flow.head import Logits, Prompts


class Target(NamedTuple):
    """Ground truth of a batch."""

    label: Float[Tensor, "batch"]
    mask: Float[Tensor, "batch height width"]


class BatchSums(NamedTuple):
    """Sums over the images of a batch; `prompts` counts samples x bank."""

    images: Float[Tensor, ""]
    classification: Float[Tensor, "prompts"]
    foreground_pixels: Float[Tensor, ""]
    background_pixels: Float[Tensor, ""]
    focal_foreground: Float[Tensor, "layers prompts"]
    focal_background: Float[Tensor, "layers prompts"]
    intersection: Float[Tensor, "layers prompts"]
    probability: Float[Tensor, "layers prompts"]
    orthogonality: Float[Tensor, ""]
    divergences: Float[Tensor, "distributions"]
    """Of the distributions that depend on the image: the context's, and with `states_from_image` both states'."""


class LossTerms(NamedTuple):
    """The weighted total and every term before its weight."""

    total: Float[Tensor, ""]
    classification: Float[Tensor, ""]
    focal: Float[Tensor, ""]
    dice: Float[Tensor, ""]
    orthogonality: Float[Tensor, ""]
    kl_context: Float[Tensor, ""]
    kl_normal: Float[Tensor, ""]
    kl_abnormal: Float[Tensor, ""]


def losses(
    prompts: Prompts,
    logits: Logits,
    target: Target,
    config: LossConfig,
    align_corners: bool,
    add: Callable[[Tensor], Tensor] = lambda local: local,
) -> LossTerms:
    """L = L_ort + L_p (eq. 14) of a batch.

    Departs from the paper: the KL terms are weighted (`kl_weight`), which the released code also does.

    Args:
        prompts: text embeddings of the batch and the samples they come from.
        logits: of the prompts that are classified and segmented with.
        target: ground truth.
        config: weights and shape of the objective.
        align_corners: how maps are upsampled (`upsampled_corners` of the model).
        add: returns the sum of a vector over all workers, and passes gradients; by default there is one worker.

    Returns:
        The total and every term before its weight.
    """
    sums = _add_up(batch_sums(prompts, logits, target, config, align_corners), add)
    classification = (sums.classification / sums.images).mean()
    foreground = sums.focal_foreground / sums.foreground_pixels.clamp(min=1)
    background = sums.focal_background / sums.background_pixels.clamp(min=1)
    focal = (foreground + background).sum(0).mean()
    dice = (
        dice_loss(sums.intersection, sums.probability, sums.foreground_pixels, config.variant.dice_epsilon)
        .sum(0)
        .mean()
    )
    orthogonality = sums.orthogonality / sums.images
    kl_context, *kl_states = (sums.divergences / sums.images).unbind()
    if not kl_states:
        batch = sums.images if config.variant.state_log_det_over_batch else torch.ones_like(sums.images)
        kl_states = [(state.log_ratio - state.log_det / batch).mean() for state in (prompts.normal, prompts.abnormal)]
    kl_normal, kl_abnormal = kl_states
    total = classification + focal + dice + config.orthogonal_weight * orthogonality
    total = total + config.kl_weight * (kl_context + kl_normal + kl_abnormal)
    return LossTerms(total, classification, focal, dice, orthogonality, kl_context, kl_normal, kl_abnormal)


def batch_sums(prompts: Prompts, logits: Logits, target: Target, config: LossConfig, align_corners: bool) -> BatchSums:
    """All sums over the images of this worker's part of the batch.

    Args:
        prompts: text embeddings and samples.
        logits: of the prompts that are classified and segmented with.
        target: ground truth.
        config: shape of the objective.
        align_corners: how maps are upsampled.

    Returns:
        The sums, which add up over workers.
    """
    batch = logits.pixel.shape[1]
    side = int(logits.pixel.shape[-1] ** 0.5)
    pixel = logits.pixel.flatten(2, 3)
    mask = target.mask.unsqueeze(1)
    rows = []
    for layer in pixel:  # one layer at a time: full-resolution maps of all layers need not exist together
        full = F.interpolate(
            layer.unflatten(-1, (side, side)), size=mask.shape[-2:], mode="bilinear", align_corners=align_corners
        )
        focal = focal_loss(full, mask.expand_as(full), config.focal_gamma, config.variant.focal_epsilon)
        probability = full.sigmoid()
        inside = (0, 2, 3)
        rows.append(
            torch.stack(
                [
                    (focal * mask).sum(inside),
                    (focal * (1 - mask)).sum(inside),
                    (probability * mask).sum(inside),
                    probability.sum(inside),
                ]
            )
        )
    by_layer = torch.stack(rows, dim=1)
    labels = target.label[:, None, None].expand_as(logits.image)
    classification = F.binary_cross_entropy_with_logits(logits.image, labels, reduction="none")
    foreground = mask.sum()
    samples = (prompts.context, prompts.normal, prompts.abnormal)
    by_image = [each for each in samples if each.log_det.dim() == 2]
    return BatchSums(
        images=foreground.new_tensor(float(batch)),
        classification=classification.sum(0).flatten(),
        foreground_pixels=foreground,
        background_pixels=mask.numel() - foreground,
        focal_foreground=by_layer[0],
        focal_background=by_layer[1],
        intersection=by_layer[2],
        probability=by_layer[3],
        orthogonality=orthogonality(prompts.text, config.orthogonal_mean).sum(),
        divergences=torch.stack([each.divergence().mean(1).sum() for each in by_image]),
    )


def focal_loss(
    logits: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], gamma: float, epsilon: float = 0.0
) -> Float[Tensor, "*shape"]:
    """-(1 - p_t)^gamma log p_t per pixel (Lin et al., 2017).

    p_t = sigmoid(logits) where the target is 1, and 1 minus that where it is 0. `losses` averages it over foreground
    and background separately and adds the two, as released.

    Args:
        logits: of any shape.
        target: 0 or 1.
        gamma: focusing exponent.
        epsilon: added to p_t inside the logarithm.

    Returns:
        The loss of each pixel.
    """
    error = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = torch.exp(-error)
    return (1 - probability) ** gamma * (-torch.log(probability + epsilon) if epsilon else error)


def dice_loss(
    intersection: Float[Tensor, "*shape"],
    probability: Float[Tensor, "*shape"],
    foreground: Float[Tensor, ""],
    epsilon: float = 0.0,
) -> Float[Tensor, "*shape"]:
    """1 - (2 sum(p m) + epsilon) / (sum p + sum m + epsilon), over all pixels of the batch.

    Args:
        intersection: sum(p m), of each layer and prompt.
        probability: sum p.
        foreground: sum m.
        epsilon: see the formula.

    Returns:
        The loss of each layer and prompt.
    """
    return 1 - (2 * intersection + epsilon) / (probability + foreground + epsilon)


def orthogonality(text: Float[Tensor, "batch samples bank 2 dim"], mean: bool) -> Float[Tensor, "batch"]:
    """Sum over both banks and pairs i != j of cos^2(t_i, t_j) (eq. 13), averaged over samples.

    Args:
        text: L2-normalised text embeddings.
        mean: divide by B x B (released).

    Returns:
        The loss of each image.
    """
    bank = text.shape[2]
    cosine = torch.einsum("nsikd,nsjkd->nskij", text, text)
    off_diagonal = cosine.square() * (1 - torch.eye(bank, device=text.device))
    per_image = off_diagonal.sum((2, 3, 4)).mean(1)
    return per_image / bank**2 if mean else per_image


def _add_up(sums: BatchSums, add: Callable[[Tensor], Tensor]) -> BatchSums:
    """Add the sums of all workers, as one vector."""
    flat = add(torch.cat([value.reshape(-1) for value in sums]))
    parts = flat.split([value.numel() for value in sums])
    return BatchSums(*(part.view(value.shape) for part, value in zip(parts, sums, strict=True)))
