"""Noise is keyed by seed and content alone, and the first R of a longer stream are those of R."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_pfl.methods.prompt_flow.noise import keyed_noise


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**40),
    st.lists(st.binary(min_size=1, max_size=32), min_size=1, max_size=4),
    st.integers(1, 6),
    st.integers(1, 9),
)
def test_neither_neighbours_nor_order_nor_number_change_a_draw(seed, keys, samples, dim):
    whole = keyed_noise(seed, keys, samples + 3, dim)
    turned = keyed_noise(seed, keys[::-1], samples, dim)
    assert torch.equal(whole.context.flip(0)[:, :samples], turned.context)
    assert torch.equal(whole.normal[:samples], turned.normal)
    assert torch.equal(whole.abnormal[:samples], turned.abnormal)


def test_streams_are_independent_standard_normals():
    noise = keyed_noise(0, [b"a", b"b"], 200, 100)
    other = keyed_noise(1, [b"a"], 200, 100)
    streams = (
        torch.stack([*noise.context, noise.normal, noise.abnormal, *other.context, other.normal]).flatten(1).numpy()
    )
    assert np.abs(streams.mean(1)).max() < 0.03
    assert np.abs(streams.std(1) - 1).max() < 0.03
    assert np.abs(np.corrcoef(streams) - np.eye(len(streams))).max() < 0.03
