"""`bayes-pfl score`: the library's scores wherever they are computed, a killed run goes on, broken images are listed."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from small import painted_shards, random_bundle

from bayes_pfl.data.preprocess import MAX_PIXELS, decode_image
from bayes_pfl.data.shards import iterate_rows
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.heatmap import heat_map, overlay
from bayes_pfl.inference.view import RegionOfInterest, View
from pipelines.cli import main
from pipelines.scoring.actors import through_actors
from pipelines.scoring.gallery import tiles_of
from pipelines.scoring.image_files import ImageFiles, piece, scored_images
from pipelines.scoring.inputs import find_inputs
from pipelines.scoring.results import WRITTEN
from pipelines.scoring.stages import Predictor, ReadyScorer, around_gpu, score_piece
from pipelines.scoring.task import ScoringTask
from pipelines.scoring.thresholds import NO_THRESHOLD

LABELS = {True: "defective", False: "good"}
PROJECT = Path(__file__).parents[2]
COLUMNS = [
    "sample_id",
    "class_name",
    "image_score",
    "pred_label",
    "p_value",
    "uncertainty",
    "anomaly_map",
    "model_version",
    "error",
    "read_as",
    "unsure_because",
    "no_label_because",
    "sha256",
    "width",
    "height",
]


def write_images(folder: Path, count: int, first: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.set_num_threads(1)  # as the workers: other thread counts may add in another order
    return random_bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture(scope="module")
def detector(bundle):
    return Detector.load(bundle)


@pytest.fixture
def few(tmp_path):
    folder = write_images(tmp_path / "parts", 2)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"no image either")
    (folder / "notes.txt").write_text("not looked at", encoding="ascii")
    return folder


def score(bundle, *given, samples=1):
    return main(["score", *map(str, given), "--model", str(bundle), "--num-samples", str(samples)])


def rows_of(output: Path):
    return pq.read_table(output / "scores.parquet").to_pylist()


class TestFewImages:
    """In this process, without Ray."""

    def test_scores_are_the_librarys_and_broken_files_are_listed(self, bundle, detector, few, capsys):
        assert score(bundle, few, "--class-name", "gear", "--json", samples=3) == 0
        answer = json.loads(capsys.readouterr().out)
        assert [row["sample_id"] for row in answer["unreadable"]] == [
            str(few / "broken.png"),
            str(few / "caf\ufffd.png"),
        ]
        assert list(answer["rows"][0]) == COLUMNS
        for row in answer["rows"][:2]:
            (expected,) = detector.predict([Path(row["sample_id"]).read_bytes()], ["gear"], 3)
            assert (row["image_score"], row["uncertainty"]) == (expected.image_score, expected.uncertainty)
            assert row["model_version"] == detector.bundle.version
        assert answer["scored"] == 2
        assert "ray" not in answer["rows"][2]["error"]

    def test_what_was_assumed_of_a_file_is_said(self, bundle, few, capsys):
        frames = [Image.fromarray(np.full((30, 40), value, np.uint8)) for value in (10, 90, 200)]
        for name in ("pages.tif", "film.webp"):
            frames[0].save(few / name, save_all=True, append_images=frames[1:])
        assert score(bundle, few, "--class-name", "gear", "--json") == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["read_as"] == [{"values": "first of 3 pages", "counts": 2}]
        said = {Path(row["sample_id"]).name: row["read_as"] for row in answer["rows"]}
        assert said["pages.tif"] == said["film.webp"] == "first of 3 pages"
        assert said["000.png"] is None
        assert score(bundle, few, "--class-name", "gear") == 0
        assert "read as: 2 images, first of 3 pages" in capsys.readouterr().out

    def test_a_threshold_labels_and_fail_above_sets_the_exit_code(self, bundle, detector, few, capsys):
        given = (few / "000.png", few / "001.png", "--class-name", "gear")
        images = [(few / name).read_bytes() for name in ("000.png", "001.png")]
        scores = [one.image_score for one in detector.predict(images, ["gear"] * 2, 1)]
        high = max(scores)
        assert score(bundle, *given, "--threshold", high, "--json") == 0
        answer = json.loads(capsys.readouterr().out)
        assert [row["pred_label"] for row in answer["rows"]] == [LABELS[one >= high] for one in scores]
        assert answer["labels"]["defective"] == sum(one >= high for one in scores)
        assert score(bundle, *given, "--fail-above", min(scores)) == 1
        assert score(bundle, *given, "--fail-above", high) == 0
        said = capsys.readouterr()
        assert "Scoring 2 images here" in said.err
        assert "demonstration" not in said.out

    def test_what_the_user_can_mend_is_said(self, bundle, few, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        for given, part in [
            ([tmp_path / "empty", "--class-name", "gear"], "No images found"),
            ([tmp_path / "nowhere", "--class-name", "gear"], "There is no file or folder"),
            ([few / "broken.png", "--class-name", "gear"], "None of the images could be scored"),
            ([few], "--class-name"),
            ([few, "--class-name", "word " * 100], "None of the images could be scored. The first:"),
            ([few, "--class-name", " "], "--class-name is blank"),
            ([few, "--class-name", "gear", "--region-threshold", "0.5"], "give --coco too"),
            ([few, "--class-name", "gear", "--overlap", "0.5"], "give --tile too"),
            ([few, "--class-name", "gear", "--tile", "--overlap", "1"], "below 1"),
            ([few, "--class-name", "gear", "--roi", "1,2,3"], "give x,y,width,height in pixels"),
            ([few, "--class-name", "gear", "--roi", few / "broken.png"], "broken.png cannot be used: not a readable"),
        ]:
            assert score(bundle, *given) == 2
            assert part in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["gallery.html", "summary.json", "maps"])
    def test_files_of_others_are_not_replaced(self, bundle, few, tmp_path, capsys, name):
        (tmp_path / name).write_text("of the user", encoding="ascii")
        assert score(bundle, few, "--class-name", "gear", "--output", tmp_path) == 2
        assert f"holds {name} of something else" in capsys.readouterr().err
        assert (tmp_path / name).read_text(encoding="ascii") == "of the user"

    def test_only_its_own_leftovers_are_deleted(self, bundle, few, tmp_path, capsys):
        given = (few, "--class-name", "gear", "--output", tmp_path / "results")
        ours = [
            tmp_path / "results" / name.format("4711-0123abcd")
            for name in ("maps/.000000-000.png.{}.part", "_manifest/shards/.part-000000.arrow.{}.part")
        ]
        ours += [tmp_path / "results" / ".scores.parquet.4711-0123abcd.part"]
        theirs = [tmp_path / "results" / name for name in ("sub/.download.bin.part", "maps/.mine.part", ".x.part")]
        assert score(bundle, *given) == 0
        for path in (*ours, *theirs):
            path.parent.mkdir(exist_ok=True)
            path.write_text("IMPORTANT", encoding="ascii")
        (tmp_path / "results" / ".folder.part").mkdir()
        assert score(bundle, *given) == 0
        assert [path.exists() for path in ours] == [False] * 3
        assert [path.read_text(encoding="ascii") for path in theirs] == ["IMPORTANT"] * 3

    def test_a_folder_of_shards_and_a_folder_of_results_stay_apart(self, bundle, few, tmp_path, capsys):
        good, results, shards = tmp_path / "own" / "good", tmp_path / "results", tmp_path / "shards"
        good.mkdir(parents=True)
        (good / "a.png").write_bytes((few / "000.png").read_bytes())
        packing = ["ingest", "folder", "--source", str(tmp_path / "own"), "--class-name", "gear", "--output"]
        given = (few, "--class-name", "gear", "--output")
        assert main([*packing, str(shards)]) == score(bundle, *given, results) == 0
        capsys.readouterr()
        assert score(bundle, *given, shards) == 2
        assert "holds no scores, but shards" in capsys.readouterr().err
        assert main([*packing, str(results)]) == 2
        assert "holds no shards, but scores" in capsys.readouterr().err
        features = tmp_path / "features" / "_manifest" / "features.json"
        features.parent.mkdir(parents=True)
        features.write_text("{}", encoding="ascii")
        assert main([*packing, str(tmp_path / "features")]) == score(bundle, *given, tmp_path / "features") == 2
        assert capsys.readouterr().err.count("features") >= 2
        assert main([*packing, str(shards)]) == score(bundle, *given, results) == 0  # both go on

    @pytest.mark.parametrize("left", ['{"model_version": "', None])
    def test_scores_without_their_plan_are_no_ones(self, bundle, few, tmp_path, capsys, left):
        given = (few, "--class-name", "gear", "--output", tmp_path)
        assert score(bundle, *given) == 0
        plan = tmp_path / "_manifest" / "plan.json"
        plan.unlink()
        if left is not None:
            plan.write_text(left, encoding="ascii")
        for name in WRITTEN:  # the parts alone are left
            (tmp_path / name).rename(tmp_path / f"moved-{name}")
        capsys.readouterr()
        assert score(bundle, *given) == 2
        assert ("is damaged" if left else "of something else. Choose another") in capsys.readouterr().err

    def test_a_folder_of_results_is_whole(self, bundle, detector, few, tmp_path, capsys):
        output = tmp_path / "results"
        assert score(bundle, few, "--class-name", "a <b>gear", "--output", output, "--threshold", "0.5") == 0
        rows = rows_of(output)
        assert list(rows[0]) == COLUMNS
        with pa.memory_map(str(output / "scores.arrow")) as source:
            assert pa.ipc.open_file(source).read_all().to_pylist() == rows
        by_name = {Path(row["sample_id"]).name: row for row in rows}
        assert by_name["broken.png"]["error"].startswith("not a readable image")
        assert by_name["broken.png"]["pred_label"] is None
        (prediction,) = detector.predict([(few / "000.png").read_bytes()], ["a <b>gear"], 1)
        drawn = overlay(decode_image((few / "000.png").read_bytes()), prediction.anomaly_map)
        with Image.open(output / by_name["000.png"]["anomaly_map"]) as kept:
            assert np.array_equal(np.asarray(kept), np.asarray(drawn))
        summary = json.loads((output / "summary.json").read_text())
        assert (summary["images"], summary["scored"], len(summary["unreadable"])) == (4, 2, 2)
        page = (output / "gallery.html").read_text()
        shown = [float(value) for value in re.findall(r"<b>(\d\.\d{3})</b>", page)]
        assert len(shown) == 2
        assert shown == sorted(shown, reverse=True)
        links = re.findall(r'<a href="([^"]+)"><img src="([^"]+)"', page)
        assert all(link == picture and (output / unquote(link)).is_file() for link, picture in links)
        assert re.findall(r"<figcaption>([^<]+)", page) == ["image", "anomaly map", "overlay"] * 2
        (first, *_), original = tiles_of(by_name["000.png"]["anomaly_map"]), Image.open(few / "000.png").convert("RGB")
        buffer = io.BytesIO()
        original.save(buffer, "JPEG", quality=85)
        with Image.open(output / first) as shown_image, Image.open(buffer) as expected:
            assert np.array_equal(np.asarray(shown_image), np.asarray(expected))
        heat = heat_map(prediction.anomaly_map).resize(original.size, Image.Resampling.BILINEAR)
        with Image.open(output / tiles_of(by_name["000.png"]["anomaly_map"])[1]) as shown_map:
            assert np.array_equal(np.asarray(shown_map), np.asarray(heat))
        assert "<span>anomaly map 0</span>" in page
        verdicts = re.findall(r'<b style="background: (#\w+); color: \w+;[^"]*">(\w+)</b>', page)
        scored = sorted((row for row in rows if row["pred_label"]), key=lambda row: -row["image_score"])
        assert [word for _, word in verdicts] == [row["pred_label"] for row in scored]
        assert all((colour == "#c53030") == (word == "defective") for colour, word in verdicts)
        assert "<span>1</span>" in page
        assert "a &lt;b&gt;gear" in page
        assert "broken.png: not a readable image" in page
        assert not re.search(r"<script|https?:", page)

    def test_several_products_are_told_by_folder_or_by_table(self, bundle, tmp_path, capsys, monkeypatch):
        for product in ("metal_nut", "cable"):
            (tmp_path / "photos" / product).mkdir(parents=True)
            write_images(tmp_path / "photos" / product, 1)
        names = {"metal_nut/000.png": "metal nut", "cable/000.png": "cable"}
        monkeypatch.chdir(tmp_path)
        for source in ("photos", "./photos/", str(tmp_path / "photos"), "photos/../photos"):
            assert score(bundle, source, "--class-name-from", "folder", "--json") == 0
            rows = json.loads(capsys.readouterr().out)["rows"]
            assert {"/".join(Path(row["sample_id"]).parts[-2:]): row["class_name"] for row in rows} == names
        lines = ["path,class_name", "photos/metal_nut/000.png,nut", f"{tmp_path}/photos/cable/000.png,a cable"]
        (tmp_path / "names.csv").write_text("\n".join(lines), encoding="utf-8")
        assert score(bundle, "photos", "--class-name-from", "names.csv", "--json") == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert sorted(row["class_name"] for row in rows) == ["a cable", "nut"]
        (tmp_path / "names.csv").write_text("\n".join(lines[:2]), encoding="utf-8")
        assert score(bundle, "photos", "--class-name-from", "names.csv") == 2
        assert "photos/cable/000.png is not in names.csv" in capsys.readouterr().err

    def test_class_names_of_a_list_that_are_replaced_are_named(self, bundle, tmp_path, capsys, monkeypatch):
        write_images(tmp_path / "photos", 1)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "list.csv").write_text("path,class_name\nphotos/000.png,metal nut\n", encoding="utf-8")
        assert score(bundle, "list.csv", "--class-name", "cable", "--json") == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["rows"][0]["class_name"] == "cable"
        assert "--class-name cable replaces the images' own class names: metal nut (1)." in printed.err
        assert score(bundle, "list.csv", "--json") == 0
        assert "replaces" not in capsys.readouterr().err

    def test_a_model_below_the_home_has_the_name_that_settings_give_it(
        self, bundle, few, tmp_path, monkeypatch, capsys
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
        below = shutil.copytree(bundle, tmp_path / "home" / "mine")
        given = (few / "000.png", "--class-name", "gear")
        assert score("runs/mine", *given) == 0
        assert f"There is no runs/mine here: {below} is taken, below BAYES_PFL_HOME." in capsys.readouterr().err
        assert score("runs/other", *given) == 2
        assert "runs/other is no bundle" in capsys.readouterr().err
        shutil.copytree(bundle, tmp_path / "runs" / "mine")
        assert score("runs/mine", *given) == 0
        assert "BAYES_PFL_HOME" not in capsys.readouterr().err
        (tmp_path / "evaluation.yaml").write_text("model: runs/third\nshards: [nowhere]\n")
        shutil.copytree(bundle, tmp_path / "home" / "third")
        assert main(["evaluate", "--config", "evaluation.yaml"]) == 2
        assert f"{tmp_path}/home/third is taken" in capsys.readouterr().err

    def test_own_output_is_never_an_input(self, bundle, tmp_path, capsys):
        photos = write_images(tmp_path / "photos", 3)
        (photos / "phone.heic").write_bytes(b"x")
        for name in ("results", "results", "more"):
            assert score(bundle, photos, "--class-name", "part", "--output", photos / name, "--json") == 0
            said = capsys.readouterr()
            assert json.loads(said.out)["images"] == 3
            assert "left out: 1 file is not read: 1 .heic; save it as PNG" in said.err
        assert score(bundle, photos, "--class-name", "part", "--output", photos / "results") == 0
        assert "Nothing to score: 3 images done before" in capsys.readouterr().err

    def test_no_label_says_why(self, bundle, few, capsys):
        given = (few / "000.png", "--class-name", "gear")
        assert score(bundle, *given, "--json") == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["rows"][0]["pred_label"] is None
        assert answer["no_label_because"] == NO_THRESHOLD
        assert score(bundle, *given) == 0
        assert f"No verdicts: {NO_THRESHOLD}." in capsys.readouterr().out
        assert score(bundle, *given, "--fail-above", "0") == 1
        assert re.search(rf"above 0: {few / '000.png'}: 0\.\d+", capsys.readouterr().err)

    def test_a_larger_limit_of_pixels_is_another_run(self, bundle, few, tmp_path, capsys):
        Image.new("RGB", (80, 50)).save(few / "large.png")
        given = (few, "--class-name", "gear", "--output", tmp_path / "results")
        assert score(bundle, *given, "--max-pixels", "2000") == 0
        assert "large.png: 80 x 50 is larger than 2000 pixels" in capsys.readouterr().out
        assert score(bundle, *given) == 2
        assert "made with another --max-pixels" in capsys.readouterr().err

    def test_tiles_give_the_numbers_of_the_library(self, bundle, detector, tmp_path, capsys):
        pixels = np.random.default_rng(0).integers(0, 256, (70, 150, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "wide.png")
        given = (tmp_path / "wide.png", "--class-name", "plate", "--tile")
        whole = (tmp_path / "wide.png", "--class-name", "plate", "--output", tmp_path / "results")
        for more, overlap in [((), 0.5), (("--overlap", "0.25"), 0.25)]:
            expected = detector.predict_tiled(pixels, "plate", overlap, 2)
            assert score(bundle, *given, *more, "--json", samples=2) == 0
            (row,) = json.loads(capsys.readouterr().out)["rows"]
            assert (row["image_score"], row["uncertainty"]) == (expected.image_score, expected.uncertainty)
        assert score(bundle, *whole) == 0
        assert score(bundle, *whole, "--tile") == 2
        assert "another run (made without --tile). Choose" in capsys.readouterr().err

    def test_images_that_a_gpu_scores_together_have_their_own_scores(self, bundle, few, tmp_path):
        task = ScoringTask(load_bundle(bundle), 2, 0, 1, "cpu", MAX_PIXELS)
        inputs = find_inputs([str(few)], "gear", None).images
        source, predictor = ImageFiles(task, True), Predictor(task)
        alone = scored_images(score_piece(source, predictor, {"images": [piece(inputs)["images"]]}))
        predictor._detector._batch = 2  # as on a GPU
        row = score_piece(source, predictor, {"part": np.array([3]), "images": np.array([json.dumps(inputs)])})
        together = scored_images(row)
        assert row["part"] == 3
        assert [result.image_score is None for result in together] == [result.image_score is None for result in alone]
        assert sum(result.image_score is None for result in together) == 2  # that are no images
        pairs = [(a.image_score, b.image_score) for a, b in zip(together, alone, strict=True) if a.error is None]
        assert max(abs(a - b) for a, b in pairs) < 1e-6
        assert [result.error for result in together] == [result.error for result in alone]

    def test_as_many_samples_as_the_threshold_needs(self, bundle, detector, few, tmp_path, capsys):
        given = (few / "000.png", "--class-name", "gear", "--json")
        (expected,) = detector.predict([few / "000.png"], ["gear"], "auto", threshold=0.9)
        assert score(bundle, *given, "--threshold", "0.9", samples="auto") == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["rows"][0]["image_score"], answer["num_samples"]) == (expected.image_score, "auto")
        for more in ((), ("--threshold", "0.9", "--tile")):
            assert score(bundle, *given, *more, samples="auto") == 2
            assert "num_samples can be auto for whole images and with a threshold" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            score(bundle, few, "--class-name", "gear", samples="many")

    def test_bits_are_as_said(self, bundle, detector, tmp_path, capsys):
        values = np.random.default_rng(0).integers(0, 900, (40, 30)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / "dark.png")
        data = (tmp_path / "dark.png").read_bytes()
        given = (tmp_path / "dark.png", "--class-name", "plate", "--json")
        scores = []
        for more, bits in [((), 10), (("--bits", "12"), 12)]:
            assert score(bundle, *given, *more) == 0
            (row,) = json.loads(capsys.readouterr().out)["rows"]
            expected = detector.predict([decode_image(data, bits=bits)], ["plate"], 1)[0].image_score
            assert row["image_score"] == expected
            scores.append(expected)
        assert scores[0] != scores[1]
        with pytest.raises(SystemExit):
            score(bundle, *given, "--bits", "17")
        assert "--bits: 17 is too large, give 16 or less" in capsys.readouterr().err

    def test_options_of_the_detector_are_used_and_belong_to_the_result(self, bundle, few, tmp_path, capsys):
        given = (few, "--class-name", "gear", "--output", tmp_path / "results")
        assert score(bundle, *given, "--precision", "bfloat16", "--json") == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["options"] == {"precision": "bfloat16", "compiled": False, "deterministic": False}
        expected = Detector.load(bundle, precision="bfloat16").predict([few / "000.png"], ["gear"], 1)[0]
        rows = {Path(row["sample_id"]).name: row["image_score"] for row in rows_of(tmp_path / "results")}
        assert rows["000.png"] == expected.image_score
        assert score(bundle, *given) == 2
        assert "made with other --precision, --compiled or --deterministic" in capsys.readouterr().err
        assert score(bundle, *given, "--precision", "tf32") == 2
        assert "--precision tf32" in capsys.readouterr().err

    def test_a_region_gives_the_numbers_of_the_library(self, bundle, detector, few, tmp_path, capsys):
        mask = np.zeros((40, 30), np.uint8)
        mask[5:35, 4:20] = 255
        mask[5:9, 4:9] = 0
        Image.fromarray(mask).save(tmp_path / "mask.png")
        Image.new("RGB", (20, 20)).save(few / "small.png")
        regions = {
            "4,5,16,30": RegionOfInterest(4, 5, 16, 30),
            str(tmp_path / "mask.png"): RegionOfInterest.from_mask((tmp_path / "mask.png").read_bytes()),
        }
        for given, region in regions.items():
            output = tmp_path / f"results-{len(given)}"
            assert score(bundle, few, "--class-name", "gear", "--roi", given, "--output", output, "--json") == 0
            answer = json.loads(capsys.readouterr().out)
            assert (answer["region"], answer["looked_at"]) == (region.name, f"whole images at 64 px, {region.name}")
            rows = {Path(row["sample_id"]).name: row for row in rows_of(output)}
            expected = detector.predict_view(few / "000.png", "gear", View(None, region), 1)
            assert rows["000.png"]["image_score"] == expected.image_score
            drawn = overlay(decode_image((few / "000.png").read_bytes()), expected.anomaly_map)
            with Image.open(output / rows["000.png"]["anomaly_map"]) as kept:
                assert np.array_equal(np.asarray(kept), np.asarray(drawn))
            assert "is 20 x 20" in rows["small.png"]["error"]
            assert score(bundle, few, "--class-name", "gear", "--output", output) == 2
            assert "another run (made with --roi). Choose" in capsys.readouterr().err

    def test_regions_are_written_as_coco(self, bundle, detector, few, tmp_path, capsys):
        given = (few, "--class-name", "gear", "--coco", tmp_path / "new" / "regions.json")
        maps = {name: detector.predict([few / name], ["gear"], 1)[0].anomaly_map for name in ("000.png", "001.png")}
        level = float(np.quantile(maps["000.png"], 0.8))
        limits = ("--threshold", "0", "--region-threshold", "1")
        assert score(bundle, *given) == 2
        assert (
            "no threshold for whole images at 64 px: give --threshold or --region-threshold" in capsys.readouterr().err
        )
        assert score(bundle, few, "--class-name", "gear", "--region-threshold", "0.5") == 2
        assert "give --coco too" in capsys.readouterr().err
        assert score(bundle, *given, "--region-threshold", level) == 0
        document = json.loads((tmp_path / "new" / "regions.json").read_text())
        for name in ("--output", "--output"):  # the second time nothing is scored
            again = (*given, "--threshold", level, name, tmp_path / "results")
            assert score(bundle, *again) == 0
            labelled = json.loads((tmp_path / "new" / "regions.json").read_text())
            assert {image.pop("pred_label") for image in labelled["images"]} <= {"good", "defective"}
            assert {**labelled, "info": document["info"]} == document
        capsys.readouterr()
        assert score(bundle, *given, "--threshold", "1", "--region-threshold", level) == 0
        sentence, printed = "called good ha", capsys.readouterr().err
        assert sentence in printed
        marked = len({one["image_id"] for one in document["annotations"]})
        assert f"regions.json: {len(document['annotations'])} regions in {marked} of 2 images." in printed
        assert sentence in json.loads((tmp_path / "new" / "regions.json").read_text())["info"]["description"]
        assert score(bundle, few, "--class-name", "gear", "--coco", tmp_path / "none.json", *limits) == 0
        assert "2 images called defective have no region: the image score is above" in capsys.readouterr().err
        assert list(rows_of(tmp_path / "results")[0]) == COLUMNS
        assert score(bundle, few, "--class-name", "gear", "--output", tmp_path / "results") == 2
        assert "another run (made with --coco). Choose" in capsys.readouterr().err
        assert document["categories"] == [{"id": 1, "name": "gear"}]
        assert [image["file_name"] for image in document["images"]] == [str(few / "000.png"), str(few / "001.png")]
        assert {(image["width"], image["height"]) for image in document["images"]} == {(30, 40)}
        assert [one["id"] for one in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
        for image, name in zip(document["images"], maps, strict=True):
            regions = [one for one in document["annotations"] if one["image_id"] == image["id"]]
            inside = maps[name] >= level
            assert sum(one["area"] for one in regions) == pytest.approx(inside.mean() * 30 * 40, abs=0.01)
            assert max((one["score"] for one in regions), default=None) == (maps[name].max() if inside.any() else None)
            for one in regions:
                x, y, width, height = one["bbox"]
                corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in one["segmentation"]])
                assert np.allclose(corners.min(0), (x, y), atol=0.002)
                assert np.allclose(corners.max(0), (x + width, y + height), atol=0.002)
                assert (one["category_id"], one["iscrowd"]) == (1, 0)

    def test_coco_and_review_replace_nothing_of_others(self, bundle, few, tmp_path, capsys):
        image, foreign = few / "000.png", tmp_path / "mine.json"
        foreign.write_text('{"info": {"description": "MINE"}, "images": []}', encoding="ascii")
        (tmp_path / "review").mkdir()
        (tmp_path / "review" / "review.html").write_text("MINE", encoding="ascii")
        (tmp_path / "other" / "maps").mkdir(parents=True)
        contents = {path: path.read_bytes() for path in (image, foreign, tmp_path / "review" / "review.html")}
        given = (image, "--class-name", "gear", "--threshold", "0.3")
        for option, path, part in [
            ("--coco", image, "`bayes-pfl score` did not write it"),
            ("--coco", foreign, "`bayes-pfl score` did not write it"),
            ("--coco", tmp_path, "`bayes-pfl score` did not write it"),
            ("--coco", foreign / "below" / "regions.json", "Cannot write"),
            ("--review", tmp_path / "review", "holds review.html of something else"),
            ("--review", tmp_path / "other", "holds maps of something else"),
            ("--review", foreign, "Cannot write"),
        ]:
            output = ("--output", tmp_path / "results") if option == "--review" else ()
            assert score(bundle, *given, option, path, *output) == 2
            answer = capsys.readouterr()
            assert part in answer.err
            assert "Scoring" not in answer.err
        assert {path: path.read_bytes() for path in contents} == contents
        assert not (tmp_path / "results").exists()
        for _ in range(2):  # its own file is replaced
            assert score(bundle, *given, "--coco", tmp_path / "new" / "regions.json") == 0
            assert score(bundle, *given, "--review", tmp_path / "look", "--output", tmp_path / "results") == 0

    def test_a_tool_of_others_reads_the_coco_file(self, bundle, detector, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (70, 150, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "wide.png")
        anomaly_map = detector.predict_tiled(pixels, "plate", 0.5, 1).anomaly_map
        level = float(np.quantile(anomaly_map, 0.7))
        given = (tmp_path / "wide.png", "--class-name", "plate", "--tile", "--threshold", level)
        assert score(bundle, *given, "--coco", tmp_path / "regions.json") == 0
        opened = COCO(str(tmp_path / "regions.json"))
        drawn = sum(opened.annToMask(one).astype(int) for one in opened.loadAnns(opened.getAnnIds()))
        assert np.array_equal(drawn, (anomaly_map >= level).astype(int))
        loaded = opened.loadRes(list(opened.dataset["annotations"]))
        assert len(loaded.getAnnIds()) == len(opened.getAnnIds()) > 0

    def test_one_command_keeps_a_threshold_from_normal_images(self, bundle, detector, tmp_path, capsys):
        own = tmp_path / "own"
        shutil.copytree(bundle, own)
        photos = write_images(tmp_path / "good", 10)
        given = (photos, "--class-name", "gear")
        assert score(own, *given, "--store-threshold", "0.2", "--json") == 0
        said = capsys.readouterr()
        scores = sorted(row["image_score"] for row in json.loads(said.out)["rows"])
        assert re.search(r"for whole images at 64 px, which 2 of 10 images reach, is kept in .*own", said.err)
        assert Detector.load(own).bundle.version == detector.bundle.version
        assert score(own, *given, "--json") == 0
        answer = json.loads(capsys.readouterr().out)
        assert [row["pred_label"] for row in answer["rows"]] == [
            LABELS[row["image_score"] > scores[7]] for row in answer["rows"]
        ]
        assert (answer["labels"]["defective"], answer["no_label_because"]) == (2, None)
        shutil.copy(photos / "000.png", photos / "copy.png")
        assert score(own, *given, "--tile", "--store-threshold", "0") == 0
        said = capsys.readouterr()
        assert "1 image of the same bytes as others: each file counts once." in said.err
        assert "0 of 10 images reach, is kept" in said.err
        assert "No verdicts: the threshold is made of these very images" in said.out
        assert "give --threshold" not in said.out
        capsys.readouterr()
        assert score(own, *given, "--json") == 0
        answer = json.loads(capsys.readouterr().out)
        assert "is for tiles of 64 px that overlap by 0.5, not for whole" in answer["no_label_because"]
        assert score("embedded", *given, "--store-threshold", "0.1") == 2
        assert "give --model as its folder, not embedded" in capsys.readouterr().err

    def test_a_threshold_belongs_to_one_way_of_looking(self, bundle, few, tmp_path, capsys):
        known = tmp_path / "known"
        shutil.copytree(bundle, known)
        record = json.loads((known / "bundle.json").read_text())
        for stored_for, labelled in [(None, ()), ("tiles of 64 px that overlap by 0.5", ("--tile",))]:
            record["config"]["scoring"] |= {"threshold": 0.0, "threshold_for": stored_for}
            (known / "bundle.json").write_text(json.dumps(record))
            for more in ((), ("--tile",), ("--tile", "--overlap", "0.25"), ("--roi", "0,0,20,20")):
                assert score(known, few / "000.png", "--class-name", "gear", *more, "--json") == 0
                said = capsys.readouterr()
                answer = json.loads(said.out)
                assert answer["rows"][0]["pred_label"] == ("defective" if more == labelled else None)
                other = f"the model's threshold is for {stored_for or 'whole images at 64 px'}, not for "
                reason = None if more == labelled else f"{other}{answer['looked_at']}; give --threshold"
                assert answer["no_label_because"] == reason
                assert "must come from" not in said.err
        assert score(known, few / "000.png", "--class-name", "gear", "--tile", "--threshold", "0") == 0
        said = capsys.readouterr()
        assert "--threshold must come from scores of tiles of 64 px that overlap by 0.5: one made for" in said.err
        assert "1 defective, 0 good (by threshold 0, for tiles of 64 px that overlap by 0.5)." in said.out

    def test_other_settings_in_the_same_folder_are_refused(self, bundle, few, tmp_path, capsys):
        output = tmp_path / "results"
        given = (few, "--class-name", "gear", "--output", output)
        assert score(bundle, *given) == 0
        before = rows_of(output)
        for change, part in [
            (["--seed", "1"], "made with another --seed)"),
            (
                ["--coco", str(tmp_path / "r.json"), "--threshold", "0.9", "--tile"],
                "(made without --tile, made without --coco)",
            ),
            (["--class-name", "nut"], "made with another --class-name)"),
        ]:
            assert score(bundle, *given, *change) == 2
            assert part in capsys.readouterr().err
        assert score(bundle, *given, samples=2) == 2
        assert "made with another --num-samples)" in capsys.readouterr().err
        write_images(few, 1, first=9)
        assert score(bundle, *given) == 2
        assert "(made of other images)" in capsys.readouterr().err
        assert rows_of(output) == before


@pytest.mark.ray
class TestManyImages:
    """Over Ray Data."""

    def test_stages_around_a_gpu_give_what_one_process_gives(self, ray_session, bundle, tmp_path):
        """Decoding in front of the actor that holds the model, drawing behind it; one class name is too long."""
        task = ScoringTask(load_bundle(bundle), 2, 0, 1, "cpu", MAX_PIXELS)
        folder = write_images(tmp_path / "parts", 6)
        (folder / "003.png").write_bytes(b"no image")
        inputs = find_inputs([str(folder)], "gear", None).images
        inputs[0] = inputs[0]._replace(class_name="very " * 100)
        source = ImageFiles(task, True)
        expected = scored_images(score_piece(source, Predictor(task), {"images": [piece(inputs)["images"]]}))
        work = [{"part": 0, **piece(inputs[:4])}, {"part": 1, **piece(inputs[4:])}]
        rows = through_actors(work, ReadyScorer, {"task": task}, 1, False, *around_gpu(source))
        by_part = {int(row["part"]): scored_images(row) for row in rows}
        assert [*by_part[0], *by_part[1]] == expected
        assert sum("room for" in (result.error or "") for result in expected) == 1

    def test_kill_9_and_again_scores_nothing_twice(self, ray_session, bundle, detector, tmp_path, capsys):
        folder, output = write_images(tmp_path / "parts", 80), tmp_path / "results"
        (folder / "050.png").write_bytes((folder / "050.png").read_bytes()[:200])
        given = [str(folder), "--class-name", "gear", "--output", str(output)]
        command = [sys.executable, "-m", "pipelines.cli", "score", *given, "--model", str(bundle), "--num-samples", "1"]
        environment = {**os.environ, "RAY_ADDRESS": ray_session, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        done = output / "_manifest" / "shards"
        with subprocess.Popen(command, env=environment, start_new_session=True) as process:
            while process.poll() is None and not list(done.glob("part-*.arrow")):
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not (output / "summary.json").exists()
        (output / "maps" / ".000051-051.png.4711-0123abcd.part").write_bytes(
            b"x"
        )  # what a kill in the middle of a write leaves

        kept = {path: path.stat().st_mtime_ns for path in done.glob("part-*.arrow")}
        assert 1 <= len(kept) < 5
        assert score(bundle, *given) == 0
        assert re.search(rf"on 2 workers; {16 * len(kept)} of 80 were done before", capsys.readouterr().err)
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        assert not list(output.rglob("*.part"))
        rows = rows_of(output)
        assert [row["sample_id"] for row in rows] == sorted(str(path) for path in folder.iterdir())
        assert [row["image_score"] is None for row in rows] == [number == 50 for number in range(80)]
        assert rows[50]["error"].startswith("broken or cut short")
        for row in rows[:20] + rows[64:]:
            (expected,) = detector.predict([Path(row["sample_id"]).read_bytes()], ["gear"], 1)
            assert (row["image_score"], row["uncertainty"]) == (expected.image_score, expected.uncertainty)
        assert len(list((output / "maps").iterdir())) == 3 * 79  # image, anomaly map, overlay

        assert score(bundle, *given, "--json") == 0  # all done: nothing is scored
        said = capsys.readouterr()
        assert (
            f"Nothing to score: 80 images done before, in {output}. Verdicts, tables and gallery are made" in said.err
        )
        assert json.loads(said.out)["scored"] == 79

    def test_what_a_worker_dies_of_is_said_in_a_sentence(self, ray_session, bundle, tmp_path, capsys):
        broken = tmp_path / "bundle"
        shutil.copytree(bundle, broken)
        record = json.loads((broken / "bundle.json").read_text())
        record["config"]["backbone"]["pretrained"] = str(tmp_path / "lost.bin")
        (broken / "bundle.json").write_text(json.dumps(record))
        assert score(broken, write_images(tmp_path / "parts", 20), "--class-name", "gear") == 2
        said = capsys.readouterr().err.splitlines()
        assert re.fullmatch(
            r"bayes-pfl score: There is no file .*lost\.bin, .* --weights FILE .*backbone\.pretrained=FILE\.", said[-1]
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("RAY_ADDRESS", raising=False)  # on this machine alone it is said before anything starts
            assert score(broken, tmp_path / "parts", "--class-name", "gear") == 2
        assert capsys.readouterr().err.splitlines() == said[-1:]

    def test_shards_bring_their_class_names(self, ray_session, bundle, detector, tmp_path, capsys):
        shards = painted_shards(tmp_path, ("carpet", "gear"), seed=3, normal=5, defective=5)
        assert score(bundle, shards, "--json", "--workers", "1") == 0
        rows = {row["sample_id"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
        assert len(rows) == 20
        for one in iterate_rows(shards):
            (expected,) = detector.predict([one["image"]], [one["class_name"]], 1)
            row = rows[one["sample_id"]]
            assert (row["class_name"], row["image_score"]) == (one["class_name"], expected.image_score)
