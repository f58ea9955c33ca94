"""Token sequences through the blocks of CLIP's image encoder, one by one: what a plain pass does not hand out.

A step gives what the residual stream is in front of a block, normalised, between its attention and its MLP, and behind
it. The blocks' own modules are called in their own order, so the last step equals a plain pass, and nothing is hooked,
replaced or kept: several methods may share an encoder. Sequences are (tokens, batch, width) here, which attention runs
fastest on.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_pfl.clip import cross_covariance
from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.errors import BackboneError


class Step(NamedTuple):
    """The residual stream at one block."""

    block: Any
    before: Float[Tensor, "tokens batch width"]
    normed: Float[Tensor, "tokens batch width"]
    """`ln_1` of what is before: what queries, keys and values are made of."""
    between: Float[Tensor, "tokens batch width"]
    """Behind the attention's sum, in front of the MLP's."""
    after: Float[Tensor, "tokens batch width"]


def image_encoder(backbone: Backbone) -> Any:
    """CLIP's own image encoder, whose class token and blocks are those of the paper.

    Args:
        backbone: the frozen CLIP.

    Returns:
        open_clip's vision transformer, or an encoder with cross-covariance attention, such as the embedded CLIP's.

    Raises:
        BackboneError: the image encoder has other blocks or another pooling.
    """
    visual = backbone.clip.visual
    if cross_covariance.is_cross_covariance(visual):
        return visual
    if (
        not isinstance(visual, open_clip.transformer.VisionTransformer)
        or visual.attn_pool is not None
        or visual.pool_type != "tok"
        or any(
            type(block) is not open_clip.transformer.ResidualAttentionBlock for block in visual.transformer.resblocks
        )
    ):
        raise BackboneError(
            f"{backbone.config.name} has an image encoder whose blocks or class token are not those of CLIP's own, "
            "which this method computes with: choose one such as ViT-B-16, ViT-B-16-plus-240, ViT-L-14-336 or ViT-H-14."
        )
    return visual


def depth(visual: Any) -> int:
    """Number of blocks.

    Args:
        visual: of `image_encoder`.

    Returns:
        The number.
    """
    return len(visual.trunk.blocks if cross_covariance.is_cross_covariance(visual) else visual.transformer.resblocks)


def embedded(visual: Any, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens dim"]:
    """Class token and patches with their positions, normalised: what the first block gets.

    Args:
        visual: of `image_encoder`.
        images: normalised images.

    Returns:
        ln_pre([class ; patches] + positional embedding).
    """
    if cross_covariance.is_cross_covariance(visual):
        return cross_covariance.embedded(visual, images)
    patches = visual.conv1(images).flatten(2).transpose(1, 2)
    first = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    tokens: Tensor = visual.ln_pre(torch.cat([first, patches], dim=1) + visual.positional_embedding.to(patches.dtype))
    return tokens


def steps(visual: Any, tokens: Float[Tensor, "batch tokens width"]) -> Iterator[Step]:
    """Run all blocks and hand out what lies between them.

    Args:
        visual: of `image_encoder`.
        tokens: what the first block gets.

    Returns:
        A step a block, in order.
    """
    if cross_covariance.is_cross_covariance(visual):
        yield from itertools.starmap(Step, cross_covariance.parts(visual, tokens))
        return
    x = tokens.transpose(0, 1).contiguous()
    for block in visual.transformer.resblocks:
        normed = block.ln_1(x)
        between = x + block.ls_1(block.attention(normed))
        after = between + block.ls_2(block.mlp(block.ln_2(between)))
        yield Step(block, x, normed, between, after)
        x = after


def value_attention(block: Any, normed: Float[Tensor, "tokens batch width"]) -> Float[Tensor, "tokens batch width"]:
    """V-V attention: per head softmax(v v^T / sqrt(d)) v, through the block's own output projection.

    Args:
        block: whose value projection and output projection are used.
        normed: `Step.normed`.

    Returns:
        The attention's output, without a sum.
    """
    if not isinstance(block.attn, nn.MultiheadAttention):
        return cross_covariance.value_attention(block, normed)
    attention: nn.MultiheadAttention = block.attn
    width, heads = attention.embed_dim, attention.num_heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    assert bias is not None
    value = F.linear(normed, weight[2 * width :], bias[2 * width :])
    per_head = value.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
    attended = F.scaled_dot_product_attention(per_head, per_head, per_head)
    output: Tensor = attention.out_proj(attended.permute(2, 0, 1, 3).flatten(2))
    return output


def projected(visual: Any, tokens: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows dim"]:
    """Tokens in the joint space, by the encoder's own last steps.

    Args:
        visual: open_clip's own encoder, or one of timm's with a final normalisation.
        tokens: of any block.

    Returns:
        The final normalisation of the tokens times the projection.
    """
    own = hasattr(visual, "ln_post")
    rows: Tensor = visual.ln_post(tokens) @ visual.proj if own else visual.head(visual.trunk.norm(tokens))
    return rows


def image_feature(
    visual: Any, tokens: Float[Tensor, "tokens batch width"], normalised: bool = True
) -> Float[Tensor, "batch dim"]:
    """The class token in the joint space.

    Args:
        visual: of `image_encoder`.
        tokens: behind the last block.
        normalised: whether it goes through the final normalisation.

    Returns:
        Image features.
    """
    if cross_covariance.is_cross_covariance(visual):
        return cross_covariance.image_feature(visual, tokens, normalised)
    feature: Tensor = (visual.ln_post(tokens[0]) if normalised else tokens[0]) @ visual.proj
    return feature


def prompted_steps(
    visual: Any, tokens: Float[Tensor, "batch tokens width"], prompts: Float[Tensor, "blocks batch prompts width"]
) -> Iterator[Float[Tensor, "batch tokens width"]]:
    """Run all blocks with prompts behind the tokens: appended before the first block, then replaced, then flowing on.

    Args:
        visual: of `image_encoder`.
        tokens: what the first block gets.
        prompts: of the first blocks, one set a block.

    Returns:
        The tokens behind each block, without the prompts. Gradients reach the prompts.
    """
    if cross_covariance.is_cross_covariance(visual):
        yield from cross_covariance.prompted_steps(visual, tokens, prompts)
        return
    count = prompts.shape[2]
    x = tokens.transpose(0, 1)
    own = len(x)
    for index, block in enumerate(visual.transformer.resblocks):
        if index < len(prompts):
            x = torch.cat([x[:own], prompts[index].transpose(0, 1).to(x.dtype)])
        x = block(x)
        assert len(x) == own + count
        yield x[:own].transpose(0, 1)
