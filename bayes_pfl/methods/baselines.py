"""Baselines without a learned head: features or pixels -> `BaselinePrediction`.

Hand-written prompts and a linear probe on the same frozen backbone, and two rules without a model.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.blocks import projected
from bayes_pfl.data.pixels import CLIP_MEAN, CLIP_STD
from bayes_pfl.errors import BackboneError, DataError
from bayes_pfl.methods.maps import smooth
from bayes_pfl.methods.prompt_flow.attention import normalize
from bayes_pfl.synthetic.captions import DAMAGED, FLAWLESS, TEMPLATES


class BaselinePrediction(NamedTuple):
    """Scores and map of one image: the higher, the more anomalous."""

    image_score: float
    anomaly_map: np.ndarray
    """(size, size) float32, smoothed."""
    text_score: float | None = None
    """Of the global image feature alone, where the image score has two parts."""
    map_score: float | None = None
    """Maximum of the map before smoothing, where the image score has two parts."""


class HandWrittenPrompts:
    """CLIP as it is: "a photo of a flawless {class}" against "... damaged {class}", averaged over wordings.

    Patch tokens of the last configured block go through CLIP's own final normalisation and projection, which were made
    for the global token; the temperature is CLIP's. The image score is that of Bayes-PFL: half text score, half maximum
    of the map.
    """

    def __init__(self, backbone: Backbone, sigma_px: float) -> None:
        self.backbone, self.sigma_px = backbone, sigma_px
        self._texts: dict[str, Tensor] = {}

    @torch.inference_mode()
    def predict(self, features: Features, class_name: str) -> BaselinePrediction:
        """Score one image from its frozen features.

        Args:
            features: batch 1.
            class_name: what the image shows.

        Returns:
            Scores and map.
        """
        scale = self.backbone.clip.logit_scale.exp()
        normal, abnormal = self._embeddings(class_name)
        direction = (abnormal - normal) * scale
        text = float((normalize(features.image[0]) @ direction).sigmoid())
        logits = normalize(projected_patches(self.backbone, features.patches[-1, 0])) @ direction
        return _prediction(logits, self.backbone.config.image_size, self.sigma_px, text)

    def _embeddings(self, class_name: str) -> Float[Tensor, "2 dim"]:
        """Normalised mean embeddings of the flawless and of the damaged sentences."""
        if class_name not in self._texts:
            means = []
            for states in (FLAWLESS, DAMAGED):
                sentences = [template.format(state.format(class_name)) for template in TEMPLATES for state in states]
                tokens = self.backbone.tokenizer(sentences)
                means.append(normalize(self.backbone.clip.encode_text(tokens, normalize=True).mean(0)))
            self._texts[class_name] = torch.stack(means)
        return self._texts[class_name]


def projected_patches(backbone: Backbone, patches: Float[Tensor, "patches width"]) -> Float[Tensor, "patches dim"]:
    """Patch tokens in the joint space, by the frozen encoder's own last steps.

    Args:
        backbone: the frozen CLIP.
        patches: patch tokens of one image and block.

    Returns:
        Projected tokens, not normalised.

    Raises:
        BackboneError: the vision tower has no final projection.
    """
    visual = backbone.clip.visual
    if not hasattr(visual, "ln_post") and not hasattr(getattr(visual, "trunk", None), "norm"):
        raise BackboneError(f"{backbone.config.name} has no final projection that patch tokens could go through.")
    return projected(visual, patches)


class LinearProbe:
    """Logistic regression of "this patch is defective" on the patch tokens of all layers, standardised.

    Fitted with L-BFGS on auxiliary images; a patch's target is the share of its pixels that is defective, and both
    classes weigh the same. The image score is the maximum of the map.
    """

    def __init__(self, weight: Float[Tensor, "width"], bias: float, size: int, sigma_px: float) -> None:
        self.weight, self.bias, self.size, self.sigma_px = weight, bias, size, sigma_px

    @classmethod
    def fit(
        cls, samples: Iterable[tuple[Features, Float[Tensor, "1 size size"]]], sigma_px: float, penalty: float = 1e-3
    ) -> "LinearProbe":
        """Fit on features and masks of single images.

        Args:
            samples: features (batch 1) and mask of each image.
            sigma_px: smoothing of the probe's maps, pixels.
            penalty: this times half the squared norm of the weights is added to the loss.

        Returns:
            The probe.

        Raises:
            DataError: there are no images.
        """
        tokens, targets, size = [], [], 0
        for features, mask in samples:
            rows = _tokens(features)
            side, size = int(len(rows) ** 0.5), mask.shape[-1]
            tokens.append(rows.half())
            targets.append(F.adaptive_avg_pool2d(mask, side).flatten())
        if not tokens:
            raise DataError("There is no image to fit a linear probe on.")
        x, y = torch.cat(tokens).float(), torch.cat(targets)
        mean, std = x.mean(0), x.std(0).clamp(min=1e-6)
        x = x.sub_(mean).div_(std)
        balance = y / y.sum() + (1 - y) / (1 - y).sum()
        weight, bias = torch.zeros(x.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

        def _loss() -> Tensor:
            optimizer.zero_grad()
            error = F.binary_cross_entropy_with_logits(x @ weight + bias, y, weight=balance, reduction="sum") / 2
            loss = error + 0.5 * penalty * weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(_loss)
        scaled = weight.detach() / std
        return cls(scaled, float(bias.detach() - scaled @ mean), size, sigma_px)

    @torch.inference_mode()
    def predict(self, features: Features) -> BaselinePrediction:
        """Score one image from its frozen features.

        Args:
            features: batch 1.

        Returns:
            Score and map.
        """
        return _prediction(_tokens(features) @ self.weight + self.bias, self.size, self.sigma_px, None)


def median_deviation(image: Float[Tensor, "3 size size"], sigma_px: float) -> BaselinePrediction:
    """Distance of each pixel's colour from the image's median colour, smoothed; the score is its maximum.

    Args:
        image: normalised as `pixels.image_tensor` does it.
        sigma_px: smoothing, pixels.

    Returns:
        Score and map; distances are of colours in [0, 1], over sqrt(3).
    """
    colours = image * torch.tensor(CLIP_STD).view(3, 1, 1) + torch.tensor(CLIP_MEAN).view(3, 1, 1)
    median = colours.flatten(1).median(1).values.view(3, 1, 1)
    deviation = smooth((colours - median).norm(dim=0) / 3**0.5, sigma_px)
    return BaselinePrediction(float(deviation.max()), deviation.clamp(0, 1).numpy())


def mean_darkness(image: Float[Tensor, "3 size size"]) -> float:
    """1 - mean brightness: an image score that sees nothing but the exposure.

    Args:
        image: normalised as `pixels.image_tensor` does it.

    Returns:
        The score, in [0, 1].
    """
    colours = image * torch.tensor(CLIP_STD).view(3, 1, 1) + torch.tensor(CLIP_MEAN).view(3, 1, 1)
    return 1 - float(colours.mean())


def _tokens(features: Features) -> Float[Tensor, "patches width"]:
    """The patch tokens of all layers of one image side by side."""
    return features.patches[:, 0].transpose(0, 1).flatten(1).float()


def _prediction(logits: Float[Tensor, "patches"], size: int, sigma_px: float, text: float | None) -> BaselinePrediction:
    """Upsampled logits through a sigmoid; the score is the map's maximum, or the mean of that and the text score."""
    side = int(len(logits) ** 0.5)
    full = F.interpolate(logits.view(1, 1, side, side), size=(size, size), mode="bilinear", align_corners=False)
    raw = full[0, 0].sigmoid()
    peak, smoothed = float(raw.max()), smooth(raw, sigma_px).numpy()
    if text is None:
        return BaselinePrediction(peak, smoothed)
    return BaselinePrediction(0.5 * text + 0.5 * peak, smoothed, text, peak)
