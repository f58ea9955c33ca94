"""The ten commands of docs/decisions.md, typed one after the other on painted plates: from good parts to an endpoint."""

import csv
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import documented
import pytest

from bayes_pfl.decisions.calibration import read_calibration
from bayes_pfl.synthetic import write_dataset
from pipelines.cli import main

DOCUMENT = Path(__file__).parents[2] / "docs/decisions.md"


def commands() -> list[list[str]]:
    block = DOCUMENT.read_text("utf-8").partition("```sh\n")[2].partition("```")[0]
    return [shlex.split(line) for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folders that the page speaks of: forty good plates, a dozen defective ones, and new ones of both kinds."""
    write_dataset(tmp_path / "painted", ("plate",), 40, 18, size=96, seed=11)
    test = tmp_path / "painted" / "plate" / "test"
    shutil.copytree(tmp_path / "painted" / "plate" / "train" / "good", tmp_path / "good")
    defects = sorted(path for path in test.glob("*/*.png") if path.parent.name != "good")
    for name, paths in (("bad", defects[:12]), ("new", [*defects[12:], *sorted(test.glob("good/*.png"))[:6]])):
        (tmp_path / name).mkdir()
        for path in paths:
            shutil.copy(path, tmp_path / name / f"{path.parent.name}-{path.name}")
    shutil.copy(defects[12], tmp_path / "new" / "part.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    return tmp_path


def write_verdicts(path: Path) -> None:
    """What a person would write into a review."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["verdict"] = "good" if Path(row["path"]).name.startswith("good") else "defective"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_ten_commands(folder, capsys):
    *scoring, serve, score, promises = commands()
    assert len(scoring) + 3 == 10
    for words in scoring:
        assert words[0] == "bayes-pfl"
        assert main(words[1:]) == 0, words
        if "review/" in words and words[1] == "score":
            write_verdicts(folder / "review" / "review.csv")
    shown = capsys.readouterr().out
    assert "Of 100 good images like these at most 5 are called defective" in shown
    assert "selected together" in shown
    first, last = (read_calibration(folder / name).boundaries("plate") for name in ("plates", "plates-3"))
    assert (len(first.images), len(last.images)) == (40, 46)
    with documented.endpoint(serve) as address:
        answers = [
            json.loads(subprocess.check_output([word.replace("127.0.0.1:8000", address) for word in words], text=True))
            for words in (score, promises)
        ]
    assert answers[0]["pred_label"] in ("good", "defective", "unsure")
    assert answers[0]["p_value"] >= 1 / 47
    assert answers[1]["classes"][0]["class_name"] == "plate"
    (line,) = (folder / "decisions.jsonl").read_text().splitlines()
    assert json.loads(line)["pred_label"] == answers[0]["pred_label"]
