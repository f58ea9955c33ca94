"""Bayes-PFL's learned head: features of the frozen CLIP -> text embeddings -> logits (sections 3.2 to 3.5).

Every two-way softmax of the paper is a sigmoid of one difference, abnormal minus normal: `Logits` holds differences.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.prompt_encoder import ClassTokens, PromptEncoder
from bayes_pfl.config import ModelConfig
from bayes_pfl.config.wordings import APRIL_GAN_WORDING
from bayes_pfl.methods.ensemble import wording_tokens
from bayes_pfl.methods.prompt_flow.attention import ResidualCrossModalAttention, normalize
from bayes_pfl.methods.prompt_flow.banks import PromptBanks
from bayes_pfl.methods.prompt_flow.distributions import Draw, OffsetSamples, no_offsets, offset_samples
from bayes_pfl.methods.prompt_flow.noise import Noise
from bayes_pfl.methods.prompt_flow.parts import context_distribution, object_prompts, state_distribution
from bayes_pfl.methods.prompt_flow.pooling import AttentionPooling, MeanPooling


class Widths(NamedTuple):
    """Sizes the head takes from its backbone."""

    joint: int
    text: int
    patch: int
    layers: int

    @classmethod
    def from_backbone(cls, backbone: Backbone) -> "Widths":
        """The sizes of a loaded backbone.

        Args:
            backbone: the frozen CLIP.

        Returns:
            Widths of joint space, text tokens and patch tokens, and the number of feature layers.
        """
        return cls(backbone.joint_width, backbone.text_width, backbone.patch_width, len(backbone.config.feature_layers))


class PatchFeatures(NamedTuple):
    """Patch tokens in the joint space, layer by layer, as attention takes them: plain, or L2-normalised."""

    tokens: tuple[Float[Tensor, "batch patches dim"], ...]
    inverse_norms: tuple[Float[Tensor, "batch patches"], ...]
    """A token times this has length 1."""


class Prompts(NamedTuple):
    """L2-normalised text embeddings Z of all sampled prompts, with the samples they come from."""

    text: Float[Tensor, "batch samples bank 2 dim"]
    context: OffsetSamples
    normal: OffsetSamples
    abnormal: OffsetSamples


class Logits(NamedTuple):
    """Scaled differences abnormal - normal: sigmoid gives the probability of an anomaly."""

    pixel: Float[Tensor, "layers batch samples bank patches"]
    image: Float[Tensor, "batch samples bank"]


class BayesPFL(nn.Module):
    """The trainable part; CLIP itself stays outside (see `Backbone` and `PromptEncoder`)."""

    def __init__(self, config: ModelConfig, widths: Widths) -> None:
        super().__init__()
        self.config, variant = config, config.variant
        sizes, flow = (widths.joint, widths.text), variant.prompts == "flow"
        self.banks = _banks(config, widths.text) if flow else None
        self.context = context_distribution(config, *sizes) if flow and variant.context_from_image else None
        self.states = state_distribution(config, *sizes) if flow and variant.state_distribution else None
        self.object_prompts = object_prompts(config, widths.text) if variant.prompts == "agnostic" else None
        self.projections = nn.ModuleList(
            nn.Linear(widths.patch, widths.joint, bias=False) for _ in range(widths.layers)
        )
        self.attention = (
            ResidualCrossModalAttention(widths.joint, variant.attention_heads, variant.attention_query_bias)
            if variant.residual_attention
            else None
        )
        self.pooling = (
            AttentionPooling(widths.layers * widths.patch, widths.joint, variant.pooling_width)
            if variant.attention_pooling
            else MeanPooling(widths.layers * widths.patch, widths.joint)
        )
        self.class_mapping = nn.Linear(widths.joint, widths.joint) if variant.mapped_classification else None
        self.image_mapping = nn.Linear(widths.joint, widths.joint) if variant.mapped_classification else None
        self.pixel_temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.image_temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        for weight in self.projections.parameters():
            nn.init.normal_(weight, std=0.02)
        # last: every other part starts as it does without
        self.free_context = nn.Parameter(torch.randn(widths.joint) * 0.02) if variant.agnostic_context else None

    def forward(
        self,
        features: Features,
        class_tokens: ClassTokens,
        noise: Noise,
        encoder: PromptEncoder,
        bank: slice = slice(None),
        class_token_only: bool = False,
    ) -> tuple[Prompts, Logits]:
        """Prompts, and the logits of those in `bank`, of a batch of images: what the losses need.

        Args:
            features: of the images.
            class_tokens: of their class names.
            noise: of R samples.
            encoder: the frozen text encoder.
            bank: which of the B prompts give logits.
            class_token_only: the image logits see x_cls alone, the released code's first stage.

        Returns:
            All prompts, and the chosen ones' logits.
        """
        prompts = self.prompts(features, class_tokens, noise, encoder)
        return prompts, self.logits(features, prompts.text[:, :, bank], class_token_only)

    def logits(
        self, features: Features, text: Float[Tensor, "batch samples bank 2 dim"], class_token_only: bool = False
    ) -> Logits:
        """Logits of image and patches against text embeddings.

        Args:
            features: of the images.
            text: text embeddings, normal (0) and abnormal (1).
            class_token_only: the image logits see x_cls alone, the released code's first stage.

        Returns:
            Those of all prompts.
        """
        image_logits = self.class_token_logits if class_token_only else self.image_logits
        return Logits(self.pixel_logits(self.patch_features(features), text), image_logits(features, text))

    def global_feature(self, features: Features) -> Float[Tensor, "batch dim"]:
        """x = x_cls + x_patch (section 3.5), or one of the two where the other is switched off (Table 2).

        Args:
            features: of the images.

        Returns:
            x, not normalised.
        """
        if not self.config.variant.patches_in_image:
            return features.image
        pooled: Tensor = self.pooling(features.patches)
        return features.image + pooled if self.config.variant.class_token_in_image else pooled

    def prompts(self, features: Features, class_tokens: ClassTokens, noise: Noise, encoder: PromptEncoder) -> Prompts:
        """Sample, fuse with the banks (eq. 8, 9) and encode all B x R prompts of both kinds.

        Args:
            features: of the images.
            class_tokens: of their class names.
            noise: of R samples.
            encoder: the frozen text encoder.

        Returns:
            Text embeddings and the samples they come from.
        """
        return self.encode(*self.sample(features, noise), class_tokens, encoder)

    def encode(
        self,
        context: OffsetSamples,
        normal: OffsetSamples,
        abnormal: OffsetSamples,
        class_tokens: ClassTokens,
        encoder: PromptEncoder,
    ) -> Prompts:
        """Fuse samples with the banks (eq. 8, 9) and encode the prompts.

        Args:
            context: samples of the context words, for each image.
            normal: samples of the normal state's words, for all images or for each one.
            abnormal: samples of the abnormal state's words.
            class_tokens: of the class names.
            encoder: the frozen text encoder.

        Returns:
            Text embeddings and the samples they come from.
        """
        batch, samples, width = context.offset.shape
        assert self.banks is not None, "other prompts stand in for the flow's"
        banks, shape = self.banks, (batch, samples, self.config.num_prompts, -1, width)
        scale = self.config.offset_scale
        fused_context = banks.context + scale * context.offset[:, :, None, None]
        fused_normal = (banks.normal + scale * normal.offset[..., None, None, :]).expand(shape)
        fused_abnormal = (banks.abnormal + scale * abnormal.offset[..., None, None, :]).expand(shape)
        text = encoder(
            fused_context.flatten(1, 2), fused_normal.flatten(1, 2), fused_abnormal.flatten(1, 2), class_tokens
        )
        return Prompts(normalize(text.float()).unflatten(1, (samples, -1)), context, normal, abnormal)

    def sample(self, features: Features, noise: Noise) -> tuple[OffsetSamples, OffsetSamples, OffsetSamples]:
        """Samples of the context's distribution (one per image) and of the two states' (shared by all images).

        Departs from that with `states_from_image`: the states' are one per image too.

        Args:
            features: of the images.
            noise: of R samples.

        Returns:
            Context, normal and abnormal samples.
        """
        draws = self._context_draws(features, noise.context)
        draws += self._state_draws(noise.normal, noise.abnormal, features)
        samples = offset_samples(draws, self.config.variant.log_det_epsilon)
        context = samples[: len(samples) % 2] or [no_offsets(noise.context)]
        states = samples[len(samples) % 2 :] or [no_offsets(noise.normal), no_offsets(noise.abnormal)]
        return context[0], states[0], states[1]

    def sample_context(self, features: Features, noise: Float[Tensor, "batch samples dim"]) -> OffsetSamples:
        """Samples of the context's distribution, or no offset where it is switched off.

        Args:
            features: of the images.
            noise: of their contexts.

        Returns:
            R samples for each image.
        """
        samples = offset_samples(self._context_draws(features, noise), self.config.variant.log_det_epsilon)
        return samples[0] if samples else no_offsets(noise)

    def sample_states(
        self,
        normal: Float[Tensor, "*batch samples dim"],
        abnormal: Float[Tensor, "*batch samples dim"],
        features: Features | None = None,
    ) -> tuple[OffsetSamples, OffsetSamples]:
        """Samples of the states' distribution: they depend on no image, except with `states_from_image`.

        Args:
            normal: noise of the normal state.
            abnormal: noise of the abnormal state.
            features: of the images; only `states_from_image` needs them.

        Returns:
            R samples of each state, with `states_from_image` for each image.
        """
        samples = offset_samples(self._state_draws(normal, abnormal, features), self.config.variant.log_det_epsilon)
        return (samples[0], samples[1]) if samples else (no_offsets(normal), no_offsets(abnormal))

    def _x(self, features: Features) -> Float[Tensor, "batch dim"]:
        """x, as the distributions see it."""
        return self.global_feature(features) if self.config.variant.condition_on_patches else features.image

    def _context_draws(self, features: Features, noise: Float[Tensor, "batch samples dim"]) -> list[Draw]:
        """Draws of the context's distribution; none where it is switched off."""
        if self.context is None:
            return []
        free = self.free_context
        return [self.context.draw(self._x(features) if free is None else free.expand(len(noise), -1), noise)]

    def _state_draws(self, normal: Tensor, abnormal: Tensor, features: Features | None) -> list[Draw]:
        """Draws of the states' distribution; none where it is switched off."""
        if self.states is None:
            return []
        if not self.config.variant.states_from_image:
            return self.states.draws(normal, abnormal)
        assert features is not None
        return self.states.draws(normal, abnormal, self._x(features))

    def patch_features(self, features: Features, layers: slice = slice(None)) -> PatchFeatures:
        """F_l: one linear map per layer into the joint space.

        Args:
            features: of the images.
            layers: which of the feature layers.

        Returns:
            Tokens and inverse norms of these layers.
        """
        pairs = zip(self.projections[layers], features.patches[layers], strict=True)
        tokens = [project(patches) for project, patches in pairs]
        inverse_norms = [1 / layer.norm(dim=-1).clamp(min=1e-12) for layer in tokens]
        if self.config.variant.attention_normalized_keys:
            tokens = [layer * inverse.unsqueeze(-1) for layer, inverse in zip(tokens, inverse_norms, strict=True)]
            inverse_norms = [torch.ones_like(inverse) for inverse in inverse_norms]
        return PatchFeatures(tuple(tokens), tuple(inverse_norms))

    def pixel_logits(
        self, patches: PatchFeatures, text: Float[Tensor, "batch samples bank 2 dim"]
    ) -> Float[Tensor, "layers batch samples bank patches"]:
        """Difference of the similarities of eq. 11 before upsampling, which is linear and so may follow.

        Args:
            patches: projected patch tokens.
            text: text embeddings, normal (0) and abnormal (1).

        Returns:
            abnormal - normal, times the temperature.
        """
        prompts = text.flatten(1, 3)
        query = self.attention.query(prompts) if self.attention is not None else prompts
        layers = []
        for tokens, inverse_norms in zip(patches.tokens, patches.inverse_norms, strict=True):
            refined = prompts if self.attention is None else self.attention(prompts, query, tokens)
            pairs = normalize(refined).unflatten(1, text.shape[1:4])
            direction = (pairs[..., 1, :] - pairs[..., 0, :]) * self.pixel_temperature.exp()
            layers.append(torch.einsum("nsbd,npd->nsbp", direction, tokens) * inverse_norms[:, None, None])
        return torch.stack(layers)

    def image_logits(
        self, features: Features, text: Float[Tensor, "batch samples bank 2 dim"]
    ) -> Float[Tensor, "batch samples bank"]:
        """Difference of the similarities of x~ and Z~ (s_text of section 3.5); with the mappings where configured.

        Args:
            features: of the images.
            text: text embeddings, normal (0) and abnormal (1).

        Returns:
            abnormal - normal, times the temperature.
        """
        image = self.global_feature(features)
        return self._image_difference(image if self.image_mapping is None else self.image_mapping(image), text)

    def class_token_logits(
        self, features: Features, text: Float[Tensor, "batch samples bank 2 dim"]
    ) -> Float[Tensor, "batch samples bank"]:
        """The same with x_cls alone and no map of the image: the released code's first stage.

        Args:
            features: of the images.
            text: text embeddings, normal (0) and abnormal (1).

        Returns:
            abnormal - normal, times the temperature.
        """
        return self._image_difference(features.image, text)

    def _image_difference(self, image: Tensor, text: Tensor) -> Tensor:
        normed = text if self.class_mapping is None else normalize(self.class_mapping(text))
        direction = normed[..., 1, :] - normed[..., 0, :]
        return torch.einsum("nsbd,nd->nsb", direction, normalize(image)) * self.image_temperature.exp()


def other_tokens(config: ModelConfig, tokenizer: Any) -> int:
    """Tokens of a prompt beside start, class name and end of text: P + Q learned words, or those of a sentence.

    Args:
        config: of the head.
        tokenizer: open_clip's.

    Returns:
        Their number; 0 where the prompt has no class name.
    """
    if config.variant.prompts == "flow":
        return config.context_tokens + config.state_tokens
    return wording_tokens(APRIL_GAN_WORDING, tokenizer) if config.variant.prompts == "sentences" else 0


def _banks(config: ModelConfig, text: int) -> PromptBanks:
    return PromptBanks(config.num_prompts, config.context_tokens, config.state_tokens, text)
