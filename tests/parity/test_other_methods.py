"""Every number recorded from a released implementation is met, and one that is off is named."""

import numpy as np
import pytest

from tests.parity.check import main
from tests.parity.tampered import RECORDINGS, marked

LINES = {"winclip": 22, "april_gan": 29, "clip_ad": 45, "anomaly_clip": 32, "ada_clip": 91}
"""Numbers that are compared, by method."""


@pytest.mark.parametrize(("method", "lines"), LINES.items())
def test_every_recorded_number_is_met(capsys, method, lines):
    assert main([str(RECORDINGS / f"recorded_{method}.npz")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == lines


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("winclip", "map"),
        ("april_gan", "layer_map_1"),
        ("clip_ad", "similarity_2"),
        ("anomaly_clip", "layer_map_1"),
        ("ada_clip", "patch_tokens_3"),
    ],
)
def test_a_number_that_is_off_is_named(tmp_path, capsys, method, name):
    with np.load(RECORDINGS / f"recorded_{method}.npz", allow_pickle=False) as file:
        off = {**file, name: file[name] + 1e-4}
    np.savez(tmp_path / "off.npz", **off)
    assert main([str(tmp_path / "off.npz")]) == 1
    assert len(marked(capsys.readouterr().out)) == 1
