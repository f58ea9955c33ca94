"""Every term of the loss against torch, torchvision and brute force."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from bayes_pfl.config import LossConfig, LossVariant
from bayes_pfl.methods.prompt_flow.distributions import OffsetSamples
from bayes_pfl.methods.prompt_flow.head import Logits, Prompts
from bayes_pfl.methods.prompt_flow.losses import Target, dice_loss, focal_loss, losses, orthogonality


def made_up(batch=3, samples=2, bank=3, layers=2, side=4, size=12, seed=0):
    torch.manual_seed(seed)
    text = F.normalize(torch.randn(batch, samples, bank, 2, 8), dim=-1)
    context = OffsetSamples(torch.randn(batch, samples, 8), torch.randn(batch, samples), torch.randn(batch, samples))
    states = [OffsetSamples(torch.randn(samples, 8), torch.randn(samples), torch.randn(samples)) for _ in range(2)]
    logits = Logits(torch.randn(layers, batch, samples, bank, side * side), torch.randn(batch, samples, bank))
    mask = (torch.rand(batch, size, size) < 0.2).float()
    mask[0] = 0
    return Prompts(text, context, *states), logits, Target(torch.tensor([0.0, 1.0, 1.0])[:batch], mask)


def test_focal_is_torchvisions_without_alpha():
    logits, target = torch.randn(50), (torch.rand(50) < 0.5).float()
    assert torch.allclose(
        focal_loss(logits, target, 2.0), sigmoid_focal_loss(logits, target, alpha=-1, gamma=2.0), atol=1e-6
    )


def test_all_terms_equal_a_plain_computation():
    prompts, logits, target = made_up()
    terms = losses(prompts, logits, target, LossConfig(), align_corners=False)
    focal = dice = 0.0
    for layer in logits.pixel:
        for sample in range(2):
            for prompt in range(3):
                maps = layer[:, sample, prompt].view(3, 1, 4, 4)
                full = F.interpolate(maps, size=(12, 12), mode="bilinear")[:, 0]
                each = sigmoid_focal_loss(full, target.mask, alpha=-1, gamma=2.0)
                inside = target.mask.bool()
                focal += float(each[inside].mean() + each[~inside].mean()) / 6
                p = full.sigmoid()
                dice += float(1 - 2 * (p * target.mask).sum() / (p.sum() + target.mask.sum())) / 6
    labels = target.label.view(3, 1, 1).expand(3, 2, 3)
    assert math.isclose(terms.focal.item(), focal, rel_tol=1e-5)
    assert math.isclose(terms.dice.item(), dice, rel_tol=1e-5)
    assert math.isclose(
        terms.classification.item(), F.binary_cross_entropy(logits.image.sigmoid(), labels).item(), rel_tol=1e-5
    )
    assert math.isclose(
        terms.kl_context.item(), (prompts.context.log_ratio - prompts.context.log_det).mean().item(), rel_tol=1e-5
    )
    weighted = terms.classification + terms.focal + terms.dice + terms.orthogonality
    weighted = weighted + 0.01 * (terms.kl_context + terms.kl_normal + terms.kl_abnormal)
    assert math.isclose(terms.total.item(), weighted.item(), rel_tol=1e-6)


def test_orthogonality_is_the_sum_over_pairs_of_both_banks():
    prompts, _, _ = made_up()
    expected = []
    for image in prompts.text:
        per_sample = []
        for sample in image:
            squares = [cosine_similarity(sample[:, kind].numpy()) ** 2 for kind in range(2)]
            per_sample.append(sum(float(s.sum() - np.trace(s)) for s in squares))
        expected.append(np.mean(per_sample))
    assert np.allclose(orthogonality(prompts.text, mean=False).numpy(), expected, atol=1e-5)
    assert np.allclose(orthogonality(prompts.text, mean=True).numpy() * 9, expected, atol=1e-5)


def test_a_batch_without_defects_has_finite_terms():
    prompts, logits, target = made_up()
    terms = losses(
        prompts, logits, Target(torch.zeros(3), torch.zeros_like(target.mask)), LossConfig(), align_corners=False
    )
    assert all(math.isfinite(value.item()) for value in terms)
    assert math.isclose(terms.dice.item(), 2.0, rel_tol=1e-6)  # 1 for each of the two layers


def test_the_released_broadcast_divides_only_the_states_log_determinant():
    prompts, logits, target = made_up()
    ours = losses(prompts, logits, target, LossConfig(), align_corners=False)
    released = losses(
        prompts, logits, target, LossConfig(variant=LossVariant(state_log_det_over_batch=True)), align_corners=False
    )
    expected = (prompts.normal.log_ratio - prompts.normal.log_det / 3).mean().item()
    assert math.isclose(released.kl_normal.item(), expected, rel_tol=1e-5)
    assert released.kl_context.item() == ours.kl_context.item()


@pytest.mark.parametrize(("overlap", "expected"), [(4.0, 0.0), (0.0, 1.0), (2.0, 0.5)])
def test_dice_of_known_overlaps(overlap, expected):
    assert dice_loss(torch.tensor(overlap), torch.tensor(4.0), torch.tensor(4.0)).item() == pytest.approx(expected)
