"""A head in training -> metrics on the validation images: shared out over the workers, merged without loss."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from bayes_pfl.clip.features import FeatureShards, collate
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.data.shards import require_row
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.detector import Detector, Prediction
from bayes_pfl.metrics import PixelHistogram, dataset_mean, metrics_by_category
from bayes_pfl.training.trainer import Trainer
from pipelines.platform.settings import TrainSettings
from pipelines.scoring.actors import read_row, truth_mask

VALIDATION_SAMPLES = 5
"""R of the validation: one group of samples, enough to rank epochs."""


def validate(
    trainer: Trainer,
    settings: TrainSettings,
    refs: list[SampleRef],
    shards: FeatureShards | None,
    rank: int,
    workers: int,
) -> dict[str, float]:
    """Metrics on the validation images, averaged over categories. All ranks call it together.

    Args:
        trainer: holds the head as it is now.
        settings: the run.
        refs: the validation images of all ranks.
        shards: frozen features, so that nothing is encoded; None decodes and encodes the images.
        rank: number of this worker, from 0.
        workers: workers that share the images.

    Returns:
        Defined metrics named `validation_*`, in [0, 1]; empty without validation images.
    """
    if not refs:
        return {}
    detector = current_detector(trainer, settings)
    scores = torch.zeros(len(refs), dtype=torch.float64)
    step = 1 if shards is not None else detector.images_at_once
    pixel = {}
    for category, members in by_category(refs).items():  # one histogram in memory at a time
        histogram = PixelHistogram()
        mine = [position for position in members if position % workers == rank]
        for positions in (mine[start : start + step] for start in range(0, len(mine), step)):
            predicted = _predicted(detector, [refs[position] for position in positions], shards)
            for position, (prediction, mask) in zip(positions, predicted, strict=True):
                scores[position] = prediction.image_score
                if mask is not None:
                    histogram.update([prediction.anomaly_map], [mask])
        pixel[category] = _merged(histogram, workers).metrics()
    if workers > 1:
        dist.all_reduce(scores)
    results = metrics_by_category([ref.category for ref in refs], [ref.label for ref in refs], scores.numpy(), pixel)
    mean = dataset_mean(results).values
    return {f"validation_{name}": value for name, value in mean.items() if np.isfinite(value)}


def by_category(refs: Sequence[SampleRef]) -> dict[str, list[int]]:
    """Positions of samples by category.

    Args:
        refs: the samples.

    Returns:
        Positions in order, categories in alphabetical order.
    """
    positions: dict[str, list[int]] = {category: [] for category in sorted({ref.category for ref in refs})}
    for position, ref in enumerate(refs):
        positions[ref.category].append(position)
    return positions


def current_detector(trainer: Trainer, settings: TrainSettings) -> Detector:
    """A detector with the head as it is now, on the trainer's backbone.

    Args:
        trainer: holds the head.
        settings: the run.

    Returns:
        The detector; it shares the backbone with the trainer.
    """
    weights = {name: value.detach() for name, value in trainer.model.state_dict().items()}
    return Detector(Bundle(Path(), settings.detector(), weights, {}), trainer.backbone, trainer.device)


def predict_ref(
    detector: Detector, ref: SampleRef, num_samples: list[int], shards: FeatureShards | None
) -> tuple[dict[int, Prediction], np.ndarray | None]:
    """Predictions of one sample, and its mask at their size.

    Args:
        detector: the model.
        ref: the sample.
        num_samples: numbers of samples R.
        shards: frozen features; None decodes and encodes the image. The mask is that of the row in any case: what
            vanishes at the size of the features is known from it alone.

    Returns:
        Predictions by R, and the mask (see `truth_mask`).
    """
    image, mask = _row_of(ref)
    if shards is None:
        nested = detector.predict_nested([image], [ref.class_name], num_samples)[0]
    else:
        sample = shards.load(ref)
        features, _ = collate([sample])
        nested = detector.predict_features(features, sample.draw_key, ref.class_name, num_samples)
    return nested, truth_mask(mask, ref.label, nested[num_samples[0]])


def _predicted(
    detector: Detector, refs: Sequence[SampleRef], shards: FeatureShards | None
) -> list[tuple[Prediction, np.ndarray | None]]:
    """Predictions of samples that are scored together, and their masks."""
    if shards is not None:
        nested = [predict_ref(detector, ref, [VALIDATION_SAMPLES], shards) for ref in refs]
        return [(predictions[VALIDATION_SAMPLES], mask) for predictions, mask in nested]
    rows = [_row_of(ref) for ref in refs]
    names = [ref.class_name for ref in refs]
    predictions = detector.predict([image for image, _ in rows], names, VALIDATION_SAMPLES)
    return [
        (prediction, truth_mask(mask, ref.label, prediction))
        for ref, (_, mask), prediction in zip(refs, rows, predictions, strict=True)
    ]


def _row_of(ref: SampleRef) -> tuple[bytes, bytes | None]:
    """Image and mask of a sample."""
    opened: dict[str, pa.Table] = {}
    row = read_row(ref.shard, ref.row, opened)
    require_row(opened[ref.shard], ref.shard, ref.row, ref.sha256)
    return row


def _merged(histogram: PixelHistogram, workers: int) -> PixelHistogram:
    """The sum of all workers' histograms."""
    if workers == 1:
        return histogram
    merged = PixelHistogram()
    for name, counts in vars(histogram).items():
        total = torch.from_numpy(counts.copy())
        dist.all_reduce(total)
        setattr(merged, name, total.numpy())
    return merged
