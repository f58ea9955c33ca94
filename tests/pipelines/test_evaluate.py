"""Evaluation over Ray Data against a plain loop over the same detector and scikit-learn."""

import csv
import functools
import json
import math
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from small import painted_shards, random_bundle

from bayes_pfl.config import read_config
from bayes_pfl.data import cache
from bayes_pfl.data.preprocess import MAX_PIXELS, decode_mask, mask_tensor
from bayes_pfl.data.samples import index_shards
from bayes_pfl.data.shards import iterate_rows, shard_paths
from bayes_pfl.errors import ClassNameError, ConfigError, DataError, OutputError
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.view import RegionOfInterest, View
from bayes_pfl.metrics import pixel_metrics
from pipelines.cli import main
from pipelines.evaluate import EvaluateSettings, evaluate
from pipelines.ingest import ingest
from pipelines.scoring import stages
from pipelines.scoring.evaluation import FinishedChunks, ShardImages, score_samples
from pipelines.scoring.hub_results import read_hub_file
from pipelines.scoring.task import ScoringTask

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
    folder, shards, bundle, result = work
    assert json.loads((folder / "out/metrics.json").read_text()) == result
    with (folder / "out/predictions.csv").open(newline="") as file:
        rows = {row["sample_id"]: row for row in csv.DictReader(file)}
    assert set(rows) == {row["sample_id"] for row in iterate_rows(shards)}
    page = (folder / "out/report.html").read_text()
    assert "carpet" in page
    assert page.count("<article") == 4  # one each: missed, false alarm, most uncertain, best
    record = json.loads((folder / "out/run.json").read_text())
    assert record["latency"]["images"] == len(rows)
    assert record["latency"]["median_milliseconds"] > 0
    assert sum(record["latency"]["machines"].values()) == len(rows)
    assert record["mlflow"]["run_id"] == result["run_id"]
    assert read_config(EvaluateSettings, folder / "out/settings.yaml", []).num_samples == 3
    results = read_hub_file(folder / "out/.eval_results/painted.yaml")
    values = {
        name: value for name, value in result["datasets"]["painted"]["mean"]["values"].items() if value is not None
    }
    assert {entry.task_id: entry.value for entry in results} == values
    assert read_hub_file(bundle / ".eval_results/painted.yaml")[0].dataset_id == "painted"
    assert load_bundle(bundle).version == result["model"]["version"]


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
    assert not (seen / ".eval_results").exists()
    assert "trained on" in read_hub_file(folder / "marked/.eval_results/painted.yaml")[0].notes
    assert "not a zero-shot result" in (folder / "marked/report.html").read_text()


