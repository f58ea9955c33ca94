"""Evaluation over Ray Data against a plain loop over the same detector and scikit-learn."""

import csv
import json
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from small import painted_shards, random_bundle

from bayes_pfl.detector import Detector
from bayes_pfl.errors import DataError
from bayes_pfl.preprocess import decode_mask, mask_tensor
from bayes_pfl.shards import iterate_rows
from pipelines.cli import main
from pipelines.evaluate import EvaluateSettings, evaluate

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def work(tmp_path_factory, ray_session):
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAYES_PFL_HOME", str(folder / "runs"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shards = painted_shards(folder, ("carpet", "gear"), seed=1)
        bundle = random_bundle(folder / "bundle")
        settings = EvaluateSettings(
            model=str(bundle), shards=(str(shards),), num_samples=3, cases=1, output=str(folder / "out")
        )
        yield folder, shards, bundle, evaluate(settings)


def test_metrics_equal_a_plain_loop(work):
    _, shards, bundle, result = work
    detector = Detector.load(bundle)
    scores, labels, maps, masks = {}, {}, {}, {}
    for row in iterate_rows(shards):
        prediction = detector.predict([row["image"]], [row["class_name"]], 3)[0]
        category = row["category"]
        truth = np.zeros((64, 64)) if row["mask"] is None else mask_tensor(decode_mask(row["mask"]), 64).numpy()
        scores.setdefault(category, []).append(prediction.image_score)
        labels.setdefault(category, []).append(row["label"])
        maps.setdefault(category, []).append(prediction.anomaly_map)
        masks.setdefault(category, []).append(truth)
    measured = result["datasets"]["painted"]
    assert set(measured["categories"]) == set(scores) == {"carpet", "gear"}
    for category, entry in measured["categories"].items():
        flat_masks, flat_maps = np.ravel(masks[category]), np.ravel(maps[category])
        assert math.isclose(
            entry["values"]["image_auroc"], roc_auc_score(labels[category], scores[category]), abs_tol=1e-12
        )
        assert math.isclose(entry["values"]["pixel_auroc"], roc_auc_score(flat_masks, flat_maps), abs_tol=1e-4)
        assert math.isclose(entry["values"]["pixel_ap"], average_precision_score(flat_masks, flat_maps), abs_tol=1e-3)
    expected = np.mean([entry["values"]["pixel_pro"] for entry in measured["categories"].values()])
    assert math.isclose(measured["mean"]["values"]["pixel_pro"], expected, abs_tol=1e-12)


def test_files_are_written_and_agree(work):
    folder, shards, _, result = work
    assert json.loads((folder / "out/metrics.json").read_text()) == result
    with (folder / "out/predictions.csv").open(newline="") as file:
        rows = {row["sample_id"]: row for row in csv.DictReader(file)}
    assert set(rows) == {row["sample_id"] for row in iterate_rows(shards)}
    page = (folder / "out/report.html").read_text()
    assert "carpet" in page
    assert page.count("<article") == 2  # one worst, one best


def test_images_that_were_trained_on_are_refused_or_marked(work, capsys):
    folder, shards, _, _ = work
    seen = random_bundle(folder / "seen", trained_on=shards)
    settings = EvaluateSettings(
        model=str(seen), shards=(str(shards),), num_samples=1, cases=0, output=str(folder / "marked")
    )
    with pytest.raises(DataError, match="10 of these images were trained on"):
        evaluate(settings)
    assert not (folder / "marked").exists()
    marked = evaluate(settings.model_copy(update={"allow_overlap": True}))
    assert marked["trained_on_images_evaluated"] == 10
    assert "not a zero-shot result" in (folder / "marked/report.html").read_text()


def test_command_line_says_what_is_missing(work, capsys, tmp_path):
    assert main(["evaluate", "--model", str(tmp_path / "nothing"), "--shards", "x"]) == 2
    assert "is no bundle" in capsys.readouterr().err
    assert main(["evaluate"]) == 2
    assert "--shards" in capsys.readouterr().err
