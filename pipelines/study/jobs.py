"""The embedded study's units of work, each in one process on one core: a method trained and measured, a dataset, a stop-watch."""

import itertools
import statistics
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import EncodedSample, FeatureShards, collate
from bayes_pfl.data.preprocess import decode_image, image_tensor
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
    image_metrics,
    pixel_auroc_interval,
    pixel_metrics,
)
from bayes_pfl.training.trainer import Trainer
from pipelines.platform.settings import TrainSettings
from pipelines.scoring.actors import read_row, truth_mask
from pipelines.training.batches import Plan, feature_batches
from pipelines.training.validation import current_detector

TIMED_IMAGES = 50
TIMED_SAMPLES = 10


class Images(NamedTuple):
    """A generated dataset: its shards and the frozen features of them."""

    shards: str
    features: str


class Scored(NamedTuple):
    """What a method says of one image, and what is true of it."""

    ref: SampleRef
    mask: np.ndarray
    reading: BaselinePrediction


def head_job(
    recipe: TrainSettings,
    auxiliary: Images,
    reported: Images,
    draw_seeds: tuple[int, ...],
    num_samples: tuple[int, ...],
) -> dict[str, Any]:
    """Train a head from features with the recipe's seed; measure it for every seed of the draws and every R."""
    torch.set_num_threads(1)
    trainer, seconds = train_head(recipe, auxiliary)
    detector, shards = current_detector(trainer, recipe), FeatureShards(reported.features, trainer.backbone)
    samples = [shards.load(ref) for ref in index_shards(reported.shards)]
    rows = []
    for draw_seed in draw_seeds:
        found: dict[int, list[Scored]] = {number: [] for number in num_samples}
        rows += [
            {"draw_seed": draw_seed, "num_samples": number, **measured}
            for number, measured in _nested(detector, samples, num_samples, draw_seed, found).items()
        ]
    return {"training_seconds": seconds, "rows": rows}


def train_head(recipe: TrainSettings, auxiliary: Images) -> tuple[Trainer, float]:
    """One worker's training from frozen features; returns the trainer and the seconds of all steps."""
    backbone = Backbone(recipe.backbone)
    shards, refs = FeatureShards(auxiliary.features, backbone), index_shards(auxiliary.shards)
    options = recipe.training
    steps = len(global_batches(len(refs), options.batch_size, options.seed, 0))
    trainer = Trainer(recipe, backbone, torch.device("cpu"), steps, workers=1)
    began = time.monotonic()
    for epoch in range(options.epochs):
        plan: Plan = [(batch, None) for batch in global_batches(len(refs), options.batch_size, options.seed, epoch)]
        for batch in feature_batches(trainer, shards, refs, plan):
            trainer.step(batch)
    return trainer, time.monotonic() - began


def prompts_job(recipe: TrainSettings, reported: Images) -> dict[str, Any]:
    """Hand-written prompts on the frozen CLIP; nothing is trained."""
    torch.set_num_threads(1)
    backbone = Backbone(recipe.backbone)
    prompts = HandWrittenPrompts(backbone, recipe.scoring.smoothing_sigma_px)
    shards = FeatureShards(reported.features, backbone)
    samples = [shards.load(ref) for ref in index_shards(reported.shards)]
    return {
        "rows": [measure(Scored(s.ref, _mask(s), prompts.predict(collate([s])[0], s.ref.class_name)) for s in samples)]
    }


def probe_job(recipe: TrainSettings, auxiliary: Images, reported: Images) -> dict[str, Any]:
    """A linear probe fitted on the auxiliary images."""
    torch.set_num_threads(1)
    backbone = Backbone(recipe.backbone)
    known, asked = (FeatureShards(images.features, backbone) for images in (auxiliary, reported))
    began = time.monotonic()
    training = (collate([known.load(ref)]) for ref in index_shards(auxiliary.shards))
    probe = LinearProbe.fit(training, recipe.scoring.smoothing_sigma_px)
    seconds = time.monotonic() - began
    samples = [asked.load(ref) for ref in index_shards(reported.shards)]
    rows = [measure(Scored(s.ref, _mask(s), probe.predict(collate([s])[0])) for s in samples)]
    return {"training_seconds": seconds, "rows": rows}


def rule_job(recipe: TrainSettings, reported: Images) -> dict[str, Any]:
    """The deviation from the image's median colour; no model."""
    size, sigma = recipe.backbone.image_size, recipe.scoring.smoothing_sigma_px
    shards = FeatureShards(reported.features, Backbone(recipe.backbone))

    def scored(ref: SampleRef) -> Scored:
        picture = decode_image(read_row(ref.shard, ref.row)[0])
        return Scored(ref, _mask(shards.load(ref)), median_deviation(image_tensor(picture, size), sigma))

    return {"rows": [measure(scored(ref) for ref in index_shards(reported.shards))]}


def dataset_job(model: str, folder: str, split: str | None, num_samples: int) -> dict[str, Any]:
    """A bundle on any dataset's shards beside two rules without a model, all categories as one set, with 95 % intervals."""
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
        if name in maps and any(mask.any() for mask in masks):
            methods[name]["pixel_auroc"] = pixel_auroc_interval(maps[name], masks)._asdict()
    return {"images": len(refs), "anomalous": int(labels.sum()), "methods": methods}


def timing_job(model: str, folder: str) -> dict[str, float]:
    """Median milliseconds of 50 images on one core: from bytes to features, and from features to a prediction at R = 10."""
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


def measure(scored: Iterable[Scored]) -> dict[str, Any]:
    """Metrics per category and their mean; where a method has a text score, also its image AUROC alone and the map's alone."""
    by_category: dict[str, list[Scored]] = {}
    for one in scored:
        by_category.setdefault(one.ref.category, []).append(one)
    per_category = {}
    for category, images in by_category.items():
        labels = [one.ref.label for one in images]
        metrics = image_metrics([one.reading.image_score for one in images], labels)
        metrics |= pixel_metrics([one.reading.anomaly_map for one in images], [one.mask for one in images])
        for part in ("text_score", "map_score"):
            alone = [getattr(one.reading, part) for one in images]
            if None not in alone:
                values = image_metrics(alone, labels)
                metrics |= Metrics({f"{part}_auroc": values["image_auroc"], f"{part}_ap": values["image_ap"]})
        per_category[category] = metrics
    return {
        "mean": dict(dataset_mean(per_category).values),
        "categories": {name: dict(metrics.values) for name, metrics in per_category.items()},
    }


def _nested(
    detector: Detector,
    samples: list[EncodedSample],
    num_samples: tuple[int, ...],
    draw_seed: int,
    found: dict[int, list[Scored]],
) -> dict[int, dict[str, Any]]:
    """Metrics for every R from one pass with the largest."""
    for sample in samples:
        features, mask = collate([sample])
        nested = detector.predict_features(
            features, sample.draw_key, sample.ref.class_name, list(num_samples), draw_seed
        )
        for number, one in nested.items():
            reading = BaselinePrediction(one.image_score, one.anomaly_map, one.text_score, one.map_score)
            found[number].append(Scored(sample.ref, mask[0].numpy(), reading))
    return {number: measure(scored) for number, scored in found.items()}


def _mask(sample: EncodedSample) -> np.ndarray:
    return sample.mask.numpy()
