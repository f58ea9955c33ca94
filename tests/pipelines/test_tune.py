"""Sweeps: R causes no training, a stopped sweep goes on with what is missing, results are files anyone can read."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from html import escape
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image
from plain import plain_shards
from small import BACKBONE

from bayes_pfl.clip.features import read_key
from bayes_pfl.config import ModelConfig, TrainingConfig
from bayes_pfl.data.remote import Store
from bayes_pfl.data.shards import read_manifest
from bayes_pfl.errors import ConfigError, DataError, OutputError
from bayes_pfl.inference.bundle import load_bundle
from pipelines.options.tune import SweepSettings, TuneSettings
from pipelines.platform.settings import ClusterSettings, DataSettings
from pipelines.register import register
from pipelines.sweep.results import pareto_front
from pipelines.sweep.search import combine, optuna_search, space, trial_name
from pipelines.sweep.trial import SELECTION, trial_settings
from pipelines.tune import clear, ended, tune

GRID = {"model.num_prompts": (1, 2), "model.flow_length": (0,)}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, ray_session):
    """A sweep whose driver is killed after its first trial, and then run again with one more value of R."""
    folder = tmp_path_factory.mktemp("tune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAYES_PFL_HOME", str(folder / "home"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shards = plain_shards(folder, ("carpet", "gear"), seed=21)
        settings = TuneSettings(
            backbone=BACKBONE,
            model=ModelConfig(num_prompts=1, flow_length=1),
            training=TrainingConfig(epochs=2, batch_size=3, learning_rate=1e-3),
            data=DataSettings(train=str(shards), validation_categories=("gear",)),
            cluster=ClusterSettings(num_workers=1),
            sweep=SweepSettings(grid=GRID, num_samples=(1, 2), cpus_per_trial=2),
            output=str(folder / "sweep"),
        )
        _kill_after_the_first_trial(folder, settings, ray_session)
        first = {path: path.stat().st_mtime_ns for path in (folder / "sweep/trials").glob("*/bundle/bundle.json")}
        results = tune(settings, resume=True)
        yield folder, settings, first, results


def _kill_after_the_first_trial(folder, settings, address):
    config = folder / "tune.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
    driver = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "tune", "--config", str(config)],
        env=os.environ | {"RAY_ADDRESS": address},
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 300
        while not list((folder / "sweep" / "trials").glob("*/result.json")):
            assert driver.poll() is None, driver.stderr.read().decode()
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.communicate()


@pytest.mark.ray
def test_a_killed_sweep_goes_on_with_the_missing_trials_only(sweep):
    _, _, first, results = sweep
    assert len(first) >= 1
    assert all(path.stat().st_mtime_ns == changed for path, changed in first.items())
    assert {(row["model.num_prompts"], row["num_samples"]) for row in results["rows"]} == {
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    }


@pytest.mark.ray
def test_r_causes_no_training(sweep, monkeypatch):
    folder, settings, _, results = sweep
    monkeypatch.setenv("BAYES_PFL_HOME", str(folder / "home"))
    bundles = {row["bundle"] for row in results["rows"]}
    assert len(bundles) == 2
    assert {load_bundle(bundle).config.model.num_prompts for bundle in bundles} == {1, 2}
    before = {bundle: load_bundle(bundle).record["head_sha256"] for bundle in bundles}
    written = {bundle: Path(bundle, "bundle.json").stat().st_mtime_ns for bundle in bundles}
    more = settings.model_copy(update={"sweep": settings.sweep.model_copy(update={"num_samples": (1, 2, 5)})})
    again = tune(more)
    assert {row["num_samples"] for row in again["rows"]} == {1, 2, 5}
    assert {bundle: load_bundle(bundle).record["head_sha256"] for bundle in bundles} == before
    assert {bundle: Path(bundle, "bundle.json").stat().st_mtime_ns for bundle in bundles} == written
    old = {(row["bundle"], row["num_samples"]): row[SELECTION] for row in results["rows"]}
    new = {(row["bundle"], row["num_samples"]): row[SELECTION] for row in again["rows"]}
    assert all(new[key] == value for key, value in old.items())  # draws are nested
    runs = {row["bundle"]: row["run_id"] for row in results["rows"]}
    assert {row["bundle"]: row["run_id"] for row in again["rows"]} == runs
    assert register(settings.tracking, again["best"]["run_id"])["version"] == 1  # the run of a later R has the bundle


@pytest.mark.ray
def test_results_are_files_best_first(sweep):
    folder, _, _, results = sweep
    output = folder / "sweep" / "results"
    stored = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert stored["metric"] == SELECTION
    values = [row[SELECTION] for row in results["rows"]]
    assert values == sorted(values, reverse=True)
    assert results["best"] == results["rows"][0]
    best, images = results["best"], results["validation_images"]
    assert (
        f"R = {best['num_samples']} (num_samples): validation pixel AP {100 * best[SELECTION]:.1f} %"
        in (results["statements"][0])
    )
    assert f" on {images} validation images (" in results["statements"][0]
    page = (output / "report.html").read_text(encoding="utf-8")
    assert all(escape(statement) in page for statement in results["statements"])
    resampled = json.loads((folder / "sweep" / stored["best"]["bundle"]).with_name("resampled.json").read_text("utf-8"))
    assert resampled[str(best["num_samples"])][0] == pytest.approx(best[SELECTION], abs=5e-3)
    with (output / "results.csv").open(newline="", encoding="utf-8") as file:
        assert {"model.num_prompts", "num_samples", SELECTION, "seconds_per_image"} <= set(next(csv.DictReader(file)))
    for name in ("heat-num_prompts-num_samples.png", "pareto.png"):
        with Image.open(output / name) as picture:
            assert picture.format == "PNG"
            assert len(picture.convert("L").getcolors(1 << 20)) > 10
    assert (output / "report.html").read_text(encoding="utf-8").count("data:image/png;base64,") == 2


def finished_children(runs, parent):
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return [run for run in children if run.info.status == "FINISHED"]


@pytest.mark.ray
def test_trials_are_children_of_one_run(sweep):
    folder, _, _, _ = sweep
    client = MlflowClient(f"sqlite:///{folder / 'home' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("bayes-pfl").experiment_id])
    parents = [run for run in runs if run.data.tags.get("stage") == "tune"]
    assert len(parents) == 1
    for run in [parents[0], *finished_children(runs, parents[0])]:
        assert run.data.params["training.batch_size"] == "3"
        assert run.data.params["training.seed"] == "0"
        assert run.data.params["dataset_digest"] == read_manifest(sweep[1].data.train)["digest"]
        assert run.data.params["git_revision"]
    finished = finished_children(runs, parents[0])
    assert {run.data.params["model.num_prompts"] for run in finished} == {"1", "2"}
    assert all("validation_pixel_ap" in run.data.metrics for run in finished)


@pytest.mark.ray
def test_other_fixed_settings_in_the_same_folder_are_refused(sweep):
    _, settings, _, _ = sweep
    other = settings.model_copy(update={"training": settings.training.model_copy(update={"epochs": 3})})
    with pytest.raises(ConfigError, match="holds a sweep of other data"):
        tune(other)


@pytest.fixture
def again(sweep, tmp_path, monkeypatch):
    """The sweep's settings with its features, one training at a time, in a folder of their own."""
    folder, settings, _, _ = sweep
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = settings.data.model_copy(update={"features": str(folder / "sweep" / "features")})

    def changed(epochs: int, **choice) -> TuneSettings:
        choice = {"grid": {}, "num_samples": (1,), "cpus_per_trial": 2} | choice
        training = settings.training.model_copy(update={"epochs": epochs})
        update = {
            "data": data,
            "training": training,
            "output": str(tmp_path / "sweep"),
            "sweep": SweepSettings(**choice),
        }
        return settings.model_copy(update=update)

    return changed


