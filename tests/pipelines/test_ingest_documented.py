"""Every row of docs/datasets.md's table of folders, typed."""

import argparse
import json
import re
import shlex
from pathlib import Path

import painted
import pytest

from pipelines import ingest
from pipelines.cli import options_of

DOCUMENT = Path(__file__).parents[2] / "docs/datasets.md"
TEXTS = {
    "bad/2.json": json.dumps({"imagePath": "2.png", "shapes": [{"label": "x", "points": [[2, 2], [9, 2], [9, 9]]}]}),
    "labels/train/1.txt": "0 0.5 0.5 0.2 0.2",
    "list.csv": "path,label\na/1.png,good\na/2.png,bad\n",
}


def rows() -> list[tuple[str, str, str]]:
    table = DOCUMENT.read_text("utf-8").partition("| what you have in `S` |")[2].partition("\n\n")[0]
    return [tuple(cell.strip() for cell in line.split("|")[1:4]) for line in table.splitlines()[2:]]


@pytest.mark.parametrize(("have", "options", "result"), rows(), ids=lambda cell: cell[:30])
def test_a_row(have: str, options: str, result: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = painted.Tree(tmp_path / "S")
    for path in re.findall(r"`([\w./]*\w\.\w+)`", have):
        if path in TEXTS:
            tree.write(path, TEXTS[path].encode())
        elif re.search("mask|ground_truth", path):
            tree.mask(path)
        else:
            tree.image(path)
    parser = argparse.ArgumentParser()
    options_of("ingest").add_arguments(parser)
    typed = shlex.split(options.partition("`")[2].partition("`")[0])
    source, output = str(tree.root), str(tmp_path / "shards")
    assert ingest.run(parser.parse_args(["folder", "--source", source, "--output", output, "--json", *typed])) == 0
    summary = json.loads(capsys.readouterr().out)
    counts = [labels for splits in summary["counts"].values() for labels in splits.values()]
    normal, anomalous = (sum(labels[key] for labels in counts) for key in ("normal", "anomalous"))
    assert result.startswith(f"{normal} + {anomalous}")
    assert summary["masks"] == ("1 mask" in result)
    assert summary["set_aside"] == []
    if category := re.search(r"category (\w+)", result):
        assert list(summary["counts"]) == [category[1]]


def test_the_table_is_found() -> None:
    assert len(rows()) >= 15
