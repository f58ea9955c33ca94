"""Configuration -> what is learned of the prompts: distributions (sections 3.2, 3.3), or AnomalyCLIP's prompts."""

from bayes_pfl.config import AnomalyClipConfig, ModelConfig
from bayes_pfl.methods.anomaly_clip import ObjectPrompts
from bayes_pfl.methods.prompt_flow.distributions import (
    ImageAgnosticDistribution,
    ImageSpecificDistribution,
    InitialDensity,
)
from bayes_pfl.methods.prompt_flow.flow import AmortizedPlanarFlow, PlanarFlow


def context_distribution(config: ModelConfig, joint: int, text: int) -> ImageSpecificDistribution:
    """That of the context words.

    Args:
        config: of the head.
        joint: width of the joint space, which x is from.
        text: width of a text token.

    Returns:
        The distribution with initial weights.
    """
    density = InitialDensity(joint, text, config.variant.variance_exponent, config.variant.hidden_width)
    if config.variant.amortized_context_flow:
        amortized = AmortizedPlanarFlow(joint, text, config.flow_length, config.variant.log_det_epsilon)
        return ImageSpecificDistribution(density, amortized)
    return ImageSpecificDistribution(density, _planar_flow(config, text))


def state_distribution(config: ModelConfig, joint: int, text: int) -> ImageAgnosticDistribution:
    """That of the words of both states.

    Args:
        config: of the head.
        joint: width of the free vectors, which is x's.
        text: width of a text token.

    Returns:
        The distribution with initial weights.
    """
    density = InitialDensity(joint, text, config.variant.variance_exponent, config.variant.hidden_width)
    count = 2 if config.variant.separate_state_flows else 1
    return ImageAgnosticDistribution(density, [_planar_flow(config, text) for _ in range(count)], joint)


def object_prompts(config: ModelConfig, text: int) -> ObjectPrompts:
    """AnomalyCLIP's prompts in place of the prompt flow.

    Args:
        config: of the head.
        text: width of a text token.

    Returns:
        The prompts with initial weights.
    """
    return ObjectPrompts(object_prompt_settings(config), text)


def object_prompt_settings(config: ModelConfig) -> AnomalyClipConfig:
    """Sizes and words of these prompts: AnomalyCLIP's own.

    Args:
        config: of the head; gives `variant.deep_blocks`.

    Returns:
        AnomalyCLIP's settings, of which only those of its prompts matter here.
    """
    return AnomalyClipConfig(deep_blocks=config.variant.deep_blocks)


def _planar_flow(config: ModelConfig, text: int) -> PlanarFlow:
    return PlanarFlow(text, config.flow_length, config.flow_initial_scale, config.variant.log_det_epsilon)
