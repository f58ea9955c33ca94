"""Samples of a Gaussian -> samples of a richer distribution with their log-determinant: planar flows (eq. 6)."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


def planar_flow(
    z: Float[Tensor, "*batch dim"],
    u: Float[Tensor, "steps *#batch dim"],
    w: Float[Tensor, "steps *#batch dim"],
    b: Float[Tensor, "steps *#batch"],
    epsilon: float,
) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
    """K steps h(z) = z + u tanh(w.z + b) with psi(z) = tanh'(w.z + b) w (eq. 6; Rezende and Mohamed, 2015).

    u is not constrained to keep h invertible: neither the paper nor the released code does so.

    Args:
        z: where the flow starts.
        u: of each step.
        w: of each step.
        b: of each step.
        epsilon: added to |1 + u.psi| inside the logarithm (0 in the paper).

    Returns:
        z_K, and sum_k log|1 + u_k.psi_k(z_k)| in nats.
    """
    if len(u) == 0:
        return z, z.new_zeros(z.shape[:-1])
    activations = []
    for step_u, step_w, step_b in zip(u.unbind(), w.unbind(), b.unbind(), strict=True):
        activation = torch.tanh((step_w * z).sum(-1) + step_b)
        z = z + step_u * activation.unsqueeze(-1)
        activations.append(activation)
    slopes = 1 - torch.stack(activations).square()
    products = (u * w).sum(-1)
    products = products.view(len(u), *[1] * (slopes.ndim - products.ndim), *products.shape[1:])
    return z, torch.log((1 + slopes * products).abs() + epsilon).sum(0)


class FlowStart(NamedTuple):
    """Where a planar flow starts, and its steps."""

    z: Float[Tensor, "*batch dim"]
    u: Float[Tensor, "steps *#batch dim"]
    w: Float[Tensor, "steps *#batch dim"]
    b: Float[Tensor, "steps *#batch"]


def planar_flows(
    starts: Sequence[FlowStart], epsilon: float
) -> list[tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]]:
    """Several flows of one length: one after the other on a CPU; elsewhere, where operations cost a launch, in one.

    Args:
        starts: of the flows.
        epsilon: see `planar_flow`.

    Returns:
        Each flow's end and log-determinant: together they are those of one after the other up to rounding.
    """
    if len(starts) <= 1 or starts[0].z.device.type == "cpu":
        return [planar_flow(*start, epsilon) for start in starts]
    return joined_flows(starts, epsilon)


def joined_flows(
    starts: Sequence[FlowStart], epsilon: float
) -> list[tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]]:
    """Several flows of one length as one, every row with its own steps.

    Args:
        starts: of the flows.
        epsilon: see `planar_flow`.

    Returns:
        Each flow's end and log-determinant.
    """
    z = torch.cat([start.z.flatten(0, -2) for start in starts])
    u = torch.cat([_by_row(start.u, start.z.shape).flatten(1, -2) for start in starts], 1)
    w = torch.cat([_by_row(start.w, start.z.shape).flatten(1, -2) for start in starts], 1)
    b = torch.cat([_by_row(start.b, start.z.shape[:-1]).flatten(1) for start in starts], 1)
    rows = [start.z.shape[:-1].numel() for start in starts]
    ends = zip(*(part.split(rows) for part in planar_flow(z, u, w, b, epsilon)), strict=True)
    return [
        (end.view(start.z.shape), log_det.view(start.z.shape[:-1]))
        for start, (end, log_det) in zip(starts, ends, strict=True)
    ]


def _by_row(steps: Tensor, shape: torch.Size) -> Tensor:
    """What the steps have in common, for each of the rows that they move."""
    missing = len(shape) + 1 - steps.ndim
    return steps.view(len(steps), *[1] * missing, *steps.shape[1:]).expand(len(steps), *shape)


class PlanarFlow(nn.Module):
    """K planar steps with free u, w, b: q_K(z_K) = q_0(z_0) prod_k |1 + u_k.psi(z_k)|^-1 (eq. 6).

    Args:
        dim: width of z.
        length: K; 0 is the identity.
        scale: u and w start at this times a standard normal, b at 0: with a small scale the flow starts near the
            identity.
        epsilon: added inside the logarithm of the determinant (0 in the paper).

    >>> flow = PlanarFlow(dim=3, length=2, scale=0.0, epsilon=0.0)
    >>> flow(torch.ones(5, 3))[1].tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """

    def __init__(self, dim: int, length: int, scale: float, epsilon: float) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.randn(length, dim) * scale)
        self.w = nn.Parameter(torch.randn(length, dim) * scale)
        self.b = nn.Parameter(torch.zeros(length))
        self.epsilon = epsilon

    def forward(self, z: Float[Tensor, "*batch dim"]) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """The flow's end.

        Args:
            z: where it starts.

        Returns:
            z_K, and the summed log-determinant of the steps in nats.
        """
        return planar_flow(*self.start(z), self.epsilon)

    def start(self, z: Float[Tensor, "*batch dim"]) -> FlowStart:
        """A start with this flow's steps.

        Args:
            z: where it starts.

        Returns:
            The start, for `planar_flows`.
        """
        return FlowStart(z, self.u, self.w, self.b)


class AmortizedPlanarFlow(nn.Module):
    """K planar steps whose u, w, b are linear in a condition (released implementation's context flow)."""

    def __init__(self, condition_dim: int, dim: int, length: int, epsilon: float) -> None:
        super().__init__()
        self.length = length
        self.u = _linear(condition_dim, length * dim)
        self.w = _linear(condition_dim, length * dim)
        self.b = _linear(condition_dim, length)
        self.epsilon = epsilon

    def forward(
        self, z: Float[Tensor, "batch samples dim"], condition: Float[Tensor, "batch condition"]
    ) -> tuple[Float[Tensor, "batch samples dim"], Float[Tensor, "batch samples"]]:
        """The flow's end, every image with the steps of its own condition.

        Args:
            z: where it starts.
            condition: one vector for each image.

        Returns:
            z_K, and the summed log-determinant of the steps in nats.
        """
        return planar_flow(*self.start(z, condition), self.epsilon)

    def start(self, z: Float[Tensor, "batch samples dim"], condition: Float[Tensor, "batch condition"]) -> FlowStart:
        """A start with the steps of each image's own condition.

        Args:
            z: where it starts.
            condition: one vector for each image.

        Returns:
            The start, for `planar_flows`.
        """
        batch, _, dim = z.shape
        u = self.u(condition).view(batch, self.length, 1, dim).transpose(0, 1)
        w = self.w(condition).view(batch, self.length, 1, dim).transpose(0, 1)
        b = self.b(condition).view(batch, self.length, 1).transpose(0, 1)
        return FlowStart(z, u, w, b)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer; for K = 0 one without outputs, of which torch would warn that nothing is initialised."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        return nn.Linear(inputs, outputs)
