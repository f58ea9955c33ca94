"""The Open Inference Protocol v2 (KServe, Triton): inference over HTTP.

Inputs: `image` BYTES [n], the encoded files; `class_name` BYTES [n] or [1]. Request parameters: `num_samples`,
`seed`, `bits`.
Outputs: `pred_score` FP64 [n], `uncertainty` FP64 [n], and on demand `anomaly_map` FP32 [n, side, side], `pred_label`
BYTES [n] (empty where nothing is said) and `p_value` FP64 [n] (not a number where the calibration does not decide).
"""

import asyncio
import math
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response

from serve.http import model_descriptions, tensors
from serve.http.bodies import FORMS, content_type, read_body
from serve.http.model_descriptions import check_version
from serve.http.schema import fold_spaces
from serve.http.service import Judged, Service
from serve.http.tensors import EXPECTED, HEADER_LENGTH, InferAnswer, InferRequest, OutputTensor
from serve.messages import Question
from serve.problems import Problem, responses

INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
DATATYPES = {
    "pred_score": "FP64",
    "uncertainty": "FP64",
    "anomaly_map": "FP32",
    "pred_label": "BYTES",
    "p_value": "FP64",
}
DEFAULT_OUTPUTS = ["pred_score", "uncertainty"]


def make_router(service: Service) -> APIRouter:
    """The routes of /v2.

    Args:
        service: what answers.

    Returns:
        A router.
    """
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])
    model_descriptions.add_routes(router, service)
    _add_inference(router, service)
    return router


def _add_inference(router: APIRouter, service: Service) -> None:
    statuses = responses(404, 422, 504)

    @router.post("/models/{name}/versions/{version}/infer", responses=statuses, openapi_extra=INFER_BODY)
    @router.post("/models/{name}/infer", responses=statuses, openapi_extra=INFER_BODY)
    async def infer(request: Request, name: str, version: str | None = None) -> InferAnswer:
        """Score images; JSON or binary tensors, as the client likes."""
        client = service.client(name)
        given, images, class_names = await _read_request(request, service)
        wanted = _wanted_outputs(given)
        number: int | Literal["auto"] = "auto"
        if given.parameters.get("num_samples") != "auto":
            number = _whole_number(given, "num_samples", 10, 1)
        seed = _whole_number(given, "seed", 0, 0)
        if version is not None:
            check_version(await client.describe(), version)
        bits = None if "bits" not in given.parameters else _whole_number(given, "bits", 16, 9, 16)
        want_map = "anomaly_map" in wanted
        answers = await asyncio.gather(
            *(
                service.raw(
                    data, name, Question(class_name, number, seed, want_map, bits=bits), request.state.request_id
                )
                for data, class_name in zip(images, class_names, strict=True)
            )
        )
        return _answer(name, given, wanted, answers)


async def _read_request(request: Request, service: Service) -> tuple[InferRequest, list[bytes], list[str]]:
    """The request, its images and a class name for each. Raises Problem 400, 413 or 415."""
    if content_type(request) in FORMS:
        raise Problem(415, "Forms are not read; send JSON with -H 'Content-Type: application/json'.")
    header_length, limits = request.headers.get(HEADER_LENGTH), service.limits
    given, values = await tensors.parse(await read_body(request), header_length, service.most_values, limits.max_images)
    images = values["image"]
    if not images:
        raise Problem(400, f"Input image is empty. {EXPECTED}")
    try:
        names = [fold_spaces(name.decode()).strip() for name in values.get("class_name", [b"object"])]
    except UnicodeDecodeError as error:
        raise Problem(400, f"A class_name is not UTF-8. {EXPECTED}") from error
    if not all(names):
        raise Problem(400, "A class_name is blank; say what the image shows, such as 'metal nut', or leave it out.")
    if len(names) not in (1, len(images)):
        raise Problem(400, f"{len(names)} class names for {len(images)} images. {EXPECTED}")
    return given, images, names if len(names) == len(images) else names * len(images)


def _wanted_outputs(given: InferRequest) -> list[str]:
    """Names of the outputs asked for; without any, the two numbers. Raises Problem 400 for others than there are."""
    wanted = list(dict.fromkeys(output.name for output in given.outputs or [])) or DEFAULT_OUTPUTS
    if not set(wanted) <= set(DATATYPES):
        raise Problem(
            400,
            "The outputs are pred_score, uncertainty and p_value (FP64 [n]), pred_label (BYTES [n]) and anomaly_map "
            "(FP32 [n, side, side]).",
        )
    return wanted


def _whole_number(given: InferRequest, key: str, default: int, lowest: int, highest: int = 2**31 - 1) -> int:
    """A request parameter. Raises Problem 422 unless it is a whole number in range."""
    value = given.parameters.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise Problem(422, f"{key}: not a whole number from {lowest} to {highest}.")
    return value


def _answer(name: str, given: InferRequest, wanted: list[str], judged: list[Judged]) -> Any:
    """The response with the outputs asked for."""
    wanted, arrays = _outputs(given, wanted, judged)
    binary_by_default = given.parameters.get("binary_data_output") is True
    requested = {output.name: output.parameters for output in given.outputs or []}
    binary = {key for key in wanted if requested.get(key, {}).get("binary_data", binary_by_default) is True}
    outputs = [OutputTensor(name=key, datatype=DATATYPES[key], shape=list(arrays[key].shape)) for key in wanted]
    model = judged[0].answer.model
    parameters = {"model_kind": model.kind} | ({"note": model.note} if model.note else {})
    remarks = [f"image {number}: {entry.read_as}" for number, entry in enumerate(judged, 1) if entry.read_as]
    if remarks:
        parameters["read_as"] = ", ".join(remarks)
    result = InferAnswer(
        model_name=name, model_version=model.version, id=given.id, parameters=parameters, outputs=outputs
    )
    content, headers = tensors.encode(result, arrays, binary)
    return Response(content, headers=headers)


def _outputs(given: InferRequest, wanted: list[str], judged: list[Judged]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names of the outputs to send, and their values. Raises Problem 400 for one that this model does not have."""
    answers = [entry.answer for entry in judged]
    chances = [entry.ruling.p_value for entry in judged]
    arrays = {
        "pred_score": np.array([answer.image_score for answer in answers], np.float64),
        "pred_label": np.array([entry.ruling.label or "" for entry in judged], object),
        "p_value": np.array([math.nan if chance is None else chance for chance in chances]),
    }
    uncertainties = [answer.uncertainty for answer in answers if answer.uncertainty is not None]
    if len(uncertainties) == len(answers):
        arrays["uncertainty"] = np.array(uncertainties, np.float64)
    elif "uncertainty" in wanted and not given.outputs:
        wanted = [key for key in wanted if key != "uncertainty"]
    elif "uncertainty" in wanted:
        raise Problem(400, "This model's method draws nothing, so it has no uncertainty: ask for pred_score alone.")
    if "anomaly_map" in wanted:
        maps = [answer.anomaly_map for answer in answers if answer.anomaly_map is not None]
        if len({values.shape for values in maps}) > 1:  # a model of another input size took over in between
            raise Problem(503, "The model has just been replaced; try again.", 1)
        arrays["anomaly_map"] = np.stack(maps)
    return wanted, arrays
