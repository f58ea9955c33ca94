"""The reproduction without Ray: what is planned, how cells and claims are judged, which folders are which dataset."""

import csv
import itertools
import json

import painted
import pytest
import torch
from small import painted_shards

from bayes_pfl.data.samples import SampleRef, index_shards
from bayes_pfl.datasets.catalogue import DATASETS
from bayes_pfl.errors import ConfigError, DataError
from bayes_pfl.inference.detector import Detector
from pipelines.platform.settings import TrainSettings
from pipelines.reproduction import recipes
from pipelines.reproduction.cells import EMBEDDED, PAPER, Cell, cells, checked, expected_figures
from pipelines.reproduction.images import _incomplete, sources
from pipelines.reproduction.jobs import _decoded
from pipelines.reproduction.plan import (
    TARGETS,
    Claim,
    Comparison,
    Measurement,
    Model,
    Plan,
    PlannedFigure,
    Scope,
    measurements,
    planned,
)
from pipelines.reproduction.recipes import BAYES_PFL, COMPARED, METHODS, VARIANTS, recipe
from pipelines.reproduction.settings import ReproduceSettings, Scale
from pipelines.reproduction.writing import tables, write_all

LEVELS = {name: dataset.metrics for name, dataset in DATASETS.items()}
PAPERS = Scope(
    LEVELS, "mvtec", ("mvtec", "btad"), dict.fromkeys(LEVELS, "visa") | {"visa": "mvtec"}, 5, 3, (1, 10, 20), 20
)


def test_the_paper_s_figures_are_all_there():
    paper = expected_figures(PAPER)
    plans = {name: planned(name, PAPERS) for name in TARGETS}
    table1 = {(each.row, each.column, each.metric) for each in plans["table1"].figures}
    assert {key[1:] for key in paper if key[0] == "table1"} == table1
    assert len(table1) == 396
    table2 = {(each.row, each.column, each.metric) for each in plans["table2"].figures}
    assert {key[1:] for key in paper if key[0] == "table2"} == table2
    assert paper["table1", "mvtec", "Bayes-PFL", "pixel_pro"].value == 87.4
    assert paper["table1", "kvasir", "AdaCLIP", "pixel_pro"].value == 12.3
    assert paper["table2", "without RCA", "", "pixel_ap"].value == 46.1
    assert paper["table3", "R = 7", "", "image_ap"] == (96.3, 0.8)
    assert paper["table4", "text ensemble", "", "time_ms"].value == 436.6


def test_every_model_is_a_run_at_both_scales_that_differs_where_it_says():
    for scale, auxiliary in ((Scale(True), "auxiliary"), (Scale(False), "visa"), (Scale(False), "mvtec")):
        start = recipe(BAYES_PFL, 0, scale, auxiliary)
        for title, changes in VARIANTS.items():
            run = recipe(title, 3, scale, auxiliary)
            assert run.training.seed == 3
            before, after = _flat(start), _flat(run)
            differing = {key for key in before | after if before.get(key) != after.get(key)} - {"training.seed"}
            ignored = {"loss.orthogonal_mean"} if title in (recipes.SENTENCES, recipes.AGNOSTIC_PROMPT) else set()
            assert set(changes) - ignored <= differing <= set(changes) | {"model.variant.deep_blocks"}
        for title in COMPARED:
            run = recipe(title, 3, scale, auxiliary)
            assert (run.backbone.name, run.backbone.image_size) == (start.backbone.name, start.backbone.image_size)


def _flat(run: TrainSettings) -> dict[str, object]:
    found = {}

    def walk(prefix, values):
        for key, value in values.items():
            if isinstance(value, dict):
                walk(f"{prefix}{key}.", value)
            else:
                found[prefix + key] = value

    walk("", run.model_dump(mode="json"))
    return found


def test_other_epochs_and_another_clip_are_everybody_s():
    other = Scale(False, TrainSettings.model_validate({"backbone": {"name": "embedded"}}).backbone, 2)
    for title in METHODS:
        run = recipe(title, 0, other, "visa")
        assert run.training.epochs == 2
        assert run.backbone.image_size == 112
    assert recipe("CLIP-AD", 0, Scale(False), "visa").model.cluster_radius == 1.5
    assert recipe("CLIP-AD", 0, Scale(False), "mvtec").model.cluster_radius == 0.5


def test_a_model_that_learns_nothing_or_is_given_is_measured_once():
    assert len(PAPERS.trained(BAYES_PFL, "btad")) == 5
    assert PAPERS.trained("WinCLIP", "btad") == (Measurement(Model("WinCLIP", 0, "visa"), "btad", 0),)
    given = PAPERS._replace(given=True)
    assert len(given.trained(BAYES_PFL, "btad")) == 1
    assert {each.model.auxiliary for each in PAPERS.trained(BAYES_PFL, "visa")} == {"mvtec"}


