"""The check holds for sizes, class names and labels that nobody recorded, against the equations."""

import numpy as np
import pytest

from tests.parity.check import main
from tests.parity.made import Sizes, make

CASES = {
    "one prompt, one sample, no state vector to spare": Sizes(prompts=1, samples=1, states=1, context=1, flows=1),
    "vision wider than text, hidden width of its own": Sizes(
        width=128, hidden=48, feature_layers=(1, 3, 4), flows=4, mlp_ratio=3
    ),
    "two text heads, narrow vision": Sizes(joint=128, hidden=20, chosen=2, samples=3),
    "all normal": Sizes(labels=(0, 0, 0), chosen=1),
    "all anomalous, long names": Sizes(labels=(1, 1), names=((5, 6, 7, 8, 9, 10), (11,)), context=3, states=7),
    "hot temperature, saturated probabilities": Sizes(temperature=5.0, labels=(1, 0, 0)),
    "no flow at all": Sizes(flows=0),
    "one image": Sizes(labels=(1,), names=((5, 6),), side=5, patch=3),
}


@pytest.mark.parametrize("sizes", CASES.values(), ids=CASES.keys())
def test_the_check_reads_every_size_from_the_file(sizes, tmp_path, capsys):
    arrays = make(sizes, seed=len(sizes.names) + sizes.width)
    np.savez(tmp_path / "made.npz", **arrays)
    code = main([str(tmp_path / "made.npz")])
    printed = capsys.readouterr()
    assert code == 0, printed
    assert printed.out.count("grad_") == sum(name.startswith("grad_") for name in arrays) > 30
