"""The recorded numbers are met, and the check fails where it should."""

from pathlib import Path

import numpy as np
import pytest

from tests.parity.check import main

RECORDED = Path(__file__).with_name("recorded.npz")


@pytest.fixture(scope="module")
def arrays():
    with np.load(RECORDED, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_every_recorded_number_is_met(capsys):
    assert main([str(RECORDED)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 34
    assert {line.split()[0] for line in lines} >= {
        "image",
        "patch",
        "text",
        "map",
        "score",
        "loss_total",
        "grad_prompt_context",
    }


@pytest.mark.parametrize(
    ("name", "change"), [("eval1_map", 1e-4), ("loss_dice", 1e-2), ("grad_RCA.linear_proj.2.weight", 1e-2)]
)
def test_a_number_that_is_off_is_named(arrays, tmp_path, capsys, name, change):
    np.savez(tmp_path / "off.npz", **{**arrays, name: arrays[name] + change})
    assert main([str(tmp_path / "off.npz")]) == 1
    marked = [line for line in capsys.readouterr().out.splitlines() if line.endswith("TOO FAR")]
    assert len(marked) == 1


def test_fewer_images_and_no_training_step_are_read_from_the_file(arrays, tmp_path, capsys):
    fewer = {
        name: value for name, value in arrays.items() if not name.startswith(("train_", "loss_", "grad_", "eval2_"))
    }
    fewer |= {
        name: arrays[name][:2]
        for name in fewer
        if name in ("image", "image_features", "tokens") or name.startswith("patch_tokens")
    }
    np.savez(tmp_path / "fewer.npz", **fewer)
    assert main([str(tmp_path / "fewer.npz")]) == 0
    assert "loss" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_a_foreign_file_is_one_sentence(tmp_path, capsys, content):
    (tmp_path / "x.npz").write_bytes(content)
    assert main([str(tmp_path / "x.npz")]) == 2
    assert "no recording" in capsys.readouterr().err
    assert main([str(tmp_path / "missing.npz")]) == 2


@pytest.mark.parametrize("name", ["image_features", "eval0_map", "loss_focal", "grad_prompt_context"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_recorded_number_that_is_none_fails(arrays, tmp_path, capsys, name, value):
    damaged = np.array(arrays[name])
    damaged.reshape(-1)[0] = value
    np.savez(tmp_path / "damaged.npz", **{**arrays, name: damaged})
    assert main([str(tmp_path / "damaged.npz")]) == 1
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith("TOO FAR")]
