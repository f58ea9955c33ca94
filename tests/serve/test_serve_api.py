"""The HTTP interface against the library: equal scores, equal maps, and every option does what it says."""

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from local_endpoint import encoded, picture
from PIL import Image
from starlette.testclient import TestClient

from bayes_pfl import Detector
from bayes_pfl.inference.heatmap import heat_map

PNG = {"Content-Type": "image/png"}


def post(client: TestClient, path: str, data: bytes, **query: Any) -> Any:
    return client.post(path, params=query, content=data, headers=PNG)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("JPEG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]
)
def test_scores_equal_the_library_to_the_bit(
    client: TestClient, detector: Detector, kind: str, options: dict[str, Any]
) -> None:
    data = encoded(picture(3), kind, **options)
    expected = detector.predict([data], ["metal nut"], num_samples=7, seed=5)[0]
    answer = post(client, "/v1/score", data, class_name="metal nut", num_samples=7, seed=5, map="npy").json()
    assert answer["image_score"] == expected.image_score
    assert answer["uncertainty"] == expected.uncertainty
    sent = np.load(io.BytesIO(base64.b64decode(answer["anomaly_map"]["data"])), allow_pickle=False)
    assert np.array_equal(sent, expected.anomaly_map)
    assert answer["model"]["version"] == detector.bundle.version
    assert answer["image"] == {"width": 90, "height": 70}


def test_what_was_left_out_of_a_file_is_said(client: TestClient) -> None:
    pages = [Image.fromarray(picture(seed)) for seed in (1, 2, 3)]
    transparent = pages[0].copy()
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    files = {
        encoded(picture(1)): None,
        saved(pages[:2], "TIFF"): "first of 2 pages",
        saved(pages, "WEBP"): "first of 3 pages",
        saved(pages, "PNG"): "first of 3 pages",
        saved([transparent], "PNG"): "transparent pixels over white",
    }
    for data, read_as in files.items():
        assert post(client, "/v1/score", data).json()["read_as"] == read_as
        assert post(client, "/v1/map", data).headers.get("x-read-as") == read_as
    images = [base64.b64encode(data).decode() for data in files]
    batch = client.post("/v1/score:batch", json={"images": [{"image": image} for image in images]}).json()
    assert [result["read_as"] for result in batch["results"]] == list(files.values())
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3], "data": images[:3]}
    answer = client.post("/v2/models/first/infer", json={"inputs": [tensor]}).json()
    assert answer["parameters"]["read_as"] == "image 2: first of 2 pages, image 3: first of 3 pages"
    tensor |= {"shape": [1], "data": images[:1]}
    assert "read_as" not in client.post("/v2/models/first/infer", json={"inputs": [tensor]}).json()["parameters"]


def saved(pages: list[Image.Image], kind: str) -> bytes:
    sink = io.BytesIO()
    pages[0].save(sink, kind, save_all=len(pages) > 1, append_images=pages[1:])
    return sink.getvalue()


def test_seed_and_class_name_reach_the_model(client: TestClient) -> None:
    data = encoded(picture(1))
    scores = {
        post(client, "/v1/score", data, class_name=name, seed=seed).json()["image_score"]
        for name in ("nut", "skin")
        for seed in (0, 1)
    }
    assert len(scores) == 4


def test_map_files_hold_the_library_s_map(client: TestClient, detector: Detector) -> None:
    data = encoded(picture(2))
    expected = detector.predict([data], ["object"])[0].anomaly_map
    drawn = post(client, "/v1/map", data, kind="png")
    assert drawn.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(drawn.content))), np.asarray(heat_map(expected)))
    gray = Image.open(io.BytesIO(post(client, "/v1/map", data, kind="png16").content))
    assert gray.mode == "I;16"
    assert np.abs(np.asarray(gray) / 65535 - expected).max() <= 0.5 / 65535 + 1e-7
    plain = post(client, "/v1/map", data, kind="npy")
    assert np.array_equal(np.load(io.BytesIO(plain.content), allow_pickle=False), expected)
    assert float(plain.headers["x-image-score"]) == detector.predict([data], ["object"])[0].image_score


def test_label_and_threshold(client: TestClient) -> None:
    data = encoded(picture(4))
    unknown = post(client, "/v1/score", data).json()
    assert unknown["pred_label"] is None
    assert unknown["threshold"] is None
    assert unknown["regions"] == []
    score = unknown["image_score"]
    assert unknown["class_name"] == "object"
    assert post(client, "/v1/score", data, class_name=" metal\u00a0nut").json()["class_name"] == "metal nut"
    for threshold, label in ((score, "defective"), (np.nextafter(score, 1), "good"), (0.0, "defective")):
        answer = post(client, "/v1/score", data, threshold=repr(float(threshold))).json()
        assert (answer["pred_label"], answer["threshold"]) == (label, threshold)
    known = post(client, "/v1/score", data, model="known").json()
    assert known["threshold"] == 0.4
    assert known["pred_label"] == ("defective" if known["image_score"] >= 0.4 else "good")
    assert known["regions"] == post(client, "/v1/score", data, model="known", threshold=0.4).json()["regions"] != []


def test_as_many_samples_as_the_threshold_needs(client: TestClient, detector: Detector) -> None:
    data = encoded(picture(1))
    (expected,) = detector.predict([data], ["object"], "auto", 3, threshold=0.9)
    answer = post(client, "/v1/score", data, num_samples="auto", threshold=0.9, seed=3).json()
    assert answer["image_score"] == expected.image_score
    refused = post(client, "/v1/score", data, num_samples="auto")
    assert (refused.status_code, "needs a threshold" in refused.text) == (422, True)
    tiled = post(client, "/v1/score", data, num_samples="auto", threshold=0.9, tile=True)
    assert (tiled.status_code, "whole images alone" in tiled.text) == (422, True)
    unknown = post(client, "/v1/score", data, num_samples="many")
    words = "num_samples: a whole number from 1 to 1000, or auto"
    assert (unknown.status_code, unknown.json()["detail"].partition(";")[0].partition(". ")[0]) == (422, words)


