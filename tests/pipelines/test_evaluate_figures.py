"""Intervals, kinds of defect, single images and the masks' own size, against plain loops over the same detector."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from small import random_bundle

from bayes_pfl.data.preprocess import decode_mask
from bayes_pfl.data.shards import iterate_rows
from bayes_pfl.inference.detector import Detector
from bayes_pfl.metrics import image_metrics, pixel_metrics
from bayes_pfl.metrics.resampling import image_weights
from bayes_pfl.synthetic import write_dataset
from pipelines.cli import main
from pipelines.evaluate import EvaluateSettings, evaluate
from pipelines.ingest import ingest
from pipelines.options.ingest import IngestConfig
from pipelines.scoring.evaluation_tables import printed
from pipelines.scoring.images_file import read_images

pytestmark = pytest.mark.ray

RESAMPLES = 100


@pytest.fixture(scope="module")
def work(tmp_path_factory, ray_session):
    """A random model at 64 px, images of 144 px, and their evaluation at the masks' size."""
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAYES_PFL_HOME", str(folder / "runs"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        write_dataset(folder / "images", ("carpet", "gear"), 6, 7, size=144, seed=3)
        ingest("folder", folder / "images", folder / "shards", IngestConfig(splits=("test",), name="painted"))
        settings = EvaluateSettings(
            model=str(random_bundle(folder / "bundle")),
            shards=(str(folder / "shards"),),
            num_samples=1,
            cases=0,
            resamples=RESAMPLES,
            full_resolution=True,
            output=str(folder / "out"),
        )
        yield folder, settings, evaluate(settings)


@pytest.fixture(scope="module")
def images(work):
    """What the detector says of every image of a category, at the size of its mask."""
    detector, images = Detector.load(work[0] / "bundle"), []
    for row in iterate_rows(work[0] / "shards"):
        prediction = detector.predict([row["image"]], [row["class_name"]], 1)[0]
        heat = np.asarray(Image.fromarray(prediction.anomaly_map).resize((144, 144), Image.Resampling.BILINEAR))
        mask = np.zeros((144, 144), np.uint8) if row["mask"] is None else decode_mask(row["mask"])
        images.append({**row, "score": prediction.image_score, "map": heat, "truth": mask})
    return images


def figures(images):
    """Exact figures but for AUPIMO."""
    image = image_metrics([each["score"] for each in images], [each["label"] for each in images])
    return (image | pixel_metrics([each["map"] for each in images], [each["truth"] for each in images])).values


def test_intervals_are_those_of_sets_measured_one_by_one(work, images):
    entry = work[2]["datasets"]["painted"]["categories"]["carpet"]
    own = [image for image in images if image["category"] == "carpet"]
    weights = image_weights([each["sha256"] for each in own], [each["label"] for each in own], 0, RESAMPLES)
    sets = [figures([each for each, n in zip(own, row, strict=True) for _ in range(int(n))]) for row in weights]
    assert entry["values"] == pytest.approx({**sets[0], "pixel_aupimo": entry["values"]["pixel_aupimo"]}, abs=1e-3)
    for name in sets[0]:
        value, drawn = sets[0][name], np.array([each[name] for each in sets[1:]])
        bias = drawn.mean() - value if name.endswith("f1_max") else 0.0
        low, high = np.clip(np.percentile(drawn, [2.5, 97.5]) - 2 * bias, 0, 1)
        tolerance = 1e-9 if name.startswith("image") else 4e-3
        assert entry["intervals"][name] == pytest.approx({"low": low, "high": high}, abs=tolerance), name
    assert set(entry["intervals"]) == {*sets[0], "pixel_aupimo"}
    assert (entry["images"], entry["anomalous"], entry["without_interval"]) == (13, 7, {})
    assert work[2]["interval"]["resamples"] == RESAMPLES


def test_a_kind_of_defect_is_measured_with_the_normal_images_and_few_have_no_interval(work, images):
    entry = work[2]["datasets"]["painted"]["categories"]["gear"]
    own = [image for image in images if image["category"] == "gear"]
    kinds = {each["defect"] for each in own if each["label"]}
    assert set(entry["defects"]) == kinds
    assert len(kinds) > 1
    for kind, part in entry["defects"].items():
        expected = figures([each for each in own if not each["label"] or each["defect"] == kind])
        found = {name: value for name, value in part["values"].items() if name != "pixel_aupimo"}
        assert found == pytest.approx(expected, abs=1e-3)
        assert "too few to resample" in part["without_interval"]["image_auroc"]
        assert part["intervals"] == {}


