"""Every number recorded from the released implementation is met, and one that is off is named."""

import numpy as np
import pytest

from tests.parity.check import main
from tests.parity.tampered import RECORDINGS, marked

RECORDED = RECORDINGS / "recorded_winclip.npz"


def test_every_recorded_number_is_met(capsys):
    assert main([str(RECORDED)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 22


@pytest.mark.parametrize("name", ["map"])
def test_a_number_that_is_off_is_named(tmp_path, capsys, name):
    with np.load(RECORDED, allow_pickle=False) as file:
        off = {**file, name: file[name] + 1e-4}
    np.savez(tmp_path / "off.npz", **off)
    assert main([str(tmp_path / "off.npz")]) == 1
    assert len(marked(capsys.readouterr().out)) == 1
