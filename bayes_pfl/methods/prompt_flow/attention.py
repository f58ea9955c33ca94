"""Text embeddings, patch features -> refined text embeddings: residual cross-modal attention (section 3.4)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_pfl.errors import ConfigError


class ResidualCrossModalAttention(nn.Module):
    """F^t = Z + softmax(Q F^T / sqrt(C)) F with Q = Z W (eq. 10), for one layer's projected patch features F.

    Departs from the paper where configured as released: several heads (with the scale of the full width C), a bias of
    the query projection, and L2-normalised patch features (`BayesPFL.patch_features`).
    """

    def __init__(self, dim: int, heads: int, query_bias: bool) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"model.variant.attention_heads is {heads}, which does not divide the joint width {dim}.")
        self.query = nn.Linear(dim, dim, bias=query_bias)
        nn.init.normal_(self.query.weight, std=0.02)
        if query_bias:
            nn.init.zeros_(self.query.bias)
        self.heads = heads

    def forward(
        self,
        text: Float[Tensor, "batch prompts dim"],
        query: Float[Tensor, "batch prompts dim"],
        patches: Float[Tensor, "batch patches dim"],
    ) -> Float[Tensor, "batch prompts dim"]:
        """Refined text embeddings.

        Args:
            text: Z, L2-normalised.
            query: `self.query(text)`, the same for every layer.
            patches: F, the projected patch features of one layer.

        Returns:
            F^t, not normalised.
        """
        keys = patches.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        queries = query.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        weights = torch.softmax(queries @ keys.transpose(-1, -2) * text.shape[-1] ** -0.5, dim=-1)
        return text + (weights @ keys).transpose(1, 2).flatten(2)


def normalize(x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
    """L2-normalisation along the last axis.

    Args:
        x: any vectors.

    Returns:
        The vectors with length 1.
    """
    return F.normalize(x, dim=-1)