def test_numbers_of_samples_are_measured_together():
    wanted = measurements([planned("table2", PAPERS), planned("table3", PAPERS)])
    first = PAPERS.trained(BAYES_PFL, "mvtec")[0]
    assert wanted[first] == (1, 10, 20)
    assert wanted[PAPERS.trained("without RCA", "mvtec")[0]] == (10,)


def test_every_claim_is_about_planned_cells():
    for name in TARGETS:
        plan = planned(name, PAPERS)
        keys = {(each.row, each.column, each.metric) for each in plan.figures}
        assert len(keys) == len(plan.figures)
        for claim in plan.claims:
            assert claim.comparisons
            for each in claim.comparisons:
                assert {each.larger, each.smaller} - {None} <= keys


def _measured(*values: float) -> dict[Measurement, dict]:
    models = [Model(BAYES_PFL, seed, "visa") for seed in range(len(values))]
    return {
        Measurement(model, "mvtec", model.seed): {"10": {"mean": {"image_ap": value, "text_score_ap": value / 2}}}
        for model, value in zip(models, values, strict=True)
    }


def _plan(measured, row="Bayes-PFL", **changes) -> Plan:
    return Plan("table2", "", (PlannedFigure(row, "", "image_ap", tuple(measured), **changes),), ())


@pytest.mark.parametrize(
    ("values", "verdict", "tolerance"),
    [
        ((0.967,), "within", 2.0),  # the paper has 96.7
        ((0.946,), "outside", 2.0),
        ((0.948,), "within", 2.0),
        ((0.90, 0.94), "within", 5.65685),  # two standard deviations allow more
        ((0.919, 0.921), "outside", 2.0),
    ],
)
def test_a_figure_is_within_two_points_or_two_standard_deviations(values, verdict, tolerance):
    results = _measured(*values)
    (cell,) = cells(_plan(results), results, {}, False, False, {}, 2.0)
    assert (cell.verdict, cell.tolerance) == (verdict, pytest.approx(tolerance, abs=1e-4))
    assert cell.ours == pytest.approx(100 * sum(values) / len(values))
    assert cell.difference == pytest.approx(cell.ours - 96.7)
    assert (cell.std is None) == (len(values) == 1)


def test_a_part_of_the_score_a_difference_and_a_missing_figure():
    results = _measured(0.8, 0.9)
    (part,) = cells(_plan(results, "without s_img", part="text_score"), results, {}, False, False, {}, 2.0)
    assert part.ours == pytest.approx(42.5)
    lower = {
        Measurement(each.model._replace(title="x"), "mvtec", each.draw_seed): {"10": {"mean": {"image_ap": 0.7}}}
        for each in results
    }
    (difference,) = cells(_plan(results, minus=tuple(lower)), results | lower, {}, False, False, {}, 2.0)
    assert (difference.ours, difference.std) == (pytest.approx(15), pytest.approx(7.0710678))
    (missing,) = cells(_plan(results), {}, {next(iter(results)): "VisA is not there"}, False, False, {}, 2.0)
    assert (missing.verdict, missing.why, missing.paper, missing.ours) == ("not run", "VisA is not there", 96.7, None)


def test_a_figure_of_other_images_is_not_compared():
    results = _measured(0.967)
    differing = dict.fromkeys(results, "screw alone")
    (cell,) = cells(_plan(results), results, {}, False, False, differing, 2.0)
    assert (cell.verdict, cell.why, cell.paper, cell.expected) == ("not compared", "screw alone", 96.7, None)


def test_the_embedded_clip_is_compared_with_what_was_recorded_with_the_same_settings():
    recorded = expected_figures(EMBEDDED)["table2", BAYES_PFL, "", "image_ap"]
    results = _measured(recorded.value / 100)
    (same,) = cells(_plan(results), results, {}, True, True, {}, 2.0)
    assert (same.verdict, same.paper, same.expected) == ("within", 96.7, recorded.value)
    (other,) = cells(_plan(results), results, {}, True, False, {}, 2.0)
    assert (other.verdict, other.expected) == ("not compared", None)
    assert ReproduceSettings(embedded=True, data="somewhere", workers=1).as_recorded
    assert not ReproduceSettings(embedded=True, epochs=1).as_recorded
    assert not ReproduceSettings(embedded=True, seeds=1).as_recorded
    assert ReproduceSettings(data="somewhere").not_as_paper == ""
    assert ReproduceSettings(data="somewhere", epochs=3).not_as_paper == "epochs is not the paper's"


def _cell(row: str, ours: float | None, std: float | None = None) -> Cell:
    return Cell(row, "", "image_ap", ours, std, 2, None, None, None, None, "not compared", "")


