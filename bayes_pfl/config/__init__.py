"""Every choice of a model and of its training, as frozen settings; an unknown key is an error naming the nearest."""

from bayes_pfl.config.methods import (
    AdaClipConfig,
    AnomalyClipConfig,
    AprilGanConfig,
    ClipAdConfig,
    PromptEnsembleConfig,
    SegmentationLoss,
    WinClipConfig,
)
from bayes_pfl.config.prompt_flow import LossConfig, LossVariant, ModelConfig, PromptFlowVariant, published_variant
from bayes_pfl.config.run import (
    MAX_SAMPLES,
    NUM_SAMPLES_LIMIT,
    BackboneConfig,
    DetectorConfig,
    DetectorOptions,
    MethodConfig,
    NumSamples,
    Precision,
    RunConfig,
    ScoringConfig,
    TrainingConfig,
)
from bayes_pfl.config.settings import Settings, parse_config, read_config
from bayes_pfl.config.wordings import Wording

__all__ = [
    "MAX_SAMPLES",
    "NUM_SAMPLES_LIMIT",
    "AdaClipConfig",
    "AnomalyClipConfig",
    "AprilGanConfig",
    "BackboneConfig",
    "ClipAdConfig",
    "DetectorConfig",
    "DetectorOptions",
    "LossConfig",
    "LossVariant",
    "MethodConfig",
    "ModelConfig",
    "NumSamples",
    "Precision",
    "PromptEnsembleConfig",
    "PromptFlowVariant",
    "RunConfig",
    "ScoringConfig",
    "SegmentationLoss",
    "Settings",
    "TrainingConfig",
    "WinClipConfig",
    "Wording",
    "parse_config",
    "published_variant",
    "read_config",
]
