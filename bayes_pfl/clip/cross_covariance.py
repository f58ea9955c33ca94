"""What `blocks` and `windows` do, for image encoders with cross-covariance attention (XCiT): the embedded CLIP's.

Their blocks have no class token: it meets the patches behind the last block, in class attention. Here a class row goes
through the blocks untouched, so that sequences look like those of CLIP's own encoder. Value attention is theirs
with values in place of queries and keys. A window is a small grid: their local convolutions see its patches alone.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def is_cross_covariance(visual: Any) -> bool:
    """Whether an image encoder is an XCiT of timm, in open_clip's wrapper.

    Args:
        visual: of an open_clip model.

    Returns:
        True for one whose class token is its image feature.
    """
    trunk: Any = getattr(visual, "trunk", None)
    return type(trunk).__name__ == "Xcit" and trunk.global_pool == "token" and trunk.cls_attn_blocks is not None


def sizes(visual: Any, image_size: int) -> tuple[tuple[int, int], int]:
    """Patch grid and width of the patch tokens.

    Args:
        visual: the encoder.
        image_size: side of the images, pixels.

    Returns:
        ((rows, columns), width).
    """
    side = -(-image_size // int(visual.trunk.patch_embed.patch_size))  # its strided convolutions pad
    return (side, side), int(visual.trunk.embed_dim)


def embedded(visual: Any, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens dim"]:
    """Class token and patches with their positions.

    Args:
        visual: the encoder.
        images: normalised images.

    Returns:
        What the first block gets, behind a class row.
    """
    trunk = visual.trunk
    patches, (rows, columns) = trunk.patch_embed(images)
    positions = trunk.pos_embed(len(patches), rows, columns).flatten(2).transpose(1, 2)
    return torch.cat([trunk.cls_token.expand(len(patches), -1, -1), patches + positions], dim=1)


def parts(
    visual: Any, tokens: Float[Tensor, "batch tokens width"]
) -> Iterator[tuple[Any, Tensor, Tensor, Tensor, Tensor]]:
    """The fields of `blocks.Step`, block by block; the class row stays as it is.

    Args:
        visual: the encoder.
        tokens: class rows and a square of patches.

    Returns:
        Block, and the stream before, normalised, behind the attention and behind the block; tokens first.
    """
    first, x = tokens[:, :1], tokens[:, 1:]
    side = int(x.shape[1] ** 0.5)

    def rows(patches: Tensor) -> Tensor:
        return torch.cat([first, patches], dim=1).transpose(0, 1)

    for block in visual.trunk.blocks:
        before, normed = x, block.norm1(x)
        between = x + block.gamma1 * block.attn(normed)
        x = between + block.gamma3 * block.local_mp(block.norm3(between), side, side)
        x = x + block.gamma2 * block.mlp(block.norm2(x))
        yield block, rows(before), rows(normed), rows(between), rows(x)


def prompted_steps(
    visual: Any, tokens: Float[Tensor, "batch tokens width"], prompts: Float[Tensor, "blocks batch prompts width"]
) -> Iterator[Float[Tensor, "batch tokens width"]]:
    """As `blocks.prompted_steps`: attention and MLP see the prompts, local convolutions the patches alone.

    Args:
        visual: the encoder.
        tokens: class rows and a square of patches.
        prompts: of the first blocks, one set a block.

    Returns:
        The tokens behind each block, without the prompts.
    """
    first, x = tokens[:, :1], tokens[:, 1:]
    own, side = x.shape[1], int(x.shape[1] ** 0.5)
    for index, block in enumerate(visual.trunk.blocks):
        if index < len(prompts):
            x = torch.cat([x[:, :own], prompts[index].to(x.dtype)], dim=1)
        x = x + block.gamma1 * block.attn(block.norm1(x))
        patches = x[:, :own] + block.gamma3 * block.local_mp(block.norm3(x[:, :own]), side, side)
        x = torch.cat([patches, x[:, own:]], dim=1)
        x = x + block.gamma2 * block.mlp(block.norm2(x))
        yield torch.cat([first, x[:, :own]], dim=1)


def value_attention(block: Any, normed: Float[Tensor, "tokens batch width"]) -> Float[Tensor, "tokens batch width"]:
    """Cross-covariance attention of values with themselves, through the block's own output projection.

    Args:
        block: of the encoder.
        normed: `blocks.Step.normed`.

    Returns:
        The attention's output; 0 for the class row, which has none.
    """
    attention, width = block.attn, normed.shape[-1]
    weight, bias = attention.qkv.weight[2 * width :], attention.qkv.bias[2 * width :]
    value = F.linear(normed[1:], weight, bias).unflatten(-1, (attention.num_heads, -1)).permute(1, 2, 3, 0)
    unit = F.normalize(value, dim=-1)
    attended = (unit @ unit.transpose(-2, -1) * attention.temperature).softmax(dim=-1) @ value
    output = attention.proj(attended.permute(3, 0, 1, 2).flatten(2))
    return torch.cat([torch.zeros_like(output[:1]), output])


def image_feature(
    visual: Any, tokens: Float[Tensor, "tokens batch width"], normalised: bool
) -> Float[Tensor, "batch dim"]:
    """The class token behind class attention, in the joint space.

    Args:
        visual: the encoder.
        tokens: behind the last block.
        normalised: whether it goes through the final normalisation.

    Returns:
        Image features.
    """
    rows = visual.trunk.forward_cls(tokens[1:].transpose(0, 1))
    feature: Tensor = visual.head((visual.trunk.norm(rows) if normalised else rows)[:, 0])
    return feature
