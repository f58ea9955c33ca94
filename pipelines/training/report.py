"""A training run -> a page: loss and validation by epoch, and heat maps of a few images, also as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.heatmap import overlay
from pipelines.platform.html import ReportTable, write_report
from pipelines.scoring.report_images import report_image
from pipelines.training.validation import VALIDATION_SAMPLES

IMAGES = 6


def write_training_report(
    folder: Path, bundle: Path, backbone: Backbone, history: Sequence[dict[str, float]], refs: Sequence[SampleRef]
) -> Path:
    """Write `report.html` and `heat-N.png`.

    Args:
        folder: where to write; it is made.
        bundle: the trained model.
        backbone: its backbone.
        history: metrics of every epoch.
        refs: samples of which a few are shown.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)

    detector = Detector(load_bundle(bundle), backbone, torch.device("cpu"))
    images = [report_image(detector, ref, VALIDATION_SAMPLES) for ref in chosen(refs)]
    for index, image in enumerate(images):
        overlay(image.image, image.anomaly_map).save(folder / f"heat-{index}.png")
    table = ReportTable("Epochs, validation figures in percent", [_row(entry) for entry in history])
    write_report(folder / "report.html", "Training", [table], {"Sample images": images})
    return folder


def _row(entry: Mapping[str, float]) -> dict[str, float]:
    """An epoch for people."""
    whole = {key: int(value) for key, value in entry.items() if key in ("epoch", "stage")}
    return {key: 100 * value if key.startswith("validation_") else value for key, value in entry.items()} | whole


def chosen(refs: Sequence[SampleRef]) -> list[SampleRef]:
    """A few samples, two anomalous ones for each normal one, spread over the categories in order.

    Args:
        refs: samples to choose from.

    Returns:
        At most `IMAGES` of them.
    """
    by_label = {label: [ref for ref in refs if ref.label == label] for label in (1, 0)}
    wanted = {1: IMAGES - IMAGES // 3, 0: IMAGES // 3}
    picked = []
    for label, candidates in by_label.items():
        count = min(wanted[label], len(candidates))
        picked += [candidates[index * len(candidates) // count] for index in range(count)]
    return picked
