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
from pipelines.platform.csv_files import FORMULA
from pipelines.scoring.lists import read_list
from pipelines.scoring.results import TABLE
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
    assert page.find_element(By.ID, "threshold").get_attribute("placeholder") == "none"
    set_value(page, "name", "metal nut")
    choose(page, tmp_path, ("part.png", data))
    expected = detector.predict([data], ["metal nut"])[0]
    assert scores(page) == [f"{expected.image_score:.3f}"]
    assert text(page, "verdict") == f"Image score {expected.image_score:.3f}"
    assert f"uncertainty {expected.uncertainty:.3f};" in text(page, "details")
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
    assert text(page, "regions-reason") == ""


def test_regions_of_a_good_image_are_explained(page: Any, detector: Detector, tmp_path: Path) -> None:
    data = encoded(picture(15))
    (prediction,) = detector.predict([data], ["object"])
    score, highest = prediction.image_score, float(prediction.anomaly_map.max())
    assert highest > score + 0.01
    level = round((highest + score) / 2, 3)
    choose(page, tmp_path, ("part.png", data))
    set_value(page, "threshold", str(level))
    until(page, lambda: "good" in text(page, "verdict"))
    assert page.find_elements(By.CSS_SELECTOR, "#boxes rect")
    explained = f"The image score {score:.6g} is good (below {level:g}), but pixels of the anomaly map reach the region"
    assert text(page, "regions-reason").startswith(explained)
    assert text(page, "regions-title") == f"Regions at or above the region threshold {level:.3f}, in pixels"


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
        assert text(browser, "verdict").endswith(f": good (p = {verdicts[order[0]].p_value:.3f})")
        browser.find_elements(By.CSS_SELECTOR, "#gallery button")[2].click()
        assert text(browser, "verdict").endswith(f": defective (p = {verdicts[order[2]].p_value:.3f})")
        assert not browser.find_element(By.ID, "csv").is_displayed()
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
    assert text(page, "result-title") == "0.png"
    page.find_elements(By.CSS_SELECTOR, "#gallery button")[2].send_keys(Keys.ENTER)
    assert text(page, "result-title") == "2.png"
    page.find_elements(By.CSS_SELECTOR, "#gallery button")[0].send_keys(Keys.ENTER)
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
    assert text(page, "left-out").startswith(
        "1 file was not scored:\nbroken.png was refused: The body is no usable image"
    )
    page.find_elements(By.CSS_SELECTOR, "#gallery button")[1].click()
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


def drop(page: Any, *paths: Path) -> None:
    """Drop files and folders as a file manager does."""
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 300, "data": data})


def test_what_is_dropped_and_no_image_is_named_with_its_reason(page: Any, tmp_path: Path) -> None:
    (tmp_path / "part.png").write_bytes(encoded(picture(1)))
    (tmp_path / "notes.txt").write_text("Wednesday's parts", encoding="ascii")
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "empty.png").touch()
    (tmp_path / "moving.gif").write_bytes(b"GIF89a")
    (tmp_path / "table.xyz").write_bytes(b"1234")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "inside.png").write_bytes(encoded(picture(2)))
    names = ("part.png", "notes.txt", "phone.HEIC", "empty.png", "moving.gif", "table.xyz", "photos")
    drop(page, *(tmp_path / name for name in names))
    until(page, lambda: re.fullmatch(r"0\.\d{3}", "".join(scores(page))))
    title, *lines = text(page, "left-out").splitlines()
    assert title == "6 files were not scored:"
    assert sorted(lines[:-1]) == [
        "empty.png is empty (0 bytes)",
        "moving.gif is of a kind (.gif) that is not read; save it as JPEG or PNG",
        "notes.txt is a text, no image",
        "phone.HEIC is in a phone's format (HEIC) that is not read; save it as JPEG or PNG",
        "photos is a folder; open it and drop the images inside",
        "table.xyz is no image",
    ]
    assert page.find_element(By.ID, "left-out").get_attribute("role") == "status"
    page.find_element(By.ID, "forget").click()
    assert not page.find_element(By.ID, "left-out").is_displayed()
    assert len(scores(page)) == 1


