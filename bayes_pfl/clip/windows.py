"""Square windows of patches through CLIP's image encoder, each as an image of its own: WinCLIP's features.

A window is [class token ; its patches] with the positions they have in the whole image; all other patches are left out.
Windows of one size have one length, so all of them, of all images, are a batch. What they share is computed once a
token and not once a window: normalisation and input projection of the first block. The last block computes the class
token alone.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.clip.blocks import image_feature, steps
from bayes_pfl.clip.cross_covariance import is_cross_covariance

TOKENS_AT_ONCE = 2**14
"""Tokens of all windows that go through the encoder together."""


def window_patches(side: int, scale: int) -> Int[Tensor, "windows patches"]:
    """Which patches each window has: every position of a square window, stride 1, row by row.

    Args:
        side: patches per side of the image.
        scale: patches per side of a window.

    Returns:
        Indices of patches, 0 at the top left, (side - scale + 1)^2 windows of scale^2 patches.
    """
    grid = torch.arange(side * side).view(side, side)
    return grid.unfold(0, scale, 1).unfold(1, scale, 1).reshape(-1, scale * scale)


def window_features(
    visual: Any, tokens: Float[Tensor, "batch tokens width"], windows: Int[Tensor, "windows patches"]
) -> Float[Tensor, "batch windows dim"]:
    """Image features of windows: T([class ; patches]), T all blocks, final normalisation and projection.

    Args:
        visual: of `blocks.image_encoder`.
        tokens: what the first block gets of the whole images (`blocks.embedded`).
        windows: of `window_patches`.

    Returns:
        Features in the joint space, not normalised.
    """
    if is_cross_covariance(visual):
        return _small_grids(visual, tokens, windows)
    count, length = windows.shape
    rows = torch.cat([windows.new_zeros(count, 1), windows + 1], dim=1).to(tokens.device)
    first = visual.transformer.resblocks[0]
    qkv = _input_projection(first, first.ln_1(tokens))
    features = []
    for part in rows.split(max(1, TOKENS_AT_ONCE // ((length + 1) * len(tokens)))):
        sequences = tokens[:, part].flatten(0, 1)
        features.append(_class_rows(visual, sequences, qkv[:, part].flatten(0, 1)).unflatten(0, (len(tokens), -1)))
    return torch.cat(features, dim=1) @ visual.proj


def window_coverage(windows: Int[Tensor, "windows patches"], patches: int) -> Float[Tensor, "windows all"]:
    """1 where a window has a patch, else 0.

    Args:
        windows: of `window_patches`.
        patches: patches of the whole image.

    Returns:
        The matrix.
    """
    return torch.zeros(len(windows), patches).scatter_(1, windows, 1.0)


def _small_grids(visual: Any, tokens: Tensor, windows: Tensor) -> Tensor:
    """The same for an encoder whose blocks have no class token."""
    rows = torch.cat([windows.new_zeros(len(windows), 1), windows + 1], dim=1).to(tokens.device)
    features = []
    for part in rows.split(max(1, TOKENS_AT_ONCE // (rows.shape[1] * len(tokens)))):
        *_, last = steps(visual, tokens[:, part].flatten(0, 1))
        features.append(image_feature(visual, last.after).unflatten(0, (len(tokens), -1)))
    return torch.cat(features, dim=1)


def _class_rows(visual: Any, x: Tensor, qkv: Tensor) -> Tensor:
    """The class row behind the last block and the final normalisation; `qkv` is the first block's input projection."""
    *blocks, last = visual.transformer.resblocks
    for index, block in enumerate(blocks):
        q, k, v = (qkv if index == 0 else _input_projection(block, block.ln_1(x))).chunk(3, dim=-1)
        x = _behind_attention(block, x, q, k, v)
    q, k, v = (_input_projection(last, last.ln_1(x)) if blocks else qkv).chunk(3, dim=-1)
    rows: Tensor = visual.ln_post(_behind_attention(last, x[:, :1], q[:, :1], k, v)[:, 0])
    return rows


def _input_projection(block: Any, normed: Tensor) -> Tensor:
    return F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias)


def _behind_attention(block: Any, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The rest of a block from queries, keys and values."""
    q, k, v = (part.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    x = x + block.ls_1(block.attn.out_proj(attended))
    result: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return result
