"""The compared methods on the embedded CLIP: settings of each, and the job that trains and measures one."""

import time
from pathlib import Path
from typing import Any

import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import parse_config
from bayes_pfl.data.pixels import normalized
from bayes_pfl.data.samples import index_shards, load_samples, stack
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.baselines import BaselinePrediction
from bayes_pfl.methods.method import TrainingBatch
from bayes_pfl.training.trainer import Trainer
from pipelines.platform.settings import TrainSettings
from pipelines.scoring.actors import read_row, truth_mask
from pipelines.study.jobs import Images, MethodResult, measure
from pipelines.training.batches import epoch_plan

UNTRAINED: dict[str, dict[str, Any]] = {
    "prompt ensemble": {"method": "prompt_ensemble"},
    "WinCLIP": {"method": "winclip"},
    "CLIP-AD (SDP)": {"method": "clip_ad"},
}
"""Settings of methods that learn nothing."""

TRAINED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "APRIL-GAN": ({"method": "april_gan"}, {"learning_rate": 1e-3}),
    "CLIP-AD (SDP+)": ({"method": "clip_ad", "linear_layers": True}, {"learning_rate": 1e-3, "adam_beta1": 0.9}),
    "AnomalyCLIP": ({"method": "anomaly_clip", "deep_blocks": 2}, {"learning_rate": 1e-3}),
    "AdaCLIP": ({"method": "ada_clip", "prompted_blocks": 2, "clusters": 10}, {"learning_rate": 1e-2}),
}
"""Settings of the method, scaled to the embedded CLIP's three text blocks, and of its training: the released rate, and
for linear layers APRIL-GAN's; number of epochs and images a step are the recipe's."""


def method_run(recipe: TrainSettings, model: dict[str, Any], training: dict[str, Any], seed: int) -> TrainSettings:
    """The run of a method under the conditions of the recipe: CLIP, smoothing, epochs and images a step.

    Args:
        recipe: of the shipped head.
        model: settings of the method.
        training: of its training.
        seed: of the training.

    Returns:
        The run; the method's own weights of the image score.
    """
    same = {"epochs": recipe.training.epochs, "batch_size": recipe.training.batch_size}
    values = {
        "model": model,
        "backbone": {"name": "embedded"},
        "scoring": {"smoothing_sigma_px": recipe.scoring.smoothing_sigma_px},
        "training": {"adam_beta1": 0.5, **same, **training, "seed": seed},
    }
    return parse_config(TrainSettings, values, "the embedded study")


def method_job(run: TrainSettings, auxiliary: Images, reported: Images, trains: bool) -> dict[str, Any]:
    """Train a method, unless it learns nothing, and measure it.

    Args:
        run: its settings.
        auxiliary: images it is trained on.
        reported: images it is measured on.
        trains: whether it learns anything.

    Returns:
        `training_seconds` and `rows`: one entry.
    """
    torch.set_num_threads(1)
    backbone, began, weights = Backbone(run.backbone), time.monotonic(), {}
    if trains:
        weights = _trained(run, backbone, auxiliary)
    seconds = time.monotonic() - began
    detector = Detector(Bundle(Path(), run.detector(), weights, {}), backbone, torch.device("cpu"))
    results = []
    for ref in index_shards(reported.shards):
        data, mask = read_row(ref.shard, ref.row)
        (full,) = detector.predict([data], [ref.class_name], num_samples=1)
        truth = truth_mask(mask, ref.label, full)
        assert truth is not None
        prediction = BaselinePrediction(full.image_score, full.anomaly_map)
        results.append(MethodResult(ref, truth, prediction))
    return {"training_seconds": seconds, "rows": [measure(results)]}


def _trained(run: TrainSettings, backbone: Backbone, auxiliary: Images) -> dict[str, torch.Tensor]:
    """State dict of the head after all epochs; every image is encoded once."""
    refs = index_shards(auxiliary.shards)
    trainer = Trainer(run, backbone, torch.device("cpu"), len(epoch_plan(len(refs), run.training, 0)), workers=1)
    encoded: list[TrainingBatch] = []
    for ref in refs:
        pixels, masks = stack(load_samples([ref], run.backbone.image_size))
        encoded.append(trainer.batch(normalized(pixels), masks, [ref]))
    for epoch in range(run.training.epochs):
        for positions, _ in epoch_plan(len(refs), run.training, epoch):
            trainer.step(_together([encoded[position] for position in positions]))
    return {name: value.detach() for name, value in trainer.model.state_dict().items()}


def _together(parts: list[TrainingBatch]) -> TrainingBatch:
    """One batch of single images."""
    first = parts[0]
    features = first.features._replace(
        image=torch.cat([part.features.image for part in parts]),
        patches=torch.cat([part.features.patches for part in parts], dim=1),
    )
    return first._replace(
        features=features,
        label=torch.cat([part.label for part in parts]),
        mask=torch.cat([part.mask for part in parts]),
        class_names=tuple(name for part in parts for name in part.class_names),
        noise_keys=tuple(key for part in parts for key in part.noise_keys),
        sample_ids=tuple(name for part in parts for name in part.sample_ids),
    )
