"""Regions and tiles: only what is inside counts, maps are 0 outside, and every way of looking has a name."""

import io

import numpy as np
import pytest
from PIL import Image
from small import random_bundle

from bayes_pfl.errors import ConfigError, ImageError
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.view import RegionOfInterest, View

BOX = RegionOfInterest(30, 10, 80, 70)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def disk(height, width):
    """A mask that fills its box nowhere near the corners."""
    rows, columns = np.mgrid[:height, :width]
    return (rows - 50) ** 2 + (columns - 70) ** 2 < 35**2


def png(values):
    sink = io.BytesIO()
    Image.fromarray(values).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return Detector.load(random_bundle(tmp_path_factory.mktemp("model") / "bundle"))


def test_a_box_is_the_image_cut_to_it(detector):
    image = noise(100, 140)
    cut = image[10:80, 30:110]
    whole = detector.predict_view(image, "gear", View(None, BOX), 2, 3)
    (expected,) = detector.predict([cut], ["gear"], 2, 3)
    assert (whole.image_score, whole.uncertainty) == (expected.image_score, expected.uncertainty)
    tiled = detector.predict_view(image, "gear", View(0.25, BOX), 2, 3)
    expected = detector.predict_tiled(cut, "gear", 0.25, 2, 3)
    assert (tiled.image_score, tiled.uncertainty) == (expected.image_score, expected.uncertainty)
    assert np.array_equal(tiled.anomaly_map[10:80, 30:110], expected.anomaly_map)
    assert np.array_equal(tiled.uncertainty_map[10:80, 30:110], expected.uncertainty_map)
    for prediction in (whole, tiled):
        assert prediction.anomaly_map.shape == (100, 140)
        outside = ~BOX.inside(140, 100)
        assert (prediction.anomaly_map[outside] == 0).all()
        assert (prediction.uncertainty_map[outside] == 0).all()
        assert (prediction.anomaly_map[~outside] > 0).all()


@pytest.mark.parametrize("overlap", [None, 0.25])
@pytest.mark.parametrize("masked", [False, True])
def test_no_pixel_outside_counts(detector, overlap, masked):
    image = noise(100, 140)
    region = RegionOfInterest.from_mask(png(disk(100, 140).astype(np.uint8) * 255)) if masked else BOX
    other = np.where(region.inside(140, 100)[..., None], image, noise(100, 140, 1))
    here, there = (detector.predict_view(one, "gear", View(overlap, region), 2) for one in (image, other))
    assert here.image_score == there.image_score
    assert here.uncertainty == there.uncertainty
    assert np.array_equal(here.anomaly_map, there.anomaly_map)
    assert (here.anomaly_map[~region.inside(140, 100)] == 0).all()
    moved = np.where(region.inside(140, 100)[..., None], noise(100, 140, 1), image)
    assert detector.predict_view(moved, "gear", View(overlap, region), 2).image_score != here.image_score


def test_the_score_takes_the_maximum_inside_the_mask(detector):
    mask = disk(100, 140)
    region = RegionOfInterest.from_mask(png(mask))
    masked = detector.predict_view(noise(100, 140), "gear", View(0.25, region), 2)
    box = detector.predict_tiled(region.cut(Image.fromarray(noise(100, 140))), "gear", 0.25, 2)
    assert masked.map_score <= box.map_score
    assert masked.text_score == box.text_score
    assert masked.image_score == pytest.approx((masked.text_score + masked.map_score) / 2)


def test_a_mask_that_fills_its_box_is_that_box(detector):
    region = RegionOfInterest.from_mask(png(BOX.inside(140, 100)))
    image = noise(100, 140)
    by_mask, by_box = (detector.predict_view(image, "gear", View(None, one), 2) for one in (region, BOX))
    assert by_mask.image_score == by_box.image_score
    assert np.array_equal(by_mask.anomaly_map, by_box.anomaly_map)


def test_what_fits_no_image_is_said(detector):
    for text in ("1,2,3", "a,b,c,d", "1,2,0,4", "-1,2,3,4", "1.5,2,3,4"):
        with pytest.raises(ConfigError, match="x,y,width,height"):
            RegionOfInterest.from_text(text)
    with pytest.raises(ImageError, match="black everywhere"):
        RegionOfInterest.from_mask(png(np.zeros((10, 10), np.uint8)))
    with pytest.raises(ImageError, match=r"is 60 x 50: region 30,10,80,70 reaches beyond it"):
        detector.predict_view(noise(50, 60), "gear", View(None, BOX))
    with pytest.raises(ImageError, match=r"is 60 x 50, but the mask of the region is 140 x 100"):
        detector.predict_view(noise(50, 60), "gear", View(None, RegionOfInterest.from_mask(png(disk(100, 140)))))


def test_no_tile_is_begun_when_the_time_is_up(detector):
    with pytest.raises(ImageError, match="take longer than 0 s"):
        detector.predict_view(noise(100, 140), "gear", View(0.5), 1, most_seconds=0)


def test_every_way_of_looking_has_its_own_name():
    other = disk(100, 140)
    other[50, 70] = False
    masks = [RegionOfInterest.from_mask(png(mask)) for mask in (disk(100, 140), other)]
    views = [View(overlap, region) for overlap in (None, 0.5, 0.25) for region in (None, BOX, *masks)]
    assert len({view.name(size) for view in views for size in (64, 112)}) == 2 * len(views)


def test_tiles_are_counted_as_they_are_looked_at(detector):
    looked_at = []
    encode = detector._encoder
    detector._encoder = lambda pixels: looked_at.append(1) or encode(pixels)
    for size, view in [
        ((100, 140), View(0.5)),
        ((100, 140), View(0.25, BOX)),
        ((20, 140), View(0.5)),
        ((9, 9), View()),
    ]:
        looked_at.clear()
        detector.predict_view(noise(*size), "gear", view, 1)
        assert view.tiles(size[1], size[0], 64) == len(looked_at)
    detector._encoder = encode