@pytest.mark.parametrize(
    ("first", "second", "verdict", "holds"),
    [
        ((90.0, 1.0), (89.0, 1.0), "holds", 1),
        ((89.0, 1.0), (90.0, 1.0), "within the scatter", 0),
        ((88.0, 1.0), (90.0, 1.0), "does not hold", 0),
        ((89.9, None), (90.0, None), "within the scatter", 0),  # single trainings scatter as much as the tolerance
        ((86.9, None), (90.0, None), "does not hold", 0),
        ((90.0, None), (90.0, None), "within the scatter", 0),
        ((None, None), (90.0, None), "not run", 0),
    ],
)
def test_a_claim_holds_fails_or_is_within_the_scatter(first, second, verdict, holds):
    claim = Claim("a is above b", (Comparison(("a", "", "image_ap"), ("b", "", "image_ap")),))
    found = checked(claim, [_cell("a", *first), _cell("b", *second)], 2.0)
    assert (found.verdict, found.holds) == (verdict, holds)


def sign_of(row: str) -> tuple[Comparison]:
    return (Comparison(("a", "", "image_ap"), (row, "", "image_ap")),)


def test_a_claim_on_scatter_and_one_on_a_sign():
    scatter = Claim("a scatters more", (Comparison(("a", "", "image_ap"), ("b", "", "image_ap"), of_scatter=True),))
    assert checked(scatter, [_cell("a", 1, 0.5), _cell("b", 9, 0.4)], 2.0).verdict == "holds"
    assert checked(scatter, [_cell("a", 1, 0.4), _cell("b", 9, 0.5)], 2.0).verdict == "within the scatter"
    assert checked(scatter, [_cell("a", 1, 0.1), _cell("b", 9, 0.5)], 2.0).verdict == "does not hold"
    assert checked(scatter, [_cell("a", 1, 0.5), _cell("b", 9)], 2.0).verdict == "not run"
    partly = Claim("a is above b and c", (*sign_of("b"), *sign_of("c")))
    found = checked(partly, [_cell("a", 9, 0.1), _cell("b", 1, 0.1), _cell("c", None)], 2.0)
    assert (found.verdict, found.holds, found.measured, found.comparisons) == ("holds so far", 1, 1, 2)
    sign = Claim("a is positive", (Comparison(("a", "", "image_ap"), None),))
    assert checked(sign, [_cell("a", 0.1, 3.0)], 2.0).verdict == "holds"
    assert checked(sign, [_cell("a", -0.1, 3.0)], 2.0).verdict == "within the scatter"


def test_datasets_are_taken_for_what_their_folders_are_called(tmp_path, capsys):
    folders = {
        "mvtec": "mvtec_anomaly_detection",
        "visa": "VisA_20220922",
        "btad": "BTAD",
        "ksdd2": "KolektorSDD2",
        "dagm": "DAGM2007",
        "brainmri": "brain-mri-images-for-brain-tumor-detection",
        "br35h": "Brain Tumor Detection",
        "kvasir": "kvasir-seg",
        "clinicdb": "CVC-ClinicDB",
        "colondb": "CVC-ColonDB",
        "isic": "ISIC2016",
        "endo": "EndoTect",
    }
    for name, folder in folders.items():
        painted.paint(name, tmp_path / folder)
    painted.paint("mvtec", tmp_path / "mvtec copy")
    (tmp_path / "BrainMRI").mkdir()  # empty
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(painted.encoded(painted.surface(1), ".png"))
    (tmp_path / "RSDDs.tar.xz").write_bytes(b"")
    places, problems = sources(str(tmp_path), DATASETS.keys())
    assert {name: place.name for name, place in places.items()} == folders
    assert "mvtec copy is not used" in capsys.readouterr().err
    assert problems == {"rsdd": "RSDDs.tar.xz is an archive: unpack it"}
    assert list(sources(str(tmp_path / "BTAD"), DATASETS.keys())[0]) == ["btad"]
    assert list(sources(str(tmp_path), ["btad", "dtd"])[0]) == ["btad"]
    (tmp_path / "other" / "DTD").mkdir(parents=True)
    _, problems = sources(str(tmp_path / "other"), DATASETS.keys())
    assert "DTD is not it: There are no images" in problems["dtd"]
    with pytest.raises(DataError, match="There is no folder"):
        sources(str(tmp_path / "nothing"), DATASETS.keys())


def test_a_dataset_of_two_folders_lies_side_by_side(tmp_path):
    painted.paint("isic", tmp_path)
    assert len(list(tmp_path.iterdir())) > 1
    places, _ = sources(str(tmp_path), ["isic"])
    assert places == {"isic": tmp_path}


