"""Bayes-PFL written down as its equations read, on the weights of the fast model: what the benchmarks compare with.

One text-encoder call per sample and state with all 77 tokens; attention that returns its averaged weights in every
block, as the published code runs CLIP; two similarity maps, each upsampled to full resolution, and a softmax over them;
all L x B x R maps exist before their mean is taken. Batch size 1.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.methods.prompt_flow.head import BayesPFL
from bayes_pfl.methods.prompt_flow.noise import Noise


class Scores(NamedTuple):
    """Mean map over layers, prompts and samples, s_text, and the mean of s_text and the map's maximum."""

    anomaly_map: Tensor
    text_score: float
    image_score: float


def encode_image(backbone: Backbone, images: Tensor) -> Features:
    """CLIP's image encoder block by block, with everything that the published code computes beside what is used."""
    visual: Any = backbone.clip.visual
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    start = visual.class_embedding.expand(len(x), 1, -1)
    x = visual.ln_pre(torch.cat([start, x], dim=1) + visual.positional_embedding).transpose(0, 1)
    chosen = []
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        x, _ = _block(block, x, None)
        if number in backbone.config.feature_layers:
            chosen.append(x[1:].transpose(0, 1))
    return Features(visual.ln_post(x[0]) @ visual.proj, torch.stack(chosen))


def encode_text(backbone: Backbone, vectors: Tensor, name: list[int], stored_weights: bool = True) -> Tensor:
    """Embeddings of [start][vectors][class name][end][padding] for each of (prompts, vectors, width), 77 tokens long.

    Without `stored_weights` open_clip's own transformer runs, whose attention is fused.
    """
    tower: Any = backbone.text_tower
    length = tower.positional_embedding.shape[0]
    tokens = [int(backbone.tokenizer.sot_token_id), *[0] * vectors.shape[1], *name]
    end = len(tokens) - 1
    ids = torch.tensor(tokens + [0] * (length - len(tokens)), device=vectors.device)
    embedded = tower.token_embedding(ids).expand(len(vectors), -1, -1)
    x = torch.cat([embedded[:, :1], vectors, embedded[:, 1 + vectors.shape[1] :]], dim=1) + tower.positional_embedding
    mask = torch.full((length, length), -torch.inf, device=x.device).triu(1)
    if stored_weights:
        x = x.transpose(0, 1)
        for block in tower.transformer.resblocks:
            x, _ = _block(block, x, mask)
        x = x.transpose(0, 1)
    else:
        x = tower.transformer(x, attn_mask=mask)
    x = tower.ln_final(x)[:, end]
    projection = tower.text_projection
    return projection(x) if isinstance(projection, nn.Module) else x @ projection


def text_embeddings(
    model: BayesPFL, backbone: Backbone, features: Features, noise: Noise, name: list[int], stored_weights: bool = True
) -> Tensor:
    """(samples, bank, 2, dim): L2-normalised; one call of the text encoder per sample and state (eq. 8, 9)."""
    context, normal, abnormal = model.sample(features, noise)
    scale, banks, samples = model.config.offset_scale, model.banks, []
    for r in range(noise.context.shape[1]):
        words = banks.context + scale * context.offset[0, r]
        states = []
        for bank, offset in ((banks.normal, normal.offset[r]), (banks.abnormal, abnormal.offset[r])):
            prompts = torch.cat([words, bank + scale * offset], dim=1)
            states.append(encode_text(backbone, prompts, name, stored_weights))
        samples.append(F.normalize(torch.stack(states, dim=1), dim=-1))
    return torch.stack(samples)


def refine(model: BayesPFL, text: Tensor, plain: Tensor) -> Tensor:
    """RCA (eq. 10) of (2, dim) prompts of one (b, r) with one layer's patch features (patches, dim)."""
    attention = model.attention
    if attention is None:
        return text
    keys = F.normalize(plain, dim=-1) if model.config.variant.attention_normalized_keys else plain
    query = attention.query(text)
    heads, refined = attention.heads, []
    for q, k in zip(query.chunk(heads, dim=-1), keys.chunk(heads, dim=-1), strict=True):
        refined.append(torch.softmax(q @ k.T * text.shape[-1] ** -0.5, dim=-1) @ k)
    return text + torch.cat(refined, dim=-1)


def prompt_map(model: BayesPFL, text: Tensor, plain: Tensor, size: int) -> Tensor:
    """(2, size, size): softmax over {normal, abnormal} of the two upsampled similarity maps (eq. 11)."""
    side = int(plain.shape[0] ** 0.5)
    refined = F.normalize(refine(model, text, plain), dim=-1)
    similarity = model.pixel_temperature.exp() * refined @ F.normalize(plain, dim=-1).T
    full = F.interpolate(
        similarity.view(1, 2, side, side),
        size=(size, size),
        mode="bilinear",
        align_corners=model.config.variant.upsampled_corners,
    )
    return torch.softmax(full[0], dim=0)


def text_probabilities(model: BayesPFL, features: Features, text: Tensor) -> Tensor:
    """(samples, bank, 2): softmax of the similarity of x = x_cls + x_patch and Z (section 3.5)."""
    image = features.image + patch_vector(model, features.patches)
    if model.image_mapping is not None and model.class_mapping is not None:
        image, text = model.image_mapping(image), F.normalize(model.class_mapping(text), dim=-1)
    similarity = text @ F.normalize(image, dim=-1)[0]
    return torch.softmax(model.image_temperature.exp() * similarity, dim=-1)


def patch_vector(model: BayesPFL, patches: Tensor) -> Tensor:
    """x_patch (1, dim): mean over patches and linear, or the published code's linear, attention pooling, linear."""
    tokens = torch.cat(list(patches), dim=-1)
    pooling: Any = model.pooling
    if not model.config.variant.attention_pooling:
        return pooling.project(tokens.mean(1))
    fused = pooling.fuse(tokens)
    weights = torch.softmax(pooling.compress(fused), dim=1)
    return pooling.project((weights * fused).sum(1))


def head(
    model: BayesPFL,
    backbone: Backbone,
    features: Features,
    noise: Noise,
    name: list[int],
    size: int,
    stored_weights: bool = True,
) -> Scores:
    """Everything but the image encoder, for one image."""
    text = text_embeddings(model, backbone, features, noise, name, stored_weights)
    maps = []
    for project, patches in zip(model.projections, features.patches, strict=True):
        plain = project(patches[0])
        maps += [prompt_map(model, pair, plain, size) for pair in text.flatten(0, 1)]
    anomaly_map = torch.stack(maps)[:, 1].mean(0)
    text_score = float(text_probabilities(model, features, text)[..., 1].mean())
    return Scores(anomaly_map, text_score, 0.5 * text_score + 0.5 * float(anomaly_map.max()))


def _block(block: Any, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """One residual block on (tokens, batch, width) by torch's own module, and its weights averaged over heads."""
    normed = block.ln_1(x)
    attended, weights = block.attn(normed, normed, normed, attn_mask=mask)
    x = x + block.ls_1(attended)
    return x + block.ls_2(block.mlp(block.ln_2(x))), weights
