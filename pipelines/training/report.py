"""A training run as a page: loss and validation by epoch, and heat maps of a few images, also as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.data.preprocess import decode_image, decode_mask
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.heatmap import overlay
from pipelines.platform.html import Case, Table, write_report
from pipelines.scoring.actors import read_row
from pipelines.training.validation import VALIDATION_SAMPLES

IMAGES = 6


def write_training_report(
    folder: Path, bundle: Path, backbone: Backbone, history: Sequence[dict[str, float]], refs: Sequence[SampleRef]
) -> Path:
    """`report.html` and `heat-N.png` in `folder`, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)

    detector = Detector(load_bundle(bundle), backbone, torch.device("cpu"))
    cases = [_case(detector, ref) for ref in chosen(refs)]
    for index, case in enumerate(cases):
        overlay(case.image, case.anomaly_map).save(folder / f"heat-{index}.png")
    rows = [
        {key: int(value) if key in ("epoch", "stage") else value for key, value in entry.items()} for entry in history
    ]
    write_report(folder / "report.html", "Training", [Table("Epochs", rows)], {"Sample images": cases})
    return folder


def chosen(refs: Sequence[SampleRef]) -> list[SampleRef]:
    """A few images, two anomalous ones for each normal one, spread over the categories in order."""
    by_label = {label: [ref for ref in refs if ref.label == label] for label in (1, 0)}
    wanted = {1: IMAGES - IMAGES // 3, 0: IMAGES // 3}
    picked = []
    for label, some in by_label.items():
        count = min(wanted[label], len(some))
        picked += [some[index * len(some) // count] for index in range(count)]
    return picked


def _case(detector: Detector, ref: SampleRef) -> Case:
    image, mask = read_row(ref.shard, ref.row)
    prediction = detector.predict([image], [ref.class_name], VALIDATION_SAMPLES)[0]
    truth = None if mask is None else decode_mask(mask)
    return Case(
        ref.sample_id,
        decode_image(image),
        prediction.anomaly_map,
        truth,
        ref.label,
        prediction.image_score,
        prediction.uncertainty,
    )
