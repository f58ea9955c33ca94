"""WinCLIP, zero-shot: windows of patches of several sizes against a prompt ensemble; nothing is learned.

Source: arXiv 2303.14814, whose authors released no code; equations as in the re-implementation of anomalib
(Apache-2.0), with which zqhang/Accurate-WinCLIP-pytorch (MIT) agrees.
With p(f) = sigmoid(norm(f) . (t_a - t_n) / temperature):

- image score s = p(CLIP's own image feature);
- map of a scale, at a patch: harmonic mean of p over the windows that have the patch;
- map: harmonic mean over the scales and s, upsampled bilinearly.

Departs from the paper: none is known; the paper's temperature is not, and the repeated template is anomalib's.
"""

import json

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone, FeatureKind, Features
from bayes_pfl.clip.blocks import embedded, image_encoder, image_feature, steps
from bayes_pfl.clip.sentences import SentenceEncoder
from bayes_pfl.clip.windows import window_coverage, window_features, window_patches
from bayes_pfl.config import WinClipConfig
from bayes_pfl.errors import ConfigError
from bayes_pfl.methods.ensemble import EnsembleText, abnormal_logit, mean_direction, mean_vector, wording_tokens
from bayes_pfl.methods.maps import PromptScores, single_scores
from bayes_pfl.methods.method import BatchQuery, FrozenEncoder

LEAST = 1e-30
"""Probabilities below count as this: the reciprocal of 0 would spread to patches outside its window."""


def winclip_encoder(model: WinClipConfig, backbone: Backbone) -> FrozenEncoder:
    """CLIP's image feature, and the features of all windows of all scales in the joint space, scale after scale.

    Args:
        model: gives the scales.
        backbone: the frozen CLIP.

    Returns:
        The encoder; its patches are (1, batch, windows, joint width).

    Raises:
        ConfigError: a scale does not fit the grid of patches.
        BackboneError: the image encoder is not CLIP's own.
    """
    visual, side = image_encoder(backbone), backbone.grid[0]
    if any(not 1 <= scale <= side for scale in model.scales):
        raise ConfigError(f"model.scales is {list(model.scales)}, but the image has {side} x {side} patches.")
    windows = [window_patches(side, scale) for scale in model.scales]

    @torch.no_grad()
    def _encode(images: Float[Tensor, "batch 3 height width"]) -> Features:
        tokens = embedded(visual, images)
        *_, last = steps(visual, tokens)
        image = image_feature(visual, last.after)
        features = [image.new_empty(len(image), 0, image.shape[1])]  # all there is without scales
        features += [window_features(visual, tokens, patches) for patches in windows]
        return Features(image, torch.cat(features, dim=1)[None])

    count = sum(len(patches) for patches in windows)
    passes = {"windows": list(model.scales), "quick_gelu": backbone.config.quick_gelu}
    shape = (1, count, backbone.joint_width, backbone.joint_width)
    return FrozenEncoder(_encode, FeatureKind(json.dumps(passes, sort_keys=True), shape))


class WinClip:
    """The scores of a batch of images; see the module.

    Args:
        model: scales, temperature, words.
        backbone: the frozen CLIP.
        device: where to compute.
    """

    def __init__(self, model: WinClipConfig, backbone: Backbone, device: torch.device) -> None:
        self.model, self.size, self.side = model, backbone.config.image_size, backbone.grid[0]
        self.encode_image = winclip_encoder(model, backbone).encode_image
        self.class_names = backbone.class_names(wording_tokens(model.wording, backbone.tokenizer))
        rule = mean_direction if model.normalised_sentences else mean_vector
        self.text = EnsembleText(SentenceEncoder(backbone), model.wording, rule)
        windows = [window_patches(self.side, scale) for scale in model.scales]
        self.coverage = [window_coverage(patches, self.side**2).to(device) for patches in windows]

    def score(self, query: BatchQuery) -> PromptScores:
        """See `Scorer.score`.

        Args:
            query: the images.

        Returns:
            Their maps and scores.
        """
        text = self.text.vectors(query.class_names)
        image = (abnormal_logit(query.features.image, text) / self.model.temperature).sigmoid()
        grid = self.grid_map(image, self.window_scores(query.features.patches[0], text))
        size = (self.size, self.size)
        upsampled = F.interpolate(grid[:, None], size=size, mode="bilinear", align_corners=False)
        return single_scores(upsampled[:, 0], image)

    def window_scores(
        self, windows: Float[Tensor, "batch windows dim"], text: Float[Tensor, "batch 2 dim"]
    ) -> list[Float[Tensor, "batch scale_windows"]]:
        """p(f) of the windows of each scale.

        Args:
            windows: of all scales.
            text: vectors of each image's class.

        Returns:
            By scale.
        """
        scores = (abnormal_logit(windows, text) / self.model.temperature).sigmoid()
        return list(scores.split([len(coverage) for coverage in self.coverage], dim=1))

    def scale_map(self, scores: Float[Tensor, "batch windows"], scale: int) -> Float[Tensor, "batch side side"]:
        """Harmonic mean of the windows that have a patch; 0 where that is no number.

        Args:
            scores: of the windows of a scale.
            scale: index of the scale.

        Returns:
            The map, patch by patch.
        """
        coverage = self.coverage[scale]
        mean = coverage.sum(0) / ((1 / scores.clamp(min=LEAST)) @ coverage)
        return torch.nan_to_num(mean, 0.0, 0.0, 0.0).unflatten(1, (self.side, self.side))

    def grid_map(
        self, image: Float[Tensor, "batch"], scores: list[Float[Tensor, "batch _"]]
    ) -> Float[Tensor, "batch side side"]:
        """Harmonic mean of the image score and the maps of all scales.

        Args:
            image: scores of the images.
            scores: of the windows of each scale.

        Returns:
            The map, patch by patch.
        """
        inverse = (1 / image).view(-1, 1, 1).expand(-1, self.side, self.side)
        for index, windows in enumerate(scores):
            inverse = inverse + 1 / self.scale_map(windows, index)
        return torch.nan_to_num((1 + len(scores)) / inverse, 0.0, 0.0, 0.0)
