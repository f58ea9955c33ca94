"""Tiles and regions of interest over HTTP: the library's numbers, thresholds of their own, costs that are bounded."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from local_endpoint import encoded, picture
from PIL import Image
from starlette.testclient import TestClient

from bayes_pfl import Detector
from bayes_pfl.data.preprocess import decode_image
from bayes_pfl.inference.view import RegionOfInterest, View

PNG = {"Content-Type": "image/png"}


def post(client: TestClient, data: bytes, path: str = "/v1/score", **query: Any) -> Any:
    return client.post(path, params=query, content=data, headers=PNG)


def sent_map(answer: dict[str, Any]) -> np.ndarray:
    return np.load(io.BytesIO(base64.b64decode(answer["anomaly_map"]["data"])), allow_pickle=False)


@pytest.mark.parametrize(
    ("query", "view"),
    [
        ({"tile": "true"}, View(0.5)),
        ({"tile": "true", "overlap": "0.25"}, View(0.25)),
        ({"roi": "20,10,70,60"}, View(None, RegionOfInterest(20, 10, 70, 60))),
        ({"tile": "true", "roi": "20,10,100,60"}, View(0.5, RegionOfInterest(20, 10, 100, 60))),
    ],
)
def test_views_give_the_numbers_of_the_library(
    client: TestClient, detector: Detector, query: dict[str, str], view: View
) -> None:
    data = encoded(picture(3, width=150, height=80))
    expected = detector.predict_view(data, "plate", view, 3, 5)
    answer = post(client, data, class_name="plate", num_samples=3, seed=5, map="npy", **query).json()
    assert (answer["image_score"], answer["uncertainty"]) == (expected.image_score, expected.uncertainty)
    assert np.array_equal(sent_map(answer), expected.anomaly_map)
    assert (answer["anomaly_map"]["width"], answer["anomaly_map"]["height"]) == (150, 80)
    assert answer["looked_at"] == view.name(56)
    drawn = post(client, data, "/v1/map", class_name="plate", num_samples=3, seed=5, kind="npy", **query)
    assert np.array_equal(np.load(io.BytesIO(drawn.content), allow_pickle=False), expected.anomaly_map)


def test_bits_are_as_said(client: TestClient, detector: Detector) -> None:
    values = np.random.default_rng(0).integers(0, 900, (70, 90)).astype(np.uint16)
    data = encoded(values)
    for query, bits in (({}, 10), ({"bits": 12}, 12)):
        (expected,) = detector.predict([decode_image(data, bits=bits)], ["plate"], 3)
        answer = post(client, data, class_name="plate", num_samples=3, **query).json()
        assert answer["image_score"] == expected.image_score
        body = {
            "inputs": [
                {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(data).decode()]},
                {"name": "class_name", "datatype": "BYTES", "shape": [1], "data": ["plate"]},
            ],
            "parameters": {"num_samples": 3, **query},
        }
        outputs = client.post("/v2/models/first/infer", json=body).json()["outputs"]
        assert outputs[0]["data"] == [expected.image_score]
    assert post(client, data, bits=9).status_code == 415
    assert post(client, data, bits=8).status_code == 422


def test_a_mask_tells_the_region_of_a_whole_batch(client: TestClient, detector: Detector) -> None:
    inside = np.zeros((70, 90), np.uint8)
    inside[20:60, 30:80] = 255
    inside[20:30, 30:50] = 0
    files = [encoded(picture(seed)) for seed in (1, 2)] + [encoded(picture(3, width=91))]
    body = {
        "images": [{"image": base64.b64encode(file).decode()} for file in files],
        "options": {"num_samples": 2, "map": "npy"},
        "roi_mask": base64.b64encode(encoded(inside)).decode(),
    }
    results = client.post("/v1/score:batch", json=body).json()["results"]
    view = View(None, RegionOfInterest.from_mask(encoded(inside)))
    for file, result in zip(files[:2], results, strict=False):
        expected = detector.predict_view(file, "object", view, 2)
        assert result["image_score"] == expected.image_score
        assert np.array_equal(sent_map(result), expected.anomaly_map)
        assert (sent_map(result)[inside == 0] == 0).all()
    assert results[2]["status"] == 422
    assert "91 x 70, but the mask of the region is 90 x 70" in results[2]["detail"]
    black = client.post("/v1/score:batch", json={**body, "roi_mask": base64.b64encode(encoded(inside * 0)).decode()})
    assert (black.status_code, "black everywhere" in black.json()["detail"]) == (422, True)


def test_the_models_threshold_is_for_whole_images_and_says_so(client: TestClient) -> None:
    data = encoded(picture(4))
    whole = post(client, data, model="known", num_samples=1).json()
    assert (whole["threshold"], whole["no_label_because"]) == (0.4, None)
    assert whole["model"]["threshold_for"] == whole["looked_at"] == "whole images at 56 px"
    tiled = post(client, data, model="known", num_samples=1, tile="true").json()
    assert (tiled["threshold"], tiled["pred_label"], tiled["regions"]) == (None, None, [])
    assert tiled["no_label_because"] == (
        "the model's threshold is for whole images at 56 px, not for tiles of 56 px that overlap by 0.5; send threshold"
    )
    given = post(client, data, model="known", num_samples=1, tile="true", threshold="0.3").json()
    assert (given["threshold"], given["pred_label"]) == (0.3, "defective" if given["image_score"] >= 0.3 else "good")
    none = post(client, data, model="first", num_samples=1).json()
    assert none["no_label_because"] == (
        "the model has no threshold and no calibration: make one with `bayes-pfl calibrate`, or send threshold"
    )


def test_what_a_view_costs_is_bounded_and_said(client: TestClient) -> None:
    data = encoded(picture(5, width=120, height=120))
    for query, status, part in [
        ({"overlap": "0.5"}, 422, "overlap is of tiles"),
        ({"tile": "true", "overlap": "1"}, 422, "overlap"),
        ({"tile": "true", "overlap": "0.999"}, 422, "limits.max_tiles"),
        ({"roi": "1,2,3"}, 422, "roi"),
        ({"roi": "1,2,0,4"}, 422, "roi"),
        ({"roi": "100,0,21,10"}, 422, "is 120 x 120: region 100,0,21,10 reaches beyond it"),
    ]:
        answer = post(client, data, num_samples=1, **query)
        assert (answer.status_code, part in answer.json()["detail"]) == (status, True), answer.json()


def test_a_narrow_image_in_tiles_is_refused(client: TestClient) -> None:
    image = io.BytesIO()
    Image.new("RGB", (1, 1900)).save(image, "PNG")
    answer = post(client, image.getvalue(), num_samples=1, tile="true")
    assert answer.status_code == 422
    assert "limits.max_tiles" in answer.json()["detail"]
