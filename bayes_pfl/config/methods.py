"""Settings of the methods beside Bayes-PFL: what each computes, its words, and the backbone and scoring it is run with.

The defaults are the released codes', which the published numbers were made with; where a released code departs from its
paper, a field says so.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from bayes_pfl.config.settings import Settings
from bayes_pfl.config.wordings import (
    ADA_CLIP_WORDING,
    APRIL_GAN_WORDING,
    CLIP_AD_WORDING,
    WINCLIP_WORDING,
    AdaClipWording,
    AprilGanWording,
    ClipAdWording,
    WinClipWording,
)

B16_240 = {"name": "ViT-B-16-plus-240", "pretrained": "laion400m_e31", "image_size": 240}
"""The backbone of WinCLIP and CLIP-AD."""

L14_336 = {"name": "ViT-L-14-336", "pretrained": "openai", "image_size": 518}
"""The backbone of APRIL-GAN, AnomalyCLIP and AdaCLIP."""


class SegmentationLoss(Settings):
    """Focal and Dice loss of probability maps, as the released codes of all four trained methods have them."""

    focal_gamma: float = Field(2.0, ge=0, description="focusing exponent of the focal loss")
    focal_smoothing: float = Field(
        1e-5, ge=0, description="share of a pixel's probability that goes to the other class, and is added to it"
    )
    dice_smoothing: float = Field(1.0, ge=0, description="added to Dice's numerator and denominator")


class PromptEnsembleConfig(Settings):
    """CLIP as it is: sentences about flawless and damaged objects against image and patches."""

    method: Literal["prompt_ensemble"] = "prompt_ensemble"
    scale: float | None = Field(None, gt=0, description="factor on cosines; none: CLIP's own, about 100")
    wording: AprilGanWording = APRIL_GAN_WORDING


class WinClipConfig(Settings):
    """WinCLIP (CVPR 2023), zero-shot, as anomalib has it: windows of several sizes against a prompt ensemble."""

    method: Literal["winclip"] = "winclip"
    scales: tuple[int, ...] = Field((2, 3), description="sides of the square windows, patches; none: the image alone")
    temperature: float = Field(
        0.07, gt=0, description="of cosines, image and windows: the two agreeing codes'; CLIP's own would be 0.01"
    )
    normalised_sentences: bool = Field(
        False, description="normalise each sentence's embedding before the mean, as APRIL-GAN and CLIP-AD do"
    )
    wording: WinClipWording = WINCLIP_WORDING


class AprilGanConfig(Settings):
    """APRIL-GAN (VAND 2023 challenge), zero-shot track: a linear layer a block against a prompt ensemble."""

    method: Literal["april_gan"] = "april_gan"
    scale: float = Field(100.0, gt=0, description="factor on cosines, pixels and image")
    wording: AprilGanWording = APRIL_GAN_WORDING
    segmentation: SegmentationLoss = SegmentationLoss()


class ClipAdConfig(Settings):
    """CLIP-AD (2023): feature surgery on a second path of value attention (SDP), and linear layers on top (SDP+)."""

    method: Literal["clip_ad"] = "clip_ad"
    linear_layers: bool = Field(False, description="SDP+, which is trained, instead of SDP, which needs no training")
    scale: float = Field(100.0, gt=0, description="factor on cosines: of the linear layers, and of the text score")
    stages: int = Field(4, ge=1, description="parts of the image encoder at whose starts the second path begins anew")
    between_attention_and_mlp: bool = Field(
        True,
        description="patch tokens of a layer are those between attention and MLP of the next block: an in-place sum of "
        "the released code, which its weights were trained with; off: the layer's own output",
    )
    largest_cluster: bool = Field(
        True, description="a class's text vector is the mean of the largest cluster of sentences; off: of all of them"
    )
    cluster_radius: float = Field(0.5, gt=0, description="DBSCAN's eps; the released code has 1.5 for VisA")
    cluster_neighbours: int = Field(15, ge=1, description="DBSCAN's min_samples; the released code has 25 for VisA")
    half_precision_text: bool = Field(
        False, description="round text vectors to half precision, as the released code does"
    )
    wording: ClipAdWording = CLIP_AD_WORDING
    segmentation: SegmentationLoss = SegmentationLoss()


class AnomalyClipConfig(Settings):
    """AnomalyCLIP (ICLR 2024): two learned prompts for every object, compared with value attention of late blocks."""

    method: Literal["anomaly_clip"] = "anomaly_clip"
    context_tokens: int = Field(12, ge=1, description="E, learned vectors in front of the words of a prompt")
    deep_tokens: int = Field(
        4, ge=1, description="t, first learned positions that are replaced inside the text encoder"
    )
    deep_blocks: int = Field(9, ge=1, description="text blocks up to which they are replaced, from the second on")
    normal_words: str = Field("object.", min_length=1, description="words of the normal prompt, behind the vectors")
    abnormal_words: str = Field("damaged object.", min_length=1, description="words of the abnormal prompt")
    first_value_block: int = Field(6, ge=1, description="d, vision block from which the value stream runs, from 1")
    normalised_class_token: bool = Field(
        False, description="final normalisation of the class token before its projection; released: off"
    )
    temperature: float = Field(0.07, gt=0, description="of cosines, pixels and image")
    initial_std: float = Field(0.02, gt=0, description="standard deviation of the learned vectors at the start")
    pixel_weight: float = Field(
        4.0, ge=0, description="lambda, weight of the pixel losses: 4 with one layer is the released training"
    )
    segmentation: SegmentationLoss = SegmentationLoss()

    @model_validator(mode="after")
    def _deep_tokens_replace_learned_ones(self) -> "AnomalyClipConfig":
        if self.deep_tokens > self.context_tokens:
            raise ValueError("deep_tokens must not be more than context_tokens: they would replace the words")
        return self


class AdaClipConfig(Settings):
    """AdaCLIP (ECCV 2024): prompts inside both encoders, learned and made from the image."""

    method: Literal["ada_clip"] = "ada_clip"
    prompted_blocks: int = Field(4, ge=1, description="J, blocks of each encoder that get prompts")
    prompt_tokens: int = Field(5, ge=1, description="M, prompt tokens of a block")
    scale: float = Field(100.0, gt=0, description="factor on cosines, pixels and image")
    clusters: int = Field(20, ge=1, description="K, clusters of the semantic fusion")
    patches_per_cluster: int = Field(5, ge=1, description="the fusion looks at K times as many patches")
    cluster_weight: float = Field(0.2, ge=0, le=1, description="alpha, weight of the clusters' feature in the image's")
    initial_std: float = Field(0.02, gt=0, description="standard deviation of the learned prompts at the start")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay of all that is learned")
    dice_over_rows: bool = Field(
        True, description="Dice of every row of pixels, as released with its batches of one; off: of every image"
    )
    wording: AdaClipWording = ADA_CLIP_WORDING
    segmentation: SegmentationLoss = SegmentationLoss()


BACKBONES: dict[str, dict[str, Any]] = {
    "prompt_ensemble": {**L14_336, "feature_layers": (24,), "quick_gelu": True},
    "winclip": {**B16_240, "feature_layers": (1,)},
    "april_gan": {**L14_336, "feature_layers": (6, 12, 18, 24)},
    "clip_ad": {**B16_240, "feature_layers": (3, 6, 9, 12)},
    "anomaly_clip": {**L14_336, "feature_layers": (24,), "quick_gelu": True, "position_resize": "bilinear"},
    "ada_clip": {**L14_336, "feature_layers": (6, 12, 18, 24), "position_resize": "bicubic"},
}
"""What each method is run with unless another backbone is asked for. WinCLIP reads no layer. AnomalyCLIP reads layer 24
alone: the published numbers are of it, whatever the released scripts' default says."""