def test_a_file_that_has_gone_is_told_from_an_endpoint_that_has(page: Any, tmp_path: Path) -> None:
    choose(page, tmp_path, ("part.png", encoded(picture(1))))
    (tmp_path / "part.png").unlink()
    page.find_element(By.ID, "again").click()
    until(page, lambda: scores(page) == ["refused"])
    assert text(page, "verdict") == "The file can no longer be read; choose it again."


def test_five_hundred_files_are_all_scored_and_the_page_answers_meanwhile(page: Any, tmp_path: Path) -> None:
    names = [f"{number:03d}.png" for number in range(500)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(encoded(picture(number, 24, 24)))
    (tmp_path / "list.txt").write_text("500 parts", encoding="ascii")
    set_value(page, "samples", "1")
    page.execute_script(
        """window.longest = 0;
        window.counts = new Set();
        const count = document.getElementById("count");
        new MutationObserver(() => window.counts.add(count.textContent))
          .observe(count, {childList: true, characterData: true, subtree: true});
        let last = performance.now();
        setInterval(() => { const now = performance.now(); window.longest = Math.max(window.longest, now - last); last = now; }, 10);"""
    )
    field = page.find_element(By.ID, "files")
    field.send_keys("\n".join(str(tmp_path / name) for name in [*names, "list.txt"]))
    assert len(scores(page)) == 500
    WebDriverWait(page, 240, 0.05).until(lambda _: text(page, "finished") != "")
    seen = page.execute_script("return [...window.counts]")
    counts = [int(count.removesuffix(" of 500")) for count in seen if count]
    assert len(counts) > 5
    assert text(page, "finished") == "500 of 500 scored."
    assert not page.find_element(By.ID, "under-way").is_displayed()
    assert text(page, "left-out-files") == "list.txt is a text, no image"
    rows = list(csv.DictReader(io.StringIO(downloaded(page, tmp_path, "results", "scores.csv"))))
    assert [row["sample_id"] for row in rows] == names
    assert all(0 < float(row["image_score"]) < 1 for row in rows)
    assert page.execute_script("return window.longest") < 2000


def test_a_busy_endpoint_loses_no_image(
    browser: Any, bundles: dict[str, Path], settings: ServeSettings, tmp_path: Path
) -> None:
    slow = settings.model_copy(update={"requests_per_second": 4.0, "burst": 2})
    handles = {name: LocalHandle(bundles[name]) for name in ("first", "known")}
    with listening(local_app(slow, handles, {})) as address:
        browser.get(address)
        until(browser, lambda: "Model first" in text(browser, "model"))
        choose(browser, tmp_path, *((f"{number}.png", encoded(picture(number))) for number in range(12)))
        assert text(browser, "finished") == "12 of 12 scored."
        assert any("429" in line["message"] for line in browser.get_log("browser"))


def test_image_and_map_are_side_by_side_and_on_a_phone_one_above_the_other(page: Any, tmp_path: Path) -> None:
    def boxes() -> list[dict[str, float]]:
        return [figure.rect for figure in page.find_elements(By.CSS_SELECTOR, "#views figure")]

    choose(page, tmp_path, ("part.png", encoded(picture(1, 90, 70))))
    image, overlay = boxes()
    assert image["y"] == overlay["y"]
    assert image["x"] + image["width"] < overlay["x"]
    sizes = [stage.rect for stage in page.find_elements(By.CSS_SELECTOR, ".stage")]
    assert sizes[0]["width"] / sizes[0]["height"] == pytest.approx(90 / 70, abs=0.02)
    assert (sizes[0]["width"], sizes[0]["height"]) == (sizes[1]["width"], sizes[1]["height"])
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        image, overlay = boxes()
        assert image["y"] + image["height"] < overlay["y"]
        assert image["x"] == overlay["x"]
        assert page.find_element(By.ID, "opacity").is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_an_image_that_the_browser_does_not_show_has_its_map_all_the_same(page: Any, tmp_path: Path) -> None:
    second = Image.fromarray(picture(2, 90, 60))
    choose(page, tmp_path, ("part.tif", encoded(picture(1, 90, 60), "TIFF", save_all=True, append_images=[second])))
    until(page, lambda: page.find_element(By.ID, "unseen").is_displayed())
    assert text(page, "read-as") == "The file was read as: first of 2 pages."
    stage = page.find_element(By.ID, "stage").rect
    assert stage["width"] / stage["height"] == pytest.approx(1.5, abs=0.02)
    assert page.find_element(By.ID, "heat").rect["height"] == stage["height"]


def test_thumbnails_are_sorted_and_results_are_downloaded_in_the_same_order(
    page: Any, detector: Detector, tmp_path: Path
) -> None:
    files = {
        name: encoded(picture(seed)) for seed, name in enumerate(["b 10.png", "b 9.png", '=1+1,"x".png', "-a.png"])
    }
    choose(page, tmp_path, *files.items())
    by_score = sorted(files, key=lambda name: -detector.predict([files[name]], ["object"])[0].image_score)
    by_name = ["-a.png", '=1+1,"x".png', "b 9.png", "b 10.png"]
    page.find_elements(By.CSS_SELECTOR, "#gallery button")[1].send_keys(Keys.ENTER)
    for order, expected in (("score", by_score), ("name", by_name), ("all", list(files)), ("score", by_score)):
        Select(page.find_element(By.ID, "order")).select_by_value(order)
        buttons = page.find_elements(By.CSS_SELECTOR, "#gallery button")
        assert [button.get_attribute("title") for button in buttons] == expected
        assert text(page, "result-title") == "b 9.png"
    choose(page, tmp_path, ("broken.png", b"no image"))
    page.find_elements(By.CSS_SELECTOR, "#gallery button")[0].click()
    set_value(page, "name", "=cmd()")
    until(page, lambda: "=cmd()" in text(page, "details") and text(page, "finished"))
    rows = list(csv.DictReader(io.StringIO(downloaded(page, tmp_path, "results", "scores.csv"))))
    columns = list(rows[0])
    common = [name for name in columns if name in TABLE]
    assert common == [name for name in TABLE if name in common]
    assert set(columns) - set(common) == {"threshold", "looked_at"}
    assert {"sample_id", "class_name", "image_score", "pred_label", "uncertainty", "model_version", "error"} <= set(
        common
    )
    assert {row["sample_id"].removeprefix("'") for row in rows} == {*files, "broken.png"}
    assert all(not value.startswith(FORMULA) for row in rows for value in row.values())
    assert {row["class_name"] for row in rows} == {"'=cmd()"}
    predictions = {name: detector.predict([data], ["=cmd()"])[0] for name, data in files.items()}
    for row in rows[:-1]:
        expected_row = predictions[row["sample_id"].removeprefix("'")]
        assert float(row["image_score"]) == expected_row.image_score
        assert float(row["uncertainty"]) == expected_row.uncertainty
        assert (row["model_version"], row["width"], row["height"]) == (detector.bundle.version, "90", "70")
    assert rows[-1]["sample_id"] == "broken.png"
    assert rows[-1]["image_score"] == ""
    assert "no usable image" in rows[-1]["error"]


def test_on_a_phone_nothing_sticks_out_and_everything_can_be_hit(page: Any, tmp_path: Path) -> None:
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        choose(
            page,
            tmp_path,
            *((f"a-name-that-goes-on-and-on-and-on-{number}.png", encoded(picture(number))) for number in range(4)),
        )
        assert page.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]
        page.execute_script("document.getElementById('say-good').click()")
        buttons = [button for button in page.find_elements(By.TAG_NAME, "button") if button.is_displayed()]
        assert {"csv", "coco", "results", "say-good", "again"} <= {button.get_attribute("id") for button in buttons}
        for button in buttons:
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
