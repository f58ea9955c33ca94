"""The report of an evaluation in a real browser, from a file with nothing to load; its figures against scikit-learn."""

import csv
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from browser import chromium
from evaluated import COUNT, HEADER, MACHINE, painted_evaluation, painted_images
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from sklearn.metrics import brier_score_loss, f1_score

from bayes_pfl.config import read_config
from bayes_pfl.metrics import PixelHistogram, image_best_f1
from pipelines.options.evaluate import EvaluateSettings
from pipelines.scoring.evaluation_report import SECTIONS
from pipelines.scoring.evaluation_tables import printed
from pipelines.scoring.reliability import reliability
from pipelines.scoring.report_charts import LabelledScores
from pipelines.scoring.run_record import settings_text
from pipelines.scoring.thresholds import Labelling

HOSTILE = 'a model </script><img src="https://example.org/x.png">&'
SIGNALS = {"bolt": 4.0, "gear": 0.0}
"""Defects of gears leave no trace: their scores tell nothing."""


@pytest.fixture(scope="module")
def finished():
    header = {**HEADER, "model": {**HEADER["model"], "source": HOSTILE}, "trained_on_images_evaluated": 3}
    return painted_evaluation(SIGNALS, header, lost=("bolt/1",), shown=5)


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    finished.write(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    with chromium() as chrome:
        yield chrome


@pytest.fixture(params=[(390, "light"), (390, "dark"), (1280, "light")], ids=lambda param: f"{param[0]}-{param[1]}")
def page(request, browser, folder):
    """The page on a phone and on a screen; in the end it must have complained of nothing and asked for nothing."""
    width, scheme = request.param
    browser.execute_cdp_cmd("Network.enable", {})
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    preference = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preference]})
    browser.get(f"file://{folder / 'report.html'}")
    yield browser
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert browser.get_log("browser") == []


def lightness(browser, what: str) -> float:
    """Of a colour of the page's body, 0 to 255."""
    text = browser.execute_script(f"return getComputedStyle(document.body).{what}")
    return float(np.mean([int(number) for number in re.findall(r"\d+", text)[:3]]))


