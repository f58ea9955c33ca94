"""The page in a real browser: what it shows is what the library says; by mouse, keyboard and phone, with and without tokens."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium
from calibrated import SAMPLES, calibrated, painted
from local_endpoint import LocalHandle, encoded, listening, local_app, picture
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from starlette.testclient import TestClient

from bayes_pfl import Detector
from bayes_pfl.decisions.calibration import read_calibration
from pipelines.scoring.lists import read_list
from serve.http.page import EXAMPLES, paint
from serve.settings import ModelSettings, ServeSettings

TOKEN = "0123456789abcdef-for-the-page"
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    with chromium() as chrome:
        yield chrome


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """The page, freshly loaded; in the end it must have complained of nothing and loaded nothing from elsewhere."""
    browser.get(url)
    until(browser, lambda: "Model first" in text(browser, "model"))
    yield browser
    entries = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in entries if not name.startswith((url, "blob:", "data:"))] == []
    complaints = [line["message"] for line in browser.get_log("browser") if "/v1/score" not in line["message"]]
    assert complaints == []


def until(browser: Any, condition: Callable[[], Any]) -> Any:
    return WebDriverWait(browser, 30, 0.05).until(lambda _: condition())


def text(browser: Any, name: str) -> str:
    return str(browser.find_element(By.ID, name).text)


def scores(browser: Any) -> list[str]:
    """What stands below the images of the gallery."""
    return [span.text for span in browser.find_elements(By.CSS_SELECTOR, "#gallery span")]


def labels(browser: Any) -> list[str]:
    """The verdicts below the images of the gallery."""
    return [line.text for line in browser.find_elements(By.CSS_SELECTOR, "#gallery strong")]


def downloaded(browser: Any, folder: Path, button: str, name: str) -> str:
    """What a button downloads."""
    behaviour = {"behavior": "allow", "downloadPath": str(folder / "downloads")}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    browser.find_element(By.ID, button).click()
    until(browser, (folder / "downloads" / name).is_file)
    return (folder / "downloads" / name).read_text(encoding="utf-8")


def choose(browser: Any, folder: Path, *files: tuple[str, bytes]) -> None:
    """Pick files as a person does, and wait until all are judged."""
    for name, content in files:
        (folder / name).write_bytes(content)
    before = len(scores(browser))
    browser.find_element(By.ID, "files").send_keys("\n".join(str(folder / name) for name, _ in files))
    until(browser, lambda: len(scores(browser)) == before + len(files) and "…" not in scores(browser))


def set_value(browser: Any, name: str, value: str) -> None:
    field = browser.find_element(By.ID, name)
    field.clear()
    field.send_keys(value, Keys.TAB)


def test_it_shows_what_the_library_says(page: Any, detector: Detector, tmp_path: Path) -> None:
    data = encoded(picture(3))
    set_value(page, "name", "metal nut")
    choose(page, tmp_path, ("part.png", data))
    expected = detector.predict([data], ["metal nut"])[0]
    assert scores(page) == [f"{expected.image_score:.3f}"]
    assert text(page, "verdict") == f"Score {expected.image_score:.3f} ± {expected.uncertainty:.3f}"
    assert "metal nut" in text(page, "details")
    assert detector.bundle.version in text(page, "details")
    assert text(page, "result-title") == "part.png"
    assert page.find_element(By.ID, "heat").is_displayed()
    natural = page.execute_script(
        "const heat = document.getElementById('heat'); return [heat.naturalWidth, heat.naturalHeight]"
    )
    assert natural == [56, 56]


def test_threshold_gives_label_and_regions(page: Any, detector: Detector, tmp_path: Path) -> None:
    data = encoded(picture(5, width=112, height=56))
    choose(page, tmp_path, ("part.png", data))
    assert page.find_elements(By.CSS_SELECTOR, "#boxes rect") == []
    expected = detector.predict([data], ["object"])[0]
    level = min(expected.image_score, float(expected.anomaly_map.max())) - 0.01
    set_value(page, "threshold", f"{level:.3f}")
    until(page, lambda: "defective" in text(page, "verdict"))
    boxes = page.find_elements(By.CSS_SELECTOR, "#boxes rect")
    rows = page.find_elements(By.CSS_SELECTOR, "#regions tbody tr")
    assert len(boxes) == len(rows) >= 1
    assert page.execute_script("return document.getElementById('boxes').getAttribute('viewBox')") == "0 0 112 56"
    set_value(page, "threshold", "1")
    until(page, lambda: "good" in text(page, "verdict"))
    assert page.find_elements(By.CSS_SELECTOR, "#boxes rect") == []


def test_verdicts_and_what_a_person_says_of_them(browser: Any, tmp_path: Path) -> None:
    folder = calibrated(tmp_path / "bundle", ["brick wall"], range(30))
    calibration = read_calibration(folder)
    assert calibration is not None
    images = [*painted("brick wall", range(100, 120)), *painted("brick wall", [0], "crack")]
    verdicts = [calibration.verdict("brick wall", one.score, one.uncertainty, one.sha256) for one in images]
    order = [[verdict.label for verdict in verdicts].index(label) for label in ("good", "unsure", "defective")]
    files = {
        f"{label}, a.png": images[at].data for label, at in zip(("good", "unsure", "defective"), order, strict=True)
    }
    settings = ServeSettings(models=(ModelSettings(name="walls"),), require_token=False)
    with listening(local_app(settings, {"walls": LocalHandle(folder)}, {})) as address:
        browser.get(address)
        until(browser, lambda: browser.find_element(By.ID, "name").get_attribute("value") == "brick wall")
        assert browser.find_element(By.ID, "samples").get_attribute("value") == str(SAMPLES)
        choose(browser, tmp_path, *files.items())
        shown = [f"{verdicts[at].label}, p {verdicts[at].p_value:.3f}" for at in order]
        assert labels(browser) == shown
        assert text(browser, "verdict").endswith(f": defective (p = {verdicts[order[2]].p_value:.3f})")
        assert not browser.find_element(By.ID, "csv").is_enabled()
        browser.find_element(By.ID, "say-defective").click()
        Select(browser.find_element(By.ID, "order")).select_by_value("first")
        assert labels(browser) == [shown[1], shown[0], shown[2]]
        Select(browser.find_element(By.ID, "order")).select_by_value("only")
        assert labels(browser) == shown[1:2]
        browser.find_element(By.CSS_SELECTOR, "#gallery button").click()
        assert text(browser, "reason") == f"Unsure: {verdicts[order[1]].unsure_because}."
        for _ in range(3):  # said, taken back, said
            browser.find_element(By.ID, "say-good").click()
        assert browser.find_element(By.ID, "say-good").get_attribute("aria-pressed") == "true"
        assert text(browser, "said") == "2 of 3 said to be good or defective."
        rows = list(csv.DictReader(io.StringIO(downloaded(browser, tmp_path, "csv", "verdicts.csv"))))
        coco = json.loads(downloaded(browser, tmp_path, "coco", "verdicts.json"))
        assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    for name in files:  # the page does not know where they lie: the list goes beside them
        (tmp_path / "downloads" / name).touch()
    listed = read_list(tmp_path / "downloads" / "verdicts.csv")
    assert [(Path(image.path).name, image.label) for image in listed] == list(zip(files, (-1, 0, 1), strict=True))
    assert list(rows[0]) == ["path", "class_name", "image_score", "p_value", "pred_label", "verdict"]
    assert [row["path"] for row in rows] == list(files)
    assert [float(row["image_score"]) for row in rows] == [images[at].score for at in order]
    assert [float(row["p_value"]) for row in rows] == [verdicts[at].p_value for at in order]
    assert [(row["pred_label"], row["verdict"]) for row in rows] == [
        ("good", ""),
        ("unsure", "good"),
        ("defective", "defective"),
    ]
    names = {category["id"]: category["name"] for category in coco["categories"]}
    said = {entry["image_id"]: names[entry["category_id"]] for entry in coco["annotations"]}
    assert {image["file_name"]: said[image["id"]] for image in coco["images"]} == {
        "unsure, a.png": "good",
        "defective, a.png": "defective",
    }
    assert {(image["width"], image["height"]) for image in coco["images"]} == {(112, 112)}


def test_gallery_by_keyboard(page: Any, tmp_path: Path) -> None:
    choose(page, tmp_path, *((f"{number}.png", encoded(picture(number))) for number in range(3)))
    assert text(page, "result-title") == "2.png"
    page.find_elements(By.CSS_SELECTOR, "#gallery button")[0].send_keys(Keys.ENTER)
    assert text(page, "result-title") == "0.png"
    for key, title in (
        (Keys.ARROW_RIGHT, "1.png"),
        (Keys.ARROW_RIGHT, "2.png"),
        (Keys.ARROW_RIGHT, "0.png"),
        (Keys.ARROW_LEFT, "2.png"),
    ):
        page.switch_to.active_element.send_keys(key)
        assert text(page, "result-title") == title
    page.switch_to.active_element.send_keys(Keys.DELETE)
    assert text(page, "result-title") == "1.png"
    assert len(scores(page)) == 2
    current = page.find_elements(By.CSS_SELECTOR, "#gallery button[aria-current=true]")
    assert [button.get_attribute("title") for button in current] == ["1.png"]


def test_opacity_by_keyboard(page: Any, tmp_path: Path) -> None:
    choose(page, tmp_path, ("part.png", encoded(picture())))
    slider, heat = page.find_element(By.ID, "opacity"), page.find_element(By.ID, "heat")
    assert heat.value_of_css_property("opacity") == "0.55"
    slider.send_keys(Keys.END)
    assert heat.value_of_css_property("opacity") == "1"
    slider.send_keys(Keys.HOME)
    assert heat.value_of_css_property("opacity") == "0"
    assert text(page, "percent") == "0 %"


def test_a_broken_file_is_refused_in_words_and_the_others_are_not(page: Any, tmp_path: Path) -> None:
    choose(page, tmp_path, ("good.png", encoded(picture(1))), ("broken.png", encoded(picture(2))[:200]))
    assert [re.fullmatch(r"0\.\d{3}", score) is not None for score in scores(page)] == [True, False]
    assert "no usable image" in text(page, "verdict")
    assert not page.find_element(By.ID, "heat").is_displayed()


def test_examples_and_drop(page: Any, detector: Detector) -> None:
    buttons = page.find_elements(By.CSS_SELECTOR, "#examples button")
    assert len(buttons) == len(EXAMPLES)
    buttons[1].click()
    until(page, lambda: "…" not in (scores(page) or ["…"]))
    example = list(EXAMPLES.values())[1]
    assert scores(page) == [f"{detector.predict([paint(example)], [example.category])[0].image_score:.3f}"]
    page.execute_script(
        """const carried = new DataTransfer();
        carried.items.add(new File([new Uint8Array([1, 2, 3])], "notes.txt", { type: "text/plain" }));
        carried.items.add(new File([new Uint8Array([1, 2, 3])], "dropped.png", { type: "image/png" }));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: carried }));"""
    )
    until(page, lambda: scores(page)[1:] == ["refused"])
    assert text(page, "result-title") == "dropped.png"


def test_on_a_phone_nothing_sticks_out_and_everything_can_be_hit(page: Any, tmp_path: Path) -> None:
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        choose(
            page,
            tmp_path,
            *((f"a-name-that-goes-on-and-on-and-on-{number}.png", encoded(picture(number))) for number in range(4)),
        )
        assert page.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]
        for button in page.find_elements(By.TAG_NAME, "button"):
            assert min(button.size["height"], button.size["width"]) >= 44
        assert page.find_element(By.ID, "form").rect["width"] > 0.85 * PHONE["width"]
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_tab_reaches_every_control(page: Any) -> None:
    page.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = []
    for _ in range(12):
        ActionChains(page).send_keys(Keys.TAB).perform()
        reached.append(page.switch_to.active_element.get_attribute("id") or page.switch_to.active_element.tag_name)
    assert [name for name in ("pick", "name", "samples", "threshold", "again") if name not in reached] == []


def test_with_tokens_the_page_asks_for_one(
    browser: Any, bundles: dict[str, Path], settings: ServeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAYES_PFL_TOKENS", TOKEN)
    guarded = settings.model_copy(update={"require_token": True})
    handles = {name: LocalHandle(bundles[name]) for name in ("first", "known")}
    with listening(local_app(guarded, handles, {})) as address:
        browser.get(address)
        until(browser, lambda: browser.find_element(By.ID, "token").is_displayed())
        choose(browser, tmp_path, ("part.png", encoded(picture())))
        assert scores(browser) == ["refused"]
        assert "token" in text(browser, "verdict")
        set_value(browser, "token", TOKEN)
        until(browser, lambda: re.fullmatch(r"0\.\d{3}", scores(browser)[0]))
        assert "Model first" in text(browser, "model")
    browser.get_log("browser")


def test_examples_are_pictures_without_a_token(client: TestClient) -> None:
    for path in EXAMPLES:
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(answer.content)).size == (256, 256)


def test_the_page_s_own_policy_allows_nothing_from_elsewhere(client: TestClient) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"(src|href)=\"?https?:", answer.text)
