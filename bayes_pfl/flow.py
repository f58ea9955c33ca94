"""Planar normalising flow: a chain of rank-one maps that turns a Gaussian into a richer distribution."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn


def planar_step(
    z: Float[Tensor, "*batch dim"],
    u: Float[Tensor, "*#batch dim"],
    w: Float[Tensor, "*#batch dim"],
    b: Float[Tensor, "*#batch"],
    epsilon: float,
) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
    """h(z) = z + u tanh(w.z + b) and log|1 + u.psi(z)|, psi(z) = tanh'(w.z + b) w (eq. 6; Rezende and Mohamed, 2015).

    `epsilon` is added to |1 + u.psi| inside the logarithm (0 in the paper). u is not constrained to keep h invertible:
    neither the paper nor the released code does so.
    """
    activation = torch.tanh((w * z).sum(-1) + b)
    slope = 1 - activation.square()
    log_det = torch.log((1 + slope * (u * w).sum(-1)).abs() + epsilon)
    return z + u * activation.unsqueeze(-1), log_det


class PlanarFlow(nn.Module):
    """K planar steps with free u, w, b: q_K(z_K) = q_0(z_0) prod_k |1 + u_k.psi(z_k)|^-1 (eq. 6).

    u and w start at `scale` times a standard normal, b at 0: with a small scale the flow starts near the identity.
    """

    def __init__(self, dim: int, length: int, scale: float, epsilon: float) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.randn(length, dim) * scale)
        self.w = nn.Parameter(torch.randn(length, dim) * scale)
        self.b = nn.Parameter(torch.zeros(length))
        self.epsilon = epsilon

    def forward(self, z: Float[Tensor, "*batch dim"]) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """z_K and the summed log-determinant of the steps."""
        total = z.new_zeros(z.shape[:-1])
        for u, w, b in zip(self.u, self.w, self.b, strict=True):
            z, log_det = planar_step(z, u, w, b, self.epsilon)
            total = total + log_det
        return z, total


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
        """z_K and the summed log-determinant, every image with the steps of its own condition."""
        batch, _, dim = z.shape
        u = self.u(condition).view(batch, self.length, 1, dim)
        w = self.w(condition).view(batch, self.length, 1, dim)
        b = self.b(condition).view(batch, self.length, 1)
        total = z.new_zeros(z.shape[:-1])
        for k in range(self.length):
            z, log_det = planar_step(z, u[:, k], w[:, k], b[:, k], self.epsilon)
            total = total + log_det
        return z, total


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer; for K = 0 one without outputs, of which torch would warn that nothing is initialised."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        return nn.Linear(inputs, outputs)
