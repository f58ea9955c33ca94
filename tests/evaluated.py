"""A finished evaluation of painted maps, from counted pixels to its files; no model is run, and no Ray."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from bayes_pfl.config import DetectorOptions
from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.metrics import PixelHistogram
from bayes_pfl.metrics.streaming import image_pixels
from pipelines.options.evaluate import EvaluateSettings
from pipelines.platform.html import ReportImage
from pipelines.platform.settings import TrackingSettings
from pipelines.platform.tracking import Run
from pipelines.scoring.decided import decide_all, decisions_made
from pipelines.scoring.evaluation import ScoredSamples
from pipelines.scoring.evaluation_files import FinishedEvaluation
from pipelines.scoring.figures import EvaluatedDataset, Resampling, images_digest, measured
from pipelines.scoring.hub_results import hub_files
from pipelines.scoring.model_card import model_card
from pipelines.scoring.pixel_groups import measure_group, pixel_columns
from pipelines.scoring.run_record import latency, run_record, settings_text
from pipelines.scoring.task import ScoringTask
from pipelines.scoring.thresholds import Labelling

RESAMPLING = Resampling(0, 2000)
COUNT, SIZE = 40, 32
MACHINE = "a processor, 2 CPUs, 1 torch thread"
HEADER = {
    "model": {"source": "painted", "version": "1", "backbone": "none"},
    "num_samples": 1,
    "seed": 0,
    "options": DetectorOptions().model_dump(),
    "looked_at": "whole images",
    "protocol": "image",
    "pixels_at": "32 x 32 px",
    "trained_on_images_evaluated": 0,
    "vanished": [],
    "not_scored": [],
}
NOTHING = Labelling(None, None, "nobody decides here")


@dataclasses.dataclass
class PaintedImage:
    """A map with its mask, and the score of a model that made it."""

    name: str
    label: int
    heat: np.ndarray
    mask: np.ndarray

    @property
    def score(self) -> float:
        """The map's maximum."""
        return float(self.heat.max())


def painted_images(category: str, signal: float, seed: int) -> list[PaintedImage]:
    """Maps, masks and scores of a model that sees defects with this signal; noise is the same whatever the signal."""
    random, images = np.random.default_rng(seed), []
    for number in range(COUNT):
        noise = ndimage.gaussian_filter(random.standard_normal((SIZE, SIZE)), 1.5)
        mask = np.zeros((SIZE, SIZE))
        if number % 2:
            top, left = random.integers(0, SIZE - 8, 2)
            mask[top : top + 8, left : left + 8] = 1
        heat = 1 / (1 + np.exp(-(4 * noise + signal * mask)))
        images.append(PaintedImage(f"{category}/{number}", number % 2, heat, mask))
    return images


def painted_evaluation(
    signals: Mapping[str, float],
    header: Mapping[str, Any] = HEADER,
    lost: tuple[str, ...] = (),
    labelling: Labelling = NOTHING,
    shown: int = 0,
) -> FinishedEvaluation:
    """An evaluation of a category a signal; images named in `lost` have no score, the first `shown` are in the report."""
    images = {category: painted_images(category, signal, len(category)) for category, signal in signals.items()}
    everything = [(category, image) for category, group in images.items() for image in group]
    refs = [
        SampleRef("s", n % COUNT, image.name, category, category, image.label, f"hash-{image.name}")
        for n, (category, image) in enumerate(everything)
    ]
    scored = _scored(images, refs, lost)
    manifest = {"dataset": "painted", "metrics": ["image", "pixel"], "digest": "d" * 64}
    dataset = EvaluatedDataset(manifest, refs, slice(0, len(refs)))
    decisions = decide_all(labelling, [dataset], scored)
    result = {
        **header,
        "images_digest": images_digest(refs),
        "datasets": {"painted": measured(dataset, scored, RESAMPLING)},
        "interval": RESAMPLING.as_dict(),
        "decisions": decisions_made(labelling, [dataset], decisions),
    }
    task = ScoringTask(load_bundle("embedded"), 1, 0, 1, "cpu", MAX_PIXELS)
    run = Run(TrackingSettings(), "", "the store does not answer")
    card = model_card(header["model"]["source"], task, labelling)
    record = run_record(card, [dataset], latency(scored, 2), "0" * 40, run)
    gallery = [
        ReportImage(
            each.name, Image.fromarray((255 * each.mask).astype(np.uint8)), each.heat, each.mask, each.label, 1.0, None
        )
        for _, each in everything[:shown]
    ]
    hub = hub_files(result, record["date"], {})
    settings = settings_text(EvaluateSettings(shards=("shards",)))
    shown_images = {"painted: first": gallery} if shown else {}
    return FinishedEvaluation(result, record, settings, [dataset], scored, shown_images, decisions, hub)


def _scored(images: Mapping[str, list[PaintedImage]], refs: list[SampleRef], lost: tuple[str, ...]) -> ScoredSamples:
    """What the workers return: scores, and every pixel counted."""
    every = [image for group in images.values() for image in group]
    scores = np.array([np.nan if image.name in lost else image.score for image in every])
    unknown = np.full(len(refs), np.nan)
    defects = ["scratch" if ref.label else "good" for ref in refs]
    times = np.where(np.isnan(scores), np.nan, np.arange(1.0, len(refs) + 1))
    machines = ["" if np.isnan(score) else MACHINE for score in scores]
    scored = ScoredSamples(scores, unknown, unknown, unknown, {}, {}, [], defects, {}, {}, times, machines)
    for number, (category, group) in enumerate(images.items()):
        positions = range(number * COUNT, (number + 1) * COUNT)
        counted = [None if each.name in lost else image_pixels(each.heat, each.mask) for each in group]
        row = {"positions": np.array(positions), **pixel_columns(counted)}
        labels, kinds = ({p: values[p] for p in positions} for values in ([ref.label for ref in refs], defects))
        pixels, histogram = measure_group(lambda row=row: iter([row]), labels, kinds), PixelHistogram()
        for image in counted:
            if image is not None:
                histogram.count(image)
        key = f"painted/{category}"
        scored.groups[key], scored.pixel_f1[key] = pixels, histogram.best_f1()
        scored.pixel[key] = histogram.metrics() | pixels.aupimo
    return scored
