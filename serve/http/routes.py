"""The project's own HTTP interface: scores, maps, models and versions under /v1."""

import asyncio
import importlib.metadata
from typing import Annotated

import ray
from fastapi import APIRouter, Query, Request, Response

from serve.http import drawing
from serve.http.schema import (
    BatchAnswer,
    BatchImage,
    BatchRequest,
    MapOptions,
    Models,
    ProblemBody,
    Score,
    ScoreOptions,
    Version,
)
from serve.http.service import Service, from_base64
from serve.messages import Question
from serve.models.images import CONTENT_TYPES, check_content_type
from serve.problems import Problem, body, responses

IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "description": "The image file itself.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in CONTENT_TYPES},
    }
}


def make_router(service: Service) -> APIRouter:
    """The routes of /v1 on a service."""
    router = APIRouter(prefix="/v1", tags=["scoring"])

    @router.post("/score", responses=responses(404, 415, 422, 504), openapi_extra=IMAGE_BODY)
    async def score(request: Request, options: Annotated[ScoreOptions, Query()]) -> Score:
        """Score one image: is something wrong with it, how sure is that, and where."""
        return await service.score(await image_of(request), options, request.state.request_id)

    @router.post("/score:batch", responses=responses(404, 422, 504))
    async def score_batch(request: Request, batch: BatchRequest) -> BatchAnswer:
        """Score several images with the same options. One bad image does not spoil the others."""
        most = service.limits.max_images
        if len(batch.images) > most:
            raise Problem(413, f"{len(batch.images)} images in one request; send at most {most}.")
        request_id = request.state.request_id
        service.client(batch.options.model)
        results = await asyncio.gather(*(_one_of(service, image, batch.options, request_id) for image in batch.images))
        return BatchAnswer(results=list(results), request_id=request_id)

    @router.post(
        "/map",
        responses={
            200: {
                "content": {kind: {} for kind in ("image/png", "application/octet-stream")},
                "description": "The map.",
            },
            **responses(404, 415, 422, 504),
        },
        response_class=Response,
        openapi_extra=IMAGE_BODY,
    )
    async def anomaly_map(request: Request, options: Annotated[MapOptions, Query()]) -> Response:
        """Draw the anomaly map of one image; the header X-Pred-Score has its score."""
        data = await image_of(request)
        question = Question(options.class_name, options.num_samples, options.seed, want_map=True)
        scored = await service.raw(data, options.model, question)
        assert scored.anomaly_map is not None
        content = await asyncio.to_thread(drawing.encode_map, scored.anomaly_map, options.kind)
        headers = {
            "X-Pred-Score": repr(scored.image_score),
            "X-Uncertainty": repr(scored.uncertainty),
            "X-Model-Version": scored.model.version,
            "X-Model-Kind": scored.model.kind,
        }
        return Response(content, headers=headers, media_type=drawing.MEDIA_TYPES[options.kind])

    @router.get("/models", responses=responses())
    async def models() -> Models:
        """What this endpoint offers now; the first is used where a request names none."""
        return Models(models=await service.models())

    @router.get("/version", responses=responses())
    async def version() -> Version:
        """Versions of the software."""
        return Version(name="bayes-pfl", version=importlib.metadata.version("bayes-pfl"), ray=ray.__version__)

    return router


async def image_of(request: Request) -> bytes:
    """The request's body, if its headers say that it is an image. Raises Problem 408, 413, 415."""
    check_content_type(request.headers.get("content-type", ""), request.headers.get("content-encoding", ""))
    return await request.body()


async def _one_of(service: Service, image: BatchImage, options: ScoreOptions, request_id: str) -> Score | ProblemBody:
    """One image of a batch: its score, or its problem."""
    if image.class_name is not None:
        options = options.model_copy(update={"class_name": image.class_name})
    try:
        return await service.score(await asyncio.to_thread(from_base64, image.image), options, request_id)
    except Problem as problem:
        return ProblemBody(**body(problem.status_code, problem.detail, request_id))
