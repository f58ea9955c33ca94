"""The Open Inference Protocol, spoken by Triton's own client and by hand."""

import base64
import struct
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from local_endpoint import encoded, picture
from starlette.testclient import TestClient
from tritonclient.utils import InferenceServerException

from bayes_pfl import Detector


def as_bytes(values: list[bytes | str]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def inputs_of(files: list[bytes], names: list[str], binary: bool) -> list[Any]:
    image, class_name = (
        triton.InferInput("image", [len(files)], "BYTES"),
        triton.InferInput("class_name", [len(names)], "BYTES"),
    )
    content = as_bytes(list(files)) if binary else as_bytes([base64.b64encode(file).decode() for file in files])
    image.set_data_from_numpy(content, binary_data=binary)
    class_name.set_data_from_numpy(as_bytes(list(names)), binary_data=binary)
    return [image, class_name]


@pytest.mark.parametrize("binary", [True, False])
def test_triton_s_client_works_as_it_is(url: str, detector: Detector, binary: bool) -> None:
    files, names = [encoded(picture(seed)) for seed in (0, 1, 2)], ["nut", "skin", "pcb"]
    expected = detector.predict(files, names, num_samples=3, seed=9)
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("first")
    assert client.get_server_metadata()["name"] == "bayes-pfl"
    metadata = client.get_model_metadata("first")
    assert metadata["versions"] == [detector.bundle.version]
    wanted = [triton.InferRequestedOutput(output["name"], binary_data=binary) for output in metadata["outputs"]]
    result = client.infer(
        "first",
        inputs_of(files, names, binary),
        outputs=wanted,
        request_id="seven",
        model_version=detector.bundle.version,
        parameters={"num_samples": 3, "seed": 9},
    )
    assert result.as_numpy("pred_score").tolist() == [one.image_score for one in expected]
    assert result.as_numpy("uncertainty").tolist() == [one.uncertainty for one in expected]
    assert np.array_equal(result.as_numpy("anomaly_map"), np.stack([one.anomaly_map for one in expected]))
    assert result.get_response()["id"] == "seven"
    client.close()


def test_triton_s_client_hears_what_is_wrong(url: str) -> None:
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    with pytest.raises(InferenceServerException, match=r"^\[404\] There is no such model"):
        client.infer("unknown", inputs_of([encoded(picture())], ["nut"], True))
    with pytest.raises(InferenceServerException, match=r"^\[415\] The body is no usable image"):
        client.infer("first", inputs_of([b"junk"], ["nut"], True))
    with pytest.raises(InferenceServerException, match=r"^\[400\] A class_name is blank; say what the image shows"):
        client.infer("first", inputs_of([encoded(picture())], ["\u00a0"], True))
    assert not client.is_model_ready("unknown")
    client.close()


GOOD = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(encoded(picture())).decode()]}


@pytest.mark.parametrize(
    ("request_json", "status"),
    [
        ({"inputs": [GOOD]}, 200),
        ({"inputs": [GOOD], "parameters": {"num_samples": 51}}, 422),
        ({"inputs": [GOOD], "parameters": {"num_samples": True}}, 422),
        ({"inputs": [GOOD], "parameters": {"seed": -1}}, 422),
        ({"inputs": [GOOD], "outputs": [{"name": "nothing"}]}, 400),
        ({"inputs": [GOOD | {"shape": [2]}]}, 400),
        ({"inputs": [GOOD | {"shape": [-1]}]}, 400),
        ({"inputs": [GOOD | {"data": ["%%"]}]}, 400),
        ({"inputs": [GOOD | {"data": [1]}]}, 400),
        ({"inputs": [GOOD | {"datatype": "FP32", "data": [1.0]}]}, 400),
        ({"inputs": [GOOD | {"shape": [17], "data": GOOD["data"] * 17}]}, 413),
        ({"inputs": [GOOD, GOOD | {"name": "other"}]}, 400),
        ({"inputs": []}, 400),
        ({}, 400),
    ],
)
def test_json_requests(client: TestClient, request_json: dict[str, Any], status: int) -> None:
    answer = client.post("/v2/models/first/infer", json=request_json)
    assert answer.status_code == status
    assert ("outputs" in answer.json()) == (status == 200)


@pytest.mark.parametrize(
    ("tail", "size", "length"),
    [
        (struct.pack("<I", 100) + b"short", 9, None),
        (b"\x01\x00", 2, None),
        (b"", 5, None),
        (b"left over", 0, None),
        (struct.pack("<I", 2**32 - 1), 4, None),
        (b"", 0, "99999"),
        (b"", 0, "-1"),
        (b"", 0, "ten"),
    ],
)
def test_binary_tensors_that_lie_about_their_length(
    client: TestClient, tail: bytes, size: int, length: str | None
) -> None:
    head = b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":%d}}]}' % size
    headers = {"Inference-Header-Content-Length": str(len(head)) if length is None else length}
    assert client.post("/v2/models/first/infer", content=head + tail, headers=headers).status_code == 400
