"""Configuration -> method: the only place that knows every method by name."""

import torch
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import DetectorConfig, RunConfig
from bayes_pfl.methods.method import Method, TrainableMethod
from bayes_pfl.methods.prompt_flow.method import PromptFlow
from bayes_pfl.methods.prompt_flow.objective import PromptFlowObjective


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
