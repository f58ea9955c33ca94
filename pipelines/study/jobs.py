"""Jobs of the embedded study: recipe and features -> metrics or times of a method, in one process on one core."""

import itertools
import statistics
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import EncodedSample, FeatureShards, collate
from bayes_pfl.data.pixels import image_tensor
from bayes_pfl.data.preprocess import decode_image
from bayes_pfl.data.samples import SampleRef, global_batches, index_shards
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.baselines import (
    BaselinePrediction,
    HandWrittenPrompts,
    LinearProbe,
    mean_darkness,
    median_deviation,
)
from bayes_pfl.metrics import (
    Metrics,
    dataset_mean,
    image_auroc_interval,
    metrics_by_category,
    pixel_auroc_interval,
    pixel_metrics,
)
from bayes_pfl.training.trainer import Trainer
from pipelines.platform.settings import TrainSettings
from pipelines.scoring.actors import read_row, truth_mask
from pipelines.training.batches import feature_epochs
from pipelines.training.validation import current_detector

TIMED_IMAGES = 50
TIMED_SAMPLES = 10


class Images(NamedTuple):
    """A generated dataset: its shards and the frozen features of them."""

    shards: str
    features: str


class MethodResult(NamedTuple):
    """A method's prediction of one image, and its ground truth."""

    ref: SampleRef
    mask: np.ndarray
    prediction: BaselinePrediction


def head_job(
    recipe: TrainSettings,
    auxiliary: Images,
    reported: Images,
    draw_seeds: tuple[int, ...],
    num_samples: tuple[int, ...],
) -> dict[str, Any]:
    """Train a head from features with the recipe's seed, and measure it.

    Args:
        recipe: the training run.
        auxiliary: images it is trained on.
        reported: images it is measured on.
        draw_seeds: seeds of the noise at inference.
        num_samples: numbers of samples R.

    Returns:
        `training_seconds`, and `rows`: one for each seed and R.
    """
    torch.set_num_threads(1)
    trainer, seconds = train_head(recipe, auxiliary)
    detector, shards = current_detector(trainer, recipe), FeatureShards(reported.features, trainer.backbone)
    samples = [shards.load(ref) for ref in index_shards(reported.shards)]
    rows = [
        {"draw_seed": seed, "num_samples": number, **measured}
        for seed in draw_seeds
        for number, measured in _measure_nested(detector, samples, num_samples, seed).items()
    ]
    return {"training_seconds": seconds, "rows": rows}


def train_head(recipe: TrainSettings, auxiliary: Images) -> tuple[Trainer, float]:
    """One worker's training from frozen features.

    Args:
        recipe: the training run.
        auxiliary: images it is trained on.

    Returns:
        The trainer, and the seconds of all steps.
    """
    backbone = Backbone(recipe.backbone)
    shards, refs = FeatureShards(auxiliary.features, backbone), index_shards(auxiliary.shards)
    steps = len(global_batches(len(refs), recipe.training.batch_size, recipe.training.seed, 0))
    trainer = Trainer(recipe, backbone, torch.device("cpu"), steps, workers=1)
    began = time.monotonic()
    for _ in feature_epochs(trainer, shards, refs):
        pass
    return trainer, time.monotonic() - began


def prompts_job(recipe: TrainSettings, reported: Images) -> dict[str, Any]:
    """Hand-written prompts on the frozen CLIP; nothing is trained.

    Args:
        recipe: names the backbone.
        reported: images that are measured.

    Returns:
        `rows`: one entry.
    """
    torch.set_num_threads(1)
    backbone = Backbone(recipe.backbone)
    prompts = HandWrittenPrompts(backbone, recipe.scoring.smoothing_sigma_px)
    shards = FeatureShards(reported.features, backbone)
    samples = [shards.load(ref) for ref in index_shards(reported.shards)]
    results = [
        MethodResult(sample.ref, _mask(sample), prompts.predict(collate([sample])[0], sample.ref.class_name))
        for sample in samples
    ]
    return {"rows": [measure(results)]}


def probe_job(recipe: TrainSettings, auxiliary: Images, reported: Images) -> dict[str, Any]:
    """A linear probe fitted on the auxiliary images.

    Args:
        recipe: names the backbone.
        auxiliary: images it is fitted on.
        reported: images that are measured.

    Returns:
        `training_seconds` and `rows`: one entry.
    """
    torch.set_num_threads(1)
    backbone = Backbone(recipe.backbone)
    fitted, measured = (FeatureShards(images.features, backbone) for images in (auxiliary, reported))
    began = time.monotonic()
    training = (collate([fitted.load(ref)]) for ref in index_shards(auxiliary.shards))
    probe = LinearProbe.fit(training, recipe.scoring.smoothing_sigma_px)
    seconds = time.monotonic() - began
    samples = [measured.load(ref) for ref in index_shards(reported.shards)]
    results = [MethodResult(sample.ref, _mask(sample), probe.predict(collate([sample])[0])) for sample in samples]
    return {"training_seconds": seconds, "rows": [measure(results)]}


def rule_job(recipe: TrainSettings, reported: Images) -> dict[str, Any]:
    """The deviation from the image's median colour; no model.

    Args:
        recipe: names size and smoothing.
        reported: images that are measured.

    Returns:
        `rows`: one entry.
    """
    size, sigma = recipe.backbone.image_size, recipe.scoring.smoothing_sigma_px
    shards = FeatureShards(reported.features, Backbone(recipe.backbone))
    results = []
    for ref in index_shards(reported.shards):
        image = decode_image(read_row(ref.shard, ref.row)[0])
        results.append(MethodResult(ref, _mask(shards.load(ref)), median_deviation(image_tensor(image, size), sigma)))
    return {"rows": [measure(results)]}


