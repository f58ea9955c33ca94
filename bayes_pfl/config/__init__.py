"""Every choice of a model and of its training, as frozen settings; an unknown key is an error naming the nearest."""

from bayes_pfl.config.prompt_flow import LossConfig, LossVariant, ModelConfig, PromptFlowVariant, published_variant
from bayes_pfl.config.run import (
    BackboneConfig,
    DetectorConfig,
    DetectorOptions,
    NumSamples,
    Precision,
    RunConfig,
    ScoringConfig,
    TrainingConfig,
)
from bayes_pfl.config.settings import Settings, parse_config, read_config

__all__ = [
    "BackboneConfig",
    "DetectorConfig",
    "DetectorOptions",
    "LossConfig",
    "LossVariant",
    "ModelConfig",
    "NumSamples",
    "Precision",
    "PromptFlowVariant",
    "RunConfig",
    "ScoringConfig",
    "Settings",
    "TrainingConfig",
    "parse_config",
    "published_variant",
    "read_config",
]
