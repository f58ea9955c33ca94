"""Settings of Bayes-PFL: the learned head (B, K, P, Q of the paper) and its loss, and where implementations differ."""

from typing import Literal

from pydantic import Field, model_validator

from bayes_pfl.config.settings import Settings, changed_settings


class PromptFlowVariant(Settings):
    """Switches that only comparisons need: those of the paper's tables and figures, and what the released code does.

    The defaults are the paper's formulation. `published_variant` has the released implementation's values.
    """

    prompts: Literal["flow", "sentences", "agnostic"] = Field(
        "flow",
        description="the prompt flow; or in its place APRIL-GAN's sentences about the class, or AnomalyCLIP's two "
        "learned prompts for every object (Figure 4): one prompt of each kind, without samples and uncertainty",
    )
    deep_blocks: int = Field(
        9, ge=1, description="text blocks up to which learned positions are replaced; of prompts: agnostic alone"
    )
    text_ensemble: bool = Field(
        False,
        description="score with the mean of the B x R text embeddings of each kind (Table 4), without uncertainty, "
        "instead of the mean of their maps and scores; training is the same",
    )
    context_from_image: bool = Field(
        True, description="image-specific distribution of the context; off: no such offset (Table 2)"
    )
    state_distribution: bool = Field(
        True, description="image-agnostic distribution of the states; off: no such offset (Table 2)"
    )
    agnostic_context: bool = Field(
        False,
        description="the context distribution is given a learned free vector instead of x; with states as they are it "
        "is IAD-IAD (Figure 5)",
    )
    states_from_image: bool = Field(
        False,
        description="the state distributions are given x + their free vector instead of that vector, and noise of "
        "each image; with the context as it is this is ISD-ISD (Figure 5)",
    )
    condition_on_patches: bool = Field(
        True, description="the context distribution sees x = x_cls + x_patch (paper); released: x_cls alone (false)"
    )
    amortized_context_flow: bool = Field(
        False, description="the context flow's u, w, b are linear in the condition (released) instead of free (paper)"
    )
    separate_state_flows: bool = Field(
        False,
        description="normal and abnormal states have a flow of their own (released) instead of sharing it (paper)",
    )
    variance_exponent: float = Field(
        0.5, gt=0, description="q0's standard deviation is variance to this power: 0.5, or 0.25 as in the released code"
    )
    log_det_epsilon: float = Field(0.0, ge=0, description="added inside log|1 + u.psi|; released: 1e-5")
    hidden_width: int = Field(
        0,
        ge=0,
        description="inner width of the networks for q0's mean and variance; 0: half of the text width; "
        "released: half of the vision width",
    )
    attention_heads: int = Field(
        1, ge=1, description="heads of the cross-modal attention: 1 (paper, eq. 10), 4 (released)"
    )
    attention_query_bias: bool = Field(False, description="bias of the query projection: off (paper), on (released)")
    attention_normalized_keys: bool = Field(
        False, description="keys and values are L2-normalised patch features (released) instead of plain ones (paper)"
    )
    residual_attention: bool = Field(
        True, description="refine text embeddings with patch features; off: eq. 10 without the sum"
    )
    class_token_in_image: bool = Field(True, description="x contains x_cls; off: x = x_patch (Table 2)")
    patches_in_image: bool = Field(True, description="x contains x_patch; off: x = x_cls (Table 2)")
    attention_pooling: bool = Field(
        False, description="x_patch by softmax pooling over patches (released) instead of the mean over patches (paper)"
    )
    pooling_width: int = Field(
        0,
        ge=0,
        description="inner width of the attention pooling; 0: half of the joint width; "
        "released: half of the vision width",
    )
    mapped_classification: bool = Field(
        False, description="linear maps of text and image embeddings before the image score (released, second stage)"
    )
    upsampled_corners: bool = Field(False, description="bilinear upsampling with align_corners=True, as released")
    draws_in_order: bool = Field(
        False,
        description="draw noise for the images of a call in their order and keep the first one's states, as released; "
        "predictions then depend on order, batch and R. Off: noise is keyed by seed and image",
    )

    @model_validator(mode="after")
    def _pooling_needs_mapping(self) -> "PromptFlowVariant":
        if self.attention_pooling != self.mapped_classification:
            raise ValueError("attention_pooling and mapped_classification belong to one second stage: set both or none")
        return self

    @model_validator(mode="after")
    def _image_is_something(self) -> "PromptFlowVariant":
        if not (self.class_token_in_image or self.patches_in_image):
            raise ValueError("class_token_in_image and patches_in_image cannot both be off: x would be nothing")
        return self

    @model_validator(mode="after")
    def _conditions_have_a_distribution(self) -> "PromptFlowVariant":
        if self.agnostic_context and not self.context_from_image:
            raise ValueError("agnostic_context needs context_from_image: without it the context has no distribution")
        if self.states_from_image and not self.state_distribution:
            raise ValueError("states_from_image needs state_distribution: without it the states have no distribution")
        if self.states_from_image and self.draws_in_order:
            raise ValueError("states_from_image draws states for each image, draws_in_order for the first: set one")
        if self.prompts != "agnostic" and changed_settings(self, ("deep_blocks",)):
            raise ValueError("deep_blocks belongs to prompts: agnostic")
        return self


