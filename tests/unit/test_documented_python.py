"""The Python blocks of README.md and docs/ that name this test, run as they stand."""

from pathlib import Path

import documented
import pytest
from PIL import ImageShow

from bayes_pfl.synthetic import write_dataset
from pipelines.cli import main

BLOCKS = documented.run_by("tests/unit/test_documented_python.py")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The files that the pages speak of."""
    write_dataset(tmp_path / "painted", ("plate",), 1, 1, size=96, seed=11)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageShow, "_viewers", [])  # `show` of a page opens no window here
    assert main(["ingest", "folder", "--source", "painted", "--output", "shards/visa"]) == 0
    image = next(Path("painted/plate/train/good").glob("*.png")).read_bytes()
    for name in ("part.png", "plate.png"):
        Path(name).write_bytes(image)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
@pytest.mark.usefixtures("folder")
def test_a_block(block):
    names = documented.executed(block.text, block.page)
    if "table" in names:
        assert names["table"].num_rows == 3
        assert {"sample_id", "class_name", "label"} <= set(names["table"].column_names)
    else:
        assert 0 <= names["prediction"].image_score <= 1
        assert names["prediction"].anomaly_map.shape == (112, 112)


def test_blocks_are_found():
    assert {block.page for block in BLOCKS} >= {"README.md", "docs/inference.md", "docs/datasets.md"}
