"""Noise -> offsets of the prompts' words: image-specific and image-agnostic distribution (sections 3.2, 3.3)."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bayes_pfl.methods.prompt_flow.flow import AmortizedPlanarFlow, FlowStart, PlanarFlow, planar_flows


class OffsetSamples(NamedTuple):
    """Samples of a distribution with what its KL divergence needs, constants left out (they cancel)."""

    offset: Float[Tensor, "*batch samples dim"]
    """z_K: what is added, scaled, to the words of the banks."""
    log_ratio: Float[Tensor, "*batch samples"]
    """log q0(z0) - log p(zK), nats."""
    log_det: Float[Tensor, "*batch samples"]
    """Sum over the steps of log|1 + u.psi|, nats."""

    def divergence(self) -> Float[Tensor, "*batch samples"]:
        """One-sample estimate of KL(qK || N(0, I)) = log q0(z0) - log_det - log p(zK) (eq. 7, first three terms).

        Returns:
            Nats, for each sample.
        """
        return self.log_ratio - self.log_det


class Draw(NamedTuple):
    """Draws from q0, before their flow."""

    start: FlowStart
    log_q0: Float[Tensor, "*batch samples"]
    """log q0(z0) without its constant, nats."""


class InitialDensity(nn.Module):
    """q0 = N(mu(xi), diag Sigma(xi)): two networks of three linear layers with Softplus between.

    The variance network gives v with standard deviation exp(v * exponent): 0.5 makes v the log-variance; 0.25 is the
    released code's second square root. v starts near 0: q0 near the prior.
    """

    def __init__(self, condition_dim: int, dim: int, exponent: float, hidden: int = 0) -> None:
        super().__init__()
        self.mean = _three_layers(condition_dim, dim, hidden)
        self.log_variance = _three_layers(condition_dim, dim, hidden)
        self.exponent = exponent

    def sample(
        self, condition: Float[Tensor, "batch condition"], noise: Float[Tensor, "batch samples dim"]
    ) -> tuple[Float[Tensor, "batch samples dim"], Float[Tensor, "batch samples"]]:
        """z0 = mu + std * noise (reparameterised) and log q0(z0) without its constant.

        Args:
            condition: xi, one vector for each image.
            noise: standard-normal.

        Returns:
            z0, and log q0(z0) in nats.
        """
        log_std = self.log_variance(condition).unsqueeze(1) * self.exponent
        z = self.mean(condition).unsqueeze(1) + torch.exp(log_std) * noise
        return z, -(log_std + 0.5 * noise.square()).sum(-1)


class ImageSpecificDistribution(nn.Module):
    """q_K of the context words given the global image feature x (ISD).

    Given one free vector for all images it is image-agnostic instead (IAD-IAD of Figure 5).
    """

    def __init__(self, density: InitialDensity, flow: PlanarFlow | AmortizedPlanarFlow) -> None:
        super().__init__()
        self.density = density
        self.flow = flow

    def forward(
        self, condition: Float[Tensor, "batch condition"], noise: Float[Tensor, "batch samples dim"]
    ) -> OffsetSamples:
        """R samples for every image.

        Args:
            condition: x, one vector for each image.
            noise: standard-normal.

        Returns:
            The samples.
        """
        return offset_samples([self.draw(condition, noise)], self.flow.epsilon)[0]

    def draw(self, condition: Float[Tensor, "batch condition"], noise: Float[Tensor, "batch samples dim"]) -> Draw:
        """R draws from q0 for every image.

        Args:
            condition: x, one vector for each image.
            noise: standard-normal.

        Returns:
            The draws.
        """
        start, log_q0 = self.density.sample(condition, noise)
        if isinstance(self.flow, AmortizedPlanarFlow):
            return Draw(self.flow.start(start, condition), log_q0)
        return Draw(self.flow.start(start), log_q0)


class ImageAgnosticDistribution(nn.Module):
    """q_K of the state words given a learnable free vector, one for normal, one for abnormal (IAD).

    With x beside the free vectors the distributions are image-specific instead (ISD-ISD of Figure 5). The two share the
    density's network (paper); `flows` holds one shared flow or one for each of them.
    """

    def __init__(self, density: InitialDensity, flows: list[PlanarFlow], condition_dim: int) -> None:
        super().__init__()
        self.density = density
        self.flows = nn.ModuleList(flows)
        self.free_normal = nn.Parameter(torch.randn(condition_dim) * 0.02)
        self.free_abnormal = nn.Parameter(torch.randn(condition_dim) * 0.02)

    def draws(
        self,
        normal: Float[Tensor, "*batch samples dim"],
        abnormal: Float[Tensor, "*batch samples dim"],
        condition: Float[Tensor, "batch condition"] | None = None,
    ) -> list[Draw]:
        """R draws from q0 for each of the two states.

        Args:
            normal: noise of the normal state: for all images, or of each one where there is a condition.
            abnormal: noise of the abnormal state.
            condition: x, which is added to the free vectors: the distribution is then image-specific. Without its free
                vector a state would have the other one's distribution.

        Returns:
            Those of the normal and those of the abnormal state.
        """
        free, noise = torch.stack([self.free_normal, self.free_abnormal]).unsqueeze(1), torch.stack([normal, abnormal])
        if condition is None:
            given, noise = free, noise.unsqueeze(1)
        else:
            given = free + condition
        if normal.device.type == "cpu":  # one by one: the states' products keep their shapes
            draws = [self.density.sample(*each) for each in zip(given, noise, strict=True)]
        else:
            both = self.density.sample(given.flatten(0, 1), noise.flatten(0, 1))
            draws = list(zip(*(part.chunk(2) for part in both), strict=True))
        if condition is None:
            draws = [(start[0], log_q0[0]) for start, log_q0 in draws]
        flows = cast("list[PlanarFlow]", [self.flows[0], self.flows[-1]])
        return [Draw(flow.start(start), log_q0) for flow, (start, log_q0) in zip(flows, draws, strict=True)]


def offset_samples(draws: Sequence[Draw], epsilon: float) -> list[OffsetSamples]:
    """The samples that draws from q0 become.

    Args:
        draws: of one distribution or of several, whose flows have one length.
        epsilon: of their flows' log-determinant.

    Returns:
        Samples of each.
    """
    ends = planar_flows([draw.start for draw in draws], epsilon)
    return [
        OffsetSamples(end, draw.log_q0 + 0.5 * end.square().sum(-1), log_det)
        for draw, (end, log_det) in zip(draws, ends, strict=True)
    ]


def no_offsets(noise: Float[Tensor, "*batch samples dim"]) -> OffsetSamples:
    """Zero offsets with zero divergence: the samples of a distribution that is switched off (Table 2 of the paper).

    Args:
        noise: noise whose shape the samples take.

    Returns:
        The samples.
    """
    zeros = noise.new_zeros(noise.shape[:-1])
    return OffsetSamples(torch.zeros_like(noise), zeros, zeros)


def _three_layers(condition_dim: int, dim: int, hidden: int) -> nn.Sequential:
    """Three linear layers with Softplus between; a hidden width of 0 means half of the output's."""
    hidden = hidden or max(1, dim // 2)
    layers = nn.Sequential(
        nn.Linear(condition_dim, hidden),
        nn.Softplus(),
        nn.Linear(hidden, hidden),
        nn.Softplus(),
        nn.Linear(hidden, dim),
    )
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return layers
