"""APRIL-GAN, zero-shot track: a linear layer a block against a prompt ensemble. There is no GAN in it.

Source: arXiv 2305.17382 and ByChelsea/VAND-APRIL-GAN (MIT). The image score is softmax(scale * cosines) of CLIP's own
image feature, and depends on nothing that is learned; the map is the sum of the layers' maps (`linear_layers`).

Departs from the released code: maps are means over layers and not sums, so that they lie in [0, 1]; no ranking changes.
"""

import torch
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.sentences import SentenceEncoder
from bayes_pfl.config import AprilGanConfig, RunConfig
from bayes_pfl.methods.ensemble import EnsembleText, abnormal_logit, mean_direction, wording_tokens
from bayes_pfl.methods.linear_layers import LinearLayersObjective, layer_maps, loaded_layers
from bayes_pfl.methods.maps import PromptScores, single_scores
from bayes_pfl.methods.method import BatchQuery, FrozenEncoder


def april_gan_encoder(model: AprilGanConfig, backbone: Backbone) -> FrozenEncoder:
    """A plain pass, which Bayes-PFL takes too: stored features serve both.

    Args:
        model: decides nothing here.
        backbone: the frozen CLIP.

    Returns:
        The encoder.
    """
    return FrozenEncoder(backbone.encode_image, backbone.plain_kind)


class AprilGan:
    """The scores of a batch of images; see the module.

    Args:
        model: scale and words.
        backbone: the frozen CLIP.
        device: where to compute.
        weights: state dict of `LinearLayers`.

    Raises:
        RuntimeError: the weights do not fit.
    """

    def __init__(
        self, model: AprilGanConfig, backbone: Backbone, device: torch.device, weights: dict[str, Tensor]
    ) -> None:
        self.model, self.size = model, backbone.config.image_size
        self.encode_image = backbone.encode_image
        self.class_names = backbone.class_names(wording_tokens(model.wording, backbone.tokenizer))
        self.text = EnsembleText(SentenceEncoder(backbone), model.wording, mean_direction)
        self.head = loaded_layers(backbone, weights).to(device)

    def score(self, query: BatchQuery) -> PromptScores:
        """See `Scorer.score`.

        Args:
            query: the images.

        Returns:
            Their maps and scores.
        """
        text, features = self.text.vectors(query.class_names), query.features
        logits = self.head.logits(features.patches, text, self.model.scale)
        image = (self.model.scale * abnormal_logit(features.image, text)).sigmoid()
        return single_scores(layer_maps(logits, self.size).abnormal.mean(0), image)


def april_gan_objective(run: RunConfig, backbone: Backbone, device: torch.device) -> LinearLayersObjective:
    """APRIL-GAN as a `TrainableMethod`.

    Args:
        run: the training run.
        backbone: the frozen CLIP.
        device: where to compute.

    Returns:
        The method with the initial weights of the run's seed.
    """
    model = run.model
    assert isinstance(model, AprilGanConfig)
    text = EnsembleText(SentenceEncoder(backbone), model.wording, mean_direction)
    names = backbone.class_names(wording_tokens(model.wording, backbone.tokenizer))
    frozen = april_gan_encoder(model, backbone)
    return LinearLayersObjective(run, frozen, text, names, lambda patches: patches, backbone, device)
