"""The embedded model with a calibration of its own, made of painted images, as `bayes-pfl calibrate` would make it."""

import hashlib
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from bayes_pfl import Detector
from bayes_pfl.data.preprocess import encode_png
from bayes_pfl.decisions.calibration import CalibrationFile, ClassCalibration, write_calibration
from bayes_pfl.decisions.records import ScoredImages
from bayes_pfl.decisions.rules import Rule
from bayes_pfl.inference.bundle import load_bundle, resolve
from bayes_pfl.inference.how_scored import how_scored
from bayes_pfl.inference.view import WHOLE
from bayes_pfl.synthetic import render

SAMPLES = 2
"""R of the calibration."""
RULE = Rule(false_alarms=0.1)


class Painted(NamedTuple):
    """An image file, its hash, and what the library says of it."""

    data: bytes
    sha256: str
    score: float
    uncertainty: float | None
    highest: float


@cache
def _detector() -> Detector:
    return Detector.load("embedded")


def painted(category: str, numbers: Sequence[int], defect: str | None = None) -> list[Painted]:
    """Images that a seed paints, scored by the embedded model."""
    return [_painted(category, number, defect) for number in numbers]


@cache
def _painted(category: str, number: int, defect: str | None) -> Painted:
    data = encode_png(Image.fromarray(render(category, number, 0, 112, defect, 0.8).image))
    (prediction,) = _detector().predict([data], [category], SAMPLES)
    digest, highest = hashlib.sha256(data).hexdigest(), float(prediction.anomaly_map.max())
    return Painted(data, digest, prediction.image_score, prediction.uncertainty, highest)


def scored(images: Sequence[Painted]) -> ScoredImages:
    """As a calibration keeps them."""
    return ScoredImages(
        sha256=tuple(image.sha256 for image in images),
        scores=tuple(image.score for image in images),
        map_maxima=tuple(image.highest for image in images),
        uncertainties=tuple(image.uncertainty or 0.0 for image in images),
    )


def calibrated(
    folder: Path,
    categories: Sequence[str],
    numbers: Sequence[int],
    rule: Rule = RULE,
    cracked: Sequence[int] = (),
) -> Path:
    """The embedded bundle with a calibration for these categories, of good images and of cracked ones."""
    shutil.copytree(resolve("embedded"), folder)
    how = how_scored(load_bundle(folder), WHOLE.name(112), SAMPLES, "float32", None)
    classes = [
        ClassCalibration(
            class_name=name,
            rule=rule,
            normal=scored(painted(name, numbers)),
            anomalous=scored(painted(name, cracked, "crack")) if cracked else None,
        )
        for name in categories
    ]
    write_calibration(folder, CalibrationFile(made="2026-11-27T00:00:00+00:00", how=how, classes=tuple(classes)))
    return folder