@pytest.mark.ray
def test_a_weak_trial_is_stopped_early_and_stays_stopped(again, tmp_path):
    rates = {"training.learning_rate": (1e-3, 1e-7)}  # the second learns nothing
    settings = again(4, grid=rates, early_stopping=True)
    results = tune(settings)
    assert [row["training.learning_rate"] for row in results["rows"]] == [1e-3]
    client = MlflowClient(f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}")

    def epochs_of(rate: float) -> tuple[str, int]:
        experiment = client.get_experiment_by_name("bayes-pfl").experiment_id
        wanted = f"tags.stage = 'trial' and params.`training.learning_rate` = '{rate}'"
        (run,) = client.search_runs([experiment], wanted)
        return run.info.status, len(client.get_metric_history(run.info.run_id, "total"))

    assert epochs_of(1e-3) == ("FINISHED", 4)
    assert epochs_of(1e-7) == ("KILLED", 2)
    assert tune(settings, resume=True)["rows"] == results["rows"]
    assert epochs_of(1e-7) == ("KILLED", 2)  # one run still


@pytest.mark.ray
def test_random_and_bayesian_choices_are_trained_and_go_on(sweep, again, object_store, tmp_path, capsys):
    rates = {"training.learning_rate": (1e-5, 1e-2)}
    # Features, trials and results in an object store.
    place = {"output": f"{object_store}/sweep", "data": sweep[1].data}
    random = again(1, log_ranges=rates, random_trials=1, features_dtype="bfloat16").model_copy(update=place)
    (drawn,) = combine(random.sweep)
    found = tune(random)["rows"]
    assert [row["training.learning_rate"] for row in found] == [drawn["training.learning_rate"]]
    assert {"features", "results", "sweep.json", "trials"} <= set(Store(f"{object_store}/sweep").names())
    assert read_key(f"{object_store}/sweep/features").dtype == "bfloat16"
    assert tune(random, resume=True)["rows"] == found
    other = random.model_copy(update={"sweep": random.sweep.model_copy(update={"features_dtype": "float32"})})
    with pytest.raises(ConfigError, match="other fixed settings"):
        tune(other, resume=True)
    bayesian = [again(1, log_ranges=rates, bayesian_trials=count) for count in (1, 2)]
    bayesian = [settings.model_copy(update={"output": str(tmp_path / "bayesian")}) for settings in bayesian]
    first, both = (tune(settings)["rows"] for settings in bayesian)
    assert len(first) == 1
    assert len({row["training.learning_rate"] for row in both}) == 2
    assert first[0] in both
    assert all(1e-5 <= row["training.learning_rate"] <= 1e-2 for row in both)
    capsys.readouterr()
    assert tune(bayesian[1], resume=True)["rows"] == both
    assert "2 are done already" in capsys.readouterr().err
    assert capsys.readouterr().out == ""  # where --json prints its answer


