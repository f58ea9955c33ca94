"""What both protocols share: bytes and options in, a Score out."""

import asyncio
import base64
import binascii
import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from serve.http import drawing
from serve.http.schema import EncodedMap, ModelBody, Picture, Region, Score, ScoreOptions, Timings
from serve.measures import Measures
from serve.messages import Question, ReplicaAnswer
from serve.models.client import ModelClient
from serve.models.images import Prepared
from serve.problems import Problem
from serve.settings import Limits


class Service:
    """The models on offer, and how an image becomes an answer."""

    def __init__(self, clients: Mapping[str, ModelClient], limits: Limits, measures: Measures) -> None:
        self.clients = clients
        self.limits = limits
        self.measures = measures

    def client(self, name: str | None) -> ModelClient:
        """The model asked for, or the first. Raises Problem 404 for an unknown one."""
        if name is None:
            return next(iter(self.clients.values()))
        if name not in self.clients:
            raise Problem(404, f"There is no such model; this endpoint has {', '.join(self.clients)}.")
        return self.clients[name]

    async def models(self) -> list[ModelBody]:
        """What answers now."""
        found = await asyncio.gather(*(client.describe() for client in self.clients.values()))
        return [ModelBody.of(name, info) for name, info in zip(self.clients, found, strict=True)]

    def check(self, question: Question) -> None:
        """Raise Problem 422 if an option is beyond the endpoint's limits."""
        if len(question.class_name) > self.limits.max_class_name:
            raise Problem(
                422, f"class_name: longer than {self.limits.max_class_name} characters; a word or two is enough."
            )
        if any(not (character.isprintable()) for character in question.class_name):
            raise Problem(422, "class_name: has control characters; send plain words.")
        if question.num_samples > self.limits.max_samples:
            raise Problem(422, f"num_samples: at most {self.limits.max_samples} here.")

    async def score(self, data: bytes, options: ScoreOptions, request_id: str) -> Score:
        """Judge one image. Raises Problem for whatever is wrong with it."""
        start = time.perf_counter()
        client = self.client(options.model)
        thresholds = options.threshold, options.region_threshold
        want_map = options.map != "none" or options.mask or thresholds != (None, None)
        question = Question(options.class_name, options.num_samples, options.seed, want_map)
        scored, prepared = await self._ask(client, data, question)
        threshold = scored.model.threshold if options.threshold is None else options.threshold
        label = None if threshold is None else scored.image_score >= threshold
        size = prepared.width, prepared.height
        drawn = Drawn([], None, None, None)
        if scored.anomaly_map is not None:
            drawn = await asyncio.to_thread(draw, scored.anomaly_map, options, threshold, size)
        self.measures.score(client.name, scored.model.version, scored.image_score, label)
        return Score(
            pred_score=scored.image_score,
            pred_label=label,
            threshold=threshold,
            uncertainty=scored.uncertainty,
            regions=drawn.regions,
            region_threshold=drawn.threshold,
            anomaly_map=drawn.anomaly_map,
            pred_mask=drawn.pred_mask,
            image=Picture(width=prepared.width, height=prepared.height),
            model=ModelBody.of(client.name, scored.model),
            timings_ms=Timings(model=round(scored.compute_ms, 3), total=round((time.perf_counter() - start) * 1000, 3)),
            request_id=request_id,
        )

    async def raw(self, data: bytes, model: str | None, question: Question) -> ReplicaAnswer:
        """The replica's own words on one image."""
        client = self.client(model)
        scored, _ = await self._ask(client, data, question)
        self.measures.score(client.name, scored.model.version, scored.image_score, None)
        return scored

    async def _ask(self, client: ModelClient, data: bytes, question: Question) -> tuple[ReplicaAnswer, Prepared]:
        """Check, decode, wait and compute in bounded time. Raises Problem 504 beyond it."""
        self.check(question)
        try:
            async with asyncio.timeout(self.limits.answer_timeout_s):
                return await client.score(data, question)
        except TimeoutError as error:
            seconds = self.limits.answer_timeout_s
            raise Problem(504, f"No answer within {seconds:g} s; send fewer samples, or try later.") from error


class Drawn(NamedTuple):
    """What the answer shows of the map."""

    regions: list[Region]
    threshold: float | None
    anomaly_map: EncodedMap | None
    pred_mask: EncodedMap | None


def draw(values: np.ndarray, options: ScoreOptions, threshold: float | None, size: tuple[int, int]) -> Drawn:
    """Regions, map and mask as the options ask for them, of a (side, side) map."""
    level = threshold if options.region_threshold is None else options.region_threshold
    side = values.shape[0]
    anomaly_map = (
        None if options.map == "none" else EncodedMap.of(options.map, side, drawing.encode_map(values, options.map))
    )
    if level is None:
        if options.mask:
            raise Problem(422, "mask: this model knows no threshold; give region_threshold.")
        return Drawn([], None, anomaly_map, None)
    mask = EncodedMap.of("png", side, drawing.encode_pred_mask(values, level)) if options.mask else None
    return Drawn(drawing.find_regions(values, level, *size), level, anomaly_map, mask)


def from_base64(text: str) -> bytes:
    """Strictly decoded base64. Raises Problem 422 if it is not."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(422, "image: not base64; encode the file's bytes with the standard alphabet.") from error
