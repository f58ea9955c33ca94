"""`bayes-pfl score` on files: the same scores as the library, unreadable files listed, exit codes for machines."""

import json

import numpy as np
import pytest
from PIL import Image
from small import random_bundle

from bayes_pfl.detector import Detector
from pipelines.cli import main


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    images = folder / "parts"
    images.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    (images / "broken.png").write_bytes(b"no image")
    return folder, images, random_bundle(folder / "bundle")


def test_scores_are_the_librarys_and_broken_files_are_listed(work, capsys):
    folder, images, bundle = work
    code = main(
        [
            "score",
            str(images),
            "--class-name",
            "gear",
            "--model",
            str(bundle),
            "--num-samples",
            "3",
            "--json",
            "--output",
            str(folder / "heat"),
        ]
    )
    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [row["file"] for row in answer["unreadable"]] == [str(images / "broken.png")]
    expected = Detector.load(bundle).predict([(images / "0.png").read_bytes()], ["gear"], 3)[0]
    assert answer["images"][0]["image_score"] == expected.image_score
    assert len(answer["images"]) == 2
    assert sorted(path.name for path in (folder / "heat").iterdir()) == ["00001-0.png", "00002-1.png"]


def test_fail_above_sets_the_exit_code(work, capsys):
    _, images, bundle = work
    given = ["score", str(images / "0.png"), "--class-name", "gear", "--model", str(bundle), "--num-samples", "1"]
    assert main([*given, "--fail-above", "0"]) == 1
    assert main([*given, "--fail-above", "1"]) == 0
    assert "demonstration" not in capsys.readouterr().err


def test_nothing_to_score_is_said(work, capsys, tmp_path):
    _, images, bundle = work
    assert main(["score", str(tmp_path), "--class-name", "gear", "--model", str(bundle)]) == 2
    assert "No images found" in capsys.readouterr().err
    assert main(["score", str(images / "broken.png"), "--class-name", "gear", "--model", str(bundle)]) == 2
    assert "None of the images" in capsys.readouterr().err
