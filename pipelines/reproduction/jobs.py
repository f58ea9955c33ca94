"""Work of a reproduction in one process on one core or one GPU: a run -> a bundle, a bundle -> figures, or times."""

import math
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import FeatureShards
from bayes_pfl.config import DetectorConfig, DetectorOptions, ScoringConfig, parse_config
from bayes_pfl.data.pixels import normalized
from bayes_pfl.data.preprocess import decode_image
from bayes_pfl.data.samples import SampleRef, global_batches, load_samples, stack
from bayes_pfl.inference.bundle import Bundle, load_bundle
from bayes_pfl.inference.detector import Detector, Prediction
from bayes_pfl.inference.images import PreparedImage, prepare_image
from bayes_pfl.metrics import Metrics, PixelHistogram, dataset_mean, image_metrics, metrics_by_category
from bayes_pfl.metrics.streaming import image_pixels
from bayes_pfl.training.trainer import Trainer
from pipelines.options.evaluate import Protocol
from pipelines.platform.settings import TrainSettings
from pipelines.reproduction.images import MeasuredImages
from pipelines.reproduction.recipes import nested
from pipelines.scoring.actors import read_row, truth_mask
from pipelines.scoring.protocol import map_part, released_scores
from pipelines.training.batches import feature_epochs
from pipelines.training.bundles import write_bundle

PARTS = ("text_score", "map_score")
"""Parts of the image score that are measured alone, too."""

PROBED = 8
"""Images behind an estimate of the time."""

DECODERS, GROUPS_AHEAD = 4, 2
"""Threads that decode images for a GPU, and groups of images in front of it."""

WARM_UP = 3
"""Images before a time is taken."""


class Machine(NamedTuple):
    """What a job computes on."""

    device: str
    options: DetectorOptions


class Scorable(NamedTuple):
    """A model as it is measured."""

    bundle: str | DetectorConfig
    """Folder of its bundle, or the configuration of a method that learns nothing."""
    text_ensemble: bool = False

    def load(self) -> Bundle:
        """The model in memory.

        Returns:
            Its bundle; one without a folder where nothing is learned.
        """
        if isinstance(self.bundle, DetectorConfig):
            return Bundle(Path(), self.bundle, {}, {})
        bundle = load_bundle(self.bundle)
        if not self.text_ensemble:
            return bundle
        values = nested(bundle.config.model_dump(), {"model.variant.text_ensemble": True})
        config = parse_config(DetectorConfig, values, "the reproduction")
        return Bundle(bundle.folder, config, bundle.weights, bundle.record)


class Conditions(NamedTuple):
    """What is asked of a model's predictions."""

    num_samples: tuple[int, ...]
    seed: int
    protocol: Protocol
    top_pixels: int


class Scored(NamedTuple):
    """Image scores of one number of samples in one category, image by image, and the metrics of its pixels."""

    scores: list[tuple[float, float, float]]
    """Of each image: the whole score, that of the text, and the map's part."""
    pixel: Metrics


def train_job(
    run: TrainSettings, images: MeasuredImages, features: str, folders: Mapping[int, str], machine: Machine
) -> dict[str, Any]:
    """Train a head from frozen features in one process, and write its bundle.

    Args:
        run: the training.
        images: it is trained on.
        features: of these images.
        folders: of the bundles, by epoch from 1.
        machine: where it computes.

    Returns:
        `seconds` of all epochs, and `units`: images times epochs.
    """
    _alone(machine)
    backbone = Backbone(run.backbone)
    refs = list(images.refs)
    steps = len(global_batches(len(refs), run.training.batch_size, run.training.seed, 0))
    trainer = Trainer(run, backbone, torch.device(machine.device), steps, workers=1)
    shards = FeatureShards(features, backbone, trainer.method.feature_kind)
    began = time.monotonic()
    for epoch, terms in enumerate(feature_epochs(trainer, shards, refs), start=1):
        if epoch in folders:
            head = {name: value.detach().cpu() for name, value in trainer.model.state_dict().items()}
            record = {"settings": run.portable(), "epoch": epoch, "last_epoch": terms}
            write_bundle(Path(folders[epoch]), run, backbone, head, record, refs)
    return {"seconds": time.monotonic() - began, "units": len(refs) * run.training.epochs}


