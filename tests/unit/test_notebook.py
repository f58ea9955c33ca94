"""docs/notebook.ipynb runs from its first cell to its last, offline, and shows what its text says."""

import copy
import os
from pathlib import Path

import nbclient
import nbformat
import pytest

BOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(BOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(stored):
    """The cells after a run in a kernel of this Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(BOOK.parents[1]), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("HF_HUB_OFFLINE", "1")
        book = copy.deepcopy(stored)
        nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    return book


def outputs(book, beginning):
    """Text and kinds of what the cell that contains some words shows."""
    (cell,) = (cell for cell in book.cells if cell.cell_type == "code" and beginning in cell.source)
    text, kinds = "", set()
    for output in cell.outputs:
        text += output.get("text", "") + output.get("data", {}).get("text/plain", "")
        kinds |= set(output.get("data", {})) | {output.get("name", "")}
    return text, kinds


def test_it_is_stored_without_outputs(stored):
    nbformat.validate(stored)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert len(code) >= 8
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_it_shows_what_its_text_says(executed):
    assert "bayes_pfl on bayes-pfl-embedded at 112 px" in outputs(executed, "Detector.load")[0]
    assert "image/png" in outputs(executed, "prediction.overlay(photos[2])")[1]
    assert "((112, 112), (256, 256), ['overlay.png'])" in outputs(executed, "prediction.save")[0]
    assert outputs(executed, "prediction.regions(")[0].startswith("[((")
    labelled = [line.split() for line in outputs(executed, "labelled =")[0].splitlines()]
    assert {(name == "good", label) for name, _, label in labelled} == {(True, "good"), (False, "defective")}
    assert [line.split()[2] for line in outputs(executed, "predict_nested(")[0].splitlines()] == ["1", "5", "20"]
    assert len(outputs(executed, '"auto"')[0].split(",")) == 6


def test_nothing_is_said_on_standard_error(executed):
    """But tqdm's advice, which every library gets that draws bars in a notebook without ipywidgets."""
    shown = [output for cell in executed.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert [output["text"] for output in shown if "TqdmWarning: IProgress not found" not in output["text"]] == []
