"""What `bayes-pfl evaluate` writes and deletes: nothing of others, no copy that stays, and what is wrong is said first."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from small import painted_shards, random_bundle

from bayes_pfl.data.remote import Store
from bayes_pfl.data.shards import iterate_rows
from bayes_pfl.datasets import output as packing_output
from pipelines.cli import main
from pipelines.evaluate import shards_of_folders
from pipelines.options import evaluate as options
from pipelines.scoring.evaluation_files import keep_earlier
from pipelines.scoring.folders import LOCK, temporary_folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return random_bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Painted images in the folders good and bad."""
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "photos"
    for number, row in enumerate(iterate_rows(painted_shards(tmp_path, ("gear",), seed=1))):
        path = folder / ("bad" if row["label"] else "good") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"])
    return folder


def test_what_is_wrong_is_said_before_a_folder_is_read(bundle, photos, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    words = ["evaluate", str(photos), "--class-name", "gear", "--set", "cases=0", "--model"]
    for model, output, part in [
        (tmp_path / "nowhere", tmp_path / "o", "nowhere"),
        (bundle, tmp_path / "file", "Cannot write"),
        (bundle, "/proc/x", "Cannot write"),
    ]:
        assert main([*words, str(model), "--output", str(output)]) == 2
        error = capsys.readouterr().err
        assert part in error
        assert "not kept" not in error  # what is said of a folder that was read
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "file" / "home"))
    assert main([*words, str(bundle), "--output", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert "Cannot write" in error
    assert "not kept" not in error
    assert not (tmp_path / "o").exists()


def test_a_folder_of_one_split_is_named_with_the_split_to_choose(bundle, photos, tmp_path, capsys):
    parts = tmp_path / "plate"
    parts.mkdir()
    photos.rename(parts / "train")
    words = ["--model", str(bundle), "--output", str(tmp_path / "o")]
    assert main(["evaluate", str(parts), *words]) == 2
    error = capsys.readouterr().err
    assert f"{parts} has no image of the split test" in error
    assert "--set split=train" in error
    assert "bayes-pfl-evaluate-" not in error
    settings = options.EvaluateSettings(images=(str(parts),), split="train")
    assert len(shards_of_folders(settings, tmp_path / "copies")) == 1
    assert 'Class names from the folders\' names: "plate"' in capsys.readouterr().err
    assert main(["evaluate", "x" * 300, *words]) == 2
    assert "There is no folder" in capsys.readouterr().err


def test_no_room_for_the_copy_names_the_variable_that_helps(bundle, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(packing_output, "SPARE_BYTES", 2**60)
    words = ["evaluate", str(photos), "--class-name", "gear", "--model", str(bundle), "--output", str(tmp_path / "o")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"The images of {photos} cannot be copied" in error
    assert "TMPDIR" in error
    assert "--limit" not in error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_copy_of_the_images_outlives_a_killed_evaluation(bundle, photos, tmp_path, monkeypatch, number):
    copies = tmp_path / "tmp"
    for name in ("bayes-pfl-evaluate-mine", "of-others"):
        (copies / name).mkdir(parents=True)
    words = ["evaluate", str(photos), "--class-name", "gear", "--model", str(bundle), "--output", str(tmp_path / "o")]
    environment = {**os.environ, "TMPDIR": str(copies), "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-m", "pipelines.cli", *words], env=environment) as process:
        while not list(copies.glob(f"*/{LOCK}")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
    if number == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
    else:
        assert len(list(copies.iterdir())) == 3
    monkeypatch.setattr(tempfile, "tempdir", str(copies))
    with temporary_folder() as first, temporary_folder() as second:  # what is in use stays
        names = {"bayes-pfl-evaluate-mine", "of-others", first.name, second.name}
        assert {path.name for path in copies.iterdir()} == names
    assert {path.name for path in copies.iterdir()} == {"bayes-pfl-evaluate-mine", "of-others"}


@pytest.mark.parametrize("name", ["report.html", "images.arrow", "metrics.json"])
def test_files_of_others_are_moved_aside(tmp_path, capsys, name):
    if name == "metrics.json":
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    else:
        (tmp_path / name).write_text("MINE", encoding="ascii")
    keep_earlier(Store(tmp_path), {})
    assert (tmp_path / "earlier-1" / name).exists()
    assert not (tmp_path / name).exists()
    assert name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--shards", "s", "--class-name", "gear"], "--class-name is of folders of images"),
        (["--embedded", "photos"], "leave out folders of images"),
        (["--embedded", "--class-name", "gear"], "leave out --class-name"),
        (["--embedded", "--num-samples", "3"], "leave out --num-samples"),
        (["--embedded", "--tile"], "leave out --tile"),
        (["--embedded", "--no-use-gpu"], "leave out --use-gpu"),
        (["--seeds", "2", "--shards", "s"], "give --embedded too"),
    ],
)
def test_options_that_would_change_nothing_are_refused(words, part, capsys):
    assert main(["evaluate", *words]) == 2
    assert part in capsys.readouterr().err


def test_options_of_the_embedded_study_are_understood():
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    study = ["--embedded", "--seeds", "2", "--shards", "s", "--output", "o", "--set", "workers=1", "--json"]
    options.check(parser.parse_args(study))
