"""Calibrations of a model, one a class name, in one file `calibration.json`: which verdicts hold, and for what."""

import hashlib
import html
import json
import os
import unicodedata
import uuid
from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from bayes_pfl.config import Settings, parse_config
from bayes_pfl.decisions.boundaries import Boundaries, Decision
from bayes_pfl.decisions.conformal import tie_break
from bayes_pfl.decisions.records import HowScored, ScoredImages
from bayes_pfl.decisions.rules import Rule
from bayes_pfl.errors import BundleError, ConfigError, DataError

FORMAT: Literal[1] = 1
CALIBRATION = "calibration.json"
MOST_BYTES = 256 * 2**20
"""Of a calibration file: over a million images."""
NO_CALIBRATION = "the model has no calibration: make one with `bayes-pfl calibrate`"
"""Why there is no verdict."""


class ClassCalibration(Settings):
    """Calibration images of one class name, and the rule that they are for."""

    class_name: str = Field(min_length=1, max_length=1000, description="what the images show")
    rule: Rule
    normal: ScoredImages = Field(description="good images")
    anomalous: ScoredImages | None = Field(None, description="defective images; none: not needed for false alarms")


class CalibrationFile(Settings):
    """What `calibration.json` holds: all that decisions depend on, and no image."""

    format: Literal[1] = FORMAT
    made: str = Field(max_length=40, description="when, ISO 8601")
    seed: int = Field(0, ge=0, description="of the tie-breaks between equal scores")
    how: HowScored
    classes: tuple[ClassCalibration, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> "CalibrationFile":
        keys = [class_key(each.class_name) for each in self.classes]
        if len(set(keys)) < len(keys) or not all(keys):
            raise ValueError("a class name is blank or there twice")
        return self


class Calibration:
    """Verdicts by class name. A name that was not calibrated takes the images of all, where there are several.

    Args:
        record: what the file holds.

    Raises:
        DataError: a class has too few images for its rule.
    """

    def __init__(self, record: CalibrationFile) -> None:
        self.record, self.how, self.seed = record, record.how, record.seed
        text = record.model_dump_json().encode()
        self.version = hashlib.sha256(text).hexdigest()[:12]
        self._of = {
            class_key(each.class_name): Boundaries(each.normal, each.anomalous, each.rule, record.seed)
            for each in record.classes
        }
        self.names = [each.class_name for each in record.classes]
        self.pooled = _pooled(record)

    def boundaries(self, class_name: str) -> Boundaries | None:
        """What decides for a class name.

        Args:
            class_name: as it was typed; case and spaces do not matter.

        Returns:
            Its own boundaries, else those of all classes together; None: there are none for it.
        """
        return self._of.get(class_key(class_name), self.pooled)

    def of(self, class_name: str) -> Boundaries:
        """What decides for a class name that has boundaries.

        Args:
            class_name: a calibrated one.

        Returns:
            Its boundaries.
        """
        boundaries = self.boundaries(class_name)
        assert boundaries is not None, class_name
        return boundaries

    def verdict(self, class_name: str, score: float, uncertainty: float | None, sha256: str) -> Decision:
        """What is decided of an image that was scored as the calibration's were (see `differences`).

        Args:
            class_name: what it shows.
            score: its image score.
            uncertainty: of the score.
            sha256: of its file.

        Returns:
            The verdict; one without a label where the class name has no calibration.
        """
        boundaries = self.boundaries(class_name)
        if boundaries is None:
            return Decision(None, no_label_because=self.not_for(class_name))
        return boundaries.verdict(score, uncertainty, tie_break(self.seed, sha256))

    def is_pooled(self, class_name: str) -> bool:
        """Whether a class name takes the images of all classes together.

        Args:
            class_name: as it was typed.

        Returns:
            Whether it has no calibration of its own.
        """
        return class_key(class_name) not in self._of

    def not_for(self, class_name: str) -> str:
        """Why there is no verdict for a class name.

        Args:
            class_name: one without boundaries.

        Returns:
            Words.
        """
        names = ", ".join(f'"{name[:60]}"' for name in self.names[:3])
        more = f" and {len(self.names) - 3:,} more" if len(self.names) > 3 else ""
        return f'the calibration is for {names}{more}, not for "{class_name[:60]}": calibrate for it too'

    def differences(self, how: HowScored) -> str | None:
        """Why the calibration does not apply to scores.

        Args:
            how: they were made.

        Returns:
            A sentence; None: it applies.
        """
        different = self.how.differences(how)
        return f"the calibration does not apply: it was made with {different}" if different else None


def class_key(class_name: str) -> str:
    """A class name as the text encoder reads it: case, spaces and the way of writing a letter do not matter.

    Args:
        class_name: as it was typed.

    Returns:
        The name to compare.

    >>> class_key(" Metal  nut")
    'metal nut'
    """
    text = html.unescape(html.unescape(class_name))  # as CLIP's tokenizer does
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def _pooled(record: CalibrationFile) -> Boundaries | None:
    """Of all classes together, where there are several with one rule by false alarms."""
    rules = {each.rule for each in record.classes}
    if len(record.classes) < 2 or len(rules) > 1:
        return None
    rule = next(iter(rules))
    anomalous = [each.anomalous for each in record.classes if each.anomalous is not None]
    normal: ScoredImages = reduce(add, [each.normal for each in record.classes])
    return Boundaries(normal, reduce(add, anomalous) if anomalous else None, rule, record.seed)


def with_classes(record: CalibrationFile, added: Sequence[ClassCalibration]) -> CalibrationFile:
    """A calibration with further classes.

    Args:
        record: what it holds now.
        added: classes that it does not hold.

    Returns:
        The calibration with both.

    Raises:
        ConfigError: it holds one of them, with other images or another rule.
    """
    before = {class_key(each.class_name): each for each in record.classes}
    for each in added:
        earlier = before.get(class_key(each.class_name), each)
        if earlier != each:
            raise already_calibrated(each.class_name)
    fresh = [each for each in added if class_key(each.class_name) not in before]
    return record.model_copy(update={"classes": (*record.classes, *fresh)})


def already_calibrated(class_name: str) -> ConfigError:
    """The error for a class that a calibration holds otherwise.

    Args:
        class_name: of the class.

    Returns:
        The error.
    """
    return ConfigError(
        f'The output is calibrated for "{class_name}" already, with other images or another rule: choose another '
        "--output, so that both stay."
    )


def read_calibration(folder: Path) -> Calibration | None:
    """The calibration of a bundle.

    Args:
        folder: of the bundle.

    Returns:
        The calibration; None if it has none.

    Raises:
        BundleError: the file is damaged, of another format, or larger than any calibration.
    """
    path = folder / CALIBRATION
    again = "make it again with `bayes-pfl calibrate`, or take it out of the bundle"
    try:
        if not path.exists() and not path.is_symlink():
            return None
        if not path.is_file():
            raise BundleError(f"{path} is no file: {again}.")
        if path.stat().st_size > MOST_BYTES:
            raise BundleError(f"{path} is larger than {MOST_BYTES // 2**20} MB: {again}.")
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): {again}.") from error
    version = values.get("format") if isinstance(values, dict) else None
    if version != FORMAT or isinstance(version, bool):
        raise BundleError(f"{path} has format {str(version)[:20]}, and this version reads {FORMAT}: {again}.")
    try:
        return Calibration(parse_config(CalibrationFile, values, str(path)))
    except (ConfigError, DataError) as error:
        raise BundleError(f"The calibration {path} is damaged: {str(error).rstrip('.')}; {again}.") from error


def write_calibration(folder: Path, record: CalibrationFile) -> None:
    """Keep a calibration with a bundle, under a temporary name first.

    Args:
        folder: of the bundle.
        record: the calibration.

    Raises:
        BundleError: it cannot be written.
    """
    path = folder / CALIBRATION
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(record.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise BundleError(f"Cannot write {path} ({error.strerror or error}): make the folder writable.") from error
    finally:
        part.unlink(missing_ok=True)
