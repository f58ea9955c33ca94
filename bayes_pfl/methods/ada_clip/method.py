"""AdaCLIP's scores of a batch of images, and its training objective; what is learned is in `head`.

Map: the mean of the layers' logits is upsampled bilinearly with align_corners=True, then softmax. Image score: softmax
of scale * cosines of norm(alpha r + (1 - alpha) f), r of `fusion`. Training: each layer's upsampled logits get their
own softmax.
"""

import json
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone, FeatureKind, Features
from bayes_pfl.clip.blocks import embedded, image_encoder, image_feature, steps
from bayes_pfl.clip.placement import bfloat16_products
from bayes_pfl.config import AdaClipConfig, RunConfig
from bayes_pfl.methods.ada_clip.fusion import Partition, cluster_feature, cluster_seed, partition
from bayes_pfl.methods.ada_clip.head import Encoded, HybridPrompts, PromptedTowers
from bayes_pfl.methods.ensemble import abnormal_logit, wording_tokens
from bayes_pfl.methods.heads import loaded, seeded
from bayes_pfl.methods.maps import PromptScores, single_scores
from bayes_pfl.methods.method import BatchQuery, FrozenEncoder, Loss, ParameterGroup, TrainingBatch
from bayes_pfl.methods.segmentation import ClassMaps, Sums, focal, map_sums, means, upsampled


def ada_clip_encoder(model: AdaClipConfig, backbone: Backbone) -> FrozenEncoder:
    """What no prompt reaches: the unprompted image feature c, and the tokens in front of the first block.

    Args:
        model: decides nothing here.
        backbone: the frozen CLIP.

    Returns:
        The encoder; its patches are (1, batch, 1 + patches, width).

    Raises:
        BackboneError: the image encoder is not CLIP's own.
    """
    visual = image_encoder(backbone)

    @torch.no_grad()
    def _encode(images: Float[Tensor, "batch 3 height width"]) -> Features:
        tokens = embedded(visual, images)
        *_, last = steps(visual, tokens)
        return Features(image_feature(visual, last.after), tokens[None])

    passes = {"in_front_of_blocks": True, "quick_gelu": backbone.config.quick_gelu}
    shape = (1, 1 + backbone.grid[0] * backbone.grid[1], backbone.patch_width, backbone.joint_width)
    return FrozenEncoder(_encode, FeatureKind(json.dumps(passes, sort_keys=True), shape))


class AdaClip:
    """The scores of a batch of images.

    Args:
        model: settings.
        backbone: the frozen CLIP.
        device: where to compute.
        weights: state dict of `HybridPrompts`.

    Raises:
        RuntimeError: the weights do not fit.
    """

    def __init__(
        self, model: AdaClipConfig, backbone: Backbone, device: torch.device, weights: dict[str, Tensor]
    ) -> None:
        self.model, self.size = model, backbone.config.image_size
        self.encode_image = ada_clip_encoder(model, backbone).encode_image
        self.class_names = backbone.class_names(wording_tokens(model.wording, backbone.tokenizer))
        self.head = loaded(lambda: HybridPrompts(model, backbone), weights).to(device).requires_grad_(False)
        self.towers = PromptedTowers(model, backbone)

    def score(self, query: BatchQuery) -> PromptScores:
        """See `Scorer.score`.

        Args:
            query: the images.

        Returns:
            Their maps and scores.
        """
        encoded = self.towers.encode(self.head, query.features, query.class_names)
        logits = patch_logits(encoded, self.model)
        maps = layer_maps(logits.mean(0, keepdim=True), self.size)
        parts = partitions(self.model, encoded, logits, query.noise_keys, query.seed)
        image = image_logits(encoded, parts, self.model).sigmoid()
        return single_scores(((maps.abnormal + 1 - maps.normal) / 2)[0], image)


def patch_logits(encoded: Encoded, model: AdaClipConfig) -> Float[Tensor, "layers batch patches"]:
    """Z_l: differences of logits abnormal - normal.

    Args:
        encoded: the images.
        model: gives the scale.

    Returns:
        Patch by patch.
    """
    direction = encoded.text[:, 1] - encoded.text[:, 0]
    return model.scale * torch.einsum("lbpd,bd->lbp", encoded.patches, direction)