def test_nothing_to_resume_is_said(tmp_path):
    shards = plain_shards(tmp_path, ("carpet", "gear"), seed=22)
    settings = TuneSettings(
        backbone=BACKBONE,
        data=DataSettings(train=str(shards), validation_categories=("gear",)),
        output=str(tmp_path / "o"),
    )
    with pytest.raises(ConfigError, match="no sweep to resume"):
        tune(settings, resume=True)
    none = settings.model_copy(update={"data": DataSettings(train=str(shards))})
    with pytest.raises(ConfigError, match="needs validation images"):
        tune(none)


def test_a_grid_is_all_combinations_and_random_ones_are_a_part_of_it():
    sweep = SweepSettings(grid={"model.num_prompts": (1, 2, 3), "model.flow_length": (0, 10)})
    every = combine(sweep)
    assert len(every) == len({trial_name(each) for each in every}) == 6
    some = combine(sweep.model_copy(update={"random_trials": 4}))
    assert len(some) == 4
    assert all(each in every for each in some)
    assert some == combine(sweep.model_copy(update={"random_trials": 4}))


def test_a_trial_keeps_its_name_when_settings_are_listed_in_another_order():
    one, other = {"model.num_prompts": 1, "model.flow_length": 0}, {"model.flow_length": 0, "model.num_prompts": 1}
    assert trial_name(one) == trial_name(other)
    assert trial_name(one) != trial_name({"model.num_prompts": 0, "model.flow_length": 1})


def test_ranges_are_drawn_within_their_ends():
    sweep = SweepSettings(
        grid={"model.num_prompts": (1, 2)},
        ranges={"model.context_tokens": (2, 6)},
        log_ranges={"training.learning_rate": (1e-5, 1e-2)},
        random_trials=50,
    )
    drawn = combine(sweep)
    assert {each["model.context_tokens"] for each in drawn} == {2, 3, 4, 5, 6}
    rates = [each["training.learning_rate"] for each in drawn]
    assert all(1e-5 <= rate <= 1e-2 for rate in rates)
    assert 10 < sum(rate < 10**-3.5 for rate in rates) < 40
    with pytest.raises(ConfigError, match="a full grid has no end"):
        combine(sweep.model_copy(update={"random_trials": None}))
    with pytest.raises(ConfigError, match="not both"):
        combine(sweep.model_copy(update={"bayesian_trials": 3}))


def test_settings_that_do_not_exist_are_named():
    with pytest.raises(ConfigError, match="did you mean 'num_prompts'"):
        trial_settings(TuneSettings(), {"model.num_promts": 3})
    assert trial_settings(TuneSettings(), {"loss.kl_weight": 0.5}).loss.kl_weight == 0.5