FLOW_SETTINGS = (
    "num_prompts",
    "context_tokens",
    "state_tokens",
    "flow_length",
    "flow_initial_scale",
    "offset_scale",
    "variant.text_ensemble",
    "variant.context_from_image",
    "variant.state_distribution",
    "variant.agnostic_context",
    "variant.states_from_image",
    "variant.condition_on_patches",
    "variant.amortized_context_flow",
    "variant.separate_state_flows",
    "variant.variance_exponent",
    "variant.log_det_epsilon",
    "variant.hidden_width",
    "variant.draws_in_order",
)
"""Settings of a model that mean nothing where other prompts stand in for the prompt flow."""

FLOW_LOSSES = (
    "kl_weight",
    "orthogonal_weight",
    "orthogonal_mean",
    "variant.one_prompt_per_step",
    "variant.state_log_det_over_batch",
)
"""Settings of the loss that mean nothing there: there is no distribution, and one prompt of each kind."""


LARGEST_MODEL = 10_000
"""Prompts, tokens or steps of a flow: more can only be a slip, and would fill the memory."""


class ModelConfig(Settings):
    """The learned head of Bayes-PFL."""

    method: Literal["bayes_pfl"] = Field("bayes_pfl", description="the method: `bayes-pfl methods` lists all")
    num_prompts: int = Field(3, ge=1, le=LARGEST_MODEL, description="B, prompts in each of the two banks")
    context_tokens: int = Field(5, ge=1, le=LARGEST_MODEL, description="P, learnable context vectors of a prompt")
    state_tokens: int = Field(5, ge=1, le=LARGEST_MODEL, description="Q, learnable state vectors of a prompt")
    flow_length: int = Field(10, ge=0, le=LARGEST_MODEL, description="K, planar flow steps")
    flow_initial_scale: float = Field(
        0.01,
        ge=0,
        description="standard deviation of the flow's u and w at the start: near the identity; the released code has 1",
    )
    offset_scale: float = Field(
        0.01,
        gt=0,
        description="sampled offsets are this times z_K: the prior N(0, I) then means offsets of a token embedding's "
        "size; with 1, as released, their norm sqrt(C) drowns the prompt vectors, prompts collapse and the KL starts "
        "near 1,100 nats",
    )
    variant: PromptFlowVariant = PromptFlowVariant()

    @model_validator(mode="after")
    def _flow_settings_have_a_flow(self) -> "ModelConfig":
        if self.variant.prompts != "flow":
            refuse_without_flow(self.variant.prompts, changed_settings(self, FLOW_SETTINGS))
        return self

    @property
    def has_uncertainty(self) -> bool:
        """Whether scores have a spread over prompts.

        Returns:
            False for one prompt of each kind: a text ensemble, or other prompts than the flow's.
        """
        return self.variant.prompts == "flow" and not self.variant.text_ensemble


class LossVariant(Settings):
    """What the authors' released training does otherwise. The defaults are the paper's formulation."""

    classify_class_token: bool = Field(
        False, description="classify with x_cls alone (released, first stage) instead of x_cls + x_patch (paper)"
    )
    focal_epsilon: float = Field(0.0, ge=0, description="added inside the focal loss's logarithm; released: 1e-8")
    dice_epsilon: float = Field(0.0, ge=0, description="added to dice's numerator and denominator; released: 1e-5")
    one_prompt_per_step: bool = Field(
        False, description="classify and segment with one randomly drawn prompt of the bank a step (released)"
    )
    state_log_det_over_batch: bool = Field(
        False, description="divide the state flows' log-determinant by the batch size, a broadcast of the released code"
    )


class LossConfig(Settings):
    """Weights and shape of the training objective, eq. 14."""

    kl_weight: float = Field(0.01, ge=0, description="weight of the three prompt-flow KL terms (released; eq. 7 has 1)")
    orthogonal_weight: float = Field(
        1.0, ge=0, description="weight of the orthogonality of the text embeddings, eq. 13"
    )
    orthogonal_mean: bool = Field(
        False,
        description="average the squared cosines over the B x B matrix (released) instead of summing them (eq. 13)",
    )
    focal_gamma: float = Field(2.0, ge=0, description="focusing exponent of the focal loss")
    variant: LossVariant = LossVariant()


def refuse_without_flow(prompts: str, changed: list[str]) -> None:
    """Refuse settings of the prompt flow where other prompts stand in for it.

    Args:
        prompts: `variant.prompts`.
        changed: settings that are given and would change nothing.

    Raises:
        ValueError: there are some.
    """
    if changed:
        raise ValueError(
            f"variant.prompts {prompts} has no prompt flow, which {', '.join(changed)} would set: leave that out"
        )


def published_variant(model: ModelConfig) -> ModelConfig:
    """The released implementation's choices, which its published weights need.

    Args:
        model: gives the sizes.

    Returns:
        The same sizes with the released variant.
    """
    variant = model.variant.model_copy(
        update={
            "condition_on_patches": False,
            "amortized_context_flow": True,
            "separate_state_flows": True,
            "variance_exponent": 0.25,
            "log_det_epsilon": 1e-5,
            "attention_heads": 4,
            "attention_query_bias": True,
            "attention_normalized_keys": True,
            "attention_pooling": True,
            "mapped_classification": True,
            "upsampled_corners": True,
        }
    )
    return model.model_copy(update={"flow_initial_scale": 1.0, "offset_scale": 1.0, "variant": variant})
