"""The page for people at `/`: one file without outside resources, and a few painted images to try it with."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Response
from PIL import Image

from bayes_pfl.data.preprocess import encode_png
from bayes_pfl.inference.heatmap import css_gradient
from bayes_pfl.synthetic import render

COLOURS = "/* COLOURS */ []"
"""Stands in the page where the colour scale goes."""
PAGE = Path(__file__).with_name("page.html")
EXAMPLE_SIDE_PX = 256


class Example(NamedTuple):
    """A painted image of something the embedded model was never trained on."""

    category: str
    number: int
    defect: str | None


EXAMPLES = {
    "/examples/brick-wall.png": Example("brick wall", 1, None),
    "/examples/brick-wall-cracked.png": Example("brick wall", 4, "crack"),
    "/examples/biscuit-cracked.png": Example("biscuit", 4, "crack"),
    "/examples/circuit-board-pierced.png": Example("circuit board", 5, "hole"),
}

OPEN_PATHS = ("/", *EXAMPLES)
"""Nothing here depends on a model or on anyone's image."""


def make_router() -> APIRouter:
    """Routes of the page and its examples; not part of the API that /openapi.json describes.

    Returns:
        A router.
    """
    router = APIRouter(include_in_schema=False)
    html = PAGE.read_text(encoding="utf-8").replace(COLOURS, json.dumps(css_gradient()))
    headers = {"Content-Security-Policy": content_policy(html), "Cache-Control": "no-cache"}

    @router.get("/")
    async def _page() -> Response:
        """Send the page."""
        return Response(html, headers=headers, media_type="text/html")

    for path, example in EXAMPLES.items():
        router.add_api_route(path, _route_of(example), methods=["GET"])
    return router


def content_policy(html: str) -> str:
    """A Content-Security-Policy that allows the style and script written in a page, and requests to its own origin.

    Args:
        html: the page.

    Returns:
        The header's value.
    """
    scripts, styles = _digests(html, "script"), _digests(html, "style")
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@cache
def paint(example: Example) -> bytes:
    """Paint an example.

    Args:
        example: what to paint.

    Returns:
        A PNG file, always the same.
    """
    scene = render(example.category, example.number, 0, EXAMPLE_SIDE_PX, example.defect, 0.8)
    return encode_png(Image.fromarray(scene.image))


def _digests(html: str, element: str) -> str:
    parts = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in parts)


def _route_of(example: Example) -> Callable[[], Awaitable[Response]]:
    async def painted() -> Response:
        """A painted example."""
        return Response(
            await asyncio.to_thread(paint, example), media_type="image/png", headers={"Cache-Control": "max-age=3600"}
        )

    return painted
