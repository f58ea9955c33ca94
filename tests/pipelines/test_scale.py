"""The benchmark of scale, small: every stage runs, and by URI nothing but the index is fetched to know the images."""

import pytest
from benchmarked import benchmark

scale = benchmark("scale")


@pytest.mark.ray
def test_every_stage_runs_with_masks_and_those_of_label_only_images_without():
    rows = [*scale.measure(200, 50, masks=True), *scale.measure(400, 50, masks=False)]
    label_only = [stage for stage, both in scale.REPORTED.items() if both]
    assert [row["stage"] for row in rows] == [*scale.REPORTED, *label_only]
    assert [row["fetched"] for row in rows if row["stage"] == "index"] == [["index.arrow"]] * 2
    assert all(row["seconds"] > 0 and row["peak_mb"] > 0 for row in rows)
    assert scale.slopes(rows) == {}, "one number of images has no slope"
    doubled = [*rows, *({**row, "images": 2 * row["images"], "seconds": 2 * row["seconds"]} for row in rows)]
    assert set(scale.slopes(doubled).values()) == {1.0}
