"""Patch tokens of all chosen layers -> x_patch, one vector for each image (x = x_cls + x_patch, section 3.5)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MeanPooling(nn.Module):
    """x_patch = linear(global average pool(concatenation over layers of the patch tokens)) (section 3.5)."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, dim)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)

    def forward(self, patches: Float[Tensor, "layers batch patches width"]) -> Float[Tensor, "batch dim"]:
        """One vector for each image.

        Args:
            patches: patch tokens of the chosen blocks.

        Returns:
            x_patch.
        """
        return self.project(patches.mean(2).transpose(0, 1).flatten(1))


class AttentionPooling(nn.Module):
    """Linear, softmax-weighted sum over patches, linear: the released implementation's fusion.

    Weighting and summing come first and the projection after: the weights sum to one, so the result is the same and the
    projection of every patch (5.7 GFLOP at 518 px) becomes that of one vector.
    """

    def __init__(self, width: int, dim: int, hidden: int = 0) -> None:
        super().__init__()
        hidden = hidden or max(1, dim // 2)
        self.fuse = nn.Linear(width, hidden)
        self.compress = nn.Linear(hidden, 1)
        self.project = nn.Linear(hidden, dim)
        for layer in (self.fuse, self.compress, self.project):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, patches: Float[Tensor, "layers batch patches width"]) -> Float[Tensor, "batch dim"]:
        """One vector for each image.

        Args:
            patches: patch tokens of the chosen blocks.

        Returns:
            x_patch.
        """
        direction = (self.compress.weight @ self.fuse.weight).view(len(patches), -1)
        # layer by layer: products over all of them would copy the patches; both biases' constant cancels in the softmax
        scores = torch.stack([layer @ part for layer, part in zip(patches, direction, strict=True)]).sum(0)
        weights = scores.softmax(-1).unsqueeze(1)
        return self.project(self.fuse(torch.cat([(weights @ layer).squeeze(1) for layer in patches], dim=-1)))
