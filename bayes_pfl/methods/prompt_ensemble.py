"""Prompt ensemble: CLIP as it is, sentences about flawless and damaged objects against image and patches.

p = sigmoid(scale * (cos(f, t_a) - cos(f, t_n))) of the image feature, and of the last configured block's patch tokens,
which go through CLIP's own final normalisation and projection; the map is upsampled bilinearly before the sigmoid. It
computes with any image encoder that gives patch tokens, the embedded one too.
"""

import torch
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.sentences import SentenceEncoder
from bayes_pfl.config import PromptEnsembleConfig
from bayes_pfl.methods.baselines import projected_patches
from bayes_pfl.methods.ensemble import EnsembleText, abnormal_logit, mean_direction, wording_tokens
from bayes_pfl.methods.maps import PromptScores, single_scores
from bayes_pfl.methods.method import BatchQuery
from bayes_pfl.methods.segmentation import upsampled


class PromptEnsemble:
    """The scores of a batch of images; see the module.

    Args:
        model: scale and words.
        backbone: the frozen CLIP.
        device: where to compute.
    """

    def __init__(self, model: PromptEnsembleConfig, backbone: Backbone, device: torch.device) -> None:
        self.backbone, self.size = backbone, backbone.config.image_size
        self.encode_image = backbone.encode_image
        self.class_names = backbone.class_names(wording_tokens(model.wording, backbone.tokenizer))
        self.text = EnsembleText(SentenceEncoder(backbone), model.wording, mean_direction)
        self.scale = model.scale or float(backbone.clip.logit_scale.detach().exp())

    def score(self, query: BatchQuery) -> PromptScores:
        """See `Scorer.score`.

        Args:
            query: the images.

        Returns:
            Their maps and scores.
        """
        text, features = self.text.vectors(query.class_names), query.features
        patches = projected_patches(self.backbone, features.patches[-1].flatten(0, 1))
        logits: Tensor = self.scale * abnormal_logit(patches.unflatten(0, features.patches.shape[1:3]), text)
        maps = upsampled(logits[None], self.size, align_corners=False)[0].sigmoid()
        return single_scores(maps, (self.scale * abnormal_logit(features.image, text)).sigmoid())
