"""Planar flows against autograd's Jacobian and the closed-form divergence."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_pfl.methods.prompt_flow.distributions import ImageSpecificDistribution, InitialDensity
from bayes_pfl.methods.prompt_flow.flow import AmortizedPlanarFlow, PlanarFlow, joined_flows, planar_flows


@settings(max_examples=25, deadline=None)
@given(dim=st.integers(1, 6), length=st.integers(0, 4), seed=st.integers(0, 1000))
def test_log_determinant_is_that_of_the_jacobian(dim, length, seed):
    torch.manual_seed(seed)
    flow = PlanarFlow(dim, length, scale=0.7, epsilon=0.0).double()
    z = torch.randn(dim, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x)[0], z)
    assert torch.allclose(flow(z)[1], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(dim=st.integers(1, 5), length=st.integers(1, 3), seed=st.integers(0, 1000))
def test_amortized_steps_have_the_jacobian_of_their_own_condition(dim, length, seed):
    torch.manual_seed(seed)
    flow = AmortizedPlanarFlow(3, dim, length, epsilon=0.0).double()
    z, condition = torch.randn(2, 1, dim, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    _, log_det = flow(z, condition)
    for image in range(2):
        row = slice(image, image + 1)
        jacobian = torch.autograd.functional.jacobian(
            lambda x, row=row: flow(x.view(1, 1, dim), condition[row])[0].flatten(), z[image, 0]
        )
        assert torch.allclose(log_det[image, 0], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-9)


def test_without_steps_the_divergence_is_the_gaussians():
    torch.manual_seed(0)
    density = InitialDensity(4, 3, exponent=0.5, hidden=5).double()
    for parameter in density.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    isd = ImageSpecificDistribution(density, PlanarFlow(3, 0, 1.0, 0.0).double())
    condition = torch.randn(1, 4, dtype=torch.float64)
    noise = torch.randn(1, 200_000, 3, dtype=torch.float64)
    estimate = isd(condition, noise).divergence().mean().item()
    mean, log_variance = density.mean(condition), density.log_variance(condition)
    closed = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum().item()
    assert math.isclose(estimate, closed, abs_tol=0.02)


@pytest.mark.parametrize("scale", [0.0, 0.01])
def test_a_small_start_is_nearly_the_identity(scale):
    torch.manual_seed(0)
    z = torch.randn(8, 16)
    moved, log_det = PlanarFlow(16, 10, scale, 0.0)(z)
    assert torch.allclose(moved, z, atol=40 * scale + 1e-7)
    assert log_det.abs().max() <= 0.05


def test_joined_flows_are_those_of_one_after_the_other() -> None:
    context, states = AmortizedPlanarFlow(3, 8, 4, 1e-5).double(), PlanarFlow(8, 4, 0.7, 1e-5).double()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(5, 2, 8, generator=generator, dtype=torch.float64)
    words = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    starts = [context.start(images, torch.ones(5, 3).double()), states.start(words), states.start(2 * words)]
    for joined, alone in zip(joined_flows(starts, 1e-5), planar_flows(starts, 1e-5), strict=True):
        for ours, expected in zip(joined, alone, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
