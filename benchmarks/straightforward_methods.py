"""Compared methods written down as their equations read, on the weights of the fast ones: what `methods.py` compares with.

CLIP's blocks run through torch's own module, one image at a time, its attention fused and without returned weights; value
attention is two products with a softmax between them; sentences have all 77 tokens. Text vectors that depend on a class
alone are given, as the released codes compute them once.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.methods.ada_clip.fusion import cluster_feature, cluster_seed, partition
from bayes_pfl.methods.ada_clip.method import AdaClip
from bayes_pfl.methods.anomaly_clip import AnomalyClip
from bayes_pfl.methods.april_gan import AprilGan
from bayes_pfl.methods.clip_ad import ClipAd

CLASS_NAME = "bottle"
IMAGE_KEY = b"image"


class Answer(NamedTuple):
    """Map (size, size) before smoothing, and the text score."""

    anomaly_map: Tensor
    text_score: float


def april_gan(scorer: AprilGan, backbone: Backbone, pixels: Tensor) -> Answer:
    """Linear layers on patch tokens, each map upsampled before its softmax."""
    visual: Any = backbone.clip.visual
    text = scorer.text.vectors((CLASS_NAME,))[0]
    x, states = _start(visual, pixels), {}
    for number, block in enumerate(visual.transformer.resblocks, 1):
        x, _ = _block(block, x)
        states[number] = x
    maps = _linear_maps(scorer, [states[layer] for layer in backbone.config.feature_layers], text)
    return Answer(maps.mean(0), _image_score(_projected(visual, x[0]), text, scorer.model.scale))


def clip_ad(scorer: ClipAd, backbone: Backbone, pixels: Tensor) -> Answer:
    """SDP+: surgery tokens of the staged second path, and linear layers on the ordinary one."""
    visual: Any = backbone.clip.visual
    text, blocks = scorer.text.vectors((CLASS_NAME,))[0], visual.transformer.resblocks
    stage = len(blocks) // scorer.model.stages
    x, stream, ordinary, second = _start(visual, pixels), torch.zeros(()), {}, {}
    for number, block in enumerate(blocks, 1):
        value = _value_attention(block, block.ln_1(x))
        stream = value if number % stage == 1 % stage else stream + value
        x, between = _block(block, x)
        ordinary[number - 1] = between
        ordinary[number], second[number] = x, stream
    surgery = torch.zeros(len(x) - 1)
    for layer in backbone.config.feature_layers:
        tokens = F.normalize(_projected(visual, torch.cat([ordinary[layer][:1], second[layer][1:]])[:, 0]), dim=-1)
        cosines = tokens @ text.T
        weighted = cosines[:1].softmax(-1) * cosines
        surgery = surgery + (weighted[:, 1] - weighted[:, 0])[1:]
    linear = _linear_maps(scorer, [ordinary[layer] for layer in backbone.config.feature_layers], text)
    released = _upsampled(surgery[None], scorer.size, align_corners=False)[0] + linear.sum(0)
    least, extent = scorer.map_range()
    return Answer((released - least) / extent, _image_score(_projected(visual, x[0]), text, scorer.model.scale))


def anomaly_clip(scorer: AnomalyClip, backbone: Backbone, pixels: Tensor) -> Answer:
    """The stream of value attention beside the ordinary one."""
    visual: Any = backbone.clip.visual
    text, model = scorer.text, scorer.model
    x, states = _start(visual, pixels), {}
    stream = x
    for number, block in enumerate(visual.transformer.resblocks, 1):
        value = _value_attention(block, block.ln_1(x)) if number >= model.first_value_block else None
        x, _ = _block(block, x)
        stream = x if value is None else stream + value
        states[number] = stream
    maps = []
    for layer in backbone.config.feature_layers:
        rows = F.normalize(_projected(visual, states[layer][1:, 0]), dim=-1)
        full = _upsampled((rows @ text.T / model.temperature).softmax(-1).T, scorer.size, align_corners=False)
        maps.append((full[1] + 1 - full[0]) / 2)
    image = x[0] @ visual.proj
    return Answer(torch.stack(maps).mean(0), _image_score(image, text, 1 / model.temperature))


def ada_clip(scorer: AdaClip, backbone: Backbone, pixels: Tensor) -> Answer:
    """Two image passes, the second one prompted, and all sentences once more for the image."""
    visual: Any = backbone.clip.visual
    head, model, blocks = scorer.head, scorer.model, visual.transformer.resblocks
    x = start = _start(visual, pixels)
    for block in blocks:
        x, _ = _block(block, x)
    dynamic = head.dynamic(_projected(visual, x[0]))
    x, count, states = start, model.prompt_tokens, {}
    for number, block in enumerate(blocks, 1):
        if number <= model.prompted_blocks:
            prompts = (head.image_prompts[number - 1] + dynamic.image[0])[:, None]
            x = torch.cat([x if number == 1 else x[:-count], prompts])
        x, _ = _block(block, x)
        states[number] = x[:-count]
    text = _prompted_text(scorer, backbone, dynamic.text[0])
    layers = zip(head.patch_layers, backbone.config.feature_layers, strict=True)
    rows = torch.stack([F.normalize(linear(states[layer][1:, 0]), dim=-1) for linear, layer in layers])
    logits = model.scale * rows @ text.T
    full = torch.stack([_upsampled(each.T, scorer.size, align_corners=True) for each in logits]).mean(0).softmax(0)
    image = F.normalize(head.image_layer(_projected(visual, x[0])), dim=-1)
    parts = partition(model, rows, logits[..., 1] - logits[..., 0], cluster_seed(IMAGE_KEY, 0))
    fused = model.cluster_weight * cluster_feature(rows, parts) + (1 - model.cluster_weight) * image
    return Answer((full[1] + 1 - full[0]) / 2, _image_score(fused, text, model.scale))


def _prompted_text(scorer: AdaClip, backbone: Backbone, dynamic: Tensor) -> Tensor:
    """t_n, t_a of the image, from all sentences with 77 tokens."""
    tower: Any = backbone.text_tower
    count, vectors = scorer.model.prompt_tokens, []
    length = len(tower.positional_embedding)
    mask = torch.full((length, length), -torch.inf).triu(1)
    for sentences in scorer.model.wording.sentences(CLASS_NAME):
        ids = backbone.tokenizer(list(sentences))
        x = (tower.token_embedding(ids) + tower.positional_embedding).transpose(0, 1)
        for number, block in enumerate(tower.transformer.resblocks):
            if 1 <= number < scorer.model.prompted_blocks:
                prompts = (scorer.head.text_prompts[number] + dynamic)[:, None].expand(-1, x.shape[1], -1)
                x = torch.cat([x[:1], prompts, x[1 + count :]])
            x, _ = _block(block, x, mask)
        ends = (ids == backbone.tokenizer.eot_token_id).int().argmax(1)
        embeddings = tower.ln_final(x[ends, torch.arange(len(ids))]) @ tower.text_projection
        vectors.append(F.normalize(F.normalize(embeddings, dim=-1).mean(0), dim=0))
    return torch.stack(vectors)


def _start(visual: Any, pixels: Tensor) -> Tensor:
    """Tokens in front of the first block, (tokens, 1, width)."""
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
    return visual.ln_pre(x).transpose(0, 1)


def _block(block: Any, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One block, and what lies between its attention and its perceptron."""
    normed = block.ln_1(x)
    between = x + block.ls_1(block.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0])
    return between + block.ls_2(block.mlp(block.ln_2(between))), between


