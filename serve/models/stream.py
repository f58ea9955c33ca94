"""Answered images of one model -> evidence that they are no longer like its calibration's, and an alarm."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from bayes_pfl.decisions.martingale import StreamWatch
from serve.measures import Measures
from serve.messages import CalibrationReport, ReplicaAnswer, StreamState
from serve.problems import Problem
from serve.settings import ModelSettings

logger = logging.getLogger("ray.serve")

VERSIONS = 2
"""Calibrations watched at once: while replicas are replaced one after the other, the old and the new one answer."""
IMAGES_REMEMBERED = 50_000
"""An image that comes again, within so many others, says nothing new."""
RETRY_S = 1.0
"""After a replica could not be asked for a calibration."""
ADVICE = (
    "the images are no longer like those of the calibration, or more of them are defective than usual: its rates do "
    "not hold. Look at recent images for another product, camera or light; mend that, or calibrate again with "
    "bayes-pfl calibrate"
)


class StreamAlarm:
    """The drift alarm of one model in one ingress replica. Every calibration is watched from its first image on.

    With k ingress replicas each sounds at k N instead of N, so that any of them does in at most one of N cases without
    a change (the union bound).

    Args:
        settings: of the model.
        ingress_replicas: k.
        measures: where evidence and alarm are shown.
        fetch: asks a replica for its calibration; raises Problem while none answers.
    """

    def __init__(
        self,
        settings: ModelSettings,
        ingress_replicas: int,
        measures: Measures,
        fetch: Callable[[], Awaitable[CalibrationReport | None]],
    ) -> None:
        self.name, self.drift = settings.name, settings.drift
        self.alarm_at = float(settings.drift.false_alarms_one_in * ingress_replicas)
        self.measures, self._fetch = measures, fetch
        self._streams: dict[str, _Stream] = {}
        self._fetching = asyncio.Lock()
        self._fetch_from = 0.0

    async def note(self, answer: ReplicaAnswer, sha256: str) -> None:
        """Take an answered image, if the calibration is for its very class.

        Args:
            answer: of a replica.
            sha256: of the image's file.
        """
        verdict = answer.verdict
        if verdict is None or verdict.calibrated_name is None:
            return
        stream = await self._stream(verdict.calibration)
        if stream is None or not stream.is_new(sha256):
            return
        before = self._state(stream)
        stream.watch.note(verdict.calibrated_name, answer.image_score)
        state = self._state(stream)
        self.measures.stream(self.name, state.evidence, state.is_alarm)
        if state.is_alarm and not before.is_alarm:
            values = {"model": self.name, "calibration": verdict.calibration, **state._asdict(), "advice": ADVICE}
            logger.warning("drift alarm", extra=values)

    def state(self, calibration: str) -> StreamState:
        """What was seen of a calibration's images.

        Args:
            calibration: its version.

        Returns:
            The evidence.
        """
        stream = self._streams.get(calibration)
        return StreamState(1.0, self.alarm_at, 0) if stream is None else self._state(stream)

    def _state(self, stream: "_Stream") -> StreamState:
        return StreamState(stream.watch.evidence, self.alarm_at, stream.watch.images)

    async def _stream(self, version: str) -> "_Stream | None":
        """The stream of a calibration; None while no replica that has it can be asked: these images are not watched."""
        if version not in self._streams:
            async with self._fetching:
                if version not in self._streams and time.monotonic() >= self._fetch_from:
                    await self._begin(version)
        return self._streams.get(version)

    async def _begin(self, version: str) -> None:
        self._fetch_from = time.monotonic() + RETRY_S
        try:
            report = await self._fetch()
        except Problem:
            return
        if report is not None and report.version == version:
            self._fetch_from = 0.0
            if len(self._streams) >= VERSIONS:
                self._streams.pop(next(iter(self._streams)))
            self._streams[version] = _Stream(report, self.drift.usual_defects)


class _Stream:
    """Images of one calibration: its own, and any that came before, do not count again."""

    def __init__(self, report: CalibrationReport, usual_defects: float) -> None:
        usual = min(1.0, usual_defects + report.false_alarms)
        self.watch = StreamWatch(report.watched, usual)
        self._calibration = report.sha256
        self._before: dict[str, None] = {}

    def is_new(self, sha256: str) -> bool:
        """Whether an image has not been before; afterwards it has."""
        if sha256 in self._calibration or sha256 in self._before:
            return False
        self._before[sha256] = None
        if len(self._before) > IMAGES_REMEMBERED:
            self._before.pop(next(iter(self._before)))
        return True
