"""AnomalyCLIP: two learned prompts for every object, compared with value attention of the image encoder's late blocks.

Source: arXiv 2310.18961 and zqhang/AnomalyCLIP (MIT, copyright 2024 Qihang Zhou).

- Text: [start][E learned vectors][object.][end] and [start][E learned vectors][damaged object.][end]; before the second
  to the last deep block the first t learned positions are replaced by learned deep tokens. The class name is not used.
- Image: x_l = y_(d-1) + sum over blocks d..l of V-V attention, fed by the ordinary path y; patch features
  ln_post(x_l) proj, image feature y_L[class] proj without ln_post.
- p = softmax of cosines / temperature per patch, then upsampled bilinearly; the map is the mean over layers.

Departs from the released code: maps are means over layers and not sums, which is the same with its one layer; deep
tokens are not rounded to half precision.
"""

import json
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone, FeatureKind, Features
from bayes_pfl.clip.blocks import depth, embedded, image_encoder, image_feature, projected, steps, value_attention
from bayes_pfl.clip.placement import bfloat16_products
from bayes_pfl.clip.sentences import SentenceEncoder
from bayes_pfl.config import AnomalyClipConfig, RunConfig
from bayes_pfl.errors import ConfigError
from bayes_pfl.methods.ensemble import abnormal_logit
from bayes_pfl.methods.heads import loaded, seeded
from bayes_pfl.methods.maps import PromptScores, single_scores
from bayes_pfl.methods.method import BatchQuery, FrozenEncoder, Loss, ParameterGroup, TrainingBatch
from bayes_pfl.methods.segmentation import ClassMaps, Sums, map_sums, means, upsampled


def anomaly_clip_encoder(model: AnomalyClipConfig, backbone: Backbone) -> FrozenEncoder:
    """The image feature, and patch features of the value stream in the joint space.

    Args:
        model: where the stream begins.
        backbone: the frozen CLIP.

    Returns:
        The encoder; its patches are (layers, batch, patches, joint width).

    Raises:
        ConfigError: the stream begins behind the last block.
        BackboneError: the image encoder is not CLIP's own.
    """
    visual, layers = image_encoder(backbone), backbone.config.feature_layers
    blocks, first = depth(visual), model.first_value_block
    if first > blocks:
        raise ConfigError(f"model.first_value_block is {first}, but the image encoder has {blocks} blocks.")

    @torch.no_grad()
    def _encode(images: Float[Tensor, "batch 3 height width"]) -> Features:
        streams, last = value_streams(visual, embedded(visual, images), first)
        image = image_feature(visual, last, model.normalised_class_token)
        rows = [projected(visual, streams[layer - 1][1:]).transpose(0, 1) for layer in layers]
        return Features(image, torch.stack(rows))

    passes = {"value_stream": first, "normalised": model.normalised_class_token}
    passes["quick_gelu"] = backbone.config.quick_gelu
    shape = (len(layers), backbone.grid[0] * backbone.grid[1], backbone.joint_width, backbone.joint_width)
    return FrozenEncoder(_encode, FeatureKind(json.dumps(passes, sort_keys=True), shape))


def value_streams(
    visual: nn.Module, tokens: Float[Tensor, "batch tokens width"], first: int
) -> tuple[list[Float[Tensor, "tokens batch width"]], Float[Tensor, "tokens batch width"]]:
    """x_l of every block, and the ordinary path behind the last one.

    Args:
        visual: of `image_encoder`.
        tokens: what the first block gets.
        first: d, the block from which the stream runs, from 1.

    Returns:
        x_l, which is y_l in front of the stream; and y_L.
    """
    streams: list[Tensor] = []
    for layer, step in enumerate(steps(visual, tokens), 1):
        before = step.before if layer == first else (streams[-1] if streams else step.before)
        streams.append(step.after if layer < first else before + value_attention(step.block, step.normed))
    return streams, step.after