@pytest.mark.parametrize(
    ("name", "layout", "counts", "sentence"),
    [
        ("headct", "published", (100, 100), ""),
        ("headct", "published", (100, 99), "head_ct has 100 normal and 99 anomalous images, not 100 normal and 100"),
        ("ksdd2", "meta", (356, 356), ""),
        ("ksdd2", "published", (356, 356), "its authors picked other normal images by hand"),
    ],
)
def test_a_copy_that_is_not_the_paper_s_test_set_is_told(name, layout, counts, sentence):
    (category,) = DATASETS[name].categories
    refs = [
        SampleRef("s", 0, "x", category.name, "thing", label, "0") for label in (0, 1) for _ in range(counts[label])
    ]
    told = _incomplete(DATASETS[name], refs, layout)
    assert sentence in told
    assert bool(told) == bool(sentence)


def test_files_say_the_same(tmp_path):
    plan = planned("table1", PAPERS._replace(datasets={"mvtec": ("image", "pixel")}))
    results = {
        each: {
            "10": {
                "mean": dict.fromkeys(
                    ("image_auroc", "image_f1_max", "image_ap", "pixel_auroc", "pixel_pro", "pixel_ap"), 0.9
                )
            }
        }
        for each in measurements([plan])
    }
    made = cells(plan, results, {}, False, False, {}, 2.0)
    result = {
        "targets": [
            {
                "target": "table1",
                "title": plan.title,
                "figures": [cell._asdict() for cell in made],
                "claims": [checked(claim, made, 2.0)._asdict() for claim in plan.claims],
                "times": [],
            }
        ],
        "conditions": "ViT-L-14-336; protocol released",
        "protocol": "released",
        "embedded": False,
        "tolerance": 2.0,
        "datasets": {},
        "output": str(tmp_path),
    }
    write_all(tmp_path, result)
    assert {path.name for path in tmp_path.iterdir()} == {
        *[f"table1-released.{suffix}" for suffix in ("csv", "json", "md", "tex", "png")],
    }  # fmt: skip
    with (tmp_path / "table1-released.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    written = json.loads((tmp_path / "table1-released.json").read_text())
    assert [row["verdict"] for row in rows] == [figure["verdict"] for figure in written["figures"]]
    assert float(rows[0]["ours"]) == 90.0
    page = (tmp_path / "table1-released.md").read_text()
    assert "protocol released" in page
    assert "| mvtec, PRO | 90.0 ± 0.0 (paper 64.6, +25.4, **outside**)" in page.replace("90.0 (", "90.0 ± 0.0 (")
    latex = (tmp_path / "table1-released.tex").read_text()
    assert latex.count(r"\\") == 1 + 6
    assert list(tables("table1", made)[""]["mvtec, PRO"]) == list(METHODS)


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    from pipelines.cli import main

    monkeypatch.chdir(tmp_path)
    refused = [
        (["table1"], "--data DIR"),
        (["table2", "--embedded", "--model", "x"], "in table1 alone"),
        (["table1", "--embedded", "--shards", "x"], "--shards is not for table1"),
        (["uncertainty", "--embedded"], "--embedded is not for uncertainty"),
        (["table3", "--embedded", "--set", "num_samples=[1,3]"], "10 among them"),
        (["table3", "--embedded", "--set", "num_samples=[10]"], "at least two different numbers"),
        (["table1", "--data", "."], "None of the 15 datasets that are needed"),
        (["table1", "--data", "nothing"], "There is no folder"),
        (["table1", "--embedded", "--set", "backbone.name=ViT-B-16"], "leave it out"),
    ]
    for words, sentence in refused:
        with pytest.raises((ConfigError, DataError), match=sentence):
            _without_catching(main, ["reproduce", *words])
    assert not list(tmp_path.iterdir())


def _without_catching(main, words):
    """The command's error itself, not its line on standard error."""
    import argparse

    from pipelines import reproduce
    from pipelines.cli import options_of

    parser = argparse.ArgumentParser()
    options_of("reproduce").add_arguments(parser)
    reproduce.run(parser.parse_args(words[1:]))


def test_a_gpu_is_given_the_images_that_a_core_is_given_in_the_same_order(tmp_path):
    shards = painted_shards(tmp_path, ("carpet", "gear"), seed=2)
    refs = index_shards(str(shards))
    groups = [refs[start : start + 3] for start in range(0, len(refs), 3)]
    detector = Detector.load("embedded", "cpu")
    core = list(_decoded(groups, detector))
    detector.device = torch.device("cuda")  # decoding happens in front of it
    gpu = list(_decoded(groups, detector))
    assert [len(group) for group in core] == [len(group) for group in groups]
    for a, b in zip(itertools.chain(*core), itertools.chain(*gpu), strict=True):
        assert (a[0].noise_key, a[1]) == (b[0].noise_key, b[1])
        assert torch.equal(a[0].pixels, b[0].pixels)
