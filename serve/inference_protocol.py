"""The Open Inference Protocol v2 (KServe, Triton): health, metadata and inference over HTTP."""

from fastapi import APIRouter

from serve.problems import Problem, responses
from serve.service import Service


def make_router(service: Service) -> APIRouter:
    """The routes of /v2 on a service."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])

    @router.get("/health/live", responses=responses())
    async def live() -> dict[str, bool]:
        """The HTTP layer answers."""
        return {"live": True}

    @router.get("/health/ready", responses=responses(503))
    async def ready() -> dict[str, bool]:
        """Every model is loaded and has passed its self-test."""
        try:
            await service.models()
        except Problem as problem:
            if problem.status_code != 503 or "queue is full" not in problem.detail:
                raise Problem(503, "A model is not ready yet; ask again in a second.", 1) from problem
        return {"ready": True}

    return router