def test_regions_and_mask_cover_what_reaches_the_threshold(client: TestClient, detector: Detector) -> None:
    data = encoded(picture(5, width=112, height=56))
    anomaly_map = detector.predict([data], ["object"])[0].anomaly_map
    level = float(np.quantile(anomaly_map, 0.9))
    answer = post(client, "/v1/score", data, region_threshold=level, mask=True).json()
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["pred_mask"]["data"]))))
    assert np.array_equal(mask == 255, anomaly_map >= level)
    assert sum(region["area"] for region in answer["regions"]) == pytest.approx((anomaly_map >= level).mean())
    assert max(region["score"] for region in answer["regions"]) == anomaly_map.max()
    covered = np.zeros((56, 112), bool)
    for box in answer["regions"]:
        covered[box["y"] : box["y"] + box["height"], box["x"] : box["x"] + box["width"]] = True
    assert covered[np.repeat(anomaly_map >= level, 2, axis=1)].all()


def test_batch_answers_in_order_and_refuses_only_what_is_broken(client: TestClient, detector: Detector) -> None:
    files = [encoded(picture(seed)) for seed in (6, 7)]
    images = [
        {"image": base64.b64encode(files[0]).decode()},
        {"image": base64.b64encode(b"no image").decode()},
        {"image": base64.b64encode(files[1]).decode(), "class_name": "skin"},
        {"image": "%%%"},
    ]
    answer = client.post("/v1/score:batch", json={"images": images, "options": {"class_name": "nut"}})
    assert answer.status_code == 200
    results = answer.json()["results"]
    expected = detector.predict(files, ["nut", "skin"])
    assert [results[0]["image_score"], results[2]["image_score"]] == [one.image_score for one in expected]
    assert [results[1]["status"], results[3]["status"]] == [415, 422]


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ({"num_samples": 0}, "num_samples"),
        ({"num_samples": 51}, "at most 50"),
        ({"seed": -1}, "seed"),
        ({"threshold": "nan"}, "threshold"),
        ({"threshold": "inf"}, "threshold"),
        ({"map": "gif"}, "map"),
        ({"class_name": " "}, "class_name: is blank; say what the image shows"),
        ({"class_name": "x" * 101}, "class_name"),
        ({"class_name": "nut\x00"}, "control characters"),
        ({"class_name": "\U0001f9e9" * 60}, "room for 72"),
        ({"treshold": 0.5}, "treshold: unknown"),
        ({"mask": True}, "region_threshold"),
    ],
)
def test_wrong_options_are_named(client: TestClient, query: dict[str, Any], part: str) -> None:
    answer = post(client, "/v1/score", encoded(picture()), **query)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert part in answer.json()["detail"]


def test_models_version_and_health(client: TestClient, detector: Detector) -> None:
    models = client.get("/v1/models").json()["models"]
    assert [model["name"] for model in models] == ["first", "known"]
    assert models[0]["version"] == detector.bundle.version
    assert models[0]["kind"] == "trained"
    assert "/" not in models[0]["source"]
    assert client.get("/v1/version").json()["name"] == "bayes-pfl"
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 200
    missing = post(client, "/v1/score", encoded(picture()), model="third")
    assert missing.status_code == 404
    assert "first, known" in missing.json()["detail"]


def test_a_refusal_says_what_to_send(client: TestClient) -> None:
    data = encoded(picture(1))
    wrong = client.get("/v1/score")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert (
        wrong.json()["detail"]
        == "This path takes POST: send the image as the body of a POST, or the images of a batch as JSON."
    )
    assert "takes GET: ask with GET" in client.post("/v1/models").json()["detail"]
    assert client.get("/v1/scores").json()["detail"] == "There is no such path. See /openapi.json for all of them."
    query = post(client, "/v1/score", data, **{"treshold": "0.5", "class": "nut", "zzz": "1"}).json()["detail"]
    assert "treshold: unknown, did you mean 'threshold'" in query
    assert "class: unknown, did you mean 'class_name'" in query
    assert "zzz: unknown." in query
    assert "treshold: unknown." in post(client, "/v1/map", data, treshold="0.5").json()["detail"]  # a map has none
    image = {"image": base64.b64encode(data).decode(), "classname": "nut"}
    batch = client.post("/v1/score:batch", json={"images": [image], "options": {"num_sample": 1}}).json()["detail"]
    assert "images.0.classname: unknown, did you mean 'class_name'" in batch
    assert "options.num_sample: unknown, did you mean 'num_samples'" in batch


def test_every_answer_carries_its_number_and_the_headers(client: TestClient) -> None:
    requests: list[Callable[[], Any]] = [
        lambda: client.get("/v1/models"),
        lambda: client.get("/nowhere"),
        lambda: client.put("/v1/score"),
        lambda: post(client, "/v1/score", b"junk"),
    ]
    answers = [request() for request in requests]
    assert [answer.status_code for answer in answers] == [200, 404, 405, 415]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
        assert len(answer.headers["x-request-id"]) == 32
    assert answers[1].json()["request_id"] == answers[1].headers["x-request-id"]
    numbered = client.get("/nowhere", headers={"X-Request-ID": "abc<1>"})
    assert numbered.json()["request_id"] == "abc1"
