"""Verdicts over HTTP are those of the calibration beside the model, and only where it applies."""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from calibrated import SAMPLES, Painted, calibrated, painted
from local_endpoint import LocalHandle, encoded, listening, local_app, write_bundle
from starlette.testclient import TestClient

from bayes_pfl.config import DetectorOptions
from bayes_pfl.decisions.calibration import CALIBRATION, Calibration, read_calibration
from bayes_pfl.decisions.rules import Rule
from bayes_pfl.decisions.statements import describe
from bayes_pfl.errors import BundleError
from serve.models.replica import load_newer
from serve.settings import ModelSettings, ReplicaSettings, ServeSettings

NEW = range(100, 120)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`both` classes; a `single` class and a threshold of the model; `none`."""
    folder = tmp_path_factory.mktemp("calibrated")
    single = calibrated(folder / "single", ["brick wall"], range(30))
    record = json.loads((single / "bundle.json").read_text(encoding="utf-8"))
    record["config"]["scoring"]["threshold"] = 0.7
    (single / "bundle.json").write_text(json.dumps(record), encoding="utf-8")
    return {
        "both": calibrated(folder / "both", ["brick wall", "biscuit"], range(30)),
        "single": single,
        "none": write_bundle(folder / "none", 1),
    }


@pytest.fixture(scope="module")
def app(bundles: dict[str, Path]) -> Any:
    settings = ServeSettings(models=tuple(ModelSettings(name=name) for name in bundles), require_token=False)
    return local_app(settings, {name: LocalHandle(folder) for name, folder in bundles.items()}, {})


@pytest.fixture(scope="module")
def client(app: Any) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://127.0.0.1") as session:
        yield session


@pytest.fixture(scope="module")
def calibration(bundles: dict[str, Path]) -> Calibration:
    calibration = read_calibration(bundles["both"])
    assert calibration is not None
    return calibration


def ask(client: TestClient, image: Painted, **query: Any) -> dict[str, Any]:
    query = {"class_name": "brick wall", "num_samples": SAMPLES} | query
    answer = client.post("/v1/score", params=query, content=image.data, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_labels_of_each_kind_are_the_library_s(client: TestClient, calibration: Calibration) -> None:
    seen = set()
    for image in [*painted("brick wall", NEW), *painted("brick wall", range(3), "crack")]:
        expected = calibration.verdict("brick wall", image.score, image.uncertainty, image.sha256)
        answer = ask(client, image, class_name=" Brick  WALL")
        assert answer["image_score"] == image.score
        assert (answer["pred_label"], answer["p_value"]) == (expected.label, expected.p_value)
        assert answer["unsure_because"] == expected.unsure_because
        assert (answer["no_label_because"], answer["no_calibration_because"]) == (None, None)
        assert (answer["threshold"], answer["pooled_calibration"]) == (None, False)
        assert answer["calibration"] == answer["model"]["calibration"] == calibration.version
        boundaries = calibration.of("brick wall")
        assert answer["defective_above"] == boundaries.defective_above
        assert answer["good_up_to"] == boundaries.good_up_to
        seen.add(expected.label)
    assert seen == {"good", "defective", "unsure"}


def test_equal_scores_are_ordered_by_the_file_s_hash(client: TestClient, calibration: Calibration) -> None:
    """A calibration image that is sent again ties with itself: it counts in full, as its own tie-break says."""
    boundaries = calibration.of("brick wall")
    image = max(painted("brick wall", range(30)), key=lambda one: one.score)
    assert boundaries.defective_above < image.score
    assert ask(client, image)["p_value"] == 2 / 31


def test_regions_are_of_the_calibration_s_map_level(client: TestClient, calibration: Calibration) -> None:
    (image,) = painted("brick wall", [0], "crack")
    answer = ask(client, image)
    level = calibration.of("brick wall").region_from
    assert answer["region_threshold"] == level
    assert answer["regions"] == ask(client, image, region_threshold=level)["regions"] != []
    assert ask(client, image, region_threshold=1.0)["regions"] == []
    quiet = min(painted("brick wall", range(30)), key=lambda one: one.highest)
    assert ask(client, quiet)["regions"] == []


def test_a_typed_threshold_comes_first(client: TestClient) -> None:
    (image,) = painted("brick wall", [0], "crack")
    for threshold, label in ((1.0, "good"), (0.0, "defective")):
        answer = ask(client, image, threshold=threshold)
        assert (answer["pred_label"], answer["threshold"], answer["region_threshold"]) == (label, threshold, threshold)
        assert (answer["calibration"], answer["p_value"]) == (None, None)
        assert answer["no_calibration_because"] == "the threshold of the request decides"


@pytest.mark.parametrize(
    ("query", "label", "has_regions", "part"),
    [
        (
            {"threshold": 1, "region_threshold": 0},
            "good",
            True,
            "is good (below 1), but pixels of the anomaly map reach",
        ),
        ({"threshold": 0, "region_threshold": 1}, "defective", False, "is defective (from 0 on), but no pixel of the"),
        ({"threshold": 1, "region_threshold": 1}, "good", False, None),
        ({"threshold": 0, "region_threshold": 0}, "defective", True, None),
        (
            {"region_threshold": 0},
            "good",
            True,
            "is good (up to {good_up_to:.6g}), but pixels of the anomaly map reach",
        ),
        ({"region_threshold": 1}, "good", False, None),
        ({}, "good", False, None),
    ],
)
def test_label_and_regions_that_seem_to_differ_are_explained(
    client: TestClient, query: dict[str, Any], label: str, has_regions: bool, part: str | None
) -> None:
    image = min(painted("brick wall", range(30)), key=lambda one: one.score)
    answer = ask(client, image, **query)
    assert (answer["pred_label"], bool(answer["regions"])) == (label, has_regions)
    reason = answer["regions_because"]
    assert (reason is None) == (part is None)
    if part is not None:
        score, level = answer["image_score"], answer["region_threshold"]
        assert reason.startswith(f"the image score {score:.6g} {part.format(**answer)}")
        assert f"the region threshold {level:.6g}:" in reason


def test_one_threshold_for_both_is_explained_where_a_pixel_is_above_and_the_score_below(client: TestClient) -> None:
    image = next(one for one in painted("brick wall", NEW) if one.highest > one.score + 0.002)
    answer = ask(client, image, threshold=(image.score + image.highest) / 2)
    assert answer["pred_label"] == "good"
    assert answer["regions"]
    assert answer["regions_because"].startswith(f"the image score {image.score:.6g} is good (below ")


@pytest.mark.parametrize(
    ("query", "difference"),
    [
        ({"num_samples": 3}, "num_samples 2, not 3"),
        ({"tile": "true"}, "looked_at whole images at 112 px, not tiles of 112 px that ove"),
        ({"roi": "0,0,50,50"}, "looked_at whole images at 112 px, not whole images at 112 px, region 0,0,50,50"),
        ({"bits": 12, "num_samples": 1}, "num_samples 2, not 1, bits None, not 12"),
    ],
)
def test_what_is_scored_otherwise_is_not_judged(client: TestClient, query: dict[str, Any], difference: str) -> None:
    image = painted("brick wall", [0])[0]
    if "bits" in query:
        image = image._replace(data=encoded(np.arange(900, dtype=np.uint16).reshape(30, 30)))
    answer = ask(client, image, **query)
    assert (answer["pred_label"], answer["p_value"], answer["calibration"]) == (None, None, None)
    reason = f"the calibration does not apply: it was made with {difference}"
    assert answer["no_calibration_because"].startswith(reason)
    assert answer["no_label_because"] == f"{answer['no_calibration_because']}; or send threshold"
    assert answer["regions"] == []


def test_where_the_calibration_does_not_apply_the_model_s_threshold_does(client: TestClient) -> None:
    (image,) = painted("brick wall", [0], "crack")
    assert ask(client, image, model="single")["threshold"] is None
    for query, part in (
        ({"num_samples": 3}, "num_samples 2, not 3"),
        ({"num_samples": "auto"}, "num_samples 2, not auto"),
        ({"class_name": "tile"}, 'the calibration is for "brick wall", not for "tile"'),
    ):
        answer = ask(client, image, model="single", **query)
        assert (answer["threshold"], answer["no_label_because"]) == (0.7, None)
        assert answer["pred_label"] == ("defective" if answer["image_score"] >= 0.7 else "good")
        assert part in answer["no_calibration_because"]
    tiled = ask(client, image, model="single", tile="true")
    assert tiled["pred_label"] is None
    assert "the calibration does not apply" in tiled["no_label_because"]
    assert "the model's threshold is for whole images" in tiled["no_label_because"]


def test_other_class_names_are_judged_by_all_classes_together(client: TestClient, calibration: Calibration) -> None:
    image = painted("brick wall", [100])[0]
    answer = ask(client, image, class_name="paving")
    assert (answer["pooled_calibration"], answer["calibration"]) == (True, calibration.version)
    assert answer["p_value"] * 61 == pytest.approx(round(answer["p_value"] * 61))


def test_precision_and_weights_of_another_model_are_named(bundles: dict[str, Path], tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", 5)
    shutil.copy(bundles["both"] / CALIBRATION, other)
    image = painted("brick wall", [0])[0]
    for folder, options, parts in (
        (other, {}, ["model_version ", "settings ", "looked_at whole images at 112 px, not whole images at 56 px"]),
        (bundles["both"], {"precision": "bfloat16"}, ["precision float32, not bfloat16"]),
    ):
        handle = LocalHandle(folder)
        settings = ReplicaSettings(source=str(folder), options=DetectorOptions(**options))
        handle.replica.model = load_newer(settings, None)
        app = local_app(
            ServeSettings(models=(ModelSettings(name="other"),), require_token=False), {"other": handle}, {}
        )
        with TestClient(app, base_url="http://127.0.0.1") as session:
            answer = ask(session, image)
        assert answer["pred_label"] is None
        assert [part for part in parts if part not in answer["no_label_because"]] == []


def test_a_new_model_is_judged_with_its_own_calibration_at_once(bundles: dict[str, Path], tmp_path: Path) -> None:
    newer = calibrated(tmp_path / "newer", ["brick wall"], range(40))
    image = painted("brick wall", [0], "crack")[0]
    handle = LocalHandle(bundles["both"])
    app = local_app(ServeSettings(models=(ModelSettings(name="m"),), require_token=False), {"m": handle}, {})
    with TestClient(app, base_url="http://127.0.0.1") as session:
        assert ask(session, image)["p_value"] == 1 / 31
        identity = handle.replica.model.identity  # type: ignore[union-attr]
        assert load_newer(ReplicaSettings(source=str(bundles["both"])), identity) is None
        handle.load(newer)
        answer = ask(session, image)
        assert (answer["p_value"], answer["calibration"]) == (1 / 41, answer["model"]["calibration"])
        handle.load(bundles["none"])
        plain = ask(session, image)
        assert (plain["p_value"], plain["pred_label"], plain["model"]["calibration"]) == (None, None, None)
        assert "no calibration" in plain["no_label_because"]


def test_a_changed_calibration_is_followed_and_a_damaged_one_refused(tmp_path: Path) -> None:
    folder = calibrated(tmp_path / "bundle", ["brick wall"], range(20))
    settings = ReplicaSettings(source=str(folder))
    first = load_newer(settings, None)
    assert first is not None
    other = calibrated(tmp_path / "other", ["brick wall"], range(20), Rule(false_alarms=0.2))
    shutil.copy(other / CALIBRATION, folder / CALIBRATION)
    second = load_newer(settings, first.identity)
    assert second is not None
    assert second.info == first.info._replace(calibration=second.info.calibration)
    assert second.info.calibration != first.info.calibration
    (folder / CALIBRATION).write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match="bayes-pfl calibrate"):
        load_newer(settings, second.identity)


def test_what_a_calibration_promises(client: TestClient, calibration: Calibration) -> None:
    assert client.get("/v1/calibration").json() == json.loads(json.dumps(describe(calibration)))
    assert client.get("/v1/calibration", params={"model": "single"}).json()["other_class_names"] is None
    missing = client.get("/v1/calibration", params={"model": "none"})
    assert (missing.status_code, "bayes-pfl calibrate" in missing.json()["detail"]) == (404, True)
    assert client.get("/v1/calibration", params={"model": "third"}).status_code == 404


def test_batches_and_maps_say_it_too(client: TestClient, calibration: Calibration) -> None:
    images = [painted("brick wall", [0], "crack")[0], painted("biscuit", [101])[0]]
    names = ["brick wall", "biscuit"]
    expected = [
        calibration.verdict(name, image.score, image.uncertainty, image.sha256).label
        for name, image in zip(names, images, strict=True)
    ]
    body = {
        "images": [
            {"image": base64.b64encode(image.data).decode(), "class_name": name}
            for name, image in zip(names, images, strict=True)
        ],
        "options": {"num_samples": SAMPLES},
    }
    results = client.post("/v1/score:batch", json=body).json()["results"]
    assert [result["pred_label"] for result in results] == expected
    query = {"class_name": "brick wall", "num_samples": SAMPLES}
    drawn = client.post("/v1/map", params=query, content=images[0].data, headers={"Content-Type": "image/png"})
    assert drawn.headers["x-pred-label"] == "defective"


@pytest.mark.parametrize("binary", [True, False])
def test_triton_s_client_asks_for_verdicts(app: Any, calibration: Calibration, binary: bool) -> None:
    images = [*painted("brick wall", [0], "crack"), *painted("brick wall", [100])]
    with listening(app) as url:
        session = triton.InferenceServerClient(url.removeprefix("http://"))
        assert "pred_label" in [output["name"] for output in session.get_model_metadata("both")["outputs"]]
        assert "pred_label" not in [output["name"] for output in session.get_model_metadata("none")["outputs"]]
        files = triton.InferInput("image", [2], "BYTES")
        files.set_data_from_numpy(np.array([image.data for image in images], object))
        name = triton.InferInput("class_name", [1], "BYTES")
        name.set_data_from_numpy(np.array([b"brick wall"], object))
        wanted = [triton.InferRequestedOutput(key, binary_data=binary) for key in ("pred_label", "p_value")]
        result = session.infer("both", [files, name], outputs=wanted, parameters={"num_samples": SAMPLES})
        verdicts = [calibration.verdict("brick wall", image.score, image.uncertainty, image.sha256) for image in images]
        labels = [label.decode() if binary else label for label in result.as_numpy("pred_label").tolist()]
        assert labels == [verdict.label for verdict in verdicts]
        assert result.as_numpy("p_value").tolist() == [verdict.p_value for verdict in verdicts]
        nothing = session.infer("both", [files, name], outputs=wanted[:1], parameters={"num_samples": 1})
        assert [str(label) for label in nothing.as_numpy("pred_label")] in (["", ""], ["b''", "b''"])
        session.close()
