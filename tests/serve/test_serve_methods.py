"""A model without a distribution over HTTP: the same score, and no uncertainty anywhere."""

import argparse
import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_endpoint import LIMITS, LocalHandle, encoded, local_app, picture, write_bundle
from starlette.testclient import TestClient

from bayes_pfl import Detector
from bayes_pfl.config import DetectorConfig, WinClipConfig
from bayes_pfl.inference.bundle import UNTRAINED, load_bundle, save_bundle
from serve.options.serving import add_arguments
from serve.program import settings_of
from serve.settings import ModelSettings, ServeSettings


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("windows")
    backbone = load_bundle(write_bundle(folder / "other", 1)).config.backbone
    save_bundle(folder / "winclip", DetectorConfig(backbone=backbone, model=WinClipConfig()), {}, UNTRAINED, [])
    return folder / "winclip"


@pytest.fixture(scope="module")
def client(windows: Path) -> Iterator[TestClient]:
    settings = ServeSettings(models=(ModelSettings(name="winclip"),), require_token=False, limits=LIMITS)
    handles = {"winclip": LocalHandle(windows)}
    with TestClient(local_app(settings, handles, {}), base_url="http://127.0.0.1") as session:
        yield session


def test_a_score_without_uncertainty(client: TestClient, windows: Path) -> None:
    file = encoded(picture(0))
    (expected,) = Detector.load(windows).predict([file], ["nut"])
    answer = client.post("/v1/score", params={"class_name": "nut"}, content=file)
    assert answer.status_code == 200, answer.text
    assert answer.json()["image_score"] == expected.image_score
    assert answer.json()["uncertainty"] is None
    drawn = client.post("/v1/map", params={"class_name": "nut"}, content=file)
    assert drawn.status_code == 200
    assert "X-Uncertainty" not in drawn.headers
    (model,) = client.get("/v1/models").json()["models"]
    assert (model["kind"], model["note"]) == ("untrained", None)


def test_the_protocol_offers_what_there_is(client: TestClient) -> None:
    metadata = client.get("/v2/models/winclip").json()
    assert [output["name"] for output in metadata["outputs"]] == ["pred_score", "anomaly_map"]
    image = {"name": "image", "datatype": "BYTES", "shape": [1]}
    body = {"inputs": [image | {"data": [base64.b64encode(encoded(picture(1))).decode()]}]}
    answer = client.post("/v2/models/winclip/infer", json=body)
    assert answer.status_code == 200, answer.text
    assert [output["name"] for output in answer.json()["outputs"]] == ["pred_score"]
    refused = client.post("/v2/models/winclip/infer", json=body | {"outputs": [{"name": "uncertainty"}]})
    assert refused.status_code == 400
    assert "has no uncertainty" in refused.text


def test_a_method_is_served_by_its_name(
    windows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path))
    parser, backbone = argparse.ArgumentParser(), load_bundle(windows).config.backbone
    add_arguments(parser)
    fields = {name: getattr(backbone, name) for name in ("name", "pretrained", "image_size")}
    changes = [f"backbone.{name}={value}" for name, value in fields.items()]
    options = [word for change in [*changes, "model.temperature=0.02"] for word in ("--set", change)]
    settings = settings_of(parser.parse_args(["--method", "winclip", *options]))
    (model,) = settings.models
    file = encoded(picture(2))
    cooler = DetectorConfig(backbone=backbone, model=WinClipConfig(temperature=0.02))
    save_bundle(tmp_path / "cooler", cooler, {}, UNTRAINED, [])
    (expected,) = Detector.load(tmp_path / "cooler").predict([file], ["nut"])
    app = local_app(settings, {model.name: LocalHandle(model.replica.source)}, {})
    with TestClient(app, base_url="http://127.0.0.1") as session:
        answer = session.post("/v1/score", params={"class_name": "nut"}, content=file)
    assert answer.json()["image_score"] == expected.image_score
    (other,) = Detector.load(windows).predict([file], ["nut"])
    assert answer.json()["image_score"] != other.image_score
    with pytest.raises(SystemExit):
        parser.parse_args(["--model", str(windows), "--method", "winclip"])
    assert "not allowed with argument --model" in capsys.readouterr().err
