"""A sample -> what a report shows of it: image, mask, anomaly map, scores. Scores -> the order of such images."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from bayes_pfl.data.preprocess import MAX_PIXELS, decode_image, decode_mask
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.view import WHOLE, View
from pipelines.platform.html import ReportImage
from pipelines.scoring.actors import read_row
from pipelines.scoring.evaluation import ScoredSamples
from pipelines.scoring.figures import EvaluatedDataset
from pipelines.scoring.task import ScoringTask


def report_image(
    detector: Detector,
    ref: SampleRef,
    num_samples: int | Literal["auto"],
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    view: View = WHOLE,
) -> ReportImage:
    """Predict one sample; the same noise gives the same map as in an evaluation.

    Args:
        detector: the model.
        ref: the sample.
        num_samples: R, or `auto`.
        seed: of the noise.
        max_pixels: largest image that is decoded, width x height.
        view: how it is looked at.

    Returns:
        The sample with its prediction.

    Raises:
        ImageError: it cannot be decoded.
    """
    data, mask = read_row(ref.shard, ref.row)
    image = decode_image(data, max_pixels)
    if num_samples == "auto":
        (prediction,) = detector.predict([image], [ref.class_name], "auto", seed)
    else:
        prediction = detector.predict_view(image, ref.class_name, view, num_samples, seed)
    return ReportImage(
        ref.sample_id,
        image,
        prediction.anomaly_map,
        None if mask is None else decode_mask(mask, max_pixels=max_pixels),
        ref.label,
        prediction.image_score,
        prediction.uncertainty,
    )


def positions_by_rank(refs: Sequence[SampleRef], scores: np.ndarray) -> list[int]:
    """Positions of scored images from worst to best, ranked within each label, so that both ends show both labels.

    Args:
        refs: samples of a dataset.
        scores: (samples,) image scores; NaN for an image without a score.

    Returns:
        Positions in `refs`, without the images that have no score.
    """
    labels = np.array([ref.label for ref in refs])
    signed = np.where(labels == 1, scores, -scores)
    ranks = np.full(len(refs), np.inf)
    for label in (0, 1):
        chosen = np.flatnonzero((labels == label) & np.isfinite(scores))
        if len(chosen):
            ranks[chosen] = np.argsort(np.argsort(signed[chosen])) / len(chosen)
    order = np.argsort(ranks, kind="stable")
    return [int(position) for position in order if np.isfinite(ranks[position])]


def extreme_images(
    count: int, task: ScoringTask, datasets: Sequence[EvaluatedDataset], scored: ScoredSamples
) -> dict[str, list[ReportImage]]:
    """The images of each dataset that the model ranks worst and best, predicted once more: equal noise, equal maps.

    Args:
        count: of either kind.
        task: the model, and how it predicts.
        datasets: with the images.
        scored: their scores.

    Returns:
        Images by title.
    """
    if count == 0:
        return {}
    question = (task.num_samples, task.seed, task.max_pixels, task.view)
    detector = task.on_this_machine().load()
    images: dict[str, list[ReportImage]] = {}
    for dataset in datasets:
        order = positions_by_rank(dataset.refs, scored.scores[dataset.positions])
        shown = min(count, len(order) // 2)
        for title, positions in (("worst", order[:shown]), ("best", order[::-1][:shown])):
            images[f"{dataset.name}: {title}"] = [
                report_image(detector, dataset.refs[position], *question) for position in positions
            ]
    return images
