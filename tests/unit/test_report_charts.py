"""Curves and the threshold picker of a report, in a real browser from a file, with nothing to load."""

import re
import shutil

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from pipelines.platform.html import write_report
from pipelines.scoring.report_charts import MARGIN, PICKER, WIDTH, LabelledScores, charts

HOSTILE = "gear </script><b>&"


def groups():
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    return {
        HOSTILE: LabelledScores(np.round(random.random(60) + 0.4 * labels, 2), labels),
        "bolt": LabelledScores(np.array([0.1, 0.2]), np.array([0, 0])),
        "empty": LabelledScores(np.zeros(0), np.zeros(0, int)),
    }


def test_the_roc_curve_is_the_auroc_and_one_kind_has_none():
    scored = groups()[HOSTILE]
    lines = charts("Scores", {HOSTILE: scored})
    roc, _ = re.findall(r'<polyline points="([^"]+)"', "".join(lines))
    points = np.array([pair.split(",") for pair in roc.split()], float)
    side = WIDTH - 2 * MARGIN
    rate, recall = (points[:, 0] - MARGIN) / side, points[:, 1].max() - points[:, 1]
    area = np.trapezoid(recall / recall.max(), rate)
    assert area == pytest.approx(roc_auc_score(scored.labels, scored.scores), abs=2e-3)
    assert "images of one kind alone" in "".join(charts("Scores", groups()))
    assert charts("Scores", {"empty": groups()["empty"]}) == []


@pytest.fixture
def page(tmp_path):
    """The report, opened from a file by a headless Chromium; in the end it must have complained of nothing."""
    report = write_report(
        tmp_path / "report.html", "Report", [], {}, sections=charts("Scores", groups()), script=PICKER
    )
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    browser.set_window_size(390, 844)
    browser.get(f"file://{report}")
    yield browser
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    complaints = browser.get_log("browser")
    browser.quit()
    assert loaded == []
    assert complaints == []


def shown(page):
    return {each.get_attribute("data-name"): each.text for each in page.find_elements(By.CSS_SELECTOR, "output")}


def test_the_picker_counts_as_scikit_learn_does_at_every_threshold(page):
    scored = groups()[HOSTILE]
    levels = np.unique(scored.scores)
    slider = page.find_element(By.CSS_SELECTOR, "input[type=range]")
    best = max(f1_score(scored.labels, scored.scores >= level) for level in levels)
    assert shown(page)["f1"] == f"{100 * best:.1f} %"
    for _ in range(3):
        slider.send_keys(Keys.ARROW_RIGHT)
        values, reported = shown(page), scored.scores >= levels[int(slider.get_attribute("value"))]
        assert float(values["threshold"]) == levels[int(slider.get_attribute("value"))]
        assert int(values["hits"]) == (reported & (scored.labels == 1)).sum()
        assert int(values["alarms"]) == (reported & (scored.labels == 0)).sum()
        for name, measure in (("recall", recall_score), ("precision", precision_score)):
            assert float(values[name].rstrip(" %")) == pytest.approx(100 * measure(scored.labels, reported), abs=0.051)
    Select(page.find_element(By.TAG_NAME, "select")).select_by_visible_text("bolt")
    assert shown(page)["recall"] == "-"
    assert (shown(page)["hits"], shown(page)["misses"]) == ("0", "0")
    assert page.find_elements(By.TAG_NAME, "b") == []
    width = page.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width == 0, "a phone need not scroll sideways"
