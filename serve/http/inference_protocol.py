"""The Open Inference Protocol v2 (KServe, Triton): health, metadata and inference over HTTP.

Inputs: `image` BYTES [n], the encoded files; `class_name` BYTES [n] or [1]. Request parameters: `num_samples`, `seed`.
Outputs: `pred_score` FP64 [n], `uncertainty` FP64 [n], and on demand `anomaly_map` FP32 [n, side, side].
"""

import asyncio
import importlib.metadata
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from serve.http import tensors
from serve.http.service import Service
from serve.http.tensors import HEADER_LENGTH, InferAnswer, InferRequest, OutputTensor
from serve.messages import ModelInfo, Question, ReplicaAnswer
from serve.problems import Problem, responses

INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
INFER_BODY["requestBody"]["content"]["application/json"]["schema"].pop("$defs", None)  # type: ignore[index]


class Live(BaseModel):
    """The HTTP layer answers."""

    live: bool


class Ready(BaseModel):
    """Loaded, self-tested, and answering."""

    ready: bool
    name: str | None = None


class Server(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class Tensor(BaseModel):
    """Name, type and shape of an input or output; -1 is any length."""

    name: str
    datatype: str
    shape: list[int]


class Metadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


def make_router(service: Service) -> APIRouter:
    """The routes of /v2 on a service."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])

    @router.get("/health/live", responses=responses())
    async def live() -> Live:
        """The HTTP layer answers."""
        return Live(live=True)

    @router.get("/health/ready", responses=responses(), response_model_exclude_none=True)
    async def ready() -> Ready:
        """Every model is loaded and has passed its self-test."""
        await asyncio.gather(*(client.ready() for client in service.clients.values()))
        return Ready(ready=True)

    @router.get("", responses=responses())
    async def server() -> Server:
        """What this server is."""
        return Server(
            name="bayes-pfl", version=importlib.metadata.version("bayes-pfl"), extensions=["binary_tensor_data"]
        )

    @router.get("/models/{name}/versions/{version}", responses=responses(404, 422, 504))
    @router.get("/models/{name}", responses=responses(404, 422, 504))
    async def metadata(name: str, version: str | None = None) -> Metadata:
        """What a model takes and gives."""
        info = await service.client(name).describe()
        _check_version(info, version)
        return _metadata(name, info)

    @router.get("/models/{name}/versions/{version}/ready", responses=responses(404, 422, 504))
    @router.get("/models/{name}/ready", responses=responses(404, 422, 504))
    async def model_ready(name: str, version: str | None = None) -> Ready:
        """The model is loaded and has passed its self-test."""
        _check_version(await service.client(name).ready(), version)
        return Ready(ready=True, name=name)

    statuses = responses(404, 415, 422, 504)

    @router.post("/models/{name}/versions/{version}/infer", responses=statuses, openapi_extra=INFER_BODY)
    @router.post("/models/{name}/infer", responses=statuses, openapi_extra=INFER_BODY)
    async def infer(request: Request, name: str, version: str | None = None) -> InferAnswer:
        """Score images; JSON or binary tensors, as the client likes."""
        client = service.client(name)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Problem(415, "Send the tensors without Content-Encoding.")
        given, values = tensors.parse(await request.body(), request.headers.get(HEADER_LENGTH))
        images, class_names = _inputs(service, given, values)
        number, seed = _integer(given.parameters, "num_samples", 10), _integer(given.parameters, "seed", 0)
        if version is not None:
            _check_version(await client.describe(), version)
        want_map = any(output.name == "anomaly_map" for output in given.outputs or [])
        scored = await asyncio.gather(
            *(
                service.raw(data, name, Question(class_name, number, seed, want_map))
                for data, class_name in zip(images, class_names, strict=True)
            )
        )
        return _answer(name, given, scored)

    return router


def _check_version(info: ModelInfo, version: str | None) -> None:
    """Raise Problem 404 unless the version asked for is the one that answers."""
    if version is not None and version != info.version:
        raise Problem(404, f"That version does not answer here; the model's version is {info.version}.")


def _metadata(name: str, info: ModelInfo) -> Metadata:
    side = info.image_size
    return Metadata(
        name=name,
        versions=[info.version],
        platform="bayes-pfl",
        inputs=[
            Tensor(name="image", datatype="BYTES", shape=[-1]),
            Tensor(name="class_name", datatype="BYTES", shape=[-1]),
        ],
        outputs=[
            Tensor(name="pred_score", datatype="FP64", shape=[-1]),
            Tensor(name="uncertainty", datatype="FP64", shape=[-1]),
            Tensor(name="anomaly_map", datatype="FP32", shape=[-1, side, side]),
        ],
    )


def _inputs(service: Service, given: InferRequest, values: dict[str, list[Any]]) -> tuple[list[bytes], list[str]]:
    """Images and class names. Raises Problem 400 for other tensors, 413 for too many images."""
    kinds = {tensor.name: tensor.datatype for tensor in given.inputs}
    if kinds.get("image") != "BYTES" or not {"image", "class_name"} >= set(kinds) or set(kinds.values()) != {"BYTES"}:
        raise Problem(400, "The inputs are image (BYTES) and, if you like, class_name (BYTES).")
    images = values["image"]
    if not images:
        raise Problem(400, "Input image is empty.")
    if len(images) > service.limits.max_images:
        raise Problem(413, f"{len(images)} images in one request; send at most {service.limits.max_images}.")
    names = [name.decode("utf-8", "replace").strip() or "object" for name in values.get("class_name", [b"object"])]
    if len(names) not in (1, len(images)):
        raise Problem(400, "Give one class_name for all images, or one for each.")
    return images, names if len(names) == len(images) else names * len(images)


def _integer(parameters: dict[str, Any], key: str, default: int) -> int:
    """A request parameter. Raises Problem 422 unless it is a number in range."""
    value = parameters.get(key, default)
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not (key == "seed" or value >= 1)
        or not 0 <= value < 2**31
    ):
        raise Problem(422, f"{key}: not a whole number in range.")
    return value


def _answer(name: str, given: InferRequest, scored: list[ReplicaAnswer]) -> Any:
    """The outputs asked for, or the two numbers."""
    arrays = {
        "pred_score": np.array([one.image_score for one in scored], np.float64),
        "uncertainty": np.array([one.uncertainty for one in scored], np.float64),
    }
    wanted = ["pred_score", "uncertainty"] if given.outputs is None else [output.name for output in given.outputs]
    if "anomaly_map" in wanted:
        maps = [one.anomaly_map for one in scored if one.anomaly_map is not None]
        if len({values.shape for values in maps}) > 1:  # a model of another input size took over in between
            raise Problem(503, "The model has just been replaced; try again.", 1)
        arrays["anomaly_map"] = np.stack(maps)
    if not set(wanted) <= set(arrays):
        raise Problem(400, "The outputs are pred_score, uncertainty and anomaly_map.")
    binary_by_default = given.parameters.get("binary_data_output") is True
    requested = {output.name: output.parameters for output in given.outputs or []}
    binary = {key for key in wanted if requested.get(key, {}).get("binary_data", binary_by_default) is True}
    kinds = {"pred_score": "FP64", "uncertainty": "FP64", "anomaly_map": "FP32"}
    outputs = [
        OutputTensor(name=key, datatype=kinds[key], shape=list(arrays[key].shape)) for key in dict.fromkeys(wanted)
    ]
    model = scored[0].model
    said = {"model_kind": model.kind} | ({"note": model.note} if model.note else {})
    result = InferAnswer(model_name=name, model_version=model.version, id=given.id, parameters=said, outputs=outputs)
    content, headers = tensors.answer(result, arrays, binary)
    return Response(content, headers=headers)
