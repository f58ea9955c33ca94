"""A training run -> a page: loss and validation by epoch, and heat maps of a few images, also as PNG files."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.heatmap import overlay
from pipelines.platform.html import ReportTable, plots_html, write_report
from pipelines.scoring.report_images import report_image
from pipelines.training.validation import VALIDATION_SAMPLES

IMAGES = 6

FIGURES = "validation_"


def write_training_report(
    folder: Path,
    title: str,
    bundle: Path,
    backbone: Backbone,
    history: Sequence[dict[str, float]],
    refs: Sequence[SampleRef],
) -> Path:
    """Write `report.html`, `curves.png` and `heat-N.png`.

    Args:
        folder: where to write; it is made.
        title: heading of the page.
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
    table = ReportTable(
        "Epochs: loss, validation figures in percent, loss terms and times", [_row(entry) for entry in history]
    )
    curves = plots_html({"Loss and validation by epoch": plot_history(folder / "curves.png", history)})
    write_report(folder / "report.html", title, [table], {"Sample images": images}, sections=curves)
    return folder


def plot_history(path: Path, history: Sequence[Mapping[str, float]]) -> Path:
    """Plot the loss of every epoch, and where there are validation images their figures.

    Args:
        path: PNG file to write.
        history: metrics of every epoch.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    figures = [key for key in history[-1] if key.startswith(FIGURES)]
    figure = Figure(figsize=(10 if figures else 5.5, 3.6), layout="constrained")
    axes = figure.subplots(1, 2 if figures else 1, squeeze=False)[0]
    epochs = [int(entry["epoch"]) + 1 for entry in history]
    axes[0].plot(epochs, [entry["total"] for entry in history], marker=".")
    axes[0].set_ylabel("loss")
    for key in figures:
        values = [100 * entry[key] if key in entry else math.nan for entry in history]
        axes[1].plot(epochs, values, marker=".", label=key.removeprefix(FIGURES).replace("_", " "))
    for each in axes:
        each.set_xlabel("epoch")
        each.xaxis.get_major_locator().set_params(integer=True)
    if figures:
        axes[1].set_ylabel("validation, %")
        axes[1].legend()
    figure.savefig(path, dpi=110)
    return path


def _row(entry: Mapping[str, float]) -> dict[str, float]:
    """An epoch for people."""
    first = {"epoch": int(entry["epoch"]) + 1, "stage": int(entry["stage"]), "total": entry["total"]}
    figures = {key: 100 * value for key, value in entry.items() if key.startswith(FIGURES)}
    others = {key: value for key, value in entry.items() if key not in first | figures}
    return first | {key.removeprefix(FIGURES): value for key, value in figures.items()} | others


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