def test_optuna_proposes_near_the_optimum_and_learns_from_earlier_trials():
    sweep = SweepSettings(grid={}, ranges={"loss.kl_weight": (0.0, 1.5)}, bayesian_trials=25)

    def best_after(known):
        search = optuna_search(sweep, SELECTION, known)
        assert search.set_search_properties(SELECTION, "max", space(sweep))
        proposed = []
        for number in range(25):
            value = search.suggest(str(number))["overrides"]["loss.kl_weight"]
            proposed.append(value)
            search.on_trial_complete(str(number), {SELECTION: -((value - 1.1) ** 2)})
        return proposed

    proposed = best_after([])
    known = [({"loss.kl_weight": value}, -((value - 1.1) ** 2)) for value in proposed]
    informed = best_after(known)[:10]
    even = 0.457  # mean distance to 1.1 of numbers drawn evenly from the range
    assert sum(abs(value - 1.1) for value in informed) / 10 < even / 2
    assert min(abs(value - 1.1) for value in proposed) < 0.05


def test_the_pareto_front_is_what_nothing_beats_in_both():
    points = [(1.0, 0.5), (2.0, 0.4), (3.0, 0.7), (3.0, 0.6), (4.0, 0.7), (0.5, float("nan"))]
    rows = [{"seconds_per_image": seconds, SELECTION: value} for seconds, value in points]
    assert [(row["seconds_per_image"], row[SELECTION]) for row in pareto_front(rows)] == [(1.0, 0.5), (3.0, 0.7)]


@pytest.mark.ray
def test_a_sweep_that_was_moved_names_the_new_place(sweep, monkeypatch):
    folder, settings, _, _ = sweep
    monkeypatch.setenv("BAYES_PFL_HOME", str(folder / "home"))
    moved = (folder / "sweep").rename(folder / "moved")
    try:
        again = tune(settings.model_copy(update={"output": str(moved)}), resume=True)
        assert all(load_bundle(row["bundle"]) for row in again["rows"])
        assert str(moved) not in (moved / "results" / "results.csv").read_text(encoding="utf-8")
        assert all(row["bundle"].startswith(f"{moved}/") for row in again["rows"])
    finally:
        moved.rename(folder / "sweep")


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_is_no_sweep_is_left_as_it_is(tmp_path, monkeypatch, fresh):
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    output = tmp_path / "photos"
    (output / "results").mkdir(parents=True)
    (output / "results" / "thesis.txt").write_text("years of work", encoding="utf-8")
    settings = TuneSettings(data=DataSettings(train=str(tmp_path / "missing")), output=str(output))
    with pytest.raises(DataError):  # a wrong setting is found before anything is deleted
        tune(settings, fresh=fresh)
    shards = plain_shards(tmp_path, ("carpet", "gear"), seed=21)
    data = DataSettings(train=str(shards), validation_categories=("gear",))
    for place in (str(output), f"file://{output}"):
        changes = {"backbone": BACKBONE, "data": data, "output": place}
        with pytest.raises(OutputError, match="holds results, which is no sweep: nothing was deleted"):
            tune(settings.model_copy(update=changes), fresh=fresh)
    assert [file.name for file in output.rglob("*") if file.is_file()] == ["thesis.txt"]


def test_fresh_deletes_what_a_sweep_wrote_and_nothing_else(tmp_path):
    store = Store(tmp_path)
    for name in ("sweep.json", "trials/a/result.json", "results/results.json", "notes.json"):
        store.write_json(name, {})
    clear(store)
    assert store.names() == ["notes.json"]


def test_stopped_and_failed_trials_count_as_ended(tmp_path):
    store = Store(tmp_path)
    assert ended(store) == []
    for number, file in enumerate(("result.json", "stopped.json", "failed.json", "bundle/bundle.json")):
        store.write_json(f"trials/{number}/{file}", {"overrides": {}})
    assert len(ended(store)) == 3  # a Bayesian sweep of three trials has nothing left to do


@pytest.mark.ray
def test_a_trial_that_diverges_is_listed_and_the_others_have_results(sweep, tmp_path, monkeypatch, capsys):
    folder, settings, _, _ = sweep
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    grid = {"training.learning_rate": (1e-3, 1e30)}
    choice = settings.sweep.model_copy(update={"grid": grid, "num_samples": (1,)})
    features = settings.data.model_copy(update={"features": str(folder / "sweep" / "features")})
    diverging = settings.model_copy(update={"sweep": choice, "data": features, "output": str(tmp_path / "sweep")})
    results = tune(diverging)
    assert [row["training.learning_rate"] for row in results["rows"]] == [1e-3]
    assert [failure["overrides"] for failure in results["failed"]] == [{"training.learning_rate": 1e30}]
    assert "is not finite" in results["failed"][0]["error"]
    assert "is not finite" in (tmp_path / "sweep/results/report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert tune(diverging)["rows"] == results["rows"]
    assert "2 are done already" in capsys.readouterr().err
