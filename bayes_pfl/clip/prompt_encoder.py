"""Learned prompts through CLIP's frozen text transformer -> text embeddings, exactly and without repeated work.

The normal and the abnormal prompt of one (bank, sample) differ behind their context. They go through the transformer as
one sequence in the shape of a tree:

                          .-- normal state ---- class name -- [end]    embedding 0
    [start] -- context --<
                          '-- abnormal state -- class name -- [end]    embedding 1

    row               of them   position        what it attends to (1: all, /: itself and what is before it, 0: nothing)
                                                start  context  normal  abnormal
    context           P         1 ..              1       /       0        0
    normal branch     Q + n     P + 1 ..          1       1       /        0
    abnormal branch   Q + n     P + 1 ..          1       1       0        /

P context words, Q state words, n tokens of the class name with its end of text. A causal encoder allows four savings
that change nothing but rounding: the sequence ends with the end of text; the start token sees only itself, so its keys
and values are computed once; the context is computed once for both branches; and the last block computes the two
end-of-text rows alone.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.loading import SERVED
from bayes_pfl.clip.placement import bfloat16_products, is_reduced
from bayes_pfl.errors import BackboneError


class ClassTokens(NamedTuple):
    """Token ids of a batch of class names, end of text included, padded with zeros behind it."""

    ids: Int[Tensor, "batch tokens"]
    lengths: Int[Tensor, "batch"]


class PromptEncoder(nn.Module):
    """Text embeddings of tree-shaped learned prompts; gradients reach the prompts, never CLIP.

    Raises BackboneError where the text tower is not CLIP's: other blocks, another mask or another pooling would be
    silently wrong here.
    """

    start_keys: Tensor
    start_values: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        tower = backbone.text_tower
        blocks = list(tower.transformer.resblocks)
        if not reads_as_clip(tower, blocks):
            raise BackboneError(
                f"{backbone.config.name} has a text tower that is not CLIP's, a transformer that reads from left to "
                f"right and gives the state of its end of text; {SERVED}."
            )
        self._tower: tuple[Any, ...] = (tower,)  # in a tuple: frozen, so not a parameter of this module
        self._blocks = blocks
        self._reduced = is_reduced(backbone)
        keys, values = self._encode_start(int(backbone.tokenizer.sot_token_id))
        self.register_buffer("start_keys", keys, persistent=False)
        self.register_buffer("start_values", values, persistent=False)

    def forward(
        self,
        context: Float[Tensor, "batch prompts context width"],
        normal: Float[Tensor, "batch prompts state width"],
        abnormal: Float[Tensor, "batch prompts state width"],
        class_tokens: ClassTokens,
    ) -> Float[Tensor, "batch prompts 2 dim"]:
        """Embeddings of [start][context][state][class name][end], not normalised.

        Args:
            context: context words of each prompt.
            normal: words of its normal state.
            abnormal: words of its abnormal state.
            class_tokens: of each image's class name.

        Returns:
            Embeddings with the normal (0) and the abnormal state (1).
        """
        with bfloat16_products(context.device, self._reduced):
            return self._encode(context, normal, abnormal, class_tokens)

    def _encode(self, context: Tensor, normal: Tensor, abnormal: Tensor, class_tokens: ClassTokens) -> Tensor:
        tower = self._tower[0]
        batch, prompts, context_length, width = context.shape
        branch = normal.shape[2] + class_tokens.ids.shape[1]
        position = tower.positional_embedding[1 : 1 + context_length + branch]
        names = tower.token_embedding(class_tokens.ids).unsqueeze(1).expand(-1, prompts, -1, -1)
        x = torch.cat([context, normal, names, abnormal, names], dim=2)
        x = x + torch.cat([position, position[context_length:]]).to(x.dtype)
        x = x.flatten(0, 1)
        ends = context_length + normal.shape[2] + class_tokens.lengths - 1
        rows = torch.stack([ends, ends + branch], dim=1).repeat_interleave(prompts, dim=0)
        mask = tree_mask(context_length, branch, x.device)
        for index, block in enumerate(self._blocks[:-1]):
            x = self._block(block, x, x, index, mask)
        last = x.gather(1, rows.unsqueeze(-1).expand(-1, -1, width))
        x = self._block(self._blocks[-1], last, x, len(self._blocks) - 1, mask[rows].unsqueeze(1))
        x = tower.ln_final(x)
        projection = tower.text_projection
        x = projection(x) if isinstance(projection, nn.Module) else x @ projection
        return x.view(batch, prompts, 2, -1)

    def _block(self, block: Any, queries: Tensor, sequence: Tensor, index: int, mask: Tensor) -> Tensor:
        """One residual block for the rows `queries` of `sequence`, the start token's keys and values in front."""
        attention = block.attn
        heads, width = attention.num_heads, attention.embed_dim
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        normed = block.ln_1(sequence)
        if queries is sequence:
            q, k, v = F.linear(normed, weight, bias).chunk(3, dim=-1)
        else:
            q = F.linear(block.ln_1(queries), weight[:width], bias[:width])
            k, v = F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
        k = torch.cat([self.start_keys[index].to(k.dtype).expand(len(k), 1, -1), k], dim=1)
        v = torch.cat([self.start_values[index].to(v.dtype).expand(len(v), 1, -1), v], dim=1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = queries + block.ls_1(attention.out_proj(attended.transpose(1, 2).flatten(2)))
        return x + block.ls_2(block.mlp(block.ln_2(x)))

    @torch.no_grad()
    def _encode_start(self, token: int) -> tuple[Float[Tensor, "blocks width"], Float[Tensor, "blocks width"]]:
        """Keys and values of the start token in every block: it sees only itself, so no prompt changes them."""
        tower = self._tower[0]
        x = tower.token_embedding.weight[token] + tower.positional_embedding[0]
        keys, values = [], []
        with bfloat16_products(x.device, self._reduced):
            for block in self._blocks:
                qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
                _, key, value = qkv.chunk(3, dim=-1)
                keys.append(key)
                values.append(value)
                x = x + block.ls_1(block.attn.out_proj(value))
                x = x + block.ls_2(block.mlp(block.ln_2(x)))
        return torch.stack(keys), torch.stack(values)


def reads_as_clip(tower: Any, blocks: list[Any]) -> bool:
    """Whether a text tower has CLIP's blocks, its causal mask, and its pooling at the end of text.

    Args:
        tower: open_clip's text tower.
        blocks: its residual blocks.

    Returns:
        False for any other tower.
    """
    if any(not isinstance(getattr(block, "attn", None), nn.MultiheadAttention) for block in blocks):
        return False
    if getattr(tower, "attn_mask", None) is None or getattr(tower, "cls_emb", None) is not None:
        return False  # open_clip's only mask is the causal one
    return getattr(tower, "text_pool_type", getattr(tower, "pool_type", "argmax")) in ("argmax", "eos")


def tree_mask(context: int, branch: int, device: torch.device) -> Bool[Tensor, "rows columns"]:
    """Attention mask of the prompt tree, as the module's picture has it.

    Args:
        context: number of context words.
        branch: number of tokens of one branch.
        device: where the mask is needed.

    Returns:
        True where a row attends to a column; column 0 is the start token.
    """
    length = context + 2 * branch
    mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    mask[context + branch :, context : context + branch] = False
    return torch.cat([torch.ones(length, 1, dtype=torch.bool, device=device), mask], dim=1)


def pad_class_tokens(tokens: list[list[int]], device: torch.device | None = None) -> ClassTokens:
    """Token ids of class names as one padded batch.

    Args:
        tokens: ids of each name, end of text included.
        device: where the batch is needed.

    Returns:
        The batch.
    """
    length = max(len(ids) for ids in tokens)
    padded = [ids + [0] * (length - len(ids)) for ids in tokens]
    lengths = torch.tensor([len(ids) for ids in tokens])
    return ClassTokens(torch.tensor(padded).to(device), lengths.to(device))
