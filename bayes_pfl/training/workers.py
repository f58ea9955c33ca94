"""What training workers exchange: sums of loss vectors (with gradients), and the mean of the gradients."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


def sum_over_workers(local: Float[Tensor, "values"]) -> Float[Tensor, "values"]:
    """Sum of a vector over all workers of the process group.

    Args:
        local: this worker's vector.

    Returns:
        The sum; its gradient is the sum of the workers' gradients.
    """
    total: Tensor = _SumOverWorkers.apply(local)
    return total


def average_gradients(parameters: Sequence[nn.Parameter], workers: int) -> None:
    """Replace the gradients by their mean over the workers, sent as one vector.

    Args:
        parameters: the same parameters in the same order on every worker; one without a gradient counts as zero.
        workers: number of workers.
    """
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= workers
    for parameter, part in zip(parameters, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        parameter.grad = part.view_as(parameter).clone()


class _SumOverWorkers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
