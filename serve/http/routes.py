"""The project's own HTTP interface: scores, maps, models and versions under /v1."""

import asyncio
import importlib.metadata
from typing import Annotated

import ray
from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from bayes_pfl.inference.view import RegionOfInterest
from serve.http import drawing
from serve.http.bodies import CONTENT_TYPES, image_body, json_body
from serve.http.json_bodies import parse_json
from serve.http.schema import (
    BatchAnswer,
    BatchImage,
    BatchRequest,
    CalibrationBody,
    MapOptions,
    Models,
    Name,
    Score,
    ScoreOptions,
    Version,
)
from serve.http.service import Service, image_from_base64
from serve.problems import Problem, ProblemBody, body, explain_body, responses

IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "description": "The image file itself.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in CONTENT_TYPES},
    }
}
BATCH_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/BatchRequest"}}},
    }
}
MAP_FILE = {"content": {kind: {} for kind in ("image/png", "application/octet-stream")}, "description": "The map."}


def make_router(service: Service) -> APIRouter:
    """The routes of /v1.

    Args:
        service: what answers.

    Returns:
        A router.
    """
    router = APIRouter(prefix="/v1", tags=["scoring"])
    _add_scores(router, service)
    _add_maps(router, service)
    _add_descriptions(router, service)
    return router


def _add_scores(router: APIRouter, service: Service) -> None:
    @router.post("/score", responses=responses(404, 422, 504), openapi_extra=IMAGE_BODY)
    async def score(request: Request, options: Annotated[ScoreOptions, Query()]) -> Score:
        """Score one image: is something wrong with it, how sure is that, and where."""
        return await service.score(await image_body(request), options, request.state.request_id)

    @router.post("/score:batch", responses=responses(404, 422, 504), openapi_extra=BATCH_BODY)
    async def score_batch(request: Request) -> BatchAnswer:
        """Score several images with the same options. One bad image does not spoil the others."""
        batch = await _read_batch(request, service)
        request_id = request.state.request_id
        region = await service.region(batch.options.model, batch.roi_mask)
        entries = (_score_entry(service, image, batch.options, request_id, region) for image in batch.images)
        return BatchAnswer(results=list(await asyncio.gather(*entries)), request_id=request_id)


def _add_maps(router: APIRouter, service: Service) -> None:
    @router.post(
        "/map",
        responses={200: MAP_FILE, **responses(404, 422, 504)},
        response_class=Response,
        openapi_extra=IMAGE_BODY,
    )
    async def anomaly_map(request: Request, options: Annotated[MapOptions, Query()]) -> Response:
        """Draw the anomaly map of one image; the header X-Image-Score has its score."""
        data, request_id = await image_body(request), request.state.request_id
        answer, ruling, read_as = await service.raw(data, options.model, options.question(), request_id)
        assert answer.anomaly_map is not None
        content = await asyncio.to_thread(drawing.encode_map, answer.anomaly_map, options.kind)
        headers = {
            "X-Image-Score": repr(answer.image_score),
            "X-Model-Version": answer.model.version,
            "X-Model-Kind": answer.model.kind,
        }
        if answer.uncertainty is not None:
            headers["X-Uncertainty"] = repr(answer.uncertainty)
        if ruling.label is not None:
            headers["X-Pred-Label"] = ruling.label
        if read_as is not None:
            headers["X-Read-As"] = read_as
        return Response(content, headers=headers, media_type=drawing.MEDIA_TYPES[options.kind])


def _add_descriptions(router: APIRouter, service: Service) -> None:
    @router.get("/models", responses=responses())
    async def models() -> Models:
        """What this endpoint offers now; the first is used where a request names none."""
        return Models(models=await service.models())

    @router.get("/calibration", responses=responses(404, 422))
    async def calibration(model: Annotated[Name | None, Query()] = None) -> CalibrationBody:
        """For what a model's calibration holds, and what it promises."""
        return await service.calibration(model)

    @router.get("/version", responses=responses())
    async def version() -> Version:
        """Versions of the software."""
        return Version(name="bayes-pfl", version=importlib.metadata.version("bayes-pfl"), ray=ray.__version__)


async def _read_batch(request: Request, service: Service) -> BatchRequest:
    """The body of a batch. Raises Problem 400, 413, 415 or 422."""
    try:
        batch = await parse_json(await json_body(request), BatchRequest, service.most_values)
    except ValidationError as error:
        detail = explain_body(error.errors(include_url=False, include_context=False, include_input=False), BatchRequest)
        raise Problem(422, f"{detail}. See /openapi.json for what is accepted.") from None
    most = service.limits.max_images
    if len(batch.images) > most:
        raise Problem(413, f"{len(batch.images)} images in one request; send at most {most} (limits.max_images).")
    return batch


async def _score_entry(
    service: Service, image: BatchImage, options: ScoreOptions, request_id: str, region: RegionOfInterest | None
) -> Score | ProblemBody:
    """One image of a batch: its score, or its problem."""
    if image.class_name is not None:
        options = options.model_copy(update={"class_name": image.class_name})
    try:
        data = await asyncio.to_thread(image_from_base64, image.image)
        return await service.score(data, options, request_id, region)
    except Problem as problem:
        return ProblemBody(**body(problem.status_code, problem.detail, request_id))
