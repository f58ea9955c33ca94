"""Bayes-PFL as the paper's equations read, on a `BayesPFL`'s weights: loops over images, samples, prompts and layers.

Nothing of the library computes here; its modules only hold the parameters. Two-way softmaxes stay softmaxes of two
maps.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.config import LossConfig
from bayes_pfl.methods.prompt_flow.head import BayesPFL
from tests.equations_clip import Weights, encode_text


class Image(NamedTuple):
    """One image as CLIP sees it, with its class name's tokens."""

    cls: Tensor
    patches: list[Tensor]
    name: list[int]
    start: int = 49406
    """Start-of-text token: OpenAI's."""


class Sample(NamedTuple):
    """One sample of a distribution: z_K and the three terms of its divergence from the prior."""

    z: Tensor
    log_q0: Tensor
    log_det: Tensor
    log_prior: Tensor


def network(layers: Any, x: Tensor) -> Tensor:
    """Linear, softplus, linear, softplus, linear."""
    first, second, third = layers[0], layers[2], layers[4]
    x = torch.log1p(torch.exp(x @ first.weight.T + first.bias))
    x = torch.log1p(torch.exp(x @ second.weight.T + second.bias))
    return x @ third.weight.T + third.bias


def flow_steps(flow: Any, condition: Tensor, dim: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(u, w, b) of every step for z of width `dim`: free, or linear in the condition."""
    if isinstance(flow.u, torch.nn.Parameter):
        return list(zip(flow.u, flow.w, flow.b, strict=True))
    u, w, b = (layer.weight @ condition + layer.bias for layer in (flow.u, flow.w, flow.b))
    return list(zip(u.view(-1, dim), w.view(-1, dim), b, strict=True))


def sample(density: Any, flow: Any, condition: Tensor, noise: Tensor) -> Sample:
    """z0 ~ N(mu, Sigma), then K planar steps (eq. 6)."""
    mean, std = network(density.mean, condition), torch.exp(network(density.log_variance, condition) * density.exponent)
    z = mean + std * noise
    log_q0 = (-0.5 * ((z - mean) / std) ** 2 - torch.log(std) - 0.5 * math.log(2 * math.pi)).sum()
    log_det = torch.zeros(())
    for u, w, b in flow_steps(flow, condition, len(noise)):
        psi = (1 - torch.tanh(w @ z + b) ** 2) * w
        log_det = log_det + torch.log(torch.abs(1 + u @ psi) + flow.epsilon)
        z = z + u * torch.tanh(w @ z + b)
    return Sample(z, log_q0, log_det, (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum())


def patch_vector(model: BayesPFL, patches: list[Tensor]) -> Tensor:
    """x_patch: global average pooling and a linear layer, or linear, softmax-attention pooling, linear."""
    tokens, pooling = torch.cat(patches, dim=-1), model.pooling
    if not model.config.variant.attention_pooling:
        return pooling.project.weight @ tokens.mean(0) + pooling.project.bias
    fused = tokens @ pooling.fuse.weight.T + pooling.fuse.bias
    weights = torch.softmax(fused @ pooling.compress.weight.T + pooling.compress.bias, dim=0)
    return pooling.project.weight @ (weights * fused).sum(0) + pooling.project.bias


def distributions(model: BayesPFL, image: Image, context: Tensor, normal: Tensor, abnormal: Tensor) -> list[Sample]:
    """Samples of the context's, the normal and the abnormal state's distribution from one draw each (ISD, IAD).

    Either may be given the other's condition (Figure 5): the context a free vector, the states x beside theirs.
    """
    x = image.cls + patch_vector(model, image.patches) if model.config.variant.condition_on_patches else image.cls
    zero = torch.zeros(())
    none = Sample(torch.zeros_like(context), zero, zero, zero)
    given = x if model.free_context is None else model.free_context
    first = none if model.context is None else sample(model.context.density, model.context.flow, given, context)
    if model.states is None:
        return [first, none, none]
    density, flows = model.states.density, model.states.flows
    beside = x if model.config.variant.states_from_image else torch.zeros_like(x)
    second = sample(density, flows[0], model.states.free_normal + beside, normal)
    return [first, second, sample(density, flows[len(flows) - 1], model.states.free_abnormal + beside, abnormal)]


def text_pair(
    model: BayesPFL, clip: Weights, samples: list[Sample], b: int, image: Image, quick_gelu: bool = False
) -> Tensor:
    """(2, dim): embeddings of prompt b with the normal and the abnormal state (eq. 1, 2, 8, 9), normalised."""
    context, normal, abnormal = (model.config.offset_scale * part.z for part in samples)
    banks, pair = model.banks, []
    for state in (banks.normal[b] + normal, banks.abnormal[b] + abnormal):
        vectors = torch.cat([banks.context[b] + context, state])
        pair.append(F.normalize(encode_text(clip, vectors, image.name, image.start, quick_gelu), dim=0))
    return torch.stack(pair)


def text_bank(
    model: BayesPFL, clip: Weights, image: Image, draws: list[tuple[Tensor, Tensor, Tensor]], quick_gelu: bool = False
) -> Tensor:
    """(samples, bank, 2, dim) of one image."""
    rows = []
    for context, normal, abnormal in draws:
        samples = distributions(model, image, context, normal, abnormal)
        rows.append(
            torch.stack(
                [text_pair(model, clip, samples, b, image, quick_gelu) for b in range(len(model.banks.context))]
            )
        )
    return torch.stack(rows)


def refine(model: BayesPFL, pair: Tensor, projected: Tensor) -> Tensor:
    """RCA: F^t = Z + softmax(Q F^T / sqrt(C)) F (eq. 10)."""
    attention = model.attention
    if attention is None:
        return pair
    memory = F.normalize(projected, dim=-1) if model.config.variant.attention_normalized_keys else projected
    query = pair @ attention.query.weight.T + (0 if attention.query.bias is None else attention.query.bias)
    width = pair.shape[-1] // attention.heads
    heads = []
    for start in range(0, pair.shape[-1], width):
        part = slice(start, start + width)
        heads.append(torch.softmax(query[:, part] @ memory[:, part].T / pair.shape[-1] ** 0.5, -1) @ memory[:, part])
    return pair + torch.cat(heads, -1)


def prompt_map(model: BayesPFL, layer: int, pair: Tensor, patches: Tensor, size: int) -> Tensor:
    """(2, size, size): softmax of the two upsampled similarity maps of one layer, normal and abnormal (eq. 11)."""
    projected = patches @ model.projections[layer].weight.T
    text = F.normalize(refine(model, pair, projected), dim=-1)
    similarity = F.normalize(projected, dim=-1) @ text.T * torch.exp(model.pixel_temperature)
    side = math.isqrt(len(patches))
    maps = similarity.T.view(1, 2, side, side)
    corners = model.config.variant.upsampled_corners
    return torch.softmax(F.interpolate(maps, (size, size), mode="bilinear", align_corners=corners)[0], dim=0)


def prompt_maps(model: BayesPFL, image: Image, text: Tensor, size: int) -> Tensor:
    """(layers, samples x bank, 2, size, size): all maps, materialised; eq. 12 is the mean of the abnormal ones."""
    return torch.stack(
        [
            torch.stack([prompt_map(model, layer, pair, patches, size) for pair in text.flatten(0, 1)])
            for layer, patches in enumerate(image.patches)
        ]
    )


def text_logits(model: BayesPFL, image: Image, text: Tensor, class_token_only: bool) -> Tensor:
    """(samples, bank, 2): similarities of the global feature and the prompts."""
    x = image.cls if class_token_only else image.cls + patch_vector(model, image.patches)
    if model.class_mapping is not None and model.image_mapping is not None:
        text = F.normalize(text @ model.class_mapping.weight.T + model.class_mapping.bias, dim=-1)
        if not class_token_only:
            x = model.image_mapping.weight @ x + model.image_mapping.bias
    return text @ F.normalize(x, dim=0) * torch.exp(model.image_temperature)


class Step(NamedTuple):
    """What a training step is given: images, their draws (R = 1), targets and which prompts take part.

    The states' draws are (dim), for all images, or (batch, dim).
    """

    images: list[Image]
    context: Tensor
    normal: Tensor
    abnormal: Tensor
    label: Tensor
    mask: Tensor
    bank: slice


def training_losses(model: BayesPFL, clip: Weights, step: Step, config: LossConfig) -> tuple[dict[str, Tensor], Tensor]:
    """Every term of eq. 14 by `LossTerms`' names, before its weight, and the text embeddings (batch, bank, 2, dim)."""
    count, size = len(step.images), step.mask.shape[-1]
    normal, abnormal = (noise.expand(count, -1) for noise in (step.normal, step.abnormal))
    samples = [distributions(model, *draws) for draws in zip(step.images, step.context, normal, abnormal, strict=True)]
    text = torch.stack(
        [
            torch.stack([text_pair(model, clip, drawn, b, image) for b in range(len(model.banks.context))])
            for drawn, image in zip(samples, step.images, strict=True)
        ]
    )
    chosen = text[:, step.bank]
    logits = torch.stack(
        [
            text_logits(model, image, pairs[None], config.variant.classify_class_token)[0]
            for image, pairs in zip(step.images, chosen, strict=True)
        ]
    )
    maps = torch.stack(
        [prompt_maps(model, image, pairs[None], size) for image, pairs in zip(step.images, chosen, strict=True)]
    )
    terms = {
        "classification": F.cross_entropy(logits.flatten(0, 1), step.label.repeat_interleave(chosen.shape[1])),
        "focal": sum(focal(layer, step.mask, config) for layer in maps.unbind(1)),
        "dice": sum(dice(layer[:, :, 1], step.mask, config) for layer in maps.unbind(1)),
        "orthogonality": sum(orthogonality(pairs, config.orthogonal_mean) for pairs in text) / count,
        "kl_context": sum(drawn[0].log_q0 - drawn[0].log_det - drawn[0].log_prior for drawn in samples) / count,
    }
    batch = count if config.variant.state_log_det_over_batch else 1
    for index, name in enumerate(("kl_normal", "kl_abnormal"), 1):
        states = [drawn[index] for drawn in samples]
        terms[name] = sum(state.log_q0 - state.log_prior - state.log_det / batch for state in states) / count
    divergence = terms["kl_context"] + terms["kl_normal"] + terms["kl_abnormal"]
    data = terms["classification"] + terms["focal"] + terms["dice"]
    terms["total"] = data + config.orthogonal_weight * terms["orthogonality"] + config.kl_weight * divergence
    return terms, text


def focal(maps: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """Mean over prompts of -(1 - p_t)^gamma log p_t, averaged over foreground and over background, and added."""
    losses = []
    for prompt in maps.unbind(1):
        probability = torch.where(mask > 0, prompt[:, 1], prompt[:, 0])
        value = -((1 - probability) ** config.focal_gamma) * torch.log(probability + config.variant.focal_epsilon)
        parts = [value[mask > 0], value[mask == 0]]
        losses.append(sum(part.mean() for part in parts if part.numel()))
    return sum(losses) / len(losses)


def dice(maps: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """Mean over prompts of 1 - (2 sum(p m) + e) / (sum p + sum m + e)."""
    small = config.variant.dice_epsilon
    losses = [
        1 - (2 * (prompt * mask).sum() + small) / (prompt.sum() + mask.sum() + small) for prompt in maps.unbind(1)
    ]
    return sum(losses) / len(losses)


def orthogonality(pairs: Tensor, mean: bool) -> Tensor:
    """Both banks' sum over i != j of cos^2(t_i, t_j) (eq. 13), or its mean over the B x B matrix."""
    total, count = torch.zeros(()), len(pairs)
    for bank in pairs.unbind(1):
        for i in range(count):
            for j in range(count):
                if i != j:
                    total = total + F.cosine_similarity(bank[i], bank[j], dim=0) ** 2
    return total / count**2 if mean else total