SMOOTHING_PX = {
    "prompt_ensemble": 8.0,
    "winclip": 0.0,
    "april_gan": 0.0,
    "clip_ad": 8.0,
    "anomaly_clip": 4.0,
    "ada_clip": 4.0,
}
"""Smoothing of the map; CLIP-AD has 2 for SDP+ on VisA."""


def recommended_settings(method: Any, model: Any) -> dict[str, dict[str, Any]]:
    """The backbone and the scoring of a method's released code.

    The image score is the text score, and the map takes no part, except in the prompt ensemble, which has half of each
    as Bayes-PFL does, and in CLIP-AD: s_text + s_map, on maps whose range
    (-1, 1), or (-1, 2) with linear layers, times the number of layers is brought to [0, 1] here. The weights undo that
    and add up to 1. The released code brings both parts to [0, 1] over a whole category first.

    Args:
        method: name of a method; an unknown one, or Bayes-PFL, has none.
        model: its settings, or a mapping of them.

    Returns:
        Fields of `backbone` and `scoring`.
    """
    if method not in BACKBONES:
        return {}
    scoring: dict[str, Any] = {"text_weight": 1.0, "map_weight": 0.0, "smoothing_sigma_px": SMOOTHING_PX[method]}
    scoring["edge_twice"] = True
    if method == "prompt_ensemble":
        scoring |= {"text_weight": 0.5, "map_weight": 0.5}
    if method == "clip_ad":
        linear = model.get("linear_layers") if isinstance(model, dict) else model.linear_layers
        extent = (3 if linear else 2) * len(BACKBONES[method]["feature_layers"])
        scoring |= {"text_weight": 1 / (1 + extent), "map_weight": extent / (1 + extent), "smoothed_maximum": True}
    return {"backbone": dict(BACKBONES[method]), "scoring": scoring}
