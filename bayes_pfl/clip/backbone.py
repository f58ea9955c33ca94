"""The frozen CLIP, through open_clip's public API: images to features, class names to tokens.

Departs from stock CLIP in nothing; `Features` are open_clip's own intermediates (with exact GELU equal to
those of the published implementation). The text tower is handed on as modules: `PromptEncoder` runs learned prompts
through it.
"""

from typing import Any, NamedTuple

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bayes_pfl.clip import cross_covariance
from bayes_pfl.clip.class_names import ClassNames
from bayes_pfl.clip.digests import digest_of
from bayes_pfl.clip.loading import SERVED, architecture_text, context_length, load_clip, load_tokenizer, package_path
from bayes_pfl.config import BackboneConfig
from bayes_pfl.errors import BackboneError

__all__ = [
    "Backbone",
    "FeatureKind",
    "Features",
    "architecture_text",
    "context_length",
    "load_tokenizer",
    "package_path",
]


class Features(NamedTuple):
    """Output of the frozen image encoder for a batch of images."""

    image: Float[Tensor, "batch dim"]
    """Global feature of the class token in the joint space, not normalised."""
    patches: Float[Tensor, "layers batch patches width"]
    """Patch tokens of the chosen blocks, before the final normalisation and projection."""


class FeatureKind(NamedTuple):
    """What a method takes from the frozen image encoder, for one backbone: whoever takes the same may share it."""

    passes: str
    """How it is computed, in words that differ where the numbers do; empty for a plain pass with exact GELU."""
    shape: tuple[int, int, int, int]
    """(layers, patches, patch width, image width) of its `Features`."""


class Backbone(nn.Module):
    """Frozen CLIP: `Features` of images, and the modules and tokens that prompts need.

    Args:
        config: architecture, weights, image size and layers.

    Raises:
        BackboneError: the architecture or weights cannot be found or do not fit, have another SHA-256 than stated, or
            contradict the configuration.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer: Any = load_tokenizer(config)  # first: a refusal comes before weights are downloaded
        self.clip = load_clip(config)
        self.clip.requires_grad_(False)
        # Tokens become an image for convolutions without a copy where weights lie channels last; values stay the same.
        self.clip.visual.to(memory_format=torch.channels_last)
        _put_sequence_first(self.clip)
        self.train()
        self.text_tower: Any = getattr(self.clip, "text", self.clip)
        if not hasattr(self.text_tower, "token_embedding"):
            raise BackboneError(f"{config.name} has no text transformer of CLIP's kind; {SERVED}.")
        self.joint_width = (
            int(self.text_tower.text_projection.shape[-1])
            if not isinstance(self.text_tower.text_projection, nn.Linear)
            else self.text_tower.text_projection.out_features
        )
        self.text_width = int(self.text_tower.token_embedding.weight.shape[1])
        self.grid, self.patch_width = self._sizes()
        digest = digest_of(config, self.clip)
        if config.weights_sha256 and digest != config.weights_sha256:
            raise BackboneError(
                f"The CLIP weights '{config.pretrained}' have SHA-256 {digest[:12]}..., but "
                f"{config.weights_sha256[:12]}... is expected; use the weights the model was trained on."
            )
        self.digest = digest

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode, the backbone is frozen; but attention is fused as it is in training.

        In evaluation torch's attention module takes a path of its own that stores all weights: a quarter slower in all.

        Args:
            mode: ignored.

        Returns:
            The backbone.
        """
        super().train(False)
        for module in self.clip.modules():
            if isinstance(module, nn.MultiheadAttention) and module.dropout == 0:
                module.training = True
        return self

    @torch.no_grad()
    def encode_image(self, images: Float[Tensor, "batch 3 height width"]) -> Features:
        """Global feature and the patch tokens of the configured blocks.

        Args:
            images: normalised as CLIP's were.

        Returns:
            The features.
        """
        output = self.clip.visual.forward_intermediates(
            images, indices=[layer - 1 for layer in self.config.feature_layers], output_fmt="NLC"
        )
        return Features(output["image_features"], torch.stack(output["image_intermediates"]))

    @property
    def plain_kind(self) -> FeatureKind:
        """What `encode_image` gives."""
        shape = (len(self.config.feature_layers), self.grid[0] * self.grid[1], self.patch_width, self.joint_width)
        return FeatureKind("QuickGELU" if self.config.quick_gelu else "", shape)

    def class_tokens(self, class_name: str) -> list[int]:
        """Token ids of a class name and the end of text, alone in its prompt.

        Args:
            class_name: such as "metal nut".

        Returns:
            The ids.

        Raises:
            ClassNameError: the name is blank or too long.
        """
        return self.class_names(other_tokens=0).tokens(class_name)

    def class_names(self, other_tokens: int) -> ClassNames:
        """The reader of class names.

        Args:
            other_tokens: tokens of a prompt beside start, class name and end of text.

        Returns:
            A reader that refuses names without room.
        """
        return ClassNames(self.tokenizer, self.text_tower.positional_embedding.shape[0], other_tokens)

    def _sizes(self) -> tuple[tuple[int, int], int]:
        """Patch grid and patch-token width: of CLIP's own image encoder as built, of others by a pass without data."""
        size, layers, visual = self.config.image_size, self.config.feature_layers, self.clip.visual
        blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
        blocks = blocks if blocks is not None else getattr(getattr(visual, "trunk", None), "blocks", None)
        if blocks is not None and max(layers) > len(blocks):
            depth = len(blocks)
            quarters = ",".join(str(max(1, depth * part // 4)) for part in (1, 2, 3, 4))
            raise BackboneError(
                f"{self.config.name} cannot give layers {list(layers)}: it has {depth} vision blocks, counted from 1. "
                f"Choose among them, such as --set backbone.feature_layers=[{quarters}]"
            )
        if isinstance(visual, open_clip.transformer.VisionTransformer):
            grid, width = visual.grid_size, visual.conv1.out_channels
            return (int(grid[0]), int(grid[1])), int(width)
        if cross_covariance.is_cross_covariance(visual):
            return cross_covariance.sizes(visual, size)
        try:
            with FakeTensorMode(allow_non_fake_inputs=True):  # shapes alone: nothing is computed
                patches = Backbone.encode_image(self, torch.zeros(1, 3, size, size)).patches
        except (RuntimeError, IndexError, AssertionError, AttributeError, TypeError) as error:
            raise BackboneError(
                f"{self.config.name} has an image encoder that is no vision transformer, or cannot give layers "
                f"{list(layers)} at {size} px ({str(error).strip('.')}); {SERVED}."
            ) from error
        side = int(patches.shape[2] ** 0.5)
        if side * side != patches.shape[2]:
            raise BackboneError(
                f"{self.config.name} gives {patches.shape[2]} patches at {size} px, which is no square grid."
            )
        return (side, side), patches.shape[3]


def _put_sequence_first(clip: nn.Module) -> None:
    """Have open_clip's transformers run on (tokens, batch, width), for the same result.

    On (batch, tokens, width) torch's attention projects a strided view: with two images or more that product is ten
    times slower.
    """
    for transformer in clip.modules():
        if isinstance(transformer, open_clip.transformer.Transformer):
            for module in transformer.modules():
                if isinstance(module, open_clip.transformer.Transformer | nn.MultiheadAttention):
                    module.batch_first = False
