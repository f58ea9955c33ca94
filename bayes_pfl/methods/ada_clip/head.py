"""Features in front of the first block -> prompted image features, patch features and text vectors of AdaCLIP.

Source: arXiv 2407.15795 and caoyunkang/AdaCLIP (MIT, copyright 2024 Yunkang Cao). With c the image feature of the
unprompted encoder, v = A c + a and u = B c + b:

- image encoder: S^v_j + v behind the patches, appended before the first block, replaced before the next J - 1;
- text encoder: S^t_j + u in place of the first M words before blocks 2 to J; of the first block S^t is never used;
- patch tokens of each layer, and the image feature, through a linear layer of their own.

Departs from the released code: a batch may have any number of images, each with its own text vectors, which is what its
batches of one compute; prompts are not rounded to half precision.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.blocks import depth, image_encoder, image_feature, prompted_steps
from bayes_pfl.clip.placement import bfloat16_products, is_reduced
from bayes_pfl.clip.sentences import SentenceEncoder
from bayes_pfl.config import AdaClipConfig
from bayes_pfl.errors import ConfigError

CLASSES = 64
"""Class names whose states behind the first text block are remembered."""


class Dynamic(NamedTuple):
    """Prompts made from the image, the same for all blocks."""

    image: Float[Tensor, "batch prompts width"]
    """v."""
    text: Float[Tensor, "batch prompts text"]
    """u."""


class Encoded(NamedTuple):
    """What is compared: rows normalised."""

    image: Float[Tensor, "batch dim"]
    """f."""
    patches: Float[Tensor, "layers batch patches dim"]
    """F_l."""
    text: Float[Tensor, "batch 2 dim"]
    """t_n, t_a of each image."""


class Prompted(NamedTuple):
    """The prompted image encoder's output, in front of the learned layers."""

    image: Float[Tensor, "batch dim"]
    tokens: Float[Tensor, "layers batch tokens width"]
    """With class row."""


class HybridPrompts(nn.Module):
    """All that is learned.

    Args:
        model: J and M.
        backbone: gives the widths and the number of layers.
    """

    def __init__(self, model: AdaClipConfig, backbone: Backbone) -> None:
        super().__init__()
        joint, vision, text = backbone.joint_width, backbone.patch_width, backbone.text_width
        blocks, prompts = range(model.prompted_blocks), range(model.prompt_tokens)
        sizes = (model.prompt_tokens, text), (model.prompt_tokens, vision)
        self.text_prompts, self.image_prompts = (
            nn.ParameterList(model.initial_std * torch.randn(size) for _ in blocks) for size in sizes
        )
        self.image_generators = nn.ModuleList(nn.Linear(joint, vision) for _ in prompts)
        self.text_generators = nn.ModuleList(nn.Linear(joint, text) for _ in prompts)
        self.patch_layers = nn.ModuleList(nn.Linear(vision, joint) for _ in backbone.config.feature_layers)
        self.image_layer = nn.Linear(joint, joint)

    def dynamic(self, condition: Float[Tensor, "batch dim"]) -> Dynamic:
        """v and u.

        Args:
            condition: c, the unprompted image feature, not normalised.

        Returns:
            Prompts of each image.
        """
        image, text = (
            torch.stack([layer(condition) for layer in layers], dim=1)
            for layers in (self.image_generators, self.text_generators)
        )
        return Dynamic(image, text)

    def projected(
        self, prompted: Prompted
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "layers batch rows dim"]]:
        """f and F_l.

        Args:
            prompted: of `PromptedTowers.image`.

        Returns:
            Normalised rows; the class row is left out.
        """
        rows = [layer(tokens[:, 1:]) for layer, tokens in zip(self.patch_layers, prompted.tokens, strict=True)]
        return F.normalize(self.image_layer(prompted.image), dim=-1), F.normalize(torch.stack(rows), dim=-1)