def measuring_job(model: Scorable, images: MeasuredImages, conditions: Conditions, machine: Machine) -> dict[str, Any]:
    """Figures of a model on a dataset, for several numbers of samples.

    Args:
        model: which one.
        images: of the dataset.
        conditions: numbers of samples, noise and protocol.
        machine: where it computes.

    Returns:
        `rows`: by number of samples `mean` and `categories`, figures in [0, 1] by name; `seconds`, and `units`: images.
    """
    _alone(machine)
    began = time.monotonic()
    bundle = model.load()
    raw, smoothing = (bundle, None) if conditions.protocol == "image" else _unsmoothed(bundle)
    detector = Detector(raw, Backbone(bundle.config.backbone), torch.device(machine.device), **dict(machine.options))
    by_category: dict[str, dict[int, Scored]] = {}
    labels: dict[str, list[int]] = {}
    for category in dict.fromkeys(ref.category for ref in images.refs):
        chosen = [ref for ref in images.refs if ref.category == category]
        by_category[category] = _scored(detector, chosen, conditions, smoothing, "pixel" in images.levels)
        labels[category] = [ref.label for ref in chosen]
    method = bundle.config.model.method
    rows = {
        str(number): _figures(
            method, {name: each[number] for name, each in by_category.items()}, labels, images, conditions
        )
        for number in conditions.num_samples
    }
    return {"rows": rows, "seconds": time.monotonic() - began, "units": len(images.refs)}