def layer_maps(logits: Float[Tensor, "layers batch patches"], size: int) -> ClassMaps:
    """Upsampled logits, then softmax.

    Args:
        logits: differences abnormal - normal.
        size: side of the image, pixels.

    Returns:
        Probabilities.
    """
    full = upsampled(logits, size, align_corners=True)
    return ClassMaps((-full).sigmoid(), full.sigmoid())


def partitions(
    model: AdaClipConfig,
    encoded: Encoded,
    logits: Float[Tensor, "layers batch patches"],
    keys: Sequence[bytes],
    seed: int,
) -> list[Partition]:
    """The clusters of each image.

    Args:
        model: the clustering.
        encoded: the images.
        logits: of `patch_logits`.
        keys: of the images.
        seed: of the prediction or training.

    Returns:
        By image.
    """
    return [
        partition(model, encoded.patches[:, index], logits[:, index], cluster_seed(key, seed))
        for index, key in enumerate(keys)
    ]


def image_logits(encoded: Encoded, parts: Sequence[Partition], model: AdaClipConfig) -> Float[Tensor, "batch"]:
    """Differences of logits abnormal - normal of the fused image feature.

    Args:
        encoded: the images.
        parts: the clusters of each.
        model: alpha and scale.

    Returns:
        Image by image.
    """
    features = [cluster_feature(encoded.patches[:, index], each) for index, each in enumerate(parts)]
    fused = model.cluster_weight * torch.stack(features) + (1 - model.cluster_weight) * encoded.image
    return model.scale * abnormal_logit(fused, encoded.text)


class AdaClipObjective:
    """AdaCLIP as a `TrainableMethod`: focal loss of the image, focal and Dice losses of every layer's map, weights 1.

    Args:
        run: the training run.
        backbone: the frozen CLIP.
        device: where to compute.
    """

    def __init__(self, run: RunConfig, backbone: Backbone, device: torch.device) -> None:
        assert isinstance(run.model, AdaClipConfig)
        self.training, self.model, self.device = run.training, run.model, device
        self.encode_image, self.feature_kind = ada_clip_encoder(run.model, backbone)
        self.class_names = backbone.class_names(wording_tokens(run.model.wording, backbone.tokenizer))
        self.towers = PromptedTowers(run.model, backbone)
        model = run.model
        self.head = seeded(lambda: HybridPrompts(model, backbone), run.training.seed).to(device)

    def parameter_groups(self, second_stage: bool) -> list[ParameterGroup]:
        """All that is learned, by AdamW.

        Args:
            second_stage: there is none.

        Returns:
            One group.
        """
        group: ParameterGroup = {"params": list(self.head.parameters()), "lr": self.training.learning_rate}
        if self.model.weight_decay:
            group |= {"weight_decay": self.model.weight_decay, "decoupled_weight_decay": True}
        return [group]

    def loss(self, batch: TrainingBatch, step: int, second_stage: bool, add: Callable[[Tensor], Tensor]) -> Loss:
        """Focal(image) + sum over layers of Focal + Dice abnormal + Dice normal.

        Args:
            batch: the images.
            step: ignored: an image's clusters depend on the seed alone.
            second_stage: there is none.
            add: sum over all workers and parts.

        Returns:
            The loss.
        """
        sums = self.sums(batch, None)
        scalars = {name: values.sum() for name, values in means(sums, add).items()}
        total = torch.stack(list(scalars.values())).sum()
        return Loss(total, torch.zeros_like(total), {**scalars, "total": total}, {})

    def sums(self, batch: TrainingBatch, parts: Sequence[Partition] | None) -> dict[str, Sums]:
        """Sums of all terms over images, rows or pixels.

        Args:
            batch: the images.
            parts: their clusters; None: those of the run's seed.

        Returns:
            By name.
        """
        with bfloat16_products(self.device, self.training.mixed_precision):
            encoded = self.towers.encode(self.head, batch.features, batch.class_names)
        logits = patch_logits(encoded, self.model)
        if parts is None:
            parts = partitions(self.model, encoded, logits, batch.noise_keys, self.training.seed)
        image = image_logits(encoded, parts, self.model)
        signed = torch.where(batch.label > 0.5, image, -image)
        values = focal(signed.sigmoid(), (-signed).sigmoid(), self.model.segmentation)
        maps = layer_maps(logits, batch.mask.shape[-1])
        rows = map_sums(maps, batch.mask, self.model.segmentation, True, self.model.dice_over_rows)
        return {"classification": Sums(values.sum()[None], len(image)), **rows}