def dataset_job(model: str, folder: str, split: str | None, num_samples: int) -> dict[str, Any]:
    """A bundle on any dataset's shards beside two rules without a model, all categories as one set.

    Args:
        model: the bundle.
        folder: shards of the dataset.
        split: its split; None: all.
        num_samples: R.

    Returns:
        Numbers of images, and AUROC with a 95 % interval by method.
    """
    torch.set_num_threads(1)
    detector = Detector.load(model)
    size, sigma = detector.config.backbone.image_size, detector.config.scoring.smoothing_sigma_px
    refs = index_shards(folder, split)
    scores: dict[str, list[float]] = {"Bayes-PFL": [], "median deviation": [], "darkness": []}
    maps: dict[str, list[np.ndarray]] = {"Bayes-PFL": [], "median deviation": []}
    masks = []
    for ref in refs:
        data, mask = read_row(ref.shard, ref.row)
        tensor = image_tensor(decode_image(data), size)
        prediction = detector.predict([data], [ref.class_name], num_samples)[0]
        rule = median_deviation(tensor, sigma)
        scores["Bayes-PFL"].append(prediction.image_score)
        scores["median deviation"].append(rule.image_score)
        scores["darkness"].append(mean_darkness(tensor))
        truth = truth_mask(mask, ref.label, prediction)
        if truth is not None:
            masks.append(truth)
            maps["Bayes-PFL"].append(prediction.anomaly_map)
            maps["median deviation"].append(rule.anomaly_map)
    labels = np.array([ref.label for ref in refs])
    methods: dict[str, Any] = {}
    for name, values in scores.items():
        methods[name] = {"image_auroc": image_auroc_interval(values, labels)._asdict()}
        if name in maps and any((mask == 1).any() for mask in masks):
            methods[name]["pixel_auroc"] = pixel_auroc_interval(maps[name], masks)._asdict()
    return {"images": len(refs), "anomalous": int(labels.sum()), "methods": methods}


def timing_job(model: str, folder: str) -> dict[str, float]:
    """Median times of 50 images on one core.

    Args:
        model: the bundle.
        folder: shards with the images.

    Returns:
        Milliseconds: from bytes to features, from features to a prediction at R = 10, and both.
    """
    torch.set_num_threads(1)
    detector = Detector.load(model)
    refs = index_shards(folder)
    refs = refs[:: max(1, len(refs) // TIMED_IMAGES)][:TIMED_IMAGES]
    names = ("encode_ms", "head_ms", "image_ms")
    spent: dict[str, list[float]] = {name: [] for name in names}
    for ref in refs[:3] + refs:  # the first ones warm up
        data, _ = read_row(ref.shard, ref.row)
        times = [time.perf_counter()]
        tensor = image_tensor(decode_image(data), detector.config.backbone.image_size)
        features = detector.backbone.encode_image(tensor[None])
        times.append(time.perf_counter())
        detector.predict_features(features, ref.sha256.encode(), ref.class_name, [TIMED_SAMPLES])
        times.append(time.perf_counter())
        detector.predict([data], [ref.class_name], TIMED_SAMPLES)
        times.append(time.perf_counter())
        for name, (start, stop) in zip(names, itertools.pairwise(times), strict=True):
            spent[name].append(1000 * (stop - start))
    return {name: statistics.median(values[3:]) for name, values in spent.items()}


def measure(results: Iterable[MethodResult]) -> dict[str, Any]:
    """Metrics per category and their mean of one method's results.

    Where a method has a text score, the figures of the text score alone and of the map's maximum alone are added.

    Args:
        results: one for each image.

    Returns:
        `mean` and `categories`: figures in [0, 1] by name.
    """
    images = list(results)
    categories, labels = [image.ref.category for image in images], [image.ref.label for image in images]
    by_category: dict[str, list[MethodResult]] = {}
    for image in images:
        by_category.setdefault(image.ref.category, []).append(image)
    pixel = {
        category: pixel_metrics([image.prediction.anomaly_map for image in group], [image.mask for image in group])
        for category, group in by_category.items()
    }
    measured = metrics_by_category(categories, labels, [image.prediction.image_score for image in images], pixel)
    for part in ("text_score", "map_score"):
        alone = [getattr(image.prediction, part) for image in images]
        if None not in alone:
            for category, metrics in metrics_by_category(categories, labels, alone, {}).items():
                figures = {f"{part}_auroc": metrics["image_auroc"], f"{part}_ap": metrics["image_ap"]}
                measured[category] |= Metrics(figures)
    return {
        "mean": dict(dataset_mean(measured).values),
        "categories": {name: dict(metrics.values) for name, metrics in measured.items()},
    }


def _measure_nested(
    detector: Detector, samples: list[EncodedSample], num_samples: tuple[int, ...], seed: int
) -> dict[int, dict[str, Any]]:
    """Metrics for every R from one pass with the largest."""
    results: dict[int, list[MethodResult]] = {number: [] for number in num_samples}
    for sample in samples:
        features, mask = collate([sample])
        nested = detector.predict_features(features, sample.draw_key, sample.ref.class_name, list(num_samples), seed)
        for number, full in nested.items():
            prediction = BaselinePrediction(full.image_score, full.anomaly_map, full.text_score, full.map_score)
            results[number].append(MethodResult(sample.ref, mask[0].numpy(), prediction))
    return {number: measure(predictions) for number, predictions in results.items()}


def _mask(sample: EncodedSample) -> np.ndarray:
    return sample.mask.numpy()
