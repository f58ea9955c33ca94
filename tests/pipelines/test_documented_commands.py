"""The commands of README.md and docs/ whose mark names this test, typed as they stand on painted images, page by page."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import documented
import painted
import pytest
from PIL import Image

from bayes_pfl import Detector
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.synthetic import write_dataset
from pipelines.cli import main

HERE = "tests/pipelines/test_documented_commands.py"
BLOCKS = documented.run_by(HERE)
SERVED = "bayes-pfl serve"
"""The line of README.md that tests/pipelines/test_current_folder.py starts."""
NEED_A_NETWORK = {"bayes-pfl score part.png --class-name bottle --method winclip"}
INCOMPLETE = ["datasets", "verify", "visa"]
"""Ends with 1: the painted copy of the dataset has few of its images."""

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """What the pages speak of: `good/`, `photos/` with a sub-folder a product, `part.png`, `wide.png`, `names.csv`, a model."""
    folder = tmp_path_factory.mktemp("images")
    write_dataset(folder / "painted", ("plate",), 20, 4, size=96, seed=11)
    shutil.move(folder / "painted" / "plate" / "train" / "good", folder / "good")
    defects = sorted((folder / "painted" / "plate" / "test").glob("[!g]*/*.png"))
    shutil.copy(defects[0], folder / "part.png")
    Image.open(defects[0]).resize((300, 120)).save(folder / "wide.png")
    with (folder / "names.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "class_name"])
        for product, path in zip(("plate", "metal nut"), defects[1:3], strict=True):
            (folder / "photos" / product).mkdir(parents=True)
            Image.open(path).resize((800, 600)).save(folder / "photos" / product / "1.png")
            rows.writerow([f"photos/{product}/1.png", product])
    shutil.copytree(load_bundle("embedded").folder, folder / "runs" / "visa")
    painted.paint("visa", folder / "data" / "VisA")
    shutil.copytree(folder / "painted" / "plate", folder / "my_parts" / "plate")
    return folder


@pytest.fixture
def folder(images, tmp_path, monkeypatch):
    """A copy of the images for one page, as current and as home folder."""
    shutil.copytree(images, tmp_path / "pages")
    monkeypatch.chdir(tmp_path / "pages")
    for name in ("HOME", "BAYES_PFL_HOME", "BAYES_PFL_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / ("pages" if name == "HOME" else name)))
    return tmp_path / "pages"


def type_in(words: list[str]) -> int:
    """Run a line of a page in this process."""
    assert words[0] == "bayes-pfl"
    try:
        return main([str(Path(word).expanduser()) if word.startswith("~") else word for word in words[1:]])
    except SystemExit as ended:  # --help
        return ended.code


def type_block(block: documented.Block) -> None:
    """Run the lines of a block but for those that need a network, and the one that another test runs."""
    for words in block.commands:
        if " ".join(words) not in {SERVED, *NEED_A_NETWORK}:
            assert type_in(words) == 0, words


def asked(words: list[str], address: str) -> dict:
    """The answer to a `curl` of a page."""
    assert words[0] == "curl"
    return json.loads(subprocess.check_output([word.replace("127.0.0.1:8000", address) for word in words]))


def of_page(name: str) -> list[documented.Block]:
    return [block for block in BLOCKS if block.page == name]


def test_own_data(folder, capsys):
    (block,) = of_page("docs/own_data.md")
    type_block(block)
    assert "Of 100 good images like these at most 10 are called defective" in capsys.readouterr().out
    assert json.loads((folder / "results" / "metrics.json").read_text())["datasets"]
    for name in ("look", "verdicts"):
        assert json.loads((folder / name / "summary.json").read_text())["images"] == 16
        assert (folder / name / "gallery.html").is_file()


def test_datasets(folder, capsys):
    (block,) = of_page("docs/datasets.md")
    for words in block.commands:
        assert type_in(words) == (1 if words[1:4] == INCOMPLETE else 0), words
    assert "visa" in capsys.readouterr().out
    assert (folder / "shards" / "mine" / "shard-00000.arrow").is_file()


def test_scoring(folder):
    (block,) = of_page("docs/scoring.md")
    type_block(block)
    assert len(json.loads((folder / "regions.json").read_text())["images"]) == 2
    assert json.loads((folder / "runs" / "visa" / "bundle.json").read_text())["config"]["scoring"]["threshold"] > 0


def test_the_first_page(folder, capsys):
    first, use = of_page("README.md")
    type_block(first)
    printed = capsys.readouterr().out
    page = (documented.ROOT / "README.md").read_text("utf-8").partition("```text\n")[2].partition("```")[0]
    rows = [line.split() for line in page.splitlines() if line.startswith("images/")]
    assert len(rows) == 4
    for name, *_, score, uncertainty in rows:
        (line,) = [line.split() for line in printed.splitlines() if line.startswith(f"{name} ")]
        assert [float(line[-2]), float(line[-1])] == pytest.approx([float(score), float(uncertainty)], abs=0.01)
    type_block(use)
    assert "metal plate" in capsys.readouterr().out
    assert (folder / "heat").is_dir()
    assert (folder / "plates" / "calibration.json").is_file()


def test_an_endpoint_and_its_clients(folder):
    calibrate = "calibrate --normal ten/ --class-name plate --false-alarms 0.1 --output plates-calibrated"
    shutil.copytree("good", "ten", ignore=lambda _, names: sorted(names)[10:])
    assert main(calibrate.split()) == 0
    threshold, client, verdicts = of_page("docs/serving.md")
    serve, promises, score = verdicts.commands
    with documented.endpoint(serve) as address:
        (words,) = threshold.commands
        by_threshold, by_calibration = asked(words, address), asked(score, address)
        assert asked(promises, address)["classes"][0]["class_name"] == "plate"
        scores = documented.executed(client.text.replace("127.0.0.1:8000", address), client.page)["_"]
    assert (by_threshold["pred_label"], by_threshold["threshold"]) == ("defective", 0.6)
    assert by_threshold["regions"]
    assert by_calibration["pred_label"] in ("good", "defective", "unsure")
    assert by_calibration["p_value"] >= 1 / 11
    (prediction,) = Detector.load("embedded").predict(["part.png"], ["plate"])
    assert scores.tolist() == [pytest.approx(prediction.image_score, abs=1e-6)]
    assert len((folder / "decisions.jsonl").read_text().splitlines()) == 3


def test_no_block_is_left_out_and_no_line_without_need():
    assert {block.page for block in BLOCKS} == {
        *("README.md", "docs/datasets.md", "docs/own_data.md", "docs/scoring.md", "docs/serving.md"),
    }
    lines = {" ".join(words) for block in BLOCKS if "a network" in block.needs for words in block.commands}
    assert lines >= {SERVED, *NEED_A_NETWORK}
