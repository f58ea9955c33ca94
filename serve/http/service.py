"""Bytes of an image and a question -> an answer: what both protocols share."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bayes_pfl.config import MAX_SAMPLES
from bayes_pfl.inference.view import RegionOfInterest
from serve.http import drawing
from serve.http.bodies import from_base64
from serve.http.decision_log import Decided, DecisionLog
from serve.http.schema import (
    CalibrationBody,
    DriftBody,
    EncodedMap,
    ImageSize,
    ModelBody,
    OfferedModel,
    Region,
    Score,
    ScoreOptions,
    Timings,
)
from serve.http.statistics import Statistics
from serve.http.verdicts import Ruling, decide, explain_regions
from serve.measures import Measures
from serve.messages import ModelInfo, Question, ReplicaAnswer
from serve.models.client import ModelClient
from serve.models.images import Prepared
from serve.problems import Problem
from serve.settings import Limits

VALUES_OF_AN_IMAGE = 20
VALUES_OF_A_REQUEST = 200


class Service:
    """The models on offer, and how an image becomes an answer.

    Args:
        clients: by name; the first is the default.
        limits: of a request.
        measures: where answers are counted.
        log: where decisions are kept; none: nowhere.
    """

    def __init__(
        self, clients: Mapping[str, ModelClient], limits: Limits, measures: Measures, log: DecisionLog | None = None
    ) -> None:
        self.clients = clients
        self.limits = limits
        self.measures = measures
        self.log = log
        self.statistics = {name: Statistics() for name in clients}

    @property
    def most_values(self) -> int:
        """Values that the JSON of a request may hold: several times those of `max_images` images."""
        return VALUES_OF_A_REQUEST + VALUES_OF_AN_IMAGE * self.limits.max_images

    def client(self, name: str | None) -> ModelClient:
        """Find a model.

        Args:
            name: as in its settings; none for the first.

        Returns:
            The model's client.

        Raises:
            Problem: 404, there is no such model.
        """
        if name is None:
            return next(iter(self.clients.values()))
        if name not in self.clients:
            raise Problem(404, f"There is no such model; this endpoint has {', '.join(self.clients)}.")
        return self.clients[name]

    async def models(self) -> list[OfferedModel]:
        """Which models answer now.

        Returns:
            All of them, the default first.

        Raises:
            Problem: 503, one of them does not answer.
        """
        infos = await asyncio.gather(*(client.describe() for client in self.clients.values()))
        return [_offered(client, info) for client, info in zip(self.clients.values(), infos, strict=True)]

    async def calibration(self, name: str | None) -> CalibrationBody:
        """What a model's calibration promises.

        Args:
            name: of the model; none for the first.

        Returns:
            For what it holds, and what.

        Raises:
            Problem: 404, there is no such model, or it has no calibration; 503, no replica answers.
        """
        client = self.client(name)
        report = await client.calibration()
        if report is None:
            raise Problem(
                404,
                f"The model {client.name} has no calibration: make one with `bayes-pfl calibrate` and serve the bundle "
                "that it writes.",
            )
        return CalibrationBody(**report.description)

    def check_question(self, question: Question) -> None:
        """Refuse what is beyond the endpoint's limits.

        Args:
            question: of a client.

        Raises:
            Problem: 422.
        """
        if len(question.class_name) > self.limits.max_class_name:
            raise Problem(
                422, f"class_name: longer than {self.limits.max_class_name} characters; a word or two is enough."
            )
        if any(not character.isprintable() for character in question.class_name):
            raise Problem(422, "class_name: has control characters; send plain words.")
        most = MAX_SAMPLES if question.num_samples == "auto" else question.num_samples
        if most > self.limits.max_samples:
            raise Problem(422, f"num_samples: at most {self.limits.max_samples} here.")

    async def region(self, model: str | None, mask: str | None) -> RegionOfInterest | None:
        """The region that a mask tells.

        Args:
            model: its name; none for the first.
            mask: encoded file as base64; none: no region.

        Returns:
            The region, if there is one.

        Raises:
            Problem: 404, there is no such model; 413 or 422 for the mask.
        """
        decoder = self.client(model).decoder
        if mask is None:
            return None
        return await decoder.region(await asyncio.to_thread(image_from_base64, mask))

    async def score(
        self, data: bytes, options: ScoreOptions, request_id: str, region: RegionOfInterest | None = None
    ) -> Score:
        """Judge one image.

        Args:
            data: an encoded file.
            options: of the client.
            request_id: the request's number.
            region: of interest, from a mask.

        Returns:
            The answer.

        Raises:
            Problem: for whatever is wrong with the image or the options, or if nobody answers in time.
        """
        start = time.perf_counter()
        client = self.client(options.model)
        question = options.question(region)
        answer, prepared = await self._ask(client, data, question)
        looked_at = question.view.name(answer.model.image_size)
        ruling = decide(answer, options.threshold, looked_at)
        drawn = Drawn([], None, None, None)
        if answer.anomaly_map is not None:
            size = prepared.width, prepared.height
            drawn = await asyncio.to_thread(draw, answer.anomaly_map, options, ruling.region_threshold, size)
        await self._settle(Decided(client.name, request_id, prepared.sha256, question, looked_at, answer, ruling))
        total_ms = (time.perf_counter() - start) * 1000
        return Score(
            image_score=answer.image_score,
            **ruled(ruling),
            class_name=options.class_name,
            read_as=prepared.read_as,
            looked_at=looked_at,
            uncertainty=answer.uncertainty,
            regions=drawn.regions,
            region_threshold=drawn.threshold,
            regions_because=explain_regions(ruling, answer.image_score, drawn.threshold, bool(drawn.regions)),
            anomaly_map=drawn.anomaly_map,
            pred_mask=drawn.pred_mask,
            image=ImageSize(width=prepared.width, height=prepared.height),
            model=ModelBody.of_model(client.name, answer.model),
            timings_ms=Timings(model=round(answer.compute_ms, 3), total=round(total_ms, 3)),
            request_id=request_id,
        )

    async def raw(self, data: bytes, model: str | None, question: Question, request_id: str) -> "Judged":
        """Ask a replica about one image.

        Args:
            data: an encoded file.
            model: its name; none for the first.
            question: about the image.
            request_id: the request's number.

        Returns:
            The replica's own answer, what is said of the image, and how its file was read.

        Raises:
            Problem: as `score`.
        """
        client = self.client(model)
        answer, prepared = await self._ask(client, data, question)
        looked_at = question.view.name(answer.model.image_size)
        ruling = decide(answer, None, looked_at)
        await self._settle(Decided(client.name, request_id, prepared.sha256, question, looked_at, answer, ruling))
        return Judged(answer, ruling, prepared.read_as)

    async def _settle(self, decided: Decided) -> None:
        """Keep and count what is answered next. Raises Problem 503 if it cannot be kept."""
        if self.log is not None:
            await self.log.write(decided)
        answer = decided.answer
        self.measures.score(decided.model, answer.model.version, answer.image_score, decided.ruling.label)

    async def _ask(self, client: ModelClient, data: bytes, question: Question) -> tuple[ReplicaAnswer, Prepared]:
        """Check, decode, wait and compute in bounded time. Raises Problem 504 beyond it."""
        self.check_question(question)
        start, statistics = time.perf_counter_ns(), self.statistics[client.name]
        try:
            async with asyncio.timeout(self.limits.answer_timeout_s):
                answer, prepared = await client.score(data, question)
        except TimeoutError as error:
            statistics.failed(time.perf_counter_ns() - start)
            seconds = self.limits.answer_timeout_s
            raise Problem(504, f"No answer within {seconds:g} s; send fewer samples, or try later.") from error
        except Exception:
            statistics.failed(time.perf_counter_ns() - start)
            raise
        statistics.answered(time.perf_counter_ns() - start, int(answer.compute_ms * 1e6))
        return answer, prepared


class Judged(NamedTuple):
    """What there is to say of an image, for protocols that have words of their own."""

    answer: ReplicaAnswer
    ruling: Ruling
    read_as: str | None
    """As `Prepared.read_as`."""


class Drawn(NamedTuple):
    """What the answer shows of the map."""

    regions: list[Region]
    threshold: float | None
    anomaly_map: EncodedMap | None
    pred_mask: EncodedMap | None


def draw(values: np.ndarray, options: ScoreOptions, threshold: float | None, size: tuple[int, int]) -> Drawn:
    """Regions, map and mask as the options ask for them.

    Args:
        values: (side, side) anomaly map.
        options: of the client.
        threshold: from which a pixel belongs to a region, unless the options name another; none if none is known.
        size: width and height of the image, pixels.

    Returns:
        What the answer shows.

    Raises:
        Problem: 422, a mask is asked for and no threshold is known.
    """
    level = threshold if options.region_threshold is None else options.region_threshold
    anomaly_map = None
    if options.map != "none":
        anomaly_map = EncodedMap.of_file(options.map, values.shape, drawing.encode_map(values, options.map))
    if level is None:
        if options.mask:
            raise Problem(422, "mask: this model knows no threshold; give region_threshold.")
        return Drawn([], None, anomaly_map, None)
    mask = None
    if options.mask:
        mask = EncodedMap.of_file("png", values.shape, drawing.encode_pred_mask(values, level))
    return Drawn(drawing.find_regions(values, level, *size), level, anomaly_map, mask)


def ruled(ruling: Ruling) -> dict[str, Any]:
    """What is said of an image, as fields of `Score`.

    Args:
        ruling: on the image.

    Returns:
        By name.
    """
    return {
        "pred_label": ruling.label,
        "p_value": ruling.p_value,
        "unsure_because": ruling.unsure_because,
        "no_label_because": ruling.no_label_because,
        "threshold": ruling.threshold,
        "good_up_to": None if ruling.verdict is None else ruling.verdict.good_up_to,
        "defective_above": None if ruling.verdict is None else ruling.verdict.defective_above,
        "calibration": ruling.calibration,
        "pooled_calibration": ruling.is_pooled,
        "no_calibration_because": ruling.no_calibration_because,
    }


def _offered(client: ModelClient, info: ModelInfo) -> OfferedModel:
    drift = None
    if info.calibration is not None:
        drift = DriftBody.of_stream(client.stream.state(info.calibration), client.settings.drift)
    return OfferedModel.of_offer(client.name, info, drift)


def image_from_base64(text: str) -> bytes:
    """Decode the image of a batch.

    Args:
        text: base64, or a data URI.

    Returns:
        The encoded file.

    Raises:
        Problem: 422, it is no base64.
    """
    try:
        return from_base64(text)
    except ValueError as error:
        raise Problem(422, f"image: {error}.") from error
