"""Heads of methods: built with the initial weights of a seed, or with given ones, whatever the caller has drawn."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Head = TypeVar("Head", bound=nn.Module)


def seeded(make: Callable[[], Head], seed: int) -> Head:
    """A head with initial weights: every worker starts from the same ones.

    Args:
        make: builds it.
        seed: of the weights.

    Returns:
        The head; the caller's generator is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def loaded(make: Callable[[], Head], weights: dict[str, Tensor]) -> Head:
    """A head with given weights, for scoring.

    Args:
        make: builds it.
        weights: state dict.

    Returns:
        The head in evaluation mode; the caller's generator is left alone.

    Raises:
        RuntimeError: the weights do not fit.
    """
    with torch.random.fork_rng(devices=[]):  # the initial weights are replaced
        head = make()
    head.load_state_dict(weights)
    return head.eval()
