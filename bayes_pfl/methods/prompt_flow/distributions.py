"""Prompt banks and the distributions whose samples are added to them (sections 3.2 and 3.3 of the paper)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bayes_pfl.methods.prompt_flow.flow import AmortizedPlanarFlow, PlanarFlow


class Draws(NamedTuple):
    """Standard-normal draws behind R Monte Carlo samples; the states' are shared by all images."""

    context: Float[Tensor, "batch samples dim"]
    normal: Float[Tensor, "samples dim"]
    abnormal: Float[Tensor, "samples dim"]


class Sampled(NamedTuple):
    """Samples of a distribution with what its KL divergence needs, constants left out (they cancel)."""

    offset: Float[Tensor, "*batch samples dim"]
    log_ratio: Float[Tensor, "*batch samples"]
    """log q0(z0) - log p(zK)."""
    log_det: Float[Tensor, "*batch samples"]
    """Sum over the steps of log|1 + u.psi|."""

    def divergence(self) -> Float[Tensor, "*batch samples"]:
        """One-sample estimate of KL(qK || N(0, I)): log q0(z0) - log_det - log p(zK) (eq. 7, first three terms)."""
        return self.log_ratio - self.log_det


class PromptBanks(nn.Module):
    """Learnable vectors of the B normal and B abnormal prompts; the context is shared by the two (eq. 1, 2).

    Truncated normal of std 0.02 around 0 (context), +0.5 (normal state) and -0.5 (abnormal state), as released.
    """

    def __init__(self, num_prompts: int, context_tokens: int, state_tokens: int, dim: int) -> None:
        super().__init__()
        self.context = nn.Parameter(_truncated_normal(num_prompts, context_tokens, dim, mean=0.0))
        self.normal = nn.Parameter(_truncated_normal(num_prompts, state_tokens, dim, mean=0.5))
        self.abnormal = nn.Parameter(_truncated_normal(num_prompts, state_tokens, dim, mean=-0.5))


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
        """z0 = mu + std * noise (reparameterised) and log q0(z0) without its constant."""
        log_std = self.log_variance(condition).unsqueeze(1) * self.exponent
        z = self.mean(condition).unsqueeze(1) + torch.exp(log_std) * noise
        return z, -(log_std + 0.5 * noise.square()).sum(-1)


class ImageSpecificDistribution(nn.Module):
    """q_K of the context words given the global image feature x (ISD)."""

    def __init__(self, density: InitialDensity, flow: PlanarFlow | AmortizedPlanarFlow) -> None:
        super().__init__()
        self.density = density
        self.flow = flow

    def forward(
        self, condition: Float[Tensor, "batch condition"], noise: Float[Tensor, "batch samples dim"]
    ) -> Sampled:
        """R samples for every image."""
        start, log_q0 = self.density.sample(condition, noise)
        if isinstance(self.flow, AmortizedPlanarFlow):
            end, log_det = self.flow(start, condition)
        else:
            end, log_det = self.flow(start)
        return Sampled(end, log_q0 + 0.5 * end.square().sum(-1), log_det)


class ImageAgnosticDistribution(nn.Module):
    """q_K of the state words given a learnable free vector, one for normal, one for abnormal (IAD).

    The two share the density's network (paper); `flows` holds one shared flow or one for each of them.
    """

    def __init__(self, density: InitialDensity, flows: list[PlanarFlow], condition_dim: int) -> None:
        super().__init__()
        self.density = density
        self.flows = nn.ModuleList(flows)
        self.free_normal = nn.Parameter(torch.randn(condition_dim) * 0.02)
        self.free_abnormal = nn.Parameter(torch.randn(condition_dim) * 0.02)

    def normal(self, noise: Float[Tensor, "samples dim"]) -> Sampled:
        """R samples for the normal state."""
        return self._sample(self.free_normal, self.flows[0], noise)

    def abnormal(self, noise: Float[Tensor, "samples dim"]) -> Sampled:
        """R samples for the abnormal state."""
        return self._sample(self.free_abnormal, self.flows[-1], noise)

    def _sample(self, free: Tensor, flow: nn.Module, noise: Tensor) -> Sampled:
        start, log_q0 = self.density.sample(free.unsqueeze(0), noise.unsqueeze(0))
        end, log_det = flow(start[0])
        return Sampled(end, log_q0[0] + 0.5 * end.square().sum(-1), log_det)


def _truncated_normal(*shape: int, mean: float) -> Tensor:
    std = 0.02
    return nn.init.trunc_normal_(torch.empty(*shape), mean=mean, std=std, a=mean - 2 * std, b=mean + 2 * std)


def _three_layers(condition_dim: int, dim: int, hidden: int) -> nn.Sequential:
    """Three linear layers with Softplus between; a hidden width of 0 means half the output's, as released."""
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


def empty_sample(noise: Float[Tensor, "*batch samples dim"]) -> Sampled:
    """No offset and no divergence: what stands in where a distribution is switched off (Table 2 of the paper)."""
    nothing = noise.new_zeros(noise.shape[:-1])
    return Sampled(torch.zeros_like(noise), nothing, nothing)
