"""The Open Inference Protocol's descriptions: health, metadata, and Triton's extensions.

The extensions are config, statistics and the repository's index; perf_analyzer needs the first two.
"""

import asyncio
import importlib.metadata
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from serve.http.service import Service
from serve.messages import ModelInfo
from serve.problems import Problem, responses

EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
TRITON_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "FP64": "TYPE_FP64"}


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


class ModelNames(BaseModel):
    """Names of the models."""

    models: list[str]


class IndexEntry(BaseModel):
    """One model of the repository."""

    name: str
    version: str
    state: str
    reason: str


VERDICT = [
    Tensor(name="pred_label", datatype="BYTES", shape=[-1]),
    Tensor(name="p_value", datatype="FP64", shape=[-1]),
]
"""What models with a calibration or a threshold say too."""


def add_routes(router: APIRouter, service: Service) -> None:
    """Add the routes of health, metadata and Triton's extensions.

    Args:
        router: with the prefix /v2.
        service: what answers.
    """
    _add_health(router, service)
    _add_triton(router, service)  # before the others: /models/stats is no model
    _add_metadata(router, service)


def check_version(info: ModelInfo, version: str | None) -> None:
    """Refuse another version than the one that answers.

    Args:
        info: of the model that answers.
        version: asked for; none for any.

    Raises:
        Problem: 404.
    """
    if version is not None and version != info.version:
        raise Problem(404, f"That version does not answer here; the model's version is {info.version}.")


def _add_health(router: APIRouter, service: Service) -> None:
    @router.get("/health/live", responses=responses())
    async def live() -> Live:
        """The HTTP layer answers."""
        return Live(live=True)

    @router.get("/health/ready", responses=responses(), response_model_exclude_none=True)
    async def ready() -> Ready:
        """Every model is loaded and has passed its self-test."""
        await asyncio.gather(*(client.ready() for client in service.clients.values()))
        return Ready(ready=True)

    @router.get("/models/{name}/versions/{version}/ready", responses=responses(404, 422, 504))
    @router.get("/models/{name}/ready", responses=responses(404, 422, 504))
    async def model_ready(name: str, version: str | None = None) -> Ready:
        """The model is loaded and has passed its self-test."""
        check_version(await service.client(name).ready(), version)
        return Ready(ready=True, name=name)


def _add_metadata(router: APIRouter, service: Service) -> None:
    @router.get("", responses=responses())
    async def server() -> Server:
        """What this server is."""
        return Server(name="bayes-pfl", version=importlib.metadata.version("bayes-pfl"), extensions=EXTENSIONS)

    @router.get("/models", responses=responses())
    async def models() -> ModelNames:
        """Names of the models."""
        return ModelNames(models=list(service.clients))

    @router.get("/models/{name}/versions/{version}", responses=responses(404, 422, 504))
    @router.get("/models/{name}", responses=responses(404, 422, 504))
    async def metadata(name: str, version: str | None = None) -> Metadata:
        """What a model takes and gives."""
        info = await service.client(name).describe()
        check_version(info, version)
        return _metadata(name, info)


def _add_triton(router: APIRouter, service: Service) -> None:
    @router.post("/repository/index", responses=responses())
    async def index() -> list[IndexEntry]:
        """The models, as Triton lists its repository."""
        infos = await asyncio.gather(*(client.ready() for client in service.clients.values()))
        return [
            IndexEntry(name=name, version=info.version, state="READY", reason="")
            for name, info in zip(service.clients, infos, strict=True)
        ]

    @router.get("/models/stats", responses=responses())
    async def all_statistics() -> dict[str, Any]:
        """Images of all models, answered and failed, since this process started."""
        return {"model_stats": [await _statistics(service, name) for name in service.clients]}

    @router.get("/models/{name}/versions/{version}/stats", responses=responses(404, 422, 504))
    @router.get("/models/{name}/stats", responses=responses(404, 422, 504))
    async def statistics(name: str, version: str | None = None) -> dict[str, Any]:
        """Images answered and failed since this process started."""
        check_version(await service.client(name).ready(), version)
        return {"model_stats": [await _statistics(service, name)]}

    @router.get("/models/{name}/versions/{version}/config", responses=responses(404, 422, 504))
    @router.get("/models/{name}/config", responses=responses(404, 422, 504))
    async def configuration(name: str, version: str | None = None) -> dict[str, Any]:
        """What a model takes and gives, in Triton's words."""
        info = await service.client(name).describe()
        check_version(info, version)
        metadata = _metadata(name, info)
        return {
            "name": name,
            "platform": metadata.platform,
            "backend": "bayes-pfl",
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": 0,
            "input": [_triton_tensor(tensor) | {"optional": tensor.name != "image"} for tensor in metadata.inputs],
            "output": [_triton_tensor(tensor) for tensor in metadata.outputs],
        }


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
            *([] if info.num_prompts is None else [Tensor(name="uncertainty", datatype="FP64", shape=[-1])]),
            Tensor(name="anomaly_map", datatype="FP32", shape=[-1, side, side]),
            *(VERDICT if info.calibration is not None or info.threshold is not None else []),
        ],
    )


def _triton_tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": TRITON_TYPES[tensor.datatype], "dims": tensor.shape}


async def _statistics(service: Service, name: str) -> dict[str, Any]:
    """Triton's statistics of one model: durations in nanoseconds, counts in images."""
    counts, info = service.statistics[name], await service.client(name).ready()
    compute = {"count": counts.images, "ns": counts.compute_ns}
    none = {"count": 0, "ns": 0}
    return {
        "name": name,
        "version": info.version,
        "last_inference": counts.last_ms,
        "inference_count": counts.images,
        "execution_count": counts.images,
        "inference_stats": {
            "success": {"count": counts.images, "ns": counts.images_ns},
            "fail": {"count": counts.failures, "ns": counts.failures_ns},
            "queue": {"count": counts.images, "ns": counts.images_ns - counts.compute_ns},
            "compute_input": none,
            "compute_infer": compute,
            "compute_output": none,
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [],
    }
