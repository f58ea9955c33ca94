"""`bayes-pfl calibrate` and what `score` makes of it: thresholds that hold, refusals before work, nothing replaced."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from browser import chromium
from PIL import Image
from pycocotools.coco import COCO
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from small import painted_shards, random_bundle

from bayes_pfl.decisions.calibration import CALIBRATION, read_calibration
from bayes_pfl.inference.bundle import DEMONSTRATION, load_bundle
from pipelines.calibration.model import write_model
from pipelines.cli import main
from pipelines.scoring.decided import decision_tables
from pipelines.scoring.lists import read_list

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

GOOD = 12
RATE = "0.1"


def write_images(folder: Path, count: int, first: int = 0, dark: bool = False) -> Path:
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 60 if dark else 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAYES_PFL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return random_bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "good", GOOD)


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "bad", 10, 100, dark=True)


@pytest.fixture(scope="module")
def calibrated(bundle, good, bad, tmp_path_factory):
    """The model, calibrated for gears with defects at hand."""
    output = tmp_path_factory.mktemp("calibrated") / "model"
    given = ("--normal", good, "--anomalous", bad, "--class-name", "gear", "--false-alarms", RATE)
    assert calibrate(bundle, *given, "--output", output) == 0
    return output


def calibrate(model, *given):
    return main(["calibrate", "--model", str(model), "--num-samples", "1", *map(str, given)])


def score(model, *given, samples=1):
    return main(["score", *map(str, given), "--model", str(model), "--num-samples", str(samples)])


def rows_of(capsys):
    return {Path(row["sample_id"]).name: row for row in json.loads(capsys.readouterr().out)["rows"]}


class TestCalibrate:
    def test_thresholds_are_scores_of_the_images(self, bundle, good, calibrated, capsys):
        assert score(bundle, good, "--class-name", "gear", "--json") == 0
        scores = sorted(row["image_score"] for row in rows_of(capsys).values())
        boundaries = read_calibration(calibrated).boundaries("gear")
        assert boundaries.defective_above == scores[-1]  # floor(0.1 x 13) = 1: the highest of 12
        assert boundaries.good_up_to in scores[:-1]
        assert load_bundle(calibrated).version == load_bundle(bundle).version
        assert not (bundle / CALIBRATION).exists()
        Image.open(calibrated / "calibration.png").verify()

    def test_a_model_whose_weights_have_moved_remembers_where_they_lie_now(self, calibrated, tmp_path):
        weights = tmp_path / "clip.safetensors"
        weights.write_bytes(b"moved")
        moved = load_bundle(calibrated, clip_file=weights)
        (tmp_path / "model").mkdir()
        write_model(tmp_path / "model", moved, read_calibration(calibrated).record, b"picture")
        assert load_bundle(tmp_path / "model").config.backbone.pretrained == str(weights)
        assert load_bundle(tmp_path / "model").version == moved.version

    def test_what_is_promised_is_printed_and_is_json(self, bundle, good, bad, tmp_path, capsys):
        given = ("--normal", good, "--anomalous", bad, "--class-name", "gear", "--false-alarms", RATE)
        assert calibrate(bundle, *given, "--output", tmp_path / "text") == 0
        shown = capsys.readouterr().out
        assert "at most 10 are called defective, on average over calibrations; with 95 % confidence" in shown
        assert "Nothing is promised of images of another product" in shown
        share = read_calibration(tmp_path / "text").boundaries("gear")
        tally = share.tally(share.anomalous)
        low, high = (100 * edge for edge in tally.good_share)
        sentence = re.search(r"Of 100 defective images like these about (\d+) \[(.+), (.+)\] are called good", shown)
        assert float(sentence[1]) == pytest.approx(100 * tally.called_good / tally.images, abs=0.5)
        assert low - 0.1 < float(sentence[2]) <= low + 1e-9
        assert high - 1e-9 <= float(sentence[3]) < high + 0.1
        assert calibrate(bundle, *given, "--output", tmp_path / "json", "--json") == 0
        (described,) = json.loads(capsys.readouterr().out)["classes"]
        assert described["class_name"] == "gear"
        assert described["defective_images"]["images"] == 10

    def test_scores_are_taken_from_an_earlier_run(self, bundle, good, tmp_path, capsys, monkeypatch):
        given = (bundle, "--normal", good, "--class-name", "pinion")
        assert calibrate(*given, "--false-alarms", RATE, "--output", tmp_path / "first") == 0
        monkeypatch.setattr("pipelines.scoring.pool.Predictor", None)  # nothing can be scored any more
        assert calibrate(*given, "--false-alarms", "0.2", "--output", tmp_path / "second") == 0
        first, second = (read_calibration(tmp_path / name).boundaries("pinion") for name in ("first", "second"))
        assert second.defective_above < first.defective_above

    def test_too_few_images_are_refused_before_anything_is_scored(self, bundle, good, tmp_path, capsys):
        given = (bundle, "--normal", good, "--class-name", "gear", "--output", tmp_path / "out")
        assert calibrate(*given, "--false-alarms", "0.01") == 2
        shown = capsys.readouterr().err
        assert '"gear" has 12 good images and needs 99 (or --false-alarms 0.077). Nothing was written.' in shown
        assert "Scoring" not in shown
        assert calibrate(*given, "--recall", "0.9") == 2
        assert '"gear" has 0 defective images and needs 9' in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ((), "Say what errors are allowed: --false-alarms 0.01"),
            (("--false-alarms", "1"), "false_alarms"),
            (("--cost-miss", "3"), "cost_miss and cost_false_alarm belong together"),
            (("--false-alarms", "0.1", "--confidence", "0.2"), "confidence"),
            (("--false-alarms", "0.1", "--num-samples", "auto"), "give a number"),
        ],
    )
    def test_rules_that_make_no_sense(self, bundle, good, tmp_path, capsys, given, words):
        assert calibrate(bundle, "--normal", good, "--class-name", "gear", "--output", tmp_path / "out", *given) == 2
        assert words in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (("--false-alarms", "5"), "--false-alarms: 5 is not between 0 and 1: 5 % is 0.05"),
            (("--false-alarms", "0.1", "--recall", "95"), "--recall: 95 is not between 0 and 1: 95 % is 0.95"),
            (("--false-alarms", "nan"), "--false-alarms: nan is not between 0 and 1"),
        ],
    )
    def test_shares_that_are_none(self, bundle, good, capsys, given, words):
        with pytest.raises(SystemExit):
            calibrate(bundle, "--normal", good, "--class-name", "gear", "--output", "out", *given)
        assert words in capsys.readouterr().err

    def test_recall_and_costs(self, bundle, good, bad, tmp_path, capsys):
        given = (bundle, "--normal", good, "--anomalous", bad, "--class-name", "gear")
        assert calibrate(*given, "--recall", "0.9", "--output", tmp_path / "recall") == 0
        shown = capsys.readouterr().out
        assert "at most 10 are called good, on average" in shown
        assert calibrate(*given, "--cost-miss", "20", "--cost-false-alarm", "1", "--output", tmp_path / "cost") == 0
        assert "no rate is promised" in capsys.readouterr().out
        boundaries = read_calibration(tmp_path / "cost").boundaries("gear")
        assert boundaries.good_up_to == boundaries.defective_above
        assert {verdict.label for verdict in boundaries.verdicts(boundaries.anomalous)} <= {"defective", "unsure"}

    def test_unreadable_and_equal_files_are_left_out_by_name(self, bundle, good, tmp_path, capsys):
        folder = shutil.copytree(good, tmp_path / "good")
        shutil.copy(folder / "003.png", folder / "copy.png")
        (folder / "broken.png").write_bytes(b"no image")
        given = ("--normal", folder, "--class-name", "gear", "--false-alarms", RATE, "--output", tmp_path / "out")
        assert calibrate(bundle, *given) == 0
        shown = capsys.readouterr().err
        assert "copy.png: the same file as" in shown
        assert "broken.png: " in shown
        assert len(read_calibration(tmp_path / "out").boundaries("gear").images) == GOOD

    def test_images_that_are_named_twice_count_once(self, bundle, good, tmp_path, capsys):
        given = ("--normal", good, good / "000.png", good, "--class-name", "gear", "--false-alarms", RATE)
        assert calibrate(bundle, *given, "--output", tmp_path / "out") == 0
        assert len(read_calibration(tmp_path / "out").boundaries("gear").images) == GOOD

    def test_other_images_of_the_same_names_and_times_are_scored_anew(self, bundle, tmp_path, monkeypatch):
        for name, first in (("one", 0), ("two", 700)):
            for path in sorted(write_images(tmp_path / name / "good", 3, first).iterdir()):
                path.with_suffix(".bmp").write_bytes(b"")
                Image.open(path).save(path.with_name(f"{path.stem[-1]}.bmp"))
                path.with_suffix(".bmp").unlink(missing_ok=True)
                path.unlink()
            for path in (tmp_path / name / "good").iterdir():
                os.utime(path, (0, 0))
            monkeypatch.chdir(tmp_path / name)
            assert (
                calibrate(bundle, "--normal", "good", "--class-name", "gear", "--false-alarms", "0.3", "--output", "m")
                == 0
            )
        one, two = (read_calibration(tmp_path / name / "m").boundaries("gear").images for name in ("one", "two"))
        assert not set(one.sha256) & set(two.sha256)

    def test_a_product_does_not_vanish(self, bundle, good, tmp_path, capsys):
        shutil.copytree(good, tmp_path / "two" / "gear")
        (tmp_path / "two" / "cog").mkdir()
        (tmp_path / "two" / "cog" / "a.png").write_bytes(b"no image")
        given = ("--normal", tmp_path / "two", "--class-name-from", "folder", "--false-alarms", "0.5")
        assert calibrate(bundle, *given, "--output", tmp_path / "out") == 2
        assert '"cog" has 0 good images and needs 1' in capsys.readouterr().err

    def test_folders_whose_names_say_the_other_kind_are_refused(self, bundle, good, bad, tmp_path, capsys):
        part = tmp_path / "part"
        for kind in (good, bad):
            shutil.copytree(kind, part / kind.name)
        given = ("--class-name", "gear", "--false-alarms", RATE, "--output", tmp_path / "out")
        wanted = f"Give --normal {part}/good --anomalous {part}/bad."
        assert calibrate(bundle, "--normal", part, *given) == 2
        shown = capsys.readouterr().err
        assert f"--normal {part} holds bad/ (10 images), and the name says defective. {wanted}" in shown
        assert "Scoring" not in shown
        assert calibrate(bundle, "--normal", good, "--anomalous", part, *given) == 2
        assert (
            f"--anomalous {part} holds good/ (12 images), and the name says good. {wanted}" in capsys.readouterr().err
        )
        assert calibrate(bundle, "--normal", part / "good", part / "bad", *given) == 2  # as the shell expands part/*
        assert f"Give --anomalous {part}/bad." in capsys.readouterr().err
        (part / "bad").rename(part / "masks")
        (part / "good").rename(part / "images")
        assert calibrate(bundle, "--normal", part, *given) == 2
        assert "holds masks/, whose name says masks" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_folders_of_products_are_good_images(self, bundle, tmp_path):
        for number, product in enumerate(("bottle", "hole_punch", "lot/good")):
            write_images(tmp_path / "images" / product, 3, 3 * number)
        given = ("--normal", tmp_path / "images", "--class-name", "gear", "--false-alarms", "0.3")
        assert calibrate(bundle, *given, "--output", tmp_path / "out") == 0
        assert len(read_calibration(tmp_path / "out").boundaries("gear").images) == 9

    def test_an_output_among_the_images_or_below_a_file_is_refused_at_once(self, bundle, good, tmp_path, capsys):
        folder = shutil.copytree(good, tmp_path / "good")
        given = ("--normal", folder, "--class-name", "gear", "--false-alarms", RATE, "--output")
        assert calibrate(bundle, *given, folder / "model") == 2
        assert "lies in the folder of images" in capsys.readouterr().err
        (tmp_path / "file").write_text("a file")
        assert calibrate(bundle, *given, tmp_path / "file" / "model") == 2
        assert "no folder, or not writable" in capsys.readouterr().err

    def test_an_empty_folder_stays_the_same_folder(self, bundle, good, tmp_path):
        (tmp_path / "out").mkdir(mode=0o750)
        before = (tmp_path / "out").stat()
        given = ("--normal", good, "--class-name", "gear $x_1$ \u677f", "--false-alarms", RATE)
        assert calibrate(bundle, *given, "--output", tmp_path / "out") == 0
        after = (tmp_path / "out").stat()
        assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)

    def test_a_calibrated_model_keeps_its_other_products(self, bundle, calibrated, tmp_path, capsys):
        others = write_images(tmp_path / "others", GOOD, 300)
        given = ("--normal", others, "--class-name", "cog", "--false-alarms", RATE)
        assert calibrate(calibrated, *given, "--output", tmp_path / "out") == 0
        assert "Taken along from the model: gear." in capsys.readouterr().err
        assert read_calibration(tmp_path / "out").names == ["cog", "gear"]
        assert calibrate(calibrated, *given, "--seed", "1", "--output", tmp_path / "seed") == 0
        assert "Not taken along (the calibration does not apply: it was made with seed 0, not 1): gear" in (
            capsys.readouterr().err
        )

    def test_an_image_is_not_good_and_defective(self, bundle, good, tmp_path, capsys):
        given = ("--normal", good, "--anomalous", good / "000.png", "--class-name", "gear", "--false-alarms", RATE)
        assert calibrate(bundle, *given, "--output", tmp_path / "out") == 2
        assert "1 of these images are good and defective at once" in capsys.readouterr().err

    def test_images_that_were_trained_on_are_refused(self, tmp_path, capsys):
        shards = painted_shards(tmp_path, ("metal plate",), 3, normal=9, defective=1)
        trained = random_bundle(tmp_path / "trained", shards)
        given = ("--normal", shards, "--false-alarms", RATE, "--output", tmp_path / "out")
        assert calibrate(trained, *given) == 2
        assert "trained on 9 of these images" in capsys.readouterr().err

    def test_shards_and_lists_know_what_is_good(self, bundle, good, bad, tmp_path, capsys):
        shards = painted_shards(tmp_path, ("metal plate",), 3, normal=9, defective=2)
        given = ("--normal", shards, "--anomalous", shards, "--false-alarms", RATE, "--output", tmp_path / "shards")
        assert calibrate(bundle, *given) == 0
        assert "left out: 2 images that the shards or lists do not call good" in capsys.readouterr().err
        boundaries = read_calibration(tmp_path / "shards").boundaries("metal plate")
        assert (len(boundaries.images), len(boundaries.anomalous)) == (9, 2)
        rows = [("path", "class_name", "verdict")]
        rows += [(path, "gear", "good") for path in sorted(good.iterdir())]
        rows += [(path, "gear", "Defective") for path in sorted(bad.iterdir())[:3]]
        rows += [(path, "gear", "") for path in sorted(bad.iterdir())[3:]]
        with (tmp_path / "verdicts.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        listed = ("--normal", tmp_path / "verdicts.csv", "--anomalous", tmp_path / "verdicts.csv")
        assert calibrate(bundle, *listed, "--false-alarms", RATE, "--output", tmp_path / "list") == 0
        boundaries = read_calibration(tmp_path / "list").boundaries("gear")
        assert (len(boundaries.images), len(boundaries.anomalous)) == (GOOD, 3)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("file,verdict\na.png,good\n", "must name path"),
            ("path,verdict\na.png,perhaps\n", "line 2: 'perhaps' is no verdict"),
            ("path,verdict\na.png,good\n./a.png,bad\n", "line 3: ./a.png is listed twice, and the rows differ"),
            ("path,verdict\n,good\n", "line 2: path is empty"),
            ("", "lists no images"),
            ("path\nnot-there.png\n", "line 2: there is no file"),
            ("path\na\0.png\n", "line 2: path is empty, or none"),
        ],
    )
    def test_lists_that_make_no_sense(self, bundle, tmp_path, capsys, text, words):
        (tmp_path / "list.csv").write_text(text)
        given = ("--normal", tmp_path / "list.csv", "--class-name", "gear", "--false-alarms", "0.6")
        assert calibrate(bundle, *given, "--output", tmp_path / "out") == 2
        assert words in capsys.readouterr().err

    def test_classes_are_added_and_nothing_is_replaced(self, bundle, good, calibrated, tmp_path, capsys):
        output = shutil.copytree(calibrated, tmp_path / "model")
        others = write_images(tmp_path / "others", GOOD, 300)
        assert (
            calibrate(bundle, "--normal", others, "--class-name", "cog", "--false-alarms", RATE, "--output", output)
            == 0
        )
        assert "(other names)" in capsys.readouterr().out
        calibration = read_calibration(output)
        assert calibration.names == ["gear", "cog"]
        assert len(calibration.pooled.images) == 2 * GOOD
        before = (output / CALIBRATION).read_bytes()
        for given in (
            ("--normal", others, "--class-name", "gear", "--false-alarms", RATE),
            ("--normal", others, "--class-name", "gear", "--false-alarms", "0.2"),
        ):
            assert calibrate(bundle, *given, "--output", output) == 2
            assert 'calibrated for "gear" already' in capsys.readouterr().err
        again = ("--normal", others, "--class-name", "cog", "--false-alarms", RATE, "--num-samples", "2")
        assert calibrate(bundle, *again, "--output", output) == 2
        assert "holds another calibration" in capsys.readouterr().err
        assert (output / CALIBRATION).read_bytes() == before
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("mine")
        given = ("--normal", good, "--class-name", "gear", "--false-alarms", RATE)
        assert calibrate(bundle, *given, "--output", tmp_path / "mine") == 2
        assert "is there already and no calibrated model" in capsys.readouterr().err

    def test_a_calibrated_demonstration_model_stays_one(self, tmp_path):
        copy = shutil.copytree(load_bundle("embedded").folder, tmp_path / "copy")
        assert load_bundle(copy).kind == DEMONSTRATION


class TestScore:
    def test_labels_p_values_and_reasons(self, calibrated, good, bad, tmp_path, capsys):
        assert score(calibrated, good, "--class-name", "Gear", "--json") == 0
        rows, calibration = rows_of(capsys), read_calibration(calibrated)
        boundaries = calibration.boundaries("gear")
        for row in rows.values():
            expected = calibration.verdict("gear", row["image_score"], row["uncertainty"], row["sha256"])
            assert (row["pred_label"], row["p_value"]) == (expected.label, expected.p_value)
            assert (row["unsure_because"] is None) == (row["pred_label"] != "unsure")
        assert {row["pred_label"] for row in rows.values()} >= {"unsure"}
        assert score(calibrated, good, bad, "--class-name", "gear", "--output", tmp_path / "out") == 0
        table = pq.read_table(tmp_path / "out" / "scores.parquet").to_pylist()
        assert {row["sample_id"]: row["pred_label"] for row in table}.items() >= {
            row["sample_id"]: row["pred_label"] for row in rows.values()
        }.items()
        assert f"by calibration {calibration.version}" in (tmp_path / "out" / "gallery.html").read_text()
        assert boundaries.rule.false_alarms == 0.1

    def test_a_selection_is_of_classes_with_a_calibration_of_their_own(
        self, bundle, calibrated, good, tmp_path, capsys
    ):
        output = shutil.copytree(calibrated, tmp_path / "model")
        others = write_images(tmp_path / "others", GOOD, 300)
        assert (
            calibrate(bundle, "--normal", others, "--class-name", "cog", "--false-alarms", RATE, "--output", output)
            == 0
        )
        capsys.readouterr()
        assert score(output, good, "--class-name", "leather", "--false-discoveries", "0.5") == 0
        shown = capsys.readouterr().out
        assert "0 images of 0 selected together" in shown
        assert "of a class name that was not calibrated, take no part" in shown
        assert "Not calibrated: leather." in shown

    def test_no_label_is_never_without_a_reason(self, calibrated, good, capsys):
        assert score(calibrated, good / "000.png", "--class-name", "cog") == 0
        assert "no verdict: " in (shown := capsys.readouterr().out)
        assert 'is for "gear", not for "cog"' in shown

    @pytest.mark.parametrize(
        ("given", "samples", "reason"),
        [
            (("--class-name", "gear"), 2, "made with num_samples 1, not 2"),
            (("--class-name", "gear", "--tile"), 1, "looked_at whole images at 64 px, not tiles"),
            (("--class-name", "gear", "--precision", "bfloat16"), 1, "precision float32, not bfloat16"),
            (("--class-name", "cog"), 1, 'is for "gear", not for "cog"'),
        ],
    )
    def test_where_it_does_not_apply_there_is_no_label(self, calibrated, good, capsys, given, samples, reason):
        assert score(calibrated, good / "000.png", *given, "--json", samples=samples) == 0
        (row,) = rows_of(capsys).values()
        assert row["pred_label"] is None
        assert reason in row["no_label_because"]

    def test_another_model_or_other_settings(self, calibrated, good, tmp_path, capsys):
        other = shutil.copytree(calibrated, tmp_path / "other")
        record = json.loads((other / "bundle.json").read_text())
        record["config"]["scoring"]["text_weight"] = 0.2
        (other / "bundle.json").write_text(json.dumps(record))
        assert score(other, good / "000.png", "--class-name", "gear", "--json") == 0
        (row,) = rows_of(capsys).values()
        assert "does not apply: it was made with settings" in row["no_label_because"]
        record["config"]["scoring"]["text_weight"] = 0.5
        record["config"]["scoring"]["threshold"] = 0.9  # which a calibration does not depend on
        (other / "bundle.json").write_text(json.dumps(record))
        assert score(other, good / "000.png", "--class-name", "gear", "--json") == 0
        (row,) = rows_of(capsys).values()
        assert row["p_value"] is not None
        assert score(other, good / "000.png", "--class-name", "gear", "--threshold", "0", "--json") == 0
        (row,) = rows_of(capsys).values()
        assert (row["pred_label"], row["p_value"]) == ("defective", None)

    def test_regions_begin_where_few_good_images_have_any(self, calibrated, good, tmp_path):
        assert score(calibrated, good, "--class-name", "gear", "--coco", tmp_path / "regions.json") == 0
        document = json.loads((tmp_path / "regions.json").read_text())
        assert {annotation["image_id"] for annotation in document["annotations"]} == set()  # the highest of 12 maps
        assert {image["pred_label"] for image in document["images"]} >= {"unsure"}

    def test_a_selection(self, calibrated, bundle, good, bad, tmp_path, capsys):
        given = (good, bad, "--class-name", "gear", "--false-discoveries", "0.5")
        assert score(calibrated, *given, "--output", tmp_path / "out") == 0
        shown = capsys.readouterr().out
        table = pq.read_table(tmp_path / "out" / "scores.parquet")
        selected = table["selected"].to_pylist()
        assert f"{selected.count(True)} image" in shown
        assert score(bundle, *given) == 2
        assert len(table["selected"].drop_null()) == GOOD + 10
        assert "--false-discoveries needs the p-values of a calibration: the model has no threshold" in (
            capsys.readouterr().err
        )


class TestReview:
    def test_the_most_uncertain_come_first_and_what_was_written_stays(self, calibrated, good, bad, tmp_path, capsys):
        given = (good, bad, "--class-name", "gear", "--review", tmp_path / "review")
        assert score(calibrated, *given) == 0
        rows = list(csv.DictReader((tmp_path / "review" / "review.csv").open(newline="")))
        labels = [row["pred_label"] for row in rows]
        assert labels == sorted(labels, key=lambda label: label != "unsure")
        assert {row["path"] for row in rows} == {str(path) for folder in (good, bad) for path in folder.iterdir()}
        text = (tmp_path / "review" / "review.csv").read_text().replace(",\n", ",good\n", 1).replace(",", ";")
        (tmp_path / "review" / "review.csv").write_text(text)  # as spreadsheets in half of Europe save it
        assert score(calibrated, *given) == 0
        assert (tmp_path / "review" / "review.csv").read_text() == text
        assert [row.label for row in read_list(tmp_path / "review" / "review.csv")].count(0) == 1
        assert score(calibrated, good, "--class-name", "gear", "--review", tmp_path / "review") == 2
        assert "is a review of other images" in capsys.readouterr().err

    def test_beside_an_output_it_has_its_own_maps(self, calibrated, good, tmp_path):
        given = (good, "--class-name", "gear", "--output", tmp_path / "out", "--review", tmp_path / "review")
        assert score(calibrated, *given) == 0
        assert len(list((tmp_path / "review" / "maps").iterdir())) == GOOD
        assert not (tmp_path / "out" / "review.html").exists()

    def test_what_a_person_presses_is_downloaded_and_calibrates(self, calibrated, bundle, good, tmp_path):
        hostile = shutil.copytree(good, tmp_path / 'a "b"<script>alert(1)<')
        folder, name = tmp_path / "review", 'gear "<img src=x>'
        assert score(calibrated, hostile, "--class-name", name, "--review", folder) == 0
        with chromium(tmp_path / "downloads") as browser:
            browser.get((folder / "review.html").as_uri())
            for number, item in enumerate(browser.find_elements(By.CSS_SELECTOR, "li[data-path]")):
                word = "defective" if number == 0 else "good"
                item.find_element(By.CSS_SELECTOR, f"button[value={word}]").click()
            browser.refresh()  # what was said stays
            assert browser.find_element(By.ID, "said").text == f"{GOOD} of {GOOD} looked at"
            assert browser.find_elements(By.CSS_SELECTOR, "button[aria-pressed=true]")[0].text == "defective"
            for kind, file in (("csv", "verdicts.csv"), ("coco", "verdicts.json")):
                browser.find_element(By.ID, kind).click()
                WebDriverWait(browser, 20).until(lambda _, file=file: (tmp_path / "downloads" / file).is_file())
            assert browser.get_log("browser") == []
        listed = read_list(tmp_path / "downloads" / "verdicts.csv")
        assert [row.label for row in listed].count(0) == GOOD - 1
        assert {row.class_name for row in listed} == {name}
        assert {row.path for row in listed} == {str(path) for path in hostile.iterdir()}
        coco = COCO(str(tmp_path / "downloads" / "verdicts.json"))
        assert len(coco.getImgIds(catIds=[2])) == 1
        assert coco.loadImgs(coco.getImgIds(catIds=[2]))[0]["width"] == 30
        given = (
            "--normal",
            tmp_path / "downloads" / "verdicts.csv",
            "--false-alarms",
            RATE,
            "--output",
            tmp_path / "new",
        )
        assert calibrate(bundle, *given) == 0

    def test_without_any_threshold_the_highest_scores_come_first(self, bundle, good, tmp_path):
        assert score(bundle, good, "--class-name", "gear", "--review", tmp_path / "review") == 0
        table = pq.read_table(tmp_path / "review" / "scores.parquet").to_pylist()
        by_score = sorted(table, key=lambda row: -row["image_score"])
        rows = list(csv.DictReader((tmp_path / "review" / "review.csv").open(newline="")))
        assert [row["path"] for row in rows] == [row["sample_id"] for row in by_score]


def test_evaluate_shows_what_was_promised_beside_what_was_found(bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    shards = painted_shards(tmp_path, ("metal plate", "leather"), 5, normal=9, defective=3)
    assert calibrate(bundle, "--normal", shards, "--false-alarms", RATE, "--output", tmp_path / "model") == 0
    new = painted_shards(tmp_path, ("metal plate", "leather"), 6, normal=6, defective=3)
    given = ("--model", tmp_path / "model", "--shards", new, "--num-samples", "1", "--output", tmp_path / "out")
    assert main(["evaluate", *map(str, given)]) == 0
    shown = capsys.readouterr().out
    assert "false alarms promised" in shown
    assert "defective called good" in shown
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    decisions = json.loads((tmp_path / "out" / "metrics.json").read_text())["decisions"]
    assert decisions["calibration"] == read_calibration(tmp_path / "model").version
    for category, entry in decisions["datasets"]["painted"].items():
        assert entry["false_alarms_promised"] == 0.1
        for label, kind in (("0", "good_images"), ("1", "defective_images")):
            labels = [row["pred_label"] for row in rows if (row["category"], row["label"]) == (category, label)]
            assert (entry[kind]["images"], entry[kind]["called_defective"]) == (len(labels), labels.count("defective"))
            for label_name in ("defective", "good"):
                low, high = entry[kind][f"called_{label_name}_share"]
                assert low <= labels.count(label_name) / len(labels) <= high
        (row,) = (row for row in decision_tables({"decisions": decisions})[0].rows if row["category"] == category)
        assert float(row["of this calibration at most"]) >= 100 * entry["false_alarms_at_most"]
    assert decisions["calibration_images_evaluated"] == 0
    again = ("--model", tmp_path / "model", "--shards", shards, "--num-samples", "1", "--output", tmp_path / "again")
    assert main(["evaluate", *map(str, again)]) == 0
    assert "18 of these images made the calibration" in capsys.readouterr().out
    assert "Decisions on painted, by calibration" in (tmp_path / "out" / "report.html").read_text()
    assert main(["evaluate", *map(str, given[:-1]), str(tmp_path / "released"), "--set", "protocol=released"]) == 0
    released = json.loads((tmp_path / "released" / "metrics.json").read_text())["decisions"]
    assert "released protocol" in released["no_label_because"]
