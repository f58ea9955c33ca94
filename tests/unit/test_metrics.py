"""Exact metrics against scikit-learn, and against a PRO written from its definition."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from bayes_pfl.errors import DataError
from bayes_pfl.metrics import Metrics, dataset_mean, image_metrics, pixel_metrics

LIMIT = 0.3


def flood_fill(mask: np.ndarray) -> list[np.ndarray]:
    """Regions as boolean masks, grown pixel by pixel over the eight neighbours."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    regions = []
    while left:
        grown, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            grown.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        region = np.zeros(mask.shape, dtype=bool)
        region[tuple(np.array(sorted(grown)).T)] = True
        regions.append(region)
    return regions


def brute_force_pro(maps: np.ndarray, masks: np.ndarray) -> float:
    """Mean overlap over regions at every threshold, integrated piece by piece up to the limit."""
    normal = maps[masks == 0]
    points = [(0.0, 0.0)]
    regions = [(scores, r) for scores, mask in zip(maps, masks, strict=True) for r in flood_fill(mask)]
    for threshold in np.unique(maps)[::-1]:
        overlap = np.mean([(scores[region] >= threshold).mean() for scores, region in regions])
        points.append((float((normal >= threshold).mean()), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= LIMIT or x1 == x0:
            continue
        end = min(x1, LIMIT)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / LIMIT


def sklearn_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    precision, recall, _ = precision_recall_curve(labels, scores)
    with np.errstate(invalid="ignore"):
        f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
    return {
        "auroc": roc_auc_score(labels, scores),
        "ap": average_precision_score(labels, scores),
        "f1_max": f1.max(),
    }


@st.composite
def maps_and_masks(draw: st.DrawFn, levels: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """A few small maps with many ties, masks with both classes."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    shape = (draw(st.integers(1, 4)), draw(st.integers(2, 9)), draw(st.integers(2, 9)))
    masks = (rng.random(shape) < draw(st.sampled_from([0.05, 0.3, 0.7]))).astype(np.uint8)
    masks.flat[0], masks.flat[-1] = 1, 0
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    if draw(st.booleans()):
        scores = rng.integers(0, levels, shape) / levels + 0.1 * masks
    else:
        scores = rng.random(shape) * 0.9 + 0.1 * masks
    return scores.astype(dtype), masks


@settings(deadline=None)
@given(maps_and_masks())
def test_pixel_metrics_equal_scikit_learn_and_brute_force(data):
    maps, masks = data
    found = pixel_metrics(maps, masks)
    expected = {f"pixel_{k}": v for k, v in sklearn_metrics(maps.ravel(), masks.ravel()).items()}
    expected["pixel_pro"] = brute_force_pro(maps, masks)
    assert dict(found.values) == pytest.approx(expected, abs=1e-12)
    assert set(found.values) == set(expected)
    assert not found.undefined


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2).filter(
        lambda items: len({label for _, label in items}) == 2
    )
)
def test_image_metrics_equal_scikit_learn(items):
    scores, labels = np.array([s for s, _ in items]), np.array([y for _, y in items]).astype(int)
    expected = {f"image_{k}": v for k, v in sklearn_metrics(scores, labels).items()}
    assert dict(image_metrics(scores, labels).values) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_many_pixels_still_equal_scikit_learn(dtype):
    rng = np.random.default_rng(3)
    masks = np.zeros((4, 96, 96), dtype=np.uint8)
    masks[1, 10:30, 20:60] = masks[2, 50:53, 5:90] = masks[3, :8, :8] = 255
    maps = (rng.normal(size=masks.shape) + (masks > 0)).astype(dtype)
    expected = sklearn_metrics(maps.ravel().astype(np.float64), masks.ravel() > 0)
    found = pixel_metrics(maps, masks)
    for name, value in expected.items():
        assert found[f"pixel_{name}"] == pytest.approx(value, abs=1e-12)


@settings(deadline=None)
@given(maps_and_masks(), st.integers(0, 2**32 - 1))
def test_order_of_images_and_monotone_transforms_change_nothing(data, seed):
    maps, masks = data
    found = pixel_metrics(maps, masks)
    order = np.random.default_rng(seed).permutation(len(maps))
    shuffled = pixel_metrics([maps[i] for i in order], [masks[i] for i in order])
    # A power of two and a shift by rank are strictly monotone in floating point as well.
    _, ranks = np.unique(maps, return_inverse=True)
    for other in (
        shuffled,
        pixel_metrics(maps * -0.25 * -8, masks),
        pixel_metrics(ranks.reshape(maps.shape) ** 3 - 7, masks),
    ):
        assert dict(other.values) == pytest.approx(dict(found.values), abs=1e-12)


@settings(deadline=None)
@given(maps_and_masks())
def test_better_maps_never_score_worse(data):
    maps, masks = data
    found, better = pixel_metrics(maps, masks), pixel_metrics(maps + 0.3 * masks, masks)
    perfect = pixel_metrics(masks.astype(np.float32), masks)
    for name, value in found.values.items():
        assert value <= better[name] + 1e-12
        assert perfect[name] == 1.0


def test_images_may_differ_in_size():
    rng = np.random.default_rng(0)
    maps = [rng.random((5, 7)), rng.random((12, 3))]
    masks = [np.arange(35).reshape(5, 7) % 4 == 0, np.zeros((12, 3), dtype=bool)]
    scores = np.concatenate([m.ravel() for m in maps])
    labels = np.concatenate([m.ravel() for m in masks])
    expected = roc_auc_score(labels, scores)
    assert pixel_metrics(maps, masks)["pixel_auroc"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        # The third anomalous pixel is found first; the two others lie below all normal ones.
        ([[1, 1, 0, 0], [0, 0, 1, 0]], 1 / 3),  # touches by a corner: a third of the only region
        ([[1, 1, 0, 0], [0, 0, 0, 1]], 1 / 2),  # touches nothing: one of two regions
    ],
)
def test_regions_that_touch_by_a_corner_are_one(mask, expected):
    truth = np.array(mask)
    scores = np.where(truth, 0.0, 0.5)
    scores[1] = np.where(truth[1], 0.9, scores[1])
    # The normal pixels in between are all tied: the curve is level at `expected` up to rate 1.
    assert pixel_metrics([scores], [truth])["pixel_pro"] == pytest.approx(expected, abs=1e-15)


def test_pro_by_hand():
    # Ten normal pixels: one above all, four tied with the second half of the region, five below.
    # Curve: (0,0) -> (.1,0) -> (.1,.5) -> (.5,1) -> (1,1); at rate .3 the overlap is .75.
    scores = np.array([[0.9] + [0.5] * 4 + [0.1] * 5 + [0.7, 0.5]])
    mask = np.array([[0] * 10 + [1, 1]])
    expected = (0.3 - 0.1) * (0.5 + 0.75) / 2 / 0.3
    assert pixel_metrics([scores], [mask])["pixel_pro"] == pytest.approx(expected, abs=1e-15)


def test_equal_scores_are_chance():
    found = image_metrics([0.5] * 4, [0, 1, 0, 1])
    assert dict(found.values) == pytest.approx({"image_auroc": 0.5, "image_ap": 0.5, "image_f1_max": 2 / 3}, abs=1e-15)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [([], "no image"), ([0, 0], "no anomalous image"), ([1, 1], "no normal image")],
)
def test_one_class_of_images_is_undefined_with_a_reason(labels, reason):
    found = image_metrics(np.linspace(0, 1, len(labels)), labels)
    assert set(found.values) == {"image_auroc", "image_f1_max", "image_ap"} == set(found.undefined)
    assert all(math.isnan(value) for value in found.values.values())
    assert all(reason in text for text in found.undefined.values())


@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        ([], "no pixel"),
        ([np.zeros((2, 2))], "no anomalous pixel, so no region"),
        ([np.ones((2, 2))], "no normal pixel"),
    ],
)
def test_one_class_of_pixels_is_undefined_with_a_reason(masks, reason):
    found = pixel_metrics([np.eye(2)] * len(masks), masks)
    names = {"pixel_auroc", "pixel_pro", "pixel_ap", "pixel_f1_max"}
    assert set(found.values) == names == set(found.undefined)
    assert all(math.isnan(value) for value in found.values.values())
    assert all(reason in text for text in found.undefined.values())


@pytest.mark.parametrize(
    ("maps", "masks", "says"),
    [
        ([np.zeros((2, 3))], [np.zeros((3, 2))], "resize the mask"),
        ([np.zeros(4)], [np.zeros(4)], "shape"),
        ([np.zeros((2, 2))], [], "each map its mask"),
        ([], [np.zeros((2, 2))], "each map its mask"),
        ([np.eye(2)], [np.eye(2) / 2], "binarize"),
        ([np.array([[np.nan, 0.0]])], [np.array([[0, 1]])], "NaN"),
        ([np.array([[0.0, np.nan]])], [np.array([[0, 1]])], "NaN"),
        ([np.array([[np.inf, 0.0]])], [np.array([[0, 1]])], "NaN or infinite"),
    ],
)
def test_unusable_maps_are_refused(maps, masks, says):
    with pytest.raises(DataError, match=says):
        pixel_metrics(maps, masks)


@pytest.mark.parametrize(
    ("scores", "labels", "says"),
    [
        ([0.1], [0, 1], "labels"),
        ([0.1, 0.2], [0, 2], "0 .*or 1"),
        ([0.1, -math.inf], [0, 1], "NaN"),
    ],
)
def test_unusable_image_scores_are_refused(scores, labels, says):
    with pytest.raises(DataError, match=says):
        image_metrics(scores, labels)


def test_inputs_are_not_changed():
    maps, masks = np.random.default_rng(1).random((1, 6, 6)), np.eye(6)[None]
    before = maps.copy()
    pixel_metrics(maps, masks)
    pixel_metrics(maps, np.zeros_like(masks))
    assert np.array_equal(maps, before)


def test_dataset_mean_ignores_the_undefined_and_names_it():
    both = image_metrics([0.1, 0.9], [0, 1]) | pixel_metrics([np.eye(2)], [np.eye(2)])
    none = image_metrics([0.1, 0.9, 0.3], [0, 0, 1]) | pixel_metrics([np.eye(2)], [np.zeros((2, 2))])
    mean = dataset_mean({"bottle": both, "cable": none})
    assert mean["image_auroc"] == (1.0 + 0.5) / 2
    assert mean["pixel_pro"] == 1.0
    assert mean.left_out == dict.fromkeys(none.undefined, ("cable",))
    assert not mean.undefined


def test_dataset_mean_of_nothing_defined_is_undefined():
    mean = dataset_mean({"a": image_metrics([1.0], [1]), "b": image_metrics([1.0], [0])})
    assert math.isnan(mean["image_auroc"])
    assert "no normal image" in mean.undefined["image_auroc"]
    assert "no anomalous image" in mean.undefined["image_auroc"]
    assert mean.left_out["image_auroc"] == ("a", "b")
    with pytest.raises(DataError, match="category"):
        dataset_mean({})


def test_json_round_trip_holds_no_nan():
    mean = dataset_mean({"a": image_metrics([1.0], [1]) | Metrics({"x": 0.25}), "b": Metrics({"x": 0.75})})
    text = json.dumps(mean.as_dict(), allow_nan=False)
    again = Metrics.from_dict(json.loads(text))
    assert again.as_dict() == mean.as_dict()
    assert again["x"] == 0.5
    assert math.isnan(again["image_ap"])
