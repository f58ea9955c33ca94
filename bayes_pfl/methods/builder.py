"""Configuration -> method: the only place that knows every method by name."""

import torch
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone, context_length, load_tokenizer
from bayes_pfl.clip.class_names import ClassNames
from bayes_pfl.config import DetectorConfig, RunConfig
from bayes_pfl.methods.method import Method, TrainableMethod
from bayes_pfl.methods.prompt_flow.head import other_tokens
from bayes_pfl.methods.prompt_flow.method import PromptFlow
from bayes_pfl.methods.prompt_flow.objective import PromptFlowObjective


def class_names(config: DetectorConfig) -> ClassNames:
    """Which class names fit into the prompts of a configuration: from its tokenizer alone, without any weights.

    Args:
        config: what a bundle stores, or a run.

    Returns:
        `check(names)` refuses names that are blank or too long.

    Raises:
        BackboneError: the architecture is unknown.
    """
    backbone = config.backbone
    return ClassNames(load_tokenizer(backbone), context_length(backbone), other_tokens(config.model))


def build_method(
    config: DetectorConfig, backbone: Backbone, device: torch.device, weights: dict[str, Tensor]
) -> Method:
    """The method that a configuration describes, ready to score.

    Args:
        config: what a bundle stores.
        backbone: the frozen CLIP, on `device`.
        device: where the method computes.
        weights: state dict of the learned head.

    Returns:
        The method.

    Raises:
        RuntimeError: the weights do not fit the configuration.
    """
    return PromptFlow(config, backbone, device, weights)


def build_trainable_method(run: RunConfig, backbone: Backbone, device: torch.device) -> TrainableMethod:
    """The method that a run trains, with the initial weights of the run's seed.

    Args:
        run: the training run.
        backbone: the frozen CLIP, on `device`.
        device: where the method computes.

    Returns:
        The method, untrained.
    """
    return PromptFlowObjective(run, backbone, device)
