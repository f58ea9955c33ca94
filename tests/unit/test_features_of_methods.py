"""`bayes-pfl features` stores what each method takes; training from disk is training from images."""

import numpy as np
import pytest
import torch
from plain import plain_shards
from vision import small_clip

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import FeatureShards, collate, write_key
from bayes_pfl.config import RunConfig, TrainingConfig
from bayes_pfl.data.pixels import normalized
from bayes_pfl.data.samples import index_shards, load_samples
from bayes_pfl.errors import DataError
from bayes_pfl.methods.builder import frozen_encoder
from bayes_pfl.training.trainer import Trainer
from pipelines.features import Encoder, _plan
from pipelines.options.features import FeatureSettings

MODELS = {
    "clip_ad": {"linear_layers": True},
    "anomaly_clip": {"context_tokens": 3, "deep_tokens": 2, "deep_blocks": 3, "first_value_block": 2},
    "ada_clip": {"prompted_blocks": 2, "prompt_tokens": 2, "clusters": 3, "patches_per_cluster": 2},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return plain_shards(tmp_path_factory.mktemp("features"), ("carpet",), seed=7)


@pytest.mark.parametrize("method", MODELS)
def test_training_from_disk_is_training_from_images(shards, tmp_path, method):
    model, clip = {"method": method, **MODELS[method]}, small_clip(tmp_path)
    settings = FeatureSettings.model_validate(
        {"model": model, "backbone": clip, "shards": str(shards), "output": str(tmp_path / "out"), "dtype": "float32"}
    )
    encoder, refs = Encoder(settings), index_shards(shards, "test")
    write_key(settings.output, encoder._key)
    for row in _plan(settings, refs):
        encoder({name: np.array([value], dtype=object) for name, value in row.items()})
    run = RunConfig.model_validate({"model": model, "backbone": clip, "training": TrainingConfig(batch_size=3)})
    backbone = Backbone(clip)
    stored = FeatureShards(settings.output, backbone, frozen_encoder(run.model, backbone).kind)
    with pytest.raises(DataError, match=r"another .*passes; make them anew"):
        FeatureShards(settings.output, backbone)
    trainers = [Trainer(run, backbone, torch.device("cpu"), 1, 1) for _ in range(2)]
    features, masks = collate([stored.load(ref) for ref in refs[:3]])
    samples = load_samples(refs[:3], clip.image_size, None)
    images = torch.stack([normalized(sample.image) for sample in samples])
    terms = [
        trainers[0].step(trainers[0].encoded_batch(features, masks, refs[:3])),
        trainers[1].step(trainers[1].batch(images, torch.stack([sample.mask for sample in samples]), refs[:3])),
    ]
    assert terms[0] == pytest.approx(terms[1], rel=1e-4)
