"""Two evaluations of painted maps, from counted pixels to the files of their comparison; no model, no Ray."""

import csv
import json

import pyarrow as pa
import pytest
from evaluated import COUNT, HEADER, RESAMPLING, painted_evaluation, painted_images

from bayes_pfl.errors import ConfigError, DataError
from bayes_pfl.metrics import pixel_metrics
from pipelines.scoring.comparison import NOTHING_SHOWN, compared, read_side
from pipelines.scoring.comparison_files import FILES, printed, write_comparison


def evaluation(folder, signals, header=HEADER, lost=()):
    """Write what an evaluation writes of two categories; images named in `lost` have no score."""
    folder.mkdir()
    painted_evaluation(signals, header, lost).write(folder)
    return read_side(folder)


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sides")
    return evaluation(folder / "a", {"bolt": 3.0, "gear": 1.5}), evaluation(folder / "b", {"bolt": 1.5, "gear": 1.5})


def test_what_differs_is_shown_and_what_does_not_is_not(sides):
    result = compared(*sides, RESAMPLING, 5)
    categories = result["datasets"]["painted"]["categories"]
    for name, row in categories["bolt"]["metrics"].items():
        if name == "pixel_aupimo":
            assert row["verdict"] == "not tested: normal images have 20,480 pixels, and a rate of 1e-5 needs 100,000"
            continue
        values = [side.result["datasets"]["painted"]["categories"]["bolt"]["values"][name] for side in sides]
        assert (row["a"], row["b"], row["difference"]) == (*values, values[0] - values[1])
        assert row["low"] < row["difference"] < row["high"]
    assert categories["bolt"]["metrics"]["pixel_auroc"]["verdict"] == "A higher"
    assert (
        categories["bolt"]["metrics"]["pixel_auroc"]["p_holm"]
        >= categories["bolt"]["metrics"]["pixel_auroc"]["p_value"]
    )
    for name, row in categories["gear"]["metrics"].items():
        if name != "pixel_aupimo":
            assert (row["difference"], row["p_value"], row["verdict"]) == (0.0, 1.0, NOTHING_SHOWN)
    backwards = compared(*sides[::-1], RESAMPLING, 5)["datasets"]["painted"]["mean"]["pixel_ap"]
    assert backwards["verdict"] == "B higher"
    assert len(result["most_different"]) == 5
    assert {row["category"] for row in result["most_different"]} == {"bolt"}
    differences = [abs(row["placement_difference"]) for row in result["every_image"]]
    assert abs(result["most_different"][0]["placement_difference"]) == max(differences) > 0


def test_another_comparison_is_moved_aside_and_the_same_is_not(sides, tmp_path, capsys):
    result = compared(*sides, RESAMPLING, 5)
    images = result.pop("every_image")
    (tmp_path / "comparison.html").write_text("of the user", encoding="utf-8")
    for _ in range(2):
        write_comparison(tmp_path, result, images)
    assert (tmp_path / "earlier-1" / "comparison.html").read_text(encoding="utf-8") == "of the user"
    assert not (tmp_path / "earlier-2").exists()
    assert "was moved to" in capsys.readouterr().err
    write_comparison(tmp_path, {**result, "output": "elsewhere"}, images)
    assert json.loads((tmp_path / "earlier-2" / "comparison.json").read_text(encoding="utf-8")) == result


def test_files_and_terminal_agree(sides, tmp_path):
    result = compared(*sides, RESAMPLING, 5)
    images = result.pop("every_image")
    files = write_comparison(tmp_path / "out", result, images)
    assert [file.name for file in files] == list(FILES)
    assert json.loads((tmp_path / "out/comparison.json").read_text()) == result
    with (tmp_path / "out/comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    mean = result["datasets"]["painted"]["mean"]["pixel_ap"]
    (row,) = [row for row in rows if (row["category"], row["metric"]) == ("mean", "pixel_ap")]
    assert (float(row["difference"]), row["verdict"]) == (mean["difference"], "A higher")
    cell = f"[{100 * mean['low']:+.1f}, {100 * mean['high']:+.1f}]"
    for text in (
        printed(result),
        (tmp_path / "out/comparison.md").read_text(),
        (tmp_path / "out/comparison.html").read_text(),
    ):
        assert cell in text
        assert NOTHING_SHOWN in text or "differ; comparison.csv has all" in text
        assert result["most_different"][0]["sample_id"] in text
    with (tmp_path / "out/images.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * COUNT


def test_other_images_labels_masks_or_protocols_are_refused(sides, tmp_path):
    with pytest.raises(DataError, match="B has 40 images that A has not"):
        compared(evaluation(tmp_path / "few", {"bolt": 3.0}), sides[1], RESAMPLING, 5)
    other = evaluation(tmp_path / "other", {"bolt": 3.0, "gear": 1.5}, HEADER | {"protocol": "released"})
    with pytest.raises(ConfigError, match="released protocol"):
        compared(other, sides[1], RESAMPLING, 5)
    rows = sides[1].images.to_pylist()
    for changes, reason in (({"label": 1}, "other labels"), ({"anomalous": [9]}, "other masks")):
        changed = pa.Table.from_pylist([row | changes for row in rows], sides[1].images.schema)
        with pytest.raises(DataError, match=reason):
            compared(sides[0], sides[1]._replace(images=changed), RESAMPLING, 5)
    with pytest.raises(DataError, match="no finished evaluation"):
        read_side(tmp_path)


def test_pixels_of_another_size_are_not_compared_and_images_without_a_score_are_left_out(sides, tmp_path):
    header = HEADER | {"pixels_at": "the masks' own size"}
    other = evaluation(tmp_path / "other", {"bolt": 3.0, "gear": 1.5}, header, lost=("bolt/1", "bolt/2"))
    result = compared(other, sides[1], RESAMPLING, 5)
    assert set(result["datasets"]["painted"]["mean"]) == {"image_auroc", "image_f1_max", "image_ap"}
    assert result["images"] == 2 * COUNT - 2
    assert result["notes"][0] == "2 images have no score in A or B and are left out."
    assert "not compared" in result["notes"][1]
    lossy = evaluation(tmp_path / "lossy", {"bolt": 3.0, "gear": 1.5}, lost=("bolt/1", "bolt/2"))
    row = compared(lossy, sides[1], RESAMPLING, 5)["datasets"]["painted"]["categories"]["bolt"]["metrics"][
        "pixel_auroc"
    ]
    kept = [each for each in painted_images("bolt", 1.5, 4) if each.name not in ("bolt/1", "bolt/2")]
    expected = pixel_metrics([each.heat for each in kept], [each.mask for each in kept])["pixel_auroc"]
    assert row["b"] == pytest.approx(expected, abs=1e-3)