def test_every_section_is_there_and_nothing_sticks_out(page, request):
    headings = {section.get_attribute("id"): section for section in page.find_elements(By.TAG_NAME, "section")}
    assert list(headings) == list(SECTIONS)
    for name, section in headings.items():
        assert section.find_element(By.TAG_NAME, "h2").text == SECTIONS[name]
        assert len(section.text) > len(SECTIONS[name]) + 20
    links = [link.get_attribute("href").rpartition("#")[2] for link in page.find_elements(By.CSS_SELECTOR, "nav a")]
    assert links == list(SECTIONS)
    widths = page.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]
    boxes = page.find_elements(By.CSS_SELECTOR, ".wide")
    scrolls = [page.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", box) for box in boxes]
    if widths[1] == 390:
        assert any(scrolls), "a wide table scrolls in its own box"
    dark = "dark" in request.node.name
    assert (lightness(page, "backgroundColor") < 60) == dark
    assert abs(lightness(page, "backgroundColor") - lightness(page, "color")) > 150


def test_the_picker_begins_at_f1_max_and_counts(page, finished):
    entry = finished.result["datasets"]["painted"]["categories"]["bolt"]
    outputs = {each.get_attribute("data-name"): each for each in page.find_elements(By.CSS_SELECTOR, "output")}
    assert outputs["f1"].text == f"{100 * entry['values']['image_f1_max']:.1f} %"
    assert float(outputs["threshold"].text) == pytest.approx(entry["f1_max"]["image"]["threshold"], rel=1e-5)
    assert outputs["all"].text == f"{100 * entry['f1_max']['image']['all_positive']:.1f} %"
    before = int(outputs["hits"].text) + int(outputs["alarms"].text)
    page.find_element(By.CSS_SELECTOR, "input[type=range]").send_keys(Keys.ARROW_LEFT)
    assert int(outputs["hits"].text) + int(outputs["alarms"].text) == before + 1
    Select(page.find_element(By.CSS_SELECTOR, ".picker select")).select_by_visible_text("gear")
    assert sum(int(outputs[name].text) for name in ("hits", "misses", "alarms", "passes")) == COUNT


def test_the_page_names_nothing_to_load_from_elsewhere(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    loading = re.findall(r"<(?!a\b)[a-z]+[^>]*\s(?:src|href|srcset|data|poster)=\"([^\"]*)\"", text)
    assert loading
    assert all(source.startswith("data:") for source in loading)
    assert not re.search(r"url\(|@import|<link|<iframe|<object", text)
    assert '<img src="https://example.org' not in text


def test_scores_that_tell_nothing_are_at_chance_everywhere(finished, folder):
    dataset = finished.result["datasets"]["painted"]
    for name, entry in (*dataset["categories"].items(), ("mean", dataset["mean"])):
        bounds = entry["intervals"]["image_auroc"]
        assert (entry["image_auroc_is"] == "at chance") == (bounds["low"] <= 0.5 <= bounds["high"]), name
    assert dataset["categories"]["gear"]["image_auroc_is"] == "at chance"
    assert dataset["categories"]["bolt"]["image_auroc_is"] == "above chance"
    for columns in (60, 300):
        line = next(line for line in printed(finished.result, columns).splitlines() if line.endswith("at chance"))
        assert line.startswith("gear")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "image scores are at chance in gear." in page
    assert re.search(r"<td>gear</td>(<td[^>]*>[^<]*</td>){2}<td>[^<]* at chance</td>", page)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = {(row["category"], row["metric"]): row for row in csv.DictReader(file) if not row["defect"]}
    assert rows["gear", "image_auroc"]["against_chance"] == "at chance"


def test_f1_max_has_its_threshold_and_what_calling_everything_anomalous_reaches(finished):
    for category, entry in finished.result["datasets"]["painted"]["categories"].items():
        images = [each for each in painted_images(category, SIGNALS[category], len(category)) if each.name != "bolt/1"]
        scores, labels = np.array([each.score for each in images]), np.array([each.label for each in images])
        image = entry["f1_max"]["image"]
        assert f1_score(labels, scores >= image["threshold"]) == entry["values"]["image_f1_max"]
        assert image["all_positive"] == pytest.approx(f1_score(labels, np.ones_like(labels)), abs=1e-12)
        heat, mask = (np.concatenate([getattr(each, name).ravel() for each in images]) for name in ("heat", "mask"))
        pixel = entry["f1_max"]["pixel"]
        assert f1_score(mask, heat >= pixel["threshold"]) == pytest.approx(entry["values"]["pixel_f1_max"], abs=1e-3)
        assert pixel["all_positive"] == pytest.approx(f1_score(mask, np.ones_like(mask)), abs=1e-12)
    assert image_best_f1([0.1, 0.2], [0, 0]) is None
    assert PixelHistogram().best_f1() is None


def test_latency_is_in_run_json_and_the_page_alone(finished, folder):
    times = json.loads((folder / "run.json").read_text())["latency"]
    expected = np.delete(np.arange(1.0, 2 * COUNT + 1), 1)  # the image without a score took no time
    assert times["median_milliseconds"] == np.median(expected)
    assert times["percentile_95_milliseconds"] == np.percentile(expected, 95)
    assert (times["images"], times["machines"]) == (2 * COUNT - 1, {MACHINE: 2 * COUNT - 1})
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"{np.percentile(expected, 95):.1f} ms an image" in page
    assert MACHINE in page
    assert "It is no benchmark" in page
    for name in ("metrics.json", "metrics.csv", "predictions.csv"):
        assert "millisecond" not in (folder / name).read_text(encoding="utf-8")


def test_without_verdicts_the_page_says_what_scores_are_worth_as_probabilities(folder):
    images = [image for name, signal in SIGNALS.items() for image in painted_images(name, signal, len(name))]
    images = [image for image in images if image.name != "bolt/1"]
    brier = brier_score_loss([image.label for image in images], [image.score for image in images])
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "They are not probabilities of a defect" in page
    assert f"Brier score of {brier:.3f}" in page
    assert "nobody decides here" in page
    outside = reliability("far", LabelledScores(np.array([-1.0, 3.0]), np.array([0, 1])))
    assert "They run from -1 to 3." in "".join(outside)
    assert "svg" not in "".join(outside)
    assert "images of both kinds" in "".join(reliability("one", LabelledScores(np.array([0.5]), np.array([1]))))


def test_with_a_threshold_the_page_shows_what_was_decided(tmp_path):
    painted_evaluation({"bolt": 4.0}, labelling=Labelling(0.9, None, None)).write(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="calibration">') : page.index('<section id="images">')]
    assert "false alarms found" in section
    assert "Brier" not in section


def test_the_model_is_described_and_what_it_does_not_say_is_named(folder):
    card = json.loads((folder / "run.json").read_text())["model_card"]
    assert "Bayes-PFL (CVPR 2025)" in card["method"]
    assert "0fc9ddad371282b9fd348f2ec28faf87abfb5c611e0c1575fa9aab432efd9988" in card["weights of the backbone"]
    assert card["trained on"] == "672 images"
    assert card["epochs"] == "6"
    assert "end of training" in card["not recorded in the model"]
    assert card["licence of this software"] == "Apache-2.0"


def test_settings_make_the_evaluation_again(tmp_path):
    settings = EvaluateSettings(
        shards=("a shard", "https://me:secret@example.org/b"), num_samples=3, output=str(tmp_path / "out")
    )
    (tmp_path / "settings.yaml").write_text(settings_text(settings), encoding="utf-8")
    again = read_config(EvaluateSettings, tmp_path / "settings.yaml", [])
    assert again.shards[0].endswith("/a shard")
    assert again.shards[1] == "https://example.org/b"
    assert again.model_copy(update={"shards": settings.shards}) == settings