def timing_job(
    model: Scorable, images: MeasuredImages, numbers: Sequence[int], count: int, machine: Machine
) -> dict[str, Any]:
    """Time from encoded image to prediction, one image at a time.

    Args:
        model: which one.
        images: of which some are timed.
        numbers: numbers of samples.
        count: how many images.
        machine: where it computes.

    Returns:
        `rows`: by number of samples mean `ms` and its standard deviation over images.
    """
    _alone(machine)
    bundle, began = model.load(), time.monotonic()
    detector = Detector(bundle, Backbone(bundle.config.backbone), torch.device(machine.device), **dict(machine.options))
    refs = images.refs[:: max(1, len(images.refs) // count)][:count]
    rows = {}
    for number in numbers:
        spent = []
        for ref in [*refs[:WARM_UP], *refs]:
            data, _ = read_row(ref.shard, ref.row)
            start = time.perf_counter()
            detector.predict([data], [ref.class_name], number)
            spent.append(1000 * (time.perf_counter() - start))
        timed = spent[min(WARM_UP, len(refs)) :]
        spread = statistics.stdev(timed) if len(timed) > 1 else 0.0
        rows[str(number)] = {"ms": statistics.fmean(timed), "std": spread}
    return {"rows": rows, "seconds": time.monotonic() - began, "units": len(refs)}


def probe_job(run: TrainSettings, images: MeasuredImages, machine: Machine) -> dict[str, float]:
    """How fast Bayes-PFL is here: one step of an untrained head, and predictions with it.

    Args:
        run: its training.
        images: of which a few are used.
        machine: where it computes.

    Returns:
        Seconds an image of `training` from features and of `measuring` at R = 10.
    """
    _alone(machine)
    backbone, device = Backbone(run.backbone), torch.device(machine.device)
    refs = [ref for ref in images.refs if not ref.label or ref.mask_sha256][:PROBED]
    trainer = Trainer(run, backbone, device, 1, workers=1)
    pixels, masks = stack(load_samples(refs, run.backbone.image_size))
    batch = trainer.batch(normalized(pixels), masks, refs)
    bundle = Bundle(Path(), run.detector(), dict(trainer.model.state_dict()), {})
    detector = Detector(bundle, backbone, device, **dict(machine.options))
    data, names = [read_row(ref.shard, ref.row)[0] for ref in refs], [ref.class_name for ref in refs]
    seconds = {}
    for name, work in (
        ("training", lambda: trainer.step(batch)),
        ("measuring", lambda: detector.predict(data, names, 10)),
    ):
        work()  # warms up
        began = time.perf_counter()
        work()
        seconds[name] = (time.perf_counter() - began) / len(refs)
    return seconds


def _alone(machine: Machine) -> None:
    """One torch thread for a job on a core: results then do not depend on the number of cores."""
    if machine.device == "cpu":
        torch.set_num_threads(1)


def _unsmoothed(bundle: Bundle) -> tuple[Bundle, ScoringConfig]:
    """The model without smoothing, which the released protocol does behind it, and how that is."""
    scoring = bundle.config.scoring
    config = bundle.config.model_copy(update={"scoring": scoring.model_copy(update={"smoothing_sigma_px": 0.0})})
    return Bundle(bundle.folder, config, bundle.weights, bundle.record), scoring


def _scored(
    detector: Detector, refs: Sequence[SampleRef], conditions: Conditions, smoothing: ScoringConfig | None, pixels: bool
) -> dict[int, Scored]:
    """Scores and pixels of one category, by number of samples; memory holds the maps scored together alone."""
    scores = {number: list[tuple[float, float, float]]() for number in conditions.num_samples}
    histograms = {number: PixelHistogram() for number in conditions.num_samples}
    method = detector.config.model.method
    for ref, mask, predicted in _predictions(detector, refs, conditions):
        for number, prediction in predicted.items():
            part = prediction.map_score
            if smoothing is not None:
                prediction, part = map_part(method, prediction, smoothing, conditions.top_pixels)
            scores[number].append((prediction.image_score, prediction.text_score, part))
            truth = truth_mask(mask, ref.label, prediction) if pixels else None
            if truth is not None:
                histograms[number].count(image_pixels(prediction.anomaly_map, truth))
    return {
        number: Scored(scores[number], histograms[number].metrics() if pixels else Metrics({}))
        for number in conditions.num_samples
    }


def _predictions(
    detector: Detector, refs: Sequence[SampleRef], conditions: Conditions
) -> Iterator[tuple[SampleRef, bytes | None, dict[int, Prediction]]]:
    """Images one after the other, as many at a time as are scored together; the next ones are decoded ahead."""
    numbers, together = conditions.num_samples, detector.images_at_once
    groups = [refs[start : start + together] for start in range(0, len(refs), together)]
    for group, ready in zip(groups, _decoded(groups, detector), strict=True):
        images, names = [image for image, _ in ready], [ref.class_name for ref in group]
        if len(numbers) == 1:
            predictions = detector.predict(images, names, numbers[0], conditions.seed)
            by_number = [{numbers[0]: each} for each in predictions]
        else:
            by_number = detector.predict_nested(images, names, numbers, conditions.seed)
        yield from zip(group, (mask for _, mask in ready), by_number, strict=True)


def _decoded(
    groups: Sequence[Sequence[SampleRef]], detector: Detector
) -> Iterator[list[tuple[PreparedImage, bytes | None]]]:
    """Images as the model takes them, with their masks: on a GPU by threads, two groups ahead of the model."""
    opened, size = dict[str, Any](), detector.config.backbone.image_size

    def prepare(ref: SampleRef) -> tuple[PreparedImage, bytes | None]:
        data, mask = read_row(ref.shard, ref.row, opened)
        return prepare_image(decode_image(data), size), mask

    if detector.device.type == "cpu":
        yield from ([prepare(ref) for ref in group] for group in groups)
        return
    with ThreadPoolExecutor(DECODERS) as pool:
        ahead = deque[list[Future[tuple[PreparedImage, bytes | None]]]]()
        for group in groups:
            ahead.append([pool.submit(prepare, ref) for ref in group])
            if len(ahead) > GROUPS_AHEAD:
                yield [future.result() for future in ahead.popleft()]
        while ahead:
            yield [future.result() for future in ahead.popleft()]


def _figures(
    method: str, scored: dict[str, Scored], labels: dict[str, list[int]], images: MeasuredImages, conditions: Conditions
) -> dict[str, Any]:
    """Mean over categories, and each category's figures."""
    whole, categories, flat = [], [], []
    for category, each in scored.items():
        scores, text, maps = np.array(each.scores, np.float64).T
        if conditions.protocol == "released":
            scores = released_scores(method, scores, text, maps, [category] * len(scores))
        whole.append(scores)
        categories += [category] * len(scores)
        flat += labels[category]
    image = np.concatenate(whole) if "image" in images.levels else None
    pixel = {name: each.pixel for name, each in scored.items()} if "pixel" in images.levels else {}
    metrics = metrics_by_category(categories, flat, image, pixel)
    if image is not None:
        metrics = {name: values | _parts(scored[name], labels[name]) for name, values in metrics.items()}
    return {
        "mean": _plain(dataset_mean(metrics)),
        "categories": {name: _plain(values) for name, values in metrics.items()},
    }


def _plain(metrics: Metrics) -> dict[str, float | None]:
    """Figures as JSON holds them; None of those that are undefined."""
    return {name: None if math.isnan(value) else value for name, value in metrics.values.items()}


def _parts(scored: Scored, labels: Sequence[int]) -> Metrics:
    """AUROC and AP of the two parts of the image score, each alone."""
    values, reasons = dict[str, float](), dict[str, str]()
    for part, scores in zip(PARTS, np.array(scored.scores, np.float64).T[1:], strict=True):
        alone = image_metrics(scores, np.array(labels))
        for name in ("auroc", "ap"):
            values[f"{part}_{name}"] = alone.values[f"image_{name}"]
        reasons |= {f"{part}_{name}": alone.undefined[f"image_{name}"] for name in ("auroc", "ap") if alone.undefined}
    return Metrics(values, reasons)