def test_every_figure_is_in_the_tables_with_its_interval(work):
    folder, _, result = work
    with (folder / "out/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["pixels_at"] for row in rows} == {"the masks' own size"}
    dataset = result["datasets"]["painted"]
    for row in rows:
        entry = dataset["mean"] if row["category"] == "mean" else dataset["categories"][row["category"]]
        entry = entry["defects"][row["defect"]] if row["defect"] else entry
        assert float(row["value"]) == entry["values"][row["metric"]]
        assert (row["low"] == "") == (row["metric"] not in entry["intervals"])
        assert (row["low"] == "") == (row["note"] != "")
    mean, bounds = dataset["mean"]["values"]["pixel_pro"], dataset["mean"]["intervals"]["pixel_pro"]
    cell = f"{100 * mean:.1f} [{100 * bounds['low']:.1f}, {100 * bounds['high']:.1f}]"
    wide, narrow = printed(result, 300), printed(result, 100)
    assert "painted, in percent, pixels at the masks' own size" in wide
    assert "painted by kind of defect" in wide
    assert cell in wide
    assert cell in (folder / "out/report.html").read_text()
    assert cell not in narrow
    assert f"{100 * bounds['high']:.1f}" in next(line for line in narrow.splitlines() if "97.5 %" in line)


def test_every_image_has_its_figures(work, images):
    with (work[0] / "out/predictions.csv").open(newline="") as file:
        rows = {row["sample_id"]: row for row in csv.DictReader(file)}
    table = {row["sample_id"]: row for row in read_images(work[0] / "out").to_pylist()}
    for image in images:
        row, stored = rows[image["sample_id"]], table[image["sample_id"]]
        assert (row["defect"], row["sha256"]) == (image["defect"], image["sha256"])
        if image["label"]:
            expected = pixel_metrics([image["map"]], [image["truth"]])["pixel_ap"]
            assert float(row["pixel_ap"]) == pytest.approx(expected, abs=1e-3)
            assert 0 <= float(row["pixel_aupimo"]) <= 1
        else:
            assert (row["pixel_ap"], row["pixel_aupimo"]) == ("", "")
        assert stored["image_score"] == pytest.approx(image["score"], abs=1e-12)
        assert (sum(stored["normal"]), sum(stored["anomalous"])) == ((image["truth"] == 0).sum(), image["truth"].sum())
    of_category = [
        float(rows[each["sample_id"]]["pixel_aupimo"])
        for each in images
        if each["label"] and each["category"] == "gear"
    ]
    value = work[2]["datasets"]["painted"]["categories"]["gear"]["values"]["pixel_aupimo"]
    assert value == pytest.approx(np.mean(of_category), abs=1e-12)


def test_figures_at_the_models_size_say_so_and_lack_aupimo_of_few_pixels(work, tmp_path, capsys):
    _, settings, _ = work
    words = ["--model", settings.model, "--shards", settings.shards[0], "--num-samples", "1", "--at", "model"]
    options = ["--set", "cases=0", "--set", "categories=[gear]", "--json", "--output", str(tmp_path / "out")]
    assert main(["evaluate", *words, *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pixels_at"] == "64 x 64 px"
    entry = result["datasets"]["painted"]["categories"]["gear"]
    assert entry["values"]["pixel_aupimo"] is None
    assert entry["undefined"]["pixel_aupimo"] == "normal images have 24,576 pixels, and a rate of 1e-5 needs 100,000"
    assert "pixels at 64 x 64 px" in printed(result, 300)


def test_a_finished_evaluation_is_compared_with_a_model_which_is_evaluated_once(work, tmp_path, capsys):
    folder, settings, _ = work
    words = ["compare", str(folder / "out"), "embedded", "--num-samples", "1", "--output", str(tmp_path / "both")]
    assert main(words) == 2
    assert "give --shards to evaluate it on" in capsys.readouterr().err
    words += ["--shards", settings.shards[0], "--resamples", "200"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["a"]["model"]["source"], result["b"]["model"]["source"]) == (settings.model, "embedded")
    assert result["images"] == 26
    row = result["datasets"]["painted"]["categories"]["gear"]["metrics"]["image_ap"]
    other = json.loads((tmp_path / "both/b/metrics.json").read_text())["datasets"]["painted"]["categories"]["gear"]
    assert row["b"] == other["values"]["image_ap"]
    assert row["low"] < row["high"]
    written = (tmp_path / "both/b/metrics.json").stat().st_mtime_ns
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "embedded was evaluated before" in captured.err
    assert "painted, mean over categories" in captured.out
    assert (tmp_path / "both/b/metrics.json").stat().st_mtime_ns == written
