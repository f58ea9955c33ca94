"""Device paths without a device: torch's fake tensors have no data, and operators that mix devices raise."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from benchmarked import benchmark
from small import BACKBONE

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.config import (
    DetectorConfig,
    LossConfig,
    LossVariant,
    ModelConfig,
    PromptFlowVariant,
    RunConfig,
    ScoringConfig,
    TrainingConfig,
)
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.inference import detector as detectors
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.metrics import PixelHistogram
from bayes_pfl.training.trainer import Trainer
from pipelines.platform.settings import ClusterSettings
from pipelines.training.validation import _merged
from pipelines.training.workers import GPU_BACKEND, SHARED_GPU_BACKEND, backend

RELEASED = PromptFlowVariant(
    mapped_classification=True, attention_pooling=True, amortized_context_flow=True, attention_normalized_keys=True,
    separate_state_flows=True,
)  # fmt: skip
VARIANTS = {  # sentences are missing: their tokens are counted, which tensors without data do not allow
    "paper": PromptFlowVariant(),
    "released": RELEASED,
    "in order": PromptFlowVariant(draws_in_order=True),
    "text ensemble": PromptFlowVariant(text_ensemble=True),
    "ISD-ISD": PromptFlowVariant(states_from_image=True),
    "IAD-IAD": PromptFlowVariant(agnostic_context=True),
    "agnostic": PromptFlowVariant(prompts="agnostic", deep_blocks=3),
}
CUDA, META = torch.device("cuda"), torch.device("meta")
IMAGES = [np.zeros((80, 90, 3), np.uint8)] * 3
NAMES = ["plate", "metal nut", "cable with a clamp"]


@pytest.fixture(scope="module")
def launches() -> ModuleType:
    return benchmark("launches")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(BACKBONE)


def model_of(variant: PromptFlowVariant) -> ModelConfig:
    sizes = {"num_prompts": 2, "flow_length": 2} if variant.prompts == "flow" else {}
    return ModelConfig(variant=variant, **sizes)


def detector(backbone: Backbone, variant: PromptFlowVariant, **options: Any) -> Detector:
    """A detector of random weights on a device that is not there."""
    config = DetectorConfig(
        backbone=BACKBONE,
        model=model_of(variant),
        scoring=ScoringConfig(smoothing_sigma_px=1, threshold=0.5),
    )
    weights = BayesPFL(config.model, Widths.from_backbone(backbone)).state_dict()
    return Detector(Bundle(Path("bundle"), config, weights, {}), backbone, CUDA, **options)


@pytest.mark.parametrize("options", [{}, {"precision": "bfloat16"}, {"deterministic": True}])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_predictions(launches: ModuleType, backbone: Backbone, variant: PromptFlowVariant, options: Any) -> None:
    with launches.fake_device():
        model = detector(backbone, variant, **options)
        assert {parameter.device.type for parameter in model.backbone.parameters()} == {"cuda"}
        assert len(model.predict(IMAGES, NAMES, 7)) == 3
        nested = model.predict_nested(IMAGES[:1], NAMES[:1], [1, 6])
        assert nested[0][6].num_samples == 6


def test_frozen_features_may_lie_in_the_cpu_s_memory(launches: ModuleType, backbone: Backbone) -> None:
    with launches.fake_device():
        model = detector(backbone, PromptFlowVariant())
        shape = (4, 1, model.backbone.grid[0] * model.backbone.grid[1], model.backbone.patch_width)
        features = Features(torch.zeros(1, model.backbone.joint_width), torch.zeros(shape, dtype=torch.bfloat16))
        assert model.predict_features(features, b"key", "plate", [3])[3].anomaly_map.shape == (64, 64)
        with mock.patch.object(detectors, "is_clear", return_value=False):
            model.predict_features_until(features, b"key", "plate", 0.5)


def test_tiles(launches: ModuleType, backbone: Backbone) -> None:
    with launches.fake_device():
        model = detector(backbone, PromptFlowVariant())
        parts: list[Any] = []

        def tiled(_pixels: Any, size: int, _overlap: float, score: Callable[[Any], Any]) -> Any:
            parts.append(score(np.zeros((size, size, 3), np.uint8)))
            raise InterruptedError  # blending is arithmetic in the CPU's memory

        with mock.patch.object(detectors, "tiled_scores", tiled), pytest.raises(InterruptedError):
            model.predict_tiled(IMAGES[0], "plate", num_samples=3)
        assert {part.device.type for part in parts[0]} == {"cpu"}


def test_a_tensor_that_is_left_behind_is_found(launches: ModuleType, backbone: Backbone) -> None:
    with launches.fake_device():
        model = detector(backbone, PromptFlowVariant())
        encode = model._encoder
        model._encoder = lambda pixels: Features(*(part.cpu() for part in encode(pixels)))  # type: ignore[assignment]
        with pytest.raises(Exception, match=r"[Dd]evice"):
            model.predict(IMAGES, NAMES, 2)


def trainer(backbone: Backbone, variant: PromptFlowVariant = VARIANTS["paper"], **training: Any) -> Trainer:
    run = RunConfig(
        backbone=BACKBONE,
        model=model_of(variant),
        loss=LossConfig(variant=LossVariant()),
        training=TrainingConfig(batch_size=6, epochs=3, gradient_clip_norm=1.0, **training),
    )
    return Trainer(run, backbone, META, 1, 1)


def step(model: Trainer) -> None:
    refs = [SampleRef("", i, f"{i}.png", "c", NAMES[i % 3], i % 2, f"{i:064}") for i in range(6)]
    model.step(model.batch(torch.zeros(6, 3, 64, 64), torch.zeros(6, 64, 64), refs))


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
@pytest.mark.parametrize(
    ("variant", "training"),
    [
        ("paper", {}),
        ("paper", {"accumulation_parts": 3}),
        ("paper", {"mixed_precision": True}),
        ("released", {"second_stage_epochs": 1}),
        ("ISD-ISD", {"accumulation_parts": 3}),
        ("IAD-IAD", {}),
        ("agnostic", {"mixed_precision": True}),
    ],
    ids=str,
)
def test_training_steps(launches: ModuleType, backbone: Backbone, variant: str, training: dict[str, Any]) -> None:
    with launches.fake_training():
        model = trainer(backbone, VARIANTS[variant], **training)
        step(model)
        if "second_stage_epochs" in training:
            model.begin_second_stage()
            step(model)
        state = model.state()
        assert {value.device.type for value in state.tensors.values()} == {"cpu"}
        other = trainer(backbone, VARIANTS[variant], **training)
        other.load_state(state)
        step(other)


def test_a_batch_that_is_left_behind_is_found(launches: ModuleType, backbone: Backbone) -> None:
    with launches.fake_training():
        model = trainer(backbone)
        refs = [SampleRef("", i, f"{i}.png", "c", NAMES[i % 3], i % 2, f"{i:064}") for i in range(6)]
        batch = model.batch(torch.zeros(6, 3, 64, 64), torch.zeros(6, 64, 64), refs)
        with pytest.raises(Exception, match=r"[Dd]evice"):
            model.step(batch._replace(mask=torch.zeros(6, 64, 64)))


def test_what_workers_exchange_lies_where_the_backend_serves_it(launches: ModuleType, backbone: Backbone) -> None:
    sent: list[str] = []
    with (
        launches.fake_training(),
        mock.patch("torch.distributed.all_reduce", lambda tensor: sent.append(str(tensor.device))),
    ):
        for training in ({}, {"accumulation_parts": 3}):
            model = trainer(backbone, **training)
            model.workers = 2
            step(model)
    assert set(sent) == {"meta"}  # the device of the trainer, which stands for a GPU
    sent.clear()
    with mock.patch("torch.distributed.all_reduce", lambda tensor: sent.append(str(tensor.device))):
        _merged(PixelHistogram(), 2)
    assert set(sent) == {"cpu"}
    for share, both in ((1.0, GPU_BACKEND), (0.25, SHARED_GPU_BACKEND)):
        cluster = ClusterSettings(use_gpu=True, gpus_per_worker=share)
        assert backend(cluster) == both
        assert {part.split(":")[0] for part in both.split(",")} == {"cpu", "cuda"}
        assert cluster.gpus == share
    assert backend(ClusterSettings()) == "gloo"


def test_launches_stay_few(launches: ModuleType, backbone: Backbone) -> None:
    with launches.fake_device():
        model = detector(backbone, PromptFlowVariant())
        alone, batch = launches.count(model, 1, 10), launches.count(model, 16, 10)
    assert (alone["waits"], batch["waits"]) == (1, 1)
    assert alone["launches"] <= launches.MOST_ALONE
    assert batch["an_image"] <= launches.MOST_IN_A_BATCH


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
def test_launches_of_a_training_step_stay_few(launches: ModuleType, backbone: Backbone) -> None:
    with launches.fake_training():
        counts = launches.count_step(Trainer(RunConfig(backbone=BACKBONE), backbone, META, 1, 1), 32, 64)
    assert counts["waits"] == 1
    assert counts["launches"] <= launches.MOST_IN_A_STEP
