"""The embedded study in small: it trains, measures, goes on where it stopped, and its figures are those of the library."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from small import painted_shards

from bayes_pfl.data.preprocess import decode_image, decode_mask, mask_tensor
from bayes_pfl.data.shards import iterate_rows
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.inference.detector import Detector
from pipelines.cli import main
from pipelines.embedded_study import (
    ONE_PROMPT,
    Images,
    StudySettings,
    embedded_recipe,
    planned,
    study,
    varied,
)
from pipelines.study.report import samples_plot

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def done(tmp_path_factory, ray_session):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAYES_PFL_HOME", str(folder / "runs"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shards = painted_shards(folder, ("carpet", "gear"), seed=1)
        settings = StudySettings(
            seeds=2,
            baseline_seeds=1,
            draw_seeds=2,
            num_samples=(1, 10),
            categories="validation",
            normal=2,
            defective=2,
            auxiliary_normal=1,
            auxiliary_defective=1,
            shards=(str(shards),),
            output=str(folder / "study"),
        )
        yield folder, settings, shards, study(settings)


def test_every_method_is_measured_and_written(done):
    folder, _, _, result = done
    assert json.loads((folder / "study/study.json").read_text()) == result
    assert (folder / "study/samples.png").read_bytes().startswith(b"\x89PNG")
    assert "Over R" in (folder / "study/report.html").read_text()
    measured = result["methods"]
    assert set(measured) == {
        "Bayes-PFL", *ONE_PROMPT, "hand-written prompts", "linear probe", "median deviation", "without s_img",
        "without s_text",
    }  # fmt: skip
    assert measured["Bayes-PFL"]["seeds"] == 2
    assert set(measured["Bayes-PFL"]["mean"]) >= {"image_auroc", "pixel_auroc", "pixel_pro", "pixel_ap"}
    assert [entry["num_samples"] for entry in result["over_draws"]] == [1, 10]
    assert result["images"] == 6 * 4
    assert not result["auxiliary_as_shipped"]


def test_a_second_run_computes_nothing_and_says_the_same(done, monkeypatch):
    _, settings, _, result = done

    monkeypatch.setattr("pipelines.embedded_study._run", lambda settings, store, jobs: _none_of(jobs))
    assert study(settings) == result


def _none_of(jobs):
    assert not jobs


def test_another_dataset_is_measured_as_the_detector_sees_it(done):
    _, _, shards, result = done
    found = result["datasets"][shards.name]
    detector = Detector.load("embedded")
    scores, labels, maps, masks, dark = [], [], [], [], []
    for row in iterate_rows(shards):
        prediction = detector.predict([row["image"]], [row["class_name"]], 10)[0]
        scores.append(prediction.image_score)
        labels.append(row["label"])
        maps.append(prediction.anomaly_map)
        masks.append(
            np.zeros((112, 112)) if row["mask"] is None else mask_tensor(decode_mask(row["mask"]), 112).numpy()
        )
        dark.append(-np.asarray(decode_image(row["image"])).mean())
    ours = found["methods"]["Bayes-PFL"]
    assert ours["image_auroc"]["value"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert ours["pixel_auroc"]["value"] == pytest.approx(roc_auc_score(np.ravel(masks), np.ravel(maps)), abs=1e-3)
    assert found["methods"]["darkness"]["image_auroc"]["value"] == pytest.approx(roc_auc_score(labels, dark), abs=0.05)


def test_jobs_are_named_by_what_decides_them(done):
    folder, settings, _, _ = done
    recipe = embedded_recipe()
    images = Images(*(str(folder / "study" / kind / "validation-2-2") for kind in ("shards", "features")))

    def names(**changes):
        return {job.file for job in planned(settings.model_copy(update=changes), recipe, images, images)}

    assert names(output="elsewhere", workers=1) == names()
    assert len(names(baseline_seeds=4) - names(baseline_seeds=2)) == 2 * len(ONE_PROMPT)
    assert not names() & names(num_samples=(1, 5)) & {n for n in names() if "Bayes-PFL" in n}


def test_the_recipe_is_that_of_the_shipped_head():
    recipe, shipped = embedded_recipe(), load_bundle("embedded").config
    assert recipe.model == shipped.model
    assert recipe.scoring == shipped.scoring
    changed = varied(recipe, {"model": {"flow_length": 0}}, 3)
    assert changed.model.flow_length == 0
    assert changed.training == recipe.training.model_copy(update={"seed": 3})


def test_the_command_names_a_wrong_setting(capsys):
    assert main(["evaluate", "--embedded", "--set", "baseline_seed=1"]) == 2
    assert "did you mean 'baseline_seeds'" in capsys.readouterr().err


def test_a_single_draw_is_plotted_without_a_band(tmp_path):
    names = ("image_auroc", "pixel_auroc", "pixel_pro", "pixel_ap")
    entry = {"num_samples": 10, "mean": dict.fromkeys(names, 0.5), "std": dict.fromkeys(names)}
    assert samples_plot(tmp_path / "samples.png", {"over_draws": [entry]}).read_bytes().startswith(b"\x89PNG")
