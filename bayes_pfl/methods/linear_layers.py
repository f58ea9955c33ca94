"""A linear layer a block from patch tokens to the joint space: what APRIL-GAN and CLIP-AD's SDP+ learn, and its loss.

F_l = norm(Z_l A_l^T + b_l); logits scale * F_l [t_n, t_a]^T are upsampled bilinearly with align_corners=True, then
softmax over the two gives the map of a layer (arXiv 2305.17382, 2311.00453; ByChelsea's released codes).
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone, FeatureKind
from bayes_pfl.clip.class_names import ClassNames
from bayes_pfl.clip.placement import bfloat16_products
from bayes_pfl.config import AprilGanConfig, ClipAdConfig, RunConfig
from bayes_pfl.methods.ensemble import EnsembleText, abnormal_logit
from bayes_pfl.methods.heads import loaded, seeded
from bayes_pfl.methods.method import FrozenEncoder, Loss, ParameterGroup, TrainingBatch
from bayes_pfl.methods.segmentation import ClassMaps, map_sums, means, upsampled


class LinearLayers(nn.Module):
    """The layers; state dict `fc.k.weight`, `fc.k.bias`, as published.

    Args:
        layers: number of them.
        width: of patch tokens.
        joint: width of the joint space.
    """

    def __init__(self, layers: int, width: int, joint: int) -> None:
        super().__init__()
        self.fc = nn.ModuleList(nn.Linear(width, joint) for _ in range(layers))

    def forward(
        self, patches: Float[Tensor, "layers batch patches width"]
    ) -> Float[Tensor, "layers batch patches dim"]:
        """F_l of all layers.

        Args:
            patches: patch tokens Z_l.

        Returns:
            Normalised rows.
        """
        rows = torch.stack([layer(tokens) for layer, tokens in zip(self.fc, patches, strict=True)])
        return F.normalize(rows, dim=-1)

    def logits(
        self, patches: Float[Tensor, "layers batch patches width"], text: Float[Tensor, "batch 2 dim"], scale: float
    ) -> Float[Tensor, "layers batch patches"]:
        """Differences of logits abnormal - normal.

        Args:
            patches: patch tokens Z_l.
            text: vectors of each image's class.
            scale: factor on cosines.

        Returns:
            Patch by patch.
        """
        features = self(patches)
        return scale * torch.stack([abnormal_logit(layer, text) for layer in features])


def layer_maps(logits: Float[Tensor, "layers batch patches"], size: int) -> ClassMaps:
    """Maps of all layers: upsampled logits, then their softmax.

    Args:
        logits: differences abnormal - normal.
        size: side of the image, pixels.

    Returns:
        Probabilities.
    """
    full = upsampled(logits, size, align_corners=True)
    return ClassMaps((-full).sigmoid(), full.sigmoid())


def loaded_layers(backbone: Backbone, weights: dict[str, Tensor]) -> LinearLayers:
    """Linear layers with given weights, for scoring.

    Args:
        backbone: gives the sizes.
        weights: state dict.

    Returns:
        The layers.

    Raises:
        RuntimeError: the weights do not fit.
    """
    return loaded(lambda: _layers(backbone), weights).requires_grad_(False)


class LinearLayersObjective:
    """Focal and Dice loss of every layer's map, all weights 1; text and image score are not trained.

    Args:
        run: the training run.
        frozen: the method's encoder.
        text: text vectors of class names.
        class_names: which names fit.
        tokens: patch tokens Z_l among the features' patches.
        backbone: the frozen CLIP.
        device: where to compute.
    """

    def __init__(
        self,
        run: RunConfig,
        frozen: FrozenEncoder,
        text: EnsembleText,
        class_names: ClassNames,
        tokens: Callable[[Tensor], Tensor],
        backbone: Backbone,
        device: torch.device,
    ) -> None:
        assert isinstance(run.model, AprilGanConfig | ClipAdConfig)
        self.training, self.model, self.device = run.training, run.model, device
        self.text, self.class_names, self.tokens = text, class_names, tokens
        self.encode_image = frozen.encode_image
        self.feature_kind: FeatureKind = frozen.kind
        self.head = seeded(lambda: _layers(backbone), run.training.seed).to(device)

    def parameter_groups(self, second_stage: bool) -> list[ParameterGroup]:
        """All layers.

        Args:
            second_stage: there is none.

        Returns:
            One group.
        """
        return [{"params": list(self.head.parameters()), "lr": self.training.learning_rate}]

    def loss(self, batch: TrainingBatch, step: int, second_stage: bool, add: Callable[[Tensor], Tensor]) -> Loss:
        """sum over layers of Focal + Dice.

        Args:
            batch: the images.
            step: ignored: nothing is drawn.
            second_stage: there is none.
            add: sum over all workers and parts.

        Returns:
            The loss.
        """
        with bfloat16_products(self.device, self.training.mixed_precision):
            logits = self.logits(batch.features.patches, batch.class_names)
        maps = layer_maps(logits.float(), batch.mask.shape[-1])
        terms = means(map_sums(maps, batch.mask, self.model.segmentation, both_classes=False), add)
        scalars = {name: values.sum() for name, values in terms.items()}
        total = scalars["focal"] + scalars["dice_abnormal"]
        return Loss(total, torch.zeros_like(total), {**scalars, "total": total}, {})

    def logits(self, patches: Tensor, class_names: Sequence[str]) -> Float[Tensor, "layers batch patches"]:
        """Differences of logits of all layers.

        Args:
            patches: of the features.
            class_names: of the images.

        Returns:
            Patch by patch.
        """
        return self.head.logits(self.tokens(patches), self.text.vectors(class_names), self.model.scale)


def _layers(backbone: Backbone) -> LinearLayers:
    """Layers of the backbone's sizes."""
    return LinearLayers(len(backbone.config.feature_layers), backbone.patch_width, backbone.joint_width)