class ObjectPrompts(nn.Module):
    """What is learned: E vectors of each prompt, and t deep tokens for each block of the text encoder that gets some.

    Args:
        model: the sizes.
        width: of the text encoder.
    """

    def __init__(self, model: AnomalyClipConfig, width: int) -> None:
        super().__init__()
        self.normal = nn.Parameter(model.initial_std * torch.randn(model.context_tokens, width))
        self.abnormal = nn.Parameter(model.initial_std * torch.randn(model.context_tokens, width))
        shape = (model.deep_tokens, width)
        self.deep = nn.ParameterList(model.initial_std * torch.randn(shape) for _ in range(model.deep_blocks - 1))


class ObjectText:
    """Text embeddings of the two prompts; gradients reach what is learned, never CLIP.

    Args:
        model: the words.
        backbone: the frozen CLIP.

    Raises:
        ConfigError: the prompts are longer, or the deep blocks more, than the text encoder has room for.
    """

    def __init__(self, model: AnomalyClipConfig, backbone: Backbone) -> None:
        self.encoder = SentenceEncoder(backbone)
        tokenizer, device = backbone.tokenizer, self.encoder.device
        if model.deep_blocks > len(self.encoder.blocks):
            raise ConfigError(
                f"deep_blocks is {model.deep_blocks}, but the text encoder has {len(self.encoder.blocks)} blocks."
            )
        words = [
            [*tokenizer.encode(each), tokenizer.eot_token_id] for each in (model.normal_words, model.abnormal_words)
        ]
        length, room = max(map(len, words)), len(self.encoder.tower.positional_embedding)
        if 1 + model.context_tokens + length > room:
            raise ConfigError(
                f"The prompts have more than the {room} tokens there is room for: lower model.context_tokens."
            )
        self.start = torch.tensor([[tokenizer.sot_token_id]], device=device)
        self.words = torch.tensor([each + [0] * (length - len(each)) for each in words], device=device)
        self.ends = torch.tensor([model.context_tokens + len(each) for each in words], device=device)

    def words_of(self, prompts: ObjectPrompts) -> Float[Tensor, "2 tokens width"]:
        """Word embeddings of both prompts, without positions.

        Args:
            prompts: what is learned.

        Returns:
            Normal, then abnormal.
        """
        context = torch.stack([prompts.normal, prompts.abnormal])
        start = self.encoder.embed(self.start).expand(2, -1, -1)
        return torch.cat([start, context, self.encoder.embed(self.words)], dim=1)

    def embeddings(self, prompts: ObjectPrompts) -> Float[Tensor, "2 dim"]:
        """Embeddings t_n, t_a, not normalised.

        Args:
            prompts: what is learned.

        Returns:
            Normal, then abnormal.
        """
        deep = [tokens[None] for tokens in prompts.deep]
        return self.encoder.encode_words(self.words_of(prompts), self.ends, deep)


class AnomalyClip:
    """The scores of a batch of images; see the module.

    Args:
        model: settings.
        backbone: the frozen CLIP.
        device: where to compute.
        weights: state dict of `ObjectPrompts`.

    Raises:
        RuntimeError: the weights do not fit.
    """

    def __init__(
        self, model: AnomalyClipConfig, backbone: Backbone, device: torch.device, weights: dict[str, Tensor]
    ) -> None:
        self.model, self.size = model, backbone.config.image_size
        self.encode_image = anomaly_clip_encoder(model, backbone).encode_image
        self.class_names = backbone.class_names(other_tokens=0)
        prompts = loaded(lambda: ObjectPrompts(model, backbone.text_width), weights)
        with torch.no_grad():
            embeddings = ObjectText(model, backbone).embeddings(prompts.to(device))
        self.text = F.normalize(embeddings.float(), dim=-1)

    def score(self, query: BatchQuery) -> PromptScores:
        """See `Scorer.score`.

        Args:
            query: the images; their class names are not used.

        Returns:
            Their maps and scores.
        """
        features = query.features
        maps = layer_maps(patch_logits(features.patches, self.text, self.model), self.size)
        layers = (maps.abnormal + 1 - maps.normal) / 2
        return single_scores(layers.mean(0), image_logits(features.image, self.text, self.model).sigmoid())


