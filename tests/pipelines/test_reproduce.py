"""`bayes-pfl reproduce uncertainty` from shards to files: scores are the detector's, and nothing is scored twice."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import painted_shards, random_bundle

from bayes_pfl.data.preprocess import decode_image
from bayes_pfl.data.shards import iterate_rows
from bayes_pfl.inference.detector import Detector
from pipelines.cli import main
from pipelines.study.uncertainty import scores

pytestmark = pytest.mark.ray
SMALL = ["--set", "rates=[0.4]", "--set", "false_alarms=0.4", "--set", "splits=3", "--set", "num_samples=2"]


@pytest.fixture(scope="module")
def done(tmp_path_factory, ray_session):
    folder = tmp_path_factory.mktemp("reproduce")
    shards = painted_shards(folder, ("carpet", "gear"), seed=1, normal=4, defective=4)
    bundle = random_bundle(folder / "bundle")
    words = ["reproduce", "uncertainty", "--model", str(bundle), "--shards", str(shards), *SMALL, "--json"]
    words += ["--output", str(folder / "study")]
    assert main(words) == 0
    return folder, shards, bundle, words


def test_scores_are_those_of_the_detector_as_it_is_and_in_other_light(done):
    folder, shards, bundle, _ = done
    detector = Detector.load(bundle)
    rows = {row["sample_id"]: row for row in iterate_rows(shards)}
    (plain,) = [json.loads(path.read_text()) for path in (folder / "study/scores").glob("painted-[!r]*.json")]
    (relit,) = [json.loads(path.read_text()) for path in (folder / "study/scores").glob("painted-relit-*.json")]
    assert len(plain["score"]) == 16
    assert len(relit["score"]) == 8
    lit = {Path(name).stem: score for name, score in zip(relit["sample_id"], relit["score"], strict=True)}
    for at, name in enumerate(plain["sample_id"]):
        row = rows[name]
        (prediction,) = detector.predict([row["image"]], [row["class_name"]], 2)
        assert plain["score"][at] == pytest.approx(prediction.image_score, abs=1e-6)
        assert plain["uncertainty"][at] == pytest.approx(prediction.uncertainty, abs=1e-6)
        if row["label"] == 0:
            pixels = np.asarray(decode_image(row["image"]), np.float32)
            darker = Image.fromarray((pixels * np.float32(0.8) + 0.5).astype(np.uint8))
            (prediction,) = detector.predict([darker], [row["class_name"]], 2)
            assert lit[row["sha256"]] == pytest.approx(prediction.image_score, abs=1e-6)


def test_everything_is_written(done):
    folder, *_ = done
    result = json.loads((folder / "study/uncertainty.json").read_text())
    assert result["datasets"]["painted"] == {
        "categories": 2, "normal": 8, "anomalous": 8, "copies left out": 0, "without a score": 0,
    }  # fmt: skip
    assert [row["group"] for row in result["abstention"]] == ["painted/carpet", "painted/gear", "painted, pooled"]
    assert [row["group"] for row in result["promises"]] == ["painted/carpet", "painted/gear", "painted, pooled"]
    assert all("false alarms, other light" in row for row in result["promises"])
    assert len(result["elsewhere"]) == 2
    assert {path.name for path in (folder / "study").iterdir() if path.is_file()} == {
        "abstention.csv", "probabilities.csv", "promises.csv", "elsewhere.csv", "uncertainty.svg", "uncertainty.md",
        "uncertainty.json",
    }  # fmt: skip


def test_a_second_run_scores_nothing_and_says_the_same(done, monkeypatch):
    folder, *_, words = done
    before = (folder / "study/uncertainty.json").read_text()
    monkeypatch.setattr(scores, "score_samples", None)
    assert main(words) == 0
    assert (folder / "study/uncertainty.json").read_text() == before


def test_another_question_leaves_the_result_alone(done, capsys):
    folder, *_, words = done
    before = (folder / "study/uncertainty.json").read_text()
    assert main([*words, "--set", "seed=1"]) == 2
    assert "choose another --output" in capsys.readouterr().err
    assert (folder / "study/uncertainty.json").read_text() == before


def test_images_that_were_trained_on_are_refused(done, tmp_path, capsys):
    _, shards, _, words = done
    trained = random_bundle(tmp_path / "trained", trained_on=shards)
    words = [*words[:2], "--model", str(trained), *words[4:-1], str(tmp_path / "study")]
    assert main(words) == 2
    assert "16 images of these were trained on" in capsys.readouterr().err


def test_a_study_that_does_not_exist(capsys):
    with pytest.raises(SystemExit):
        main(["reproduce", "certainty"])
    assert "uncertainty" in capsys.readouterr().err
