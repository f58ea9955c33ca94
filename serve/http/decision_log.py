"""What is answered of images -> lines of a file that are kept: the audit trail."""

import asyncio
import fcntl
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from serve.http.decision_file import check_decision_log
from serve.http.verdicts import Ruling
from serve.messages import Question, ReplicaAnswer
from serve.problems import Problem
from serve.settings import ServeSettings

logger = logging.getLogger("ray.serve")

RETRY_S = 10
MOST_SECONDS = 10
"""That a line may take; one that takes longer may be written all the same, without an answer."""


class Decided(NamedTuple):
    """An image, and what is answered of it."""

    model: str
    request_id: str
    sha256: str
    question: Question
    looked_at: str
    answer: ReplicaAnswer
    ruling: Ruling

    def line(self, now: datetime) -> bytes:
        """The line that is kept; nothing of the image but its hash.

        Args:
            now: when.

        Returns:
            JSON and a line break.
        """
        question, answer, ruling = self.question, self.answer, self.ruling
        values = {
            "time": now.isoformat(timespec="milliseconds"),
            "request_id": self.request_id,
            "sha256": self.sha256,
            "model": self.model,
            "model_version": answer.model.version,
            "calibration": ruling.calibration,
            "pooled_calibration": ruling.is_pooled,
            "class_name": question.class_name,
            "looked_at": self.looked_at,
            "num_samples": question.num_samples,
            "seed": question.seed,
            "bits": question.bits,
            "image_score": answer.image_score,
            "uncertainty": answer.uncertainty,
            "p_value": ruling.p_value,
            "threshold": ruling.threshold,
            "pred_label": ruling.label,
            "unsure_because": ruling.unsure_because,
            "no_label_because": ruling.no_label_because,
            "no_calibration_because": ruling.no_calibration_because,
        }
        return json.dumps(values).encode() + b"\n"


class DecisionLog:
    """A file of one line an image. Several processes may append to it; each line is written whole, or not at all.

    When the next line would make the file larger than `most_bytes`, it is renamed to FILE.<UTC time> first. Nothing is
    ever deleted or overwritten.

    Args:
        path: the file.
        most_bytes: size from which on it is renamed.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        check_decision_log(path)
        self.path, self.most_bytes = path, most_bytes
        self._thread = ThreadPoolExecutor(1, "decisions")
        self._file: int | None = None

    async def write(self, decided: Decided) -> None:
        """Keep a decision.

        Args:
            decided: what is answered next.

        Raises:
            Problem: 503, it cannot be written.
        """
        line = decided.line(datetime.now(UTC))
        try:
            async with asyncio.timeout(MOST_SECONDS):
                await asyncio.get_running_loop().run_in_executor(self._thread, self.append, line)
        except OSError as error:  # TimeoutError is one
            reason = error.strerror or str(error) or f"not within {MOST_SECONDS} s"
            logger.error("decision log", extra={"path": str(self.path), "reason": reason})
            raise Problem(
                503,
                f"The decision cannot be written to the decision log ({reason}), and none is answered without: tell "
                "the operator, and try again.",
                RETRY_S,
            ) from error

    def append(self, line: bytes) -> None:
        """Append a line.

        Args:
            line: with its line break.

        Raises:
            OSError: it cannot be written; the file is as it was before.
        """
        file = self._locked()
        try:
            size = os.fstat(file).st_size
            if size and size + len(line) > self.most_bytes:
                self._set_aside(datetime.now(UTC))
                os.close(file)
                self._file = None
                return self.append(line)
            written = os.write(file, line)
            if written < len(line):  # the disk is full: no half line stays
                os.ftruncate(file, size)
                raise OSError("no space for the whole line")
        finally:
            if self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _locked(self) -> int:
        """The file, open and this process's alone; opened again if it has been renamed meanwhile, by whomever."""
        while True:
            if self._file is None:
                self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                if os.path.samestat(os.fstat(self._file), self.path.stat()):
                    return self._file
            except FileNotFoundError:
                pass
            os.close(self._file)
            self._file = None

    def _set_aside(self, now: datetime) -> None:
        """Rename the file to a name that is free: an empty file made for that takes the name first."""
        name = f"{self.path.name}.{now:%Y%m%dT%H%M%S.%fZ}"
        for number in range(1000):
            free = self.path.with_name(name if number == 0 else f"{name}-{number}")
            try:
                os.close(os.open(free, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))
            except FileExistsError:
                continue
            try:
                self.path.replace(free)
            except OSError:
                free.unlink()
                raise
            return
        raise FileExistsError("no free name for the file that is set aside")


def decision_log(settings: ServeSettings) -> DecisionLog | None:
    """The decision log of an endpoint.

    Args:
        settings: of the endpoint.

    Returns:
        The log; None if there is to be none.

    Raises:
        ConfigError: it cannot be written.
    """
    if settings.decision_log is None:
        return None
    return DecisionLog(Path(settings.decision_log), settings.decision_log_bytes)