def _value_attention(block: Any, normed: Tensor) -> Tensor:
    """Values attend to values: softmax(v v^T / sqrt(head width)) v, through the block's output layer."""
    attention, width = block.attn, normed.shape[-1]
    values = F.linear(normed[:, 0], attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    heads = values.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
    weights = (heads @ heads.transpose(1, 2) * heads.shape[-1] ** -0.5).softmax(-1)
    return attention.out_proj((weights @ heads).transpose(0, 1).flatten(1))[:, None]


def _projected(visual: Any, rows: Tensor) -> Tensor:
    return visual.ln_post(rows) @ visual.proj


def _linear_maps(scorer: AprilGan | ClipAd, tokens: list[Tensor], text: Tensor) -> Tensor:
    """(layers, size, size): logits upsampled with align_corners, then softmax."""
    assert scorer.head is not None
    maps = []
    for linear, states in zip(scorer.head.fc, tokens, strict=True):
        rows = F.normalize(linear(states[1:, 0]), dim=-1)
        maps.append(_upsampled((scorer.model.scale * rows @ text.T).T, scorer.size, align_corners=True).softmax(0)[1])
    return torch.stack(maps)


def _upsampled(rows: Tensor, size: int, align_corners: bool) -> Tensor:
    """(channels, patches) -> (channels, size, size)."""
    side = int(rows.shape[1] ** 0.5)
    grid = rows.view(1, len(rows), side, side)
    return F.interpolate(grid, size=(size, size), mode="bilinear", align_corners=align_corners)[0]


def _image_score(image: Tensor, text: Tensor, scale: float) -> float:
    return float((scale * F.normalize(image.flatten(), dim=0) @ text.T).softmax(0)[1])
