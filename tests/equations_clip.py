"""CLIP as its definition reads, on a state dict with OpenAI's names: one image, one prompt, one head at a time."""

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]

HEAD_WIDTH = 64


def encode_image(
    clip: Weights, image: Tensor, layers: list[int], quick_gelu: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Global feature (dim) and the patch tokens (patches, width) after the given blocks, counted from 1."""
    kernel = clip["visual.conv1.weight"]
    patches = F.conv2d(image[None], kernel, stride=kernel.shape[-1])[0].flatten(1).T
    x = torch.cat([clip["visual.class_embedding"][None], patches]) + clip["visual.positional_embedding"]
    x = _norm(clip, "visual.ln_pre", x)
    chosen = []
    for number in range(1, _depth(clip, "visual.transformer") + 1):
        x = _block(clip, f"visual.transformer.resblocks.{number - 1}", x, causal=False, quick_gelu=quick_gelu)
        if number in layers:
            chosen.append(x[1:])
    return _norm(clip, "visual.ln_post", x[0]) @ clip["visual.proj"], chosen


def encode_text(clip: Weights, vectors: Tensor, name: list[int], start: int, quick_gelu: bool = False) -> Tensor:
    """Embedding (dim) of [start][vectors][class name and end][padding], at the end token of the full context."""
    table, positions = clip["token_embedding.weight"], clip["positional_embedding"]
    end = len(vectors) + len(name)
    padding = table[0].expand(len(positions) - end - 1, -1)
    x = torch.cat([table[start][None], vectors, table[torch.tensor(name)], padding]) + positions
    for index in range(_depth(clip, "transformer")):
        x = _block(clip, f"transformer.resblocks.{index}", x, causal=True, quick_gelu=quick_gelu)
    return _norm(clip, "ln_final", x)[end] @ clip["text_projection"]


def _depth(clip: Weights, tower: str) -> int:
    return sum(key.startswith(f"{tower}.resblocks.") and key.endswith(".ln_1.bias") for key in clip)


def _norm(clip: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
    return scaled * clip[f"{name}.weight"] + clip[f"{name}.bias"]


def _block(clip: Weights, name: str, x: Tensor, causal: bool, quick_gelu: bool) -> Tensor:
    """x + attention(norm(x)), then x + mlp(norm(x))."""
    normed = _norm(clip, f"{name}.ln_1", x)
    qkv = normed @ clip[f"{name}.attn.in_proj_weight"].T + clip[f"{name}.attn.in_proj_bias"]
    query, key, value = qkv.chunk(3, dim=-1)
    heads = x.shape[-1] // HEAD_WIDTH
    attended = []
    for q, k, v in zip(query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), strict=True):
        scores = q @ k.T / q.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        attended.append(scores.softmax(-1) @ v)
    x = x + torch.cat(attended, -1) @ clip[f"{name}.attn.out_proj.weight"].T + clip[f"{name}.attn.out_proj.bias"]
    hidden = _norm(clip, f"{name}.ln_2", x) @ clip[f"{name}.mlp.c_fc.weight"].T + clip[f"{name}.mlp.c_fc.bias"]
    hidden = hidden * torch.sigmoid(1.702 * hidden) if quick_gelu else F.gelu(hidden)
    return x + hidden @ clip[f"{name}.mlp.c_proj.weight"].T + clip[f"{name}.mlp.c_proj.bias"]