class Counting(SimpleHTTPRequestHandler):
    """A web server of files that notes what it was asked for."""

    got: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.got.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def served(work):
    """The work's folder behind HTTP: a place that no process here can open by path."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Counting, directory=str(work[0])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_shards_model_and_output_by_uri_give_what_they_give_by_path(work, served):
    folder, shards, bundle, result = work
    settings = EvaluateSettings(
        model=f"file://{bundle}",
        shards=(f"{served}/{shards.name}",),
        num_samples=3,
        cases=1,
        workers=1,
        output=f"file://{folder}/elsewhere",
    )
    remote = evaluate(settings)
    assert remote["datasets"] == result["datasets"]
    assert json.loads((folder / "elsewhere/metrics.json").read_text()) == remote
    assert (folder / "elsewhere/predictions.csv").read_text() == (folder / "out/predictions.csv").read_text()
    assert remote["report"] == f"file://{folder}/elsewhere/report.html"
    assert read_hub_file(folder / "elsewhere/.eval_results/painted.yaml")[0].task_id == "image_auroc"
    assert (folder / "elsewhere/report.html").read_text().count("<article") == 4
    for path in shard_paths(shards):  # copied to this machine once, for the driver and the actors
        assert Counting.got.count(f"/{shards.name}/{path.name}") == 1


def test_places_that_cannot_be_used_are_said_before_anything_is_scored(work, tmp_path):
    _, shards, bundle, _ = work
    settings = EvaluateSettings(model=str(bundle), shards=(str(shards),))
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match=r"Cannot write .*/file/below"):
        evaluate(settings.model_copy(update={"output": str(tmp_path / "file" / "below")}))
    with pytest.raises(ConfigError, match=r"nowhere://.* cannot be opened"):
        evaluate(settings.model_copy(update={"output": "nowhere://bucket/out"}))
    with pytest.raises(DataError, match="Two of these folders hold the same dataset"):
        evaluate(settings.model_copy(update={"shards": (str(shards), f"file://{shards}")}))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "shard-00000.arrow").write_bytes(shard_paths(shards)[0].read_bytes())
    with pytest.raises(DataError, match=r"no _manifest/manifest\.json"):
        evaluate(settings.model_copy(update={"shards": (f"file://{tmp_path}/bare",), "output": str(tmp_path / "out")}))


def test_a_stopped_evaluation_goes_on_with_equal_numbers(work, tmp_path):
    folder, shards, bundle, result = work
    refs = index_shards(str(shards), "test")
    groups = [ref.category for ref in refs]
    task = ScoringTask(load_bundle(bundle), 3, 0, 1, "cpu", MAX_PIXELS)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    kept = FinishedChunks(tmp_path / "kept", task, refs)
    with pytest.raises(KeyboardInterrupt):
        score_samples(task, refs, groups, kept, 1, stop)
    (first,) = kept.folder.iterdir()
    written = first.stat().st_mtime_ns
    resumed = score_samples(task, refs, groups, kept, 1, id)
    assert first.stat().st_mtime_ns == written
    with (folder / "out/predictions.csv").open(newline="") as file:
        scores = {row["sample_id"]: float(row["image_score"]) for row in csv.DictReader(file)}
    assert {ref.sample_id: score for ref, score in zip(refs, resumed.scores, strict=True)} == scores
    chunk = kept.row(int(first.stem.rpartition("-")[2]))  # scored before the stop, with the times of then
    assert np.array_equal(resumed.milliseconds[chunk["positions"]], chunk["milliseconds"])
    assert (resumed.milliseconds > 0).all()
    for group, entry in result["datasets"]["painted"]["categories"].items():
        pixel = resumed.pixel[group].as_dict()["values"]
        assert pixel == {name: value for name, value in entry["values"].items() if name.startswith("pixel")}
    kept.remove()
    assert not kept.folder.exists()


def test_a_full_cache_ends_an_evaluation_and_a_changed_row_is_listed(work, tmp_path, monkeypatch):
    _, shards, bundle, _ = work
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "PATIENCE_S", 0.0)
    ref = index_shards(f"file://{shards}", "test")[0]
    values = {"shards": ref.shard, "rows": ref.row, "sha256": ref.sha256, "class_names": "gear", "labels": ref.label}
    rows = {name: [np.array([value])] for name, value in {**values, "positions": 0}.items()}
    source = ShardImages(ScoringTask(load_bundle(bundle), 3, 0, 1, "cpu", MAX_PIXELS))
    with monkeypatch.context() as patch:
        patch.setenv("BAYES_PFL_CACHE_GB", "0.000001")
        with pytest.raises(OutputError, match=r"No room in .* for a copy"):
            stages._attempt(source.ready, rows, 0)
    assert stages._attempt(source.ready, rows, 0).class_name == "gear"
    changed = stages._attempt(source.ready, {**rows, "sha256": [np.array(["0" * 64])]}, 0)
    assert "has changed since its index was written or read" in changed


def test_one_bad_row_is_listed_and_another_result_is_kept_aside(work, tmp_path):
    _, shards, bundle, _ = work
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    path = shard_paths(copy)[0]
    with pa.OSFile(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    rows = table.to_pylist()
    rows[0] |= {"image": b"no image", "sample_id": "=1+1"}
    rows[2] |= {"class_name": "w " * 60}
    path.unlink()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, table.schema))
    settings = EvaluateSettings(
        model=str(bundle), shards=(str(copy),), num_samples=1, cases=1, tile=True, output=str(tmp_path / "out")
    )
    tiled = evaluate(settings)
    first, second = tiled["not_scored"]
    assert (first["sample_id"], second["sample_id"]) == ("=1+1", rows[2]["sample_id"])
    assert first["error"].startswith("not a readable image")
    assert "tokens" in second["error"]
    with (tmp_path / "out/predictions.csv").open(newline="") as file:
        scored = {row["sample_id"]: row["image_score"] for row in csv.DictReader(file)}
    assert scored["'=1+1"] == "nan"
    detector = Detector.load(bundle)
    expected = detector.predict_tiled(rows[1]["image"], rows[1]["class_name"], 0.5, 1)
    assert float(scored[rows[1]["sample_id"]]) == expected.image_score
    again = evaluate(settings)
    assert again["datasets"] == tiled["datasets"]
    assert not (tmp_path / "out/earlier-1").exists()
    evaluate(settings.model_copy(update={"tile": False}))
    assert json.loads((tmp_path / "out/earlier-1/metrics.json").read_text()) == again
    assert "tiles" in read_hub_file(tmp_path / "out/earlier-1/.eval_results/painted.yaml")[0].notes
    assert "=1+1: not a readable image" in (tmp_path / "out/report.html").read_text()


def test_a_region_alone_is_measured(work, tmp_path, monkeypatch):
    _, shards, bundle, _ = work
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    settings = EvaluateSettings(
        model=str(bundle), shards=(str(shards),), num_samples=1, cases=1, roi="8,4,48,50", output=str(tmp_path / "out")
    )
    result = evaluate(settings)
    assert result["looked_at"] == "whole images at 64 px, region 8,4,48,50"
    assert "region 8,4,48,50" in (tmp_path / "out/report.html").read_text()
    detector, view = Detector.load(bundle), View(None, RegionOfInterest(8, 4, 48, 50))
    inside, scores, maps, masks, outside = (slice(4, 54), slice(8, 56)), {}, {}, {}, set()
    for row in iterate_rows(shards):
        prediction = detector.predict_view(row["image"], row["class_name"], view, 1)
        mask = decode_mask(row["mask"]) if row["mask"] else np.zeros((64, 64), np.uint8)
        if mask.any() and not mask[inside].any():
            outside.add(row["sample_id"])
            continue
        scores[row["sample_id"]] = prediction.image_score
        maps.setdefault(row["category"], []).append(prediction.anomaly_map[inside])
        masks.setdefault(row["category"], []).append(mask[inside])
    assert {problem["sample_id"] for problem in result["not_scored"]} == outside
    with (tmp_path / "out/predictions.csv").open(newline="") as file:
        kept = {row["sample_id"]: float(row["image_score"]) for row in csv.DictReader(file)}
    assert {name: score for name, score in kept.items() if name not in outside} == scores
    for category, entry in result["datasets"]["painted"]["categories"].items():
        expected = pixel_metrics(maps[category], masks[category]).values
        for name in ("pixel_auroc", "pixel_ap", "pixel_pro"):
            assert entry["values"][name] == pytest.approx(expected[name], abs=1e-4)


def test_a_category_without_a_usable_name_is_refused_before_anything_is_scored(work, tmp_path):
    _, shards, bundle, _ = work
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    for path in shard_paths(copy):
        with pa.OSFile(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        rows = [row | ({"class_name": " "} if row["category"] == "gear" else {}) for row in table.to_pylist()]
        path.unlink()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, table.schema))
    with pytest.raises(ClassNameError, match=r"Category 'gear'.*blank"):
        evaluate(EvaluateSettings(model=str(bundle), shards=(str(copy),), output=str(tmp_path / "out")))


def test_command_line_says_what_is_missing(work, capsys, tmp_path):
    assert main(["evaluate", "--model", str(tmp_path / "nothing"), "--shards", "x"]) == 2
    assert "is no bundle" in capsys.readouterr().err
    assert main(["evaluate"]) == 2
    assert "--shards" in capsys.readouterr().err


def test_defects_that_vanish_count_in_no_figure_and_are_named(work, tmp_path):
    _, _, bundle, _ = work
    for name, size in (("good/1.png", 0), ("bad/tiny.png", 2), ("bad/big.png", 300)):
        pixels, mask = np.full((640, 640, 3), 120, np.uint8), np.zeros((640, 640), np.uint8)
        pixels[40 : 40 + size, 40 : 40 + size] = 255
        mask[40 : 40 + size, 40 : 40 + size] = 255
        for path, values in ((f"in/part/{name}", pixels), (f"in/part/ground_truth/{name}", mask)):
            if size or "ground_truth" not in path:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(tmp_path / path)
    ingest("folder", tmp_path / "in", tmp_path / "shards")
    settings = EvaluateSettings(
        model=str(bundle), shards=(str(tmp_path / "shards"),), num_samples=1, cases=0, output=str(tmp_path / "out")
    )
    result = evaluate(settings)
    (vanished,) = result["vanished"]
    assert vanished.endswith("bad/tiny.png")
    larger = evaluate(settings.model_copy(update={"full_resolution": True, "output": str(tmp_path / "large")}))
    assert larger["vanished"] == []
    detector, maps, masks = Detector.load(bundle), [], []
    for row in iterate_rows(tmp_path / "shards"):
        anomaly_map = detector.predict([row["image"]], [row["class_name"]], 1)[0].anomaly_map
        maps.append(np.asarray(Image.fromarray(anomaly_map).resize((640, 640), Image.Resampling.BILINEAR)))
        masks.append(np.zeros((640, 640)) if row["mask"] is None else decode_mask(row["mask"]))
    flat = np.ravel(masks), np.ravel(maps)
    (measured,) = larger["datasets"].values()
    (category,) = measured["categories"].values()
    assert math.isclose(category["values"]["pixel_auroc"], roc_auc_score(*flat), abs_tol=1e-4)


@pytest.fixture
def photos(work, tmp_path):
    """The images of the category gear in the folders good and bad, beside files that are no images."""
    _, shards, _, _ = work
    folder = tmp_path / "photos"
    for number, row in enumerate(iterate_rows(shards, categories=("gear",))):
        path = folder / ("bad" if row["label"] else "good") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"])
    (folder / "notes.txt").write_text("no image", encoding="ascii")
    (folder / "good" / "phone.heic").write_bytes(b"x")
    (folder / "good" / "empty.png").touch()
    return folder


def test_a_folder_of_images_gives_what_its_shards_give_and_nothing_stale(work, photos, tmp_path, capsys):
    _, _, bundle, result = work
    words = ["evaluate", str(photos), "--class-name", "gear", "--model", str(bundle), "--num-samples", "3"]
    words += ["--output", str(tmp_path / "out"), "--json", "--set", "cases=0"]
    assert main(words) == 0
    answer = capsys.readouterr()
    (measured,) = json.loads(answer.out)["datasets"].values()
    (category,) = measured["categories"].values()
    for name in ("image_auroc", "image_ap"):
        assert category["values"][name] == result["datasets"]["painted"]["categories"]["gear"]["values"][name]
    assert category["values"]["pixel_ap"] is None  # no masks
    assert all(part in answer.err for part in (".heic is not read", "empty.png: the file is empty", "1 file, no image"))
    counted = category["images"]
    extra = next((photos / "bad").iterdir())
    (photos / "good" / "more.png").write_bytes(extra.read_bytes() + b"\0")
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)["datasets"]["photos"]["categories"]
    assert [entry["images"] for entry in again.values()] == [counted + 1]
    assert (tmp_path / "out" / "earlier-1" / "metrics.json").is_file()


def test_folders_that_cannot_be_measured_are_refused_with_what_to_do(work, photos, tmp_path, capsys):
    _, _, bundle, _ = work
    shutil.rmtree(photos / "good")
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "a.png").write_bytes(next((photos / "bad").iterdir()).read_bytes())
    for given, part in [
        ([photos, "--class-name", "gear"], "all anomalous, and no mask: there is nothing to measure. Give good images"),
        ([photos], "Say what the images in"),
        ([flat, "--class-name", "gear"], "has a name that says normal or anomalous"),
        ([tmp_path / "nowhere", "--class-name", "gear"], "There is no folder"),
    ]:
        assert main(["evaluate", *map(str, given), "--model", str(bundle), "--output", str(tmp_path / "o")]) == 2
        assert part in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
