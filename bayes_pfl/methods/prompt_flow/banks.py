"""Learnable vectors of the B normal and the B abnormal prompts (eq. 1, 2)."""

import torch
from torch import Tensor, nn


class PromptBanks(nn.Module):
    """Context words (B, P, C), shared by both banks, and state words (B, Q, C) of each.

    Truncated normal of standard deviation 0.02 around 0 (context), +0.5 (normal state) and -0.5 (abnormal state), as
    released.
    """

    def __init__(self, num_prompts: int, context_tokens: int, state_tokens: int, dim: int) -> None:
        super().__init__()
        self.context = nn.Parameter(_truncated_normal(num_prompts, context_tokens, dim, mean=0.0))
        self.normal = nn.Parameter(_truncated_normal(num_prompts, state_tokens, dim, mean=0.5))
        self.abnormal = nn.Parameter(_truncated_normal(num_prompts, state_tokens, dim, mean=-0.5))


def _truncated_normal(*shape: int, mean: float) -> Tensor:
    std = 0.02
    return nn.init.trunc_normal_(torch.empty(*shape), mean=mean, std=std, a=mean - 2 * std, b=mean + 2 * std)