class PromptedTowers:
    """CLIP's two encoders with prompts inside; gradients reach the prompts, never CLIP.

    Args:
        model: J, M and the words.
        backbone: the frozen CLIP.

    Raises:
        BackboneError: an encoder is not CLIP's own.
        ConfigError: an encoder has fewer blocks than are prompted, or no room for the prompts.
    """

    def __init__(self, model: AdaClipConfig, backbone: Backbone) -> None:
        self.visual, self.encoder = image_encoder(backbone), SentenceEncoder(backbone)
        self.layers, self.reduced = backbone.config.feature_layers, is_reduced(backbone)
        blocks = min(depth(self.visual), len(self.encoder.blocks))
        if model.prompted_blocks > blocks:
            raise ConfigError(f"model.prompted_blocks is {model.prompted_blocks}, but an encoder has {blocks} blocks.")
        if model.prompt_tokens >= len(self.encoder.tower.positional_embedding):
            raise ConfigError(f"model.prompt_tokens is {model.prompt_tokens}: a sentence has no room for as many.")
        self._first = functools.lru_cache(maxsize=CLASSES)(functools.partial(_first_states, self.encoder, model))

    def encode(self, head: HybridPrompts, features: Features, class_names: Sequence[str]) -> Encoded:
        """All that is compared.

        Args:
            head: what is learned.
            features: of `ada_clip_encoder`.
            class_names: of the images.

        Returns:
            Normalised features and text vectors.
        """
        dynamic = head.dynamic(features.image)
        image, patches = head.projected(self.image(head, features.patches[0], dynamic))
        pairs = zip(class_names, dynamic.text, strict=True)
        text = [self.text_vectors(*self.sentences(head, name, prompts)) for name, prompts in pairs]
        return Encoded(image.float(), patches.float(), torch.stack(text))

    def image(self, head: HybridPrompts, tokens: Float[Tensor, "batch tokens width"], dynamic: Dynamic) -> Prompted:
        """The prompted image pass.

        Args:
            head: what is learned.
            tokens: what the first block gets.
            dynamic: of each image.

        Returns:
            Image feature, and tokens of the chosen blocks.
        """
        prompts = torch.stack([static + dynamic.image for static in head.image_prompts])
        states: dict[int, Tensor] = {}
        with bfloat16_products(tokens.device, self.reduced):
            for layer, last in enumerate(prompted_steps(self.visual, tokens, prompts), 1):
                if layer in self.layers:
                    states[layer] = last
            image = image_feature(self.visual, last.transpose(0, 1))
        return Prompted(image.float(), torch.stack([states[layer] for layer in self.layers]).float())

    def sentences(
        self, head: HybridPrompts, class_name: str, dynamic: Float[Tensor, "prompts text"]
    ) -> tuple[Float[Tensor, "sentences dim"], int]:
        """Embeddings of all sentences about an image.

        Args:
            head: what is learned.
            class_name: of the image.
            dynamic: u of the image.

        Returns:
            Embeddings, not normalised, normal sentences first; and how many are normal.
        """
        states, ends, normal = self._first(class_name)
        deep = [(static + dynamic)[None] for static in head.text_prompts[1:]]
        return self.encoder.finish(states, ends, deep).float(), normal

    @staticmethod
    def text_vectors(embeddings: Float[Tensor, "sentences dim"], normal: int) -> Float[Tensor, "2 dim"]:
        """t_n, t_a: means of normalised embeddings, normalised.

        Args:
            embeddings: of `sentences`.
            normal: how many are normal.

        Returns:
            The two vectors.
        """
        rows = F.normalize(embeddings, dim=-1)
        return F.normalize(torch.stack([rows[:normal].mean(0), rows[normal:].mean(0)]), dim=-1)


@torch.no_grad()
def _first_states(encoder: SentenceEncoder, model: AdaClipConfig, class_name: str) -> tuple[Tensor, Tensor, int]:
    """States of a class's sentences behind the first block, their ends, and how many are normal."""
    normal, abnormal = model.wording.sentences(class_name.replace("-", " "))
    ids = encoder.tokens([*normal, *abnormal], least=model.prompt_tokens + 1)
    return encoder.first_block(encoder.embed(ids)), encoder.ends(ids), len(normal)