def image_logits(
    image: Float[Tensor, "batch dim"], text: Float[Tensor, "2 dim"], model: AnomalyClipConfig
) -> Float[Tensor, "batch"]:
    """Differences of logits abnormal - normal of image features.

    Args:
        image: features.
        text: normalised.
        model: gives the temperature.

    Returns:
        Image by image.
    """
    return abnormal_logit(image, text.expand(len(image), -1, -1)) / model.temperature


def patch_logits(
    patches: Float[Tensor, "layers batch patches dim"], text: Float[Tensor, "2 dim"], model: AnomalyClipConfig
) -> Float[Tensor, "layers batch patches"]:
    """The same of patch features.

    Args:
        patches: features.
        text: normalised.
        model: gives the temperature.

    Returns:
        Patch by patch.
    """
    return abnormal_logit(patches, text.expand(len(patches), -1, -1)) / model.temperature


def layer_maps(logits: Float[Tensor, "layers batch patches"], size: int) -> ClassMaps:
    """Softmax per patch, then upsampling of both classes.

    Args:
        logits: differences abnormal - normal.
        size: side of the image, pixels.

    Returns:
        Probabilities.
    """
    normal, abnormal = (upsampled(each.sigmoid(), size, align_corners=False) for each in (-logits, logits))
    return ClassMaps(normal, abnormal)


class AnomalyClipObjective:
    """AnomalyCLIP as a `TrainableMethod`: cross-entropy of the image, and lambda times the losses of maps.

    Args:
        run: the training run.
        backbone: the frozen CLIP.
        device: where to compute.
    """

    def __init__(self, run: RunConfig, backbone: Backbone, device: torch.device) -> None:
        assert isinstance(run.model, AnomalyClipConfig)
        self.training, self.model, self.device = run.training, run.model, device
        self.encode_image, self.feature_kind = anomaly_clip_encoder(run.model, backbone)
        self.class_names = backbone.class_names(other_tokens=0)
        self.text = ObjectText(run.model, backbone)
        model = run.model
        self.head = seeded(lambda: ObjectPrompts(model, backbone.text_width), run.training.seed).to(device)

    def parameter_groups(self, second_stage: bool) -> list[ParameterGroup]:
        """All that is learned.

        Args:
            second_stage: there is none.

        Returns:
            One group.
        """
        return [{"params": list(self.head.parameters()), "lr": self.training.learning_rate}]

    def loss(self, batch: TrainingBatch, step: int, second_stage: bool, add: Callable[[Tensor], Tensor]) -> Loss:
        """CE + lambda sum over layers of Focal + Dice abnormal + Dice normal.

        Args:
            batch: the images.
            step: ignored: nothing is drawn.
            second_stage: there is none.
            add: sum over all workers and parts.

        Returns:
            The loss.
        """
        scalars = {name: values.sum() for name, values in means(self.sums(batch), add).items()}
        maps = scalars["focal"] + scalars["dice_abnormal"] + scalars["dice_normal"]
        total = scalars["classification"] + self.model.pixel_weight * maps
        return Loss(total, torch.zeros_like(total), {**scalars, "total": total}, {})

    def sums(self, batch: TrainingBatch) -> dict[str, Sums]:
        """Sums of all terms over images, rows or pixels.

        Args:
            batch: the images.

        Returns:
            By name.
        """
        with bfloat16_products(self.device, self.training.mixed_precision):
            embeddings = self.text.embeddings(self.head)
        text = F.normalize(embeddings.float(), dim=-1)
        image = image_logits(batch.features.image, text, self.model)
        entropy = F.binary_cross_entropy_with_logits(image, batch.label, reduction="sum")
        maps = layer_maps(patch_logits(batch.features.patches, text, self.model), batch.mask.shape[-1])
        sums = map_sums(maps, batch.mask, self.model.segmentation, both_classes=True)
        return {"classification": Sums(entropy[None], len(image)), **sums}
