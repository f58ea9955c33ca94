"""Device paths of the programs without a device: a trial of a sweep, the features, a replica."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from benchmarked import benchmark
from plain import plain_shards
from small import BACKBONE, random_bundle

from bayes_pfl.clip import features as stored
from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import EncodedSample, FeatureKey, FeatureShards, write_features, write_key
from bayes_pfl.config import ModelConfig, TrainingConfig
from bayes_pfl.data.pixels import normalized
from bayes_pfl.data.samples import UNAUGMENTED, Sample, SampleRef, index_shards, load_samples
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.images import noise_key
from bayes_pfl.training.trainer import Trainer
from pipelines import features as features_program
from pipelines.features import Encoder
from pipelines.options.features import FeatureSettings
from pipelines.options.tune import TuneSettings
from pipelines.platform.settings import DataSettings, TrainSettings
from pipelines.sweep.trial import evaluate_trial
from pipelines.training.batches import feature_epochs
from pipelines.training.decoding import tile_columns
from pipelines.training.validation import validate
from serve.messages import Job, Question, ReplicaAnswer
from serve.models.drift import Watch
from serve.models.judging import Judge
from serve.models.replica import LoadedModel, ModelReplica, describe_bundle

CUDA, META = torch.device("cuda"), torch.device("meta")


@pytest.fixture(scope="module")
def launches() -> ModuleType:
    return benchmark("launches")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(BACKBONE)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_shards(tmp_path_factory.mktemp("fake"), ("carpet", "gear"), seed=7)


def encoded(backbone: Backbone, refs: list[SampleRef]) -> Iterator[EncodedSample]:
    for ref in refs:
        sample = load_samples([ref], BACKBONE.image_size)[0]
        image = normalized(sample.image)
        features = backbone.encode_image(image[None])
        key = noise_key(image)
        yield EncodedSample(ref, UNAUGMENTED, key, features.image[0], features.patches[:, 0], sample.mask)


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
def test_a_trial_of_a_sweep(launches: ModuleType, backbone: Backbone, shards: Path, tmp_path: Path) -> None:
    refs = index_shards(shards)
    key = FeatureKey.of(backbone, "bfloat16")
    write_key(tmp_path, key)
    write_features(tmp_path, "features-000-00000.arrow", key, encoded(backbone, refs))
    settings = TuneSettings(
        backbone=BACKBONE,
        model=ModelConfig(num_prompts=2, flow_length=2),
        training=TrainingConfig(epochs=2, batch_size=4),
        data=DataSettings(train=str(shards), features=str(tmp_path)),
    )
    opened = FeatureShards(str(tmp_path), backbone)
    with launches.fake_training():
        trainer = Trainer(settings, backbone, META, 2, 1)
        assert len(list(feature_epochs(trainer, opened, refs))) == 2
        rows = evaluate_trial(trainer, settings, refs, opened, (1, 5))
        moved = [batch.device.type for group in trainer.optimizer.param_groups for batch in group["params"]]
    assert [row["num_samples"] for row in rows] == [1, 5]
    assert set(moved) == {"meta"}


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
def test_validation_of_images(launches: ModuleType, backbone: Backbone, shards: Path) -> None:
    refs = index_shards(shards)
    settings = TrainSettings(backbone=BACKBONE, model=ModelConfig(num_prompts=2, flow_length=2))
    with (
        launches.fake_training(),
        mock.patch("bayes_pfl.inference.images.square_pixels", lambda _, size: torch.zeros(3, size, size).byte()),
        mock.patch.object(torch.Tensor, "numpy", lambda tensor: np.zeros(tuple(tensor.shape))),
    ):
        trainer = Trainer(settings, backbone, META, 2, 1)
        metrics = validate(trainer, settings, refs, None, 0, 1)
    assert 0 <= metrics["validation_pixel_ap"] <= 1


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_features_leave_the_device_before_they_are_written(
    launches: ModuleType, backbone: Backbone, shards: Path, precision: Any
) -> None:
    refs = index_shards(shards)
    settings = FeatureSettings(backbone=BACKBONE, shards=str(shards), options={"precision": precision}, use_gpu=True)
    row = {"name": "features", "view": UNAUGMENTED, **tile_columns([(ref,) for ref in refs])}
    rows: Any = {name: [np.array(value)] for name, value in row.items()}
    with (
        launches.fake_device(),
        mock.patch.object(features_program, "Backbone", return_value=backbone),
        mock.patch.object(features_program, "noise_key", return_value=b"key"),
        mock.patch.object(features_program, "load_samples", fake_samples),
        mock.patch.object(torch.Tensor, "numpy", lambda tensor: np.zeros(tuple(tensor.shape), np.uint8)),
    ):
        samples = list(Encoder(settings)._encoded(rows, [[ref] for ref in refs]))
        assert {sample.patches.device.type for sample in samples} == {"cpu"}
        assert {sample.image.device.type for sample in samples} == {"cpu"}
        assert stored.DTYPES[settings.dtype] == torch.float16
    assert [sample.ref.sample_id for sample in samples] == [ref.sample_id for ref in refs]


def fake_samples(refs: list[SampleRef], size: int, *_: Any) -> list[Sample]:
    """Samples without content: decoding needs values."""
    return [Sample(torch.zeros(3, size, size, dtype=torch.uint8), torch.zeros(size, size)) for _ in refs]


def test_a_replica_scores_alike_jobs_together(launches: ModuleType, tmp_path: Path) -> None:
    bundle = load_bundle(random_bundle(tmp_path / "bundle"))
    exact = Backbone(bundle.config.backbone)
    size = bundle.config.backbone.image_size
    jobs = [Job(np.zeros((size, size, 3), np.uint8), Question("nut", number, 0, False)) for number in (1, 1, 2, 1)]
    replica = ModelReplica("fake")
    with launches.fake_device():
        detector = Detector(bundle, exact, CUDA)
        model = LoadedModel(
            detector, describe_bundle(bundle, "embedded"), Watch(bundle, detector), Judge(bundle, "float32"), ""
        )
        replica.model = model
        calls: list[int] = []
        predict = detector.predict

        def counted(images: Any, *rest: Any) -> Any:
            calls.append(len(images))
            return predict(images, *rest)

        with mock.patch.object(detector, "predict", counted):
            outcomes = replica.score_all(jobs).outcomes
    assert calls == [3, 1]  # the one with R = 2 goes alone
    assert all(isinstance(outcome, ReplicaAnswer) for outcome in outcomes)
