"""A small model of random weights, and the whole application around it in this process, without Ray."""

import asyncio
import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from PIL import Image

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import BackboneConfig, DetectorConfig, ModelConfig, ScoringConfig
from bayes_pfl.inference.bundle import save_bundle
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from serve.http.application import create_app
from serve.http.decision_log import decision_log
from serve.http.service import Service
from serve.measures import Measures
from serve.models.client import ModelClient
from serve.models.images import Decoder
from serve.models.replica import ModelReplica, load_newer
from serve.settings import Limits, ReplicaSettings, ServeSettings

ARCHITECTURE = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 56, "layers": 4, "width": 32, "patch_size": 14, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49409, "width": 32, "heads": 1, "layers": 2},
}
LIMITS = Limits(max_body_bytes=400_000, max_pixels=250_000, max_side_px=2000, body_timeout_s=5, answer_timeout_s=60)


def write_bundle(folder: Path, seed: int, image_size: int = 56, threshold: float | None = None) -> Path:
    """A bundle of random weights around a CLIP of random weights."""
    architecture = folder.parent / "tiny-clip.json"
    architecture.write_text(json.dumps(ARCHITECTURE), encoding="utf-8")
    config = DetectorConfig(
        backbone=BackboneConfig(
            name=str(architecture), pretrained="random:0", image_size=image_size, feature_layers=(2, 4)
        ),
        model=ModelConfig(num_prompts=2, context_tokens=2, state_tokens=2, flow_length=2),
        scoring=ScoringConfig(smoothing_sigma_px=2.0, threshold=threshold),
    )
    backbone = Backbone(config.backbone)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BayesPFL(config.model, Widths.from_backbone(backbone))
    save_bundle(folder, config, model.state_dict(), {"made_for": "tests"}, [])
    return folder


def picture(seed: int = 0, width: int = 90, height: int = 70) -> np.ndarray:
    """(height, width, 3) uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """A picture as a file."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind, **options)
    return sink.getvalue()


class LocalMethod:
    """A replica's method as a deployment handle offers it: `.remote(...)` is awaited."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def remote(self, *arguments: Any) -> "asyncio.Task[Any]":
        return asyncio.ensure_future(asyncio.to_thread(self.function, *arguments))


class LocalHandle:
    """A real replica object in this process, behind the three methods that a client uses."""

    def __init__(self, source: Path | str) -> None:
        self.replica = ModelReplica("local")
        self.load(source)
        self.score = LocalMethod(self.replica.score_all)
        self.describe = LocalMethod(lambda: self.replica.model and self.replica.model.info)
        self.calibration = LocalMethod(lambda: self.replica.model and self.replica.model.judge.report)

    def load(self, source: Path | str) -> None:
        """Load a bundle as `reconfigure` does."""
        self.replica.model = load_newer(ReplicaSettings(source=str(source)), None)
        assert self.replica.model is not None


def local_app(settings: ServeSettings, handles: dict[str, LocalHandle], challengers: dict[str, LocalHandle]) -> Any:
    """The application with replicas in this process."""
    measures, decoder = Measures(), Decoder(settings.limits)
    clients = {
        model.name: ModelClient(
            model, decoder, measures, handles[model.name], challengers.get(model.name), settings.ingress_replicas
        )
        for model in settings.models
    }
    service = Service(clients, settings.limits, measures, decision_log(settings))
    return create_app(service, settings, measures)


@contextlib.contextmanager
def listening(app: Any) -> Iterator[str]:
    """The application on a real socket of this machine, for clients that need one; the value is its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
