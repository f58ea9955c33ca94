"""Results for the model hub: written by an evaluation, read by `huggingface_hub`, beside a bundle that stays one."""

import shutil
from pathlib import Path

import pytest
import yaml
from evaluated import painted_evaluation
from huggingface_hub import parse_eval_result_entries
from small import random_bundle

from bayes_pfl.clip.backbone import package_path
from bayes_pfl.inference.bundle import EMBEDDED_FOLDER, load_bundle
from pipelines.scoring.hub_results import hub_files, model_folder, write_hub_files

DATE = "2026-01-02T03:04:05+00:00"


@pytest.fixture(scope="module")
def result():
    return painted_evaluation({"bolt": 4.0, "gear": 1.0}).result


@pytest.fixture
def bundle(tmp_path):
    return load_bundle(random_bundle(tmp_path / "bundle"))


def read(path: Path):
    return parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_file_has_the_means_as_the_hubs_own_reader_sees_them(result, tmp_path):
    (path,) = write_hub_files(tmp_path, hub_files(result, DATE, {"painted": "owner/painted"}))
    assert path == tmp_path / ".eval_results" / "painted.yaml"
    entries = {entry.task_id: entry for entry in read(path)}
    mean = result["datasets"]["painted"]["mean"]
    assert {name: entry.value for name, entry in entries.items()} == {
        name: value for name, value in mean["values"].items() if value is not None
    }
    assert "pixel_aupimo" not in entries  # undefined on so few pixels
    assert {(entry.dataset_id, entry.date) for entry in entries.values()} == {("owner/painted", DATE)}
    bounds = mean["intervals"]["image_auroc"]
    assert entries["image_auroc"].notes.endswith(f"over images {bounds['low']:.4f} to {bounds['high']:.4f}")
    assert "model version 1, R = 1, seed 0" in entries["image_auroc"].notes
    assert {
        entry.dataset_id
        for entry in parse_eval_result_entries(yaml.safe_load(hub_files(result, DATE, {})["painted.yaml"]))
    } == {"painted"}


def test_images_that_were_trained_on_are_in_the_notes(result):
    marked = {**result, "trained_on_images_evaluated": 3}
    (text,) = hub_files(marked, DATE, {}).values()
    assert all(
        "3 of the images were trained on: not a zero-shot result" in entry["notes"] for entry in yaml.safe_load(text)
    )


def test_names_that_a_file_cannot_have_do_not_meet(result):
    dataset = result["datasets"]["painted"]
    files = hub_files({**result, "datasets": {"a b": dataset, "a_b": dataset}}, DATE, {})
    assert list(files) == ["a_b.yaml", "a_b-2.yaml"]
    assert [yaml.safe_load(text)[0]["dataset"]["id"] for text in files.values()] == ["a b", "a_b"]
    nothing = {**dataset, "mean": {**dataset["mean"], "values": {"image_ap": None}}}
    assert hub_files({**result, "datasets": {"painted": nothing}}, DATE, {}) == {}


def test_the_same_result_stays_and_another_is_put_aside_and_named(result, bundle, capsys):
    (path,) = write_hub_files(bundle.folder, hub_files(result, DATE, {}))
    before = path.read_bytes()
    write_hub_files(bundle.folder, hub_files(result, "2027-01-01T00:00:00+00:00", {}))
    assert path.read_bytes() == before
    assert capsys.readouterr().err == ""
    write_hub_files(bundle.folder, hub_files({**result, "num_samples": 5}, DATE, {}))
    assert "R = 5" in read(path)[0].notes
    aside = path.parent / "earlier-1" / "painted.yaml"
    assert aside.read_bytes() == before
    assert str(aside) in capsys.readouterr().err
    path.write_text("not: [a result", encoding="utf-8")
    write_hub_files(bundle.folder, hub_files(result, DATE, {}))
    assert (path.parent / "earlier-2" / "painted.yaml").read_text(encoding="utf-8") == "not: [a result"
    assert load_bundle(bundle.folder).version == bundle.version


def test_only_a_folder_of_ones_own_gets_results(bundle, tmp_path, monkeypatch):
    assert model_folder(str(bundle.folder), bundle) == bundle.folder.resolve()
    packaged = load_bundle("embedded")
    assert model_folder("embedded", packaged) is None
    assert model_folder(str(package_path(EMBEDDED_FOLDER)), packaged) is None
    assert model_folder(f"file://{bundle.folder}", bundle) is None
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path / "cache"))
    assert model_folder("method:/winclip", load_bundle("method:/winclip")) is None
    copy = shutil.copytree(package_path(EMBEDDED_FOLDER), tmp_path / "copy")
    assert model_folder(str(copy), load_bundle(copy)) == copy.resolve()
