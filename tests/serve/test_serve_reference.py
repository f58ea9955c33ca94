"""The program that makes a reference window: what it writes is what the library says, and its faults are sentences."""

from pathlib import Path

import numpy as np
import pytest
from local_endpoint import encoded, picture, write_bundle

from bayes_pfl import Detector
from serve.models.drift import read_reference
from serve.reference import main


def test_the_window_holds_the_library_s_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, images = write_bundle(tmp_path / "bundle", 1), tmp_path / "images"
    images.mkdir()
    for seed in range(50):
        (images / f"{seed:03d}.png").write_bytes(encoded(picture(seed, 56, 56)))
    (images / "broken.png").write_bytes(b"no image")
    (images / "notes.txt").write_text("not looked at", encoding="ascii")
    (images / ".thumbnails").mkdir()
    (images / ".thumbnails/000.png").write_bytes(encoded(picture(99, 56, 56)))
    assert main([str(images), "--model", str(folder), "--class-name", "nut", "--num-samples", "1"]) == 0
    said = capsys.readouterr()
    assert "50 images" in said.out
    assert "broken.png" in said.err
    assert "left out: notes.txt: no image" in said.err
    assert "left out: .thumbnails/000.png: hidden file" in said.err
    files = [path.read_bytes() for path in sorted(images.glob("0*.png"))]
    scores = [one.image_score for one in Detector.load(folder).predict(files, ["nut"] * 50, num_samples=1)]
    window = read_reference(folder)
    assert window is not None
    assert window.images == 50
    assert np.array_equal(window.deciles, np.quantile(scores, np.arange(1, 10) / 10))


def test_what_the_user_can_mend(tmp_path: Path, bundles: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "one.png"
    image.write_bytes(encoded(picture()))
    assert main([str(image), "--model", str(bundles["first"])]) == 2
    assert "Only 1 images" in capsys.readouterr().err
    assert main([str(tmp_path / "missing"), "--model", str(bundles["first"])]) == 2
    assert "There is no" in capsys.readouterr().err
    assert main([str(image), "--model", str(tmp_path / "nothing")]) == 2
    assert "holds no model" in capsys.readouterr().err
    assert read_reference(bundles["first"]) is None
