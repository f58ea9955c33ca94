"""The HTML report read back by a parser, its pictures decoded, its colours measured."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from bayes_pfl.errors import OutputError
from bayes_pfl.metrics import dataset_mean, image_metrics, pixel_metrics
from pipelines.platform.html import ReportImage, ReportTable, heat_map, metrics_table, overlay, table, write_report

HOSTILE = '<script>alert("x")</script>&\'"'


class Page(HTMLParser):
    """Tags that were opened, with attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def a_case(name: str, mask: bool = True, size: tuple[int, int] = (400, 300)) -> ReportImage:
    width, height = size
    image = Image.fromarray(np.full((height, width, 3), 120, dtype=np.uint8))
    anomaly_map = np.zeros((32, 32), dtype=np.float32)
    anomaly_map[8:16, 8:16] = 0.5
    truth = np.zeros((height, width), dtype=np.uint8)
    truth[80:150, 100:200] = 1
    return ReportImage(name, image, anomaly_map, truth if mask else None, 1, 0.75, 0.125)


def decoded(page: Page) -> dict[str, Image.Image]:
    pictures = {}
    for attributes in page.all("img"):
        kind, data = attributes["src"].split(",", 1)
        assert kind == "data:image/png;base64"
        pictures[attributes["alt"]] = Image.open(io.BytesIO(base64.b64decode(data)))
    return pictures


@pytest.fixture
def report(tmp_path):
    defined = image_metrics([0.1, 0.9], [0, 1]) | pixel_metrics([np.eye(2)], [np.eye(2)])
    no_normal = image_metrics([0.4], [1]) | pixel_metrics([np.eye(2)], [np.eye(2)])
    per_category = {"tile": defined, HOSTILE: no_normal}
    tables = [metrics_table(f"Metrics {HOSTILE}", per_category, dataset_mean(per_category))]
    cases = {
        f"Worst {HOSTILE}": [a_case(HOSTILE), a_case("b/2.png", mask=False)],
        "Best": [a_case("c/3.png")],
    }
    return write_report(tmp_path / "new" / "report.html", f"Run {HOSTILE}", tables, cases, [f"Note {HOSTILE}"])


def test_page_is_well_formed_self_contained_and_escaped(report):
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    assert not re.search(r"https?://|url\(|@import", text)
    assert all(a["src"].startswith("data:image/png;base64,") for a in page.all("img"))
    # Everything hostile arrives as the text it is: titles (2), note, heading, table (3), case.
    assert "".join(page.text).count(HOSTILE) >= 8
    assert any(a.get("name") == "viewport" for a in page.all("meta"))


def test_page_explains_what_is_undefined(report):
    text = "".join(Page(report.read_text(encoding="utf-8")).text)
    assert "image_auroc is undefined, there is no normal image." in text
    assert f"The mean of image_auroc leaves out {HOSTILE}." in text
    assert "nan" not in text.lower()


def test_pictures_of_a_case_fit_each_other(report):
    pictures = decoded(Page(report.read_text(encoding="utf-8")))
    assert set(pictures) == {
        f"{kind} of {name}"
        for name in (HOSTILE, "b/2.png", "c/3.png")
        for kind in ("image", "mask", "anomaly map", "overlay")
        if (kind, name) != ("mask", "b/2.png")
    }
    assert {picture.size for picture in pictures.values()} == {(288, 216)}
    mask = np.asarray(pictures["mask of c/3.png"]) > 0
    # The mask's rows 80 to 150 of 300 and columns 100 to 200 of 400, at 0.72 of the size.
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == pytest.approx((58, 107, 72, 143), abs=1)
    heat = np.asarray(pictures["anomaly map of c/3.png"]).sum(axis=2)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 8 / 32 <= row / 216 <= 16 / 32
    assert 8 / 32 <= column / 288 <= 16 / 32


def test_same_input_gives_the_same_bytes_and_nothing_beside_them(tmp_path):
    paths = [
        write_report(tmp_path / name, "t", [ReportTable("a", [{"x": 1.0}])], {"Best": [a_case("c")]}, [])
        for name in ("one.html", "two.html")
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths


def test_report_without_cases_or_tables_is_a_page(tmp_path):
    page = Page(write_report(tmp_path / "r.html", "Empty", [], {}, []).read_text(encoding="utf-8"))
    assert page.all("h1") == [{}]


def test_target_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    target = tmp_path / "taken"
    target.mkdir()
    with pytest.raises(OutputError, match="choose another place"):
        write_report(target, "t", [], {}, [])
    assert list(tmp_path.iterdir()) == [target]


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colours in 0..255 (IEC 61966-2-1, CIE 1976)."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.where(luminance > 0.008856, np.cbrt(luminance), 7.787 * luminance + 16 / 116) - 16


def test_colours_rise_evenly_in_lightness():
    ramp = np.linspace(0, 1, 256)[None]
    steps = np.diff(lightness(np.asarray(heat_map(ramp))[0]))
    coarse = steps[:-7].reshape(-1, 8).sum(axis=1)  # 8-bit rounding jitters single steps
    assert (coarse > 0).all()
    assert coarse.max() < 2 * coarse.mean()
    assert coarse.min() > coarse.mean() / 2


def test_heat_map_clips_to_its_scale():
    colours = np.asarray(heat_map(np.array([[-1.0, 0.0, 2.0, 4.0, 9.0]]), low=0.0, high=4.0))[0]
    assert np.array_equal(colours[0], colours[1])
    assert np.array_equal(colours[3], colours[4])
    assert colours[1].sum() < colours[2].sum() < colours[3].sum()


def test_overlay_leaves_the_normal_as_it_was():
    image = Image.fromarray(np.full((64, 64, 3), 90, dtype=np.uint8))
    anomaly_map = np.zeros((16, 16))
    anomaly_map[:, 8:] = 1.0
    over = np.asarray(overlay(image, anomaly_map, alpha=0.5)).astype(float)
    hot = np.asarray(heat_map(np.ones((1, 1))))[0, 0].astype(float)
    assert (over[:, :28] == 90).all()
    assert np.abs(over[:, 40:] - (90 + hot) / 2).max() <= 1
    assert np.array_equal(np.asarray(overlay(image, anomaly_map, alpha=0.0)), np.asarray(image))


def test_terminal_table_is_aligned():
    rows = [
        {"category": "bottle", "image_auroc": 0.98765, "images": 12},
        {"category": "zipper, large", "image_auroc": float("nan"), "images": None},
    ]
    assert table(rows).splitlines() == [
        "category       image_auroc  images",
        "-------------  -----------  ------",
        "bottle               0.988      12",
        "zipper, large            -       -",
    ]
    assert table([]) == ""
