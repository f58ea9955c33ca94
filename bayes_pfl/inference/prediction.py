"""A method's scores of one image -> `Prediction`: image score, uncertainty, smoothed map (section 3.5)."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bayes_pfl.config import ScoringConfig
from bayes_pfl.inference.view import RegionOfInterest
from bayes_pfl.methods.maps import PromptScores, smooth


class Prediction(NamedTuple):
    """Scores and maps of one image.

    Attributes:
        image_score: text_weight * text_score + map_weight * map_score (0.5 each by default): the higher, the more
            anomalous.
        uncertainty: standard deviation of the image score over the B x R prompts, in the score's unit.
        anomaly_map: (height, width) float32 in [0, 1], smoothed as configured; at the model's image size, or for tiles
            and regions at the image's own; 0 outside the region.
        uncertainty_map: (height, width) float32: standard deviation over the B x R prompts, in the map's unit.
        text_score: mean abnormal probability of the whole image's feature, in [0, 1] (s_text).
        map_score: maximum of the map before smoothing, in [0, 1] (s_img).
        num_samples: number of samples R that was used.
    """

    image_score: float
    uncertainty: float
    anomaly_map: np.ndarray
    uncertainty_map: np.ndarray
    text_score: float
    map_score: float
    num_samples: int


def image_score(scores: PromptScores, scoring: ScoringConfig) -> float:
    """text_weight * s_text + map_weight * maximum of the map before smoothing.

    Args:
        scores: of one image.
        scoring: the weights.

    Returns:
        The score: the higher, the more anomalous.
    """
    text, peak = float(scores.text_scores.mean()), float(scores.anomaly_map.max())
    return scoring.text_weight * text + scoring.map_weight * peak


def prompt_scores(scores: PromptScores, scoring: ScoringConfig) -> Float[Tensor, "*batch samples bank"]:
    """Every prompt's own image score.

    Args:
        scores: of one image, or of several.
        scoring: the weights.

    Returns:
        Scores prompt by prompt.
    """
    return scoring.text_weight * scores.text_scores + scoring.map_weight * scores.map_maxima


def prediction(scores: PromptScores, scoring: ScoringConfig, num_samples: int) -> Prediction:
    """Image score, uncertainty and smoothed map.

    Args:
        scores: of one image.
        scoring: weights and smoothing.
        num_samples: R that the scores were computed with.

    Returns:
        The prediction.
    """
    return Prediction(
        image_score=image_score(scores, scoring),
        uncertainty=float(prompt_scores(scores, scoring).std(correction=0)),
        anomaly_map=smooth(scores.anomaly_map, scoring.smoothing_sigma_px).numpy(),
        uncertainty_map=scores.uncertainty_map.numpy(),
        text_score=float(scores.text_scores.mean()),
        map_score=float(scores.anomaly_map.max()),
        num_samples=num_samples,
    )


def batch_predictions(scores: PromptScores, scoring: ScoringConfig, num_samples: int) -> list[Prediction]:
    """Predictions of several images, computed where their scores lie and copied from there at once.

    Args:
        scores: of the images, each part with them as its first axis.
        scoring: weights and smoothing.
        num_samples: R that the scores were computed with.

    Returns:
        The numbers of `prediction`, up to rounding.
    """
    text, peak = scores.text_scores.mean((1, 2)), scores.anomaly_map.amax((1, 2))
    numbers = [scoring.text_weight * text + scoring.map_weight * peak]
    numbers += [prompt_scores(scores, scoring).std((1, 2), correction=0), text, peak]
    maps = (smooth(scores.anomaly_map, scoring.smoothing_sigma_px), scores.uncertainty_map)
    packed = torch.cat([torch.stack(numbers, 1), *(part.flatten(1) for part in maps)], 1).cpu().numpy()
    shape = (len(packed), 2, *scores.anomaly_map.shape[1:])
    return [
        Prediction(
            float(score), float(uncertainty), anomaly, uncertain, float(text_score), float(map_score), num_samples
        )
        for (score, uncertainty, text_score, map_score), (anomaly, uncertain) in zip(
            packed[:, :4], packed[:, 4:].reshape(shape), strict=True
        )
    ]


def within(
    whole: Prediction, scores: PromptScores, scoring: ScoringConfig, region: RegionOfInterest, size: tuple[int, int]
) -> Prediction:
    """A prediction of a region's box as one of the image that it was cut from.

    Args:
        whole: of the box.
        scores: that it was made of.
        scoring: the weights.
        region: where in the image.
        size: width and height of the image, pixels.

    Returns:
        Maps of the image, 0 outside the region; the score takes the maximum inside the region.
    """
    inside = torch.from_numpy(region.inside_box(*scores.anomaly_map.shape))
    inner = scores._replace(anomaly_map=scores.anomaly_map * inside)
    return whole._replace(
        image_score=image_score(inner, scoring),
        map_score=float(inner.anomaly_map.max()),
        anomaly_map=region.spread(whole.anomaly_map, *size),
        uncertainty_map=region.spread(whole.uncertainty_map, *size),
    )


def is_clear(scores: PromptScores, scoring: ScoringConfig, threshold: float, standard_errors: float) -> bool:
    """Whether the image score is further from the threshold than the noise of its samples explains.

    Args:
        scores: of one image.
        scoring: the weights.
        threshold: image score that decides.
        standard_errors: how many standard errors of the mean over samples the distance must exceed.

    Returns:
        True where more samples would hardly change the decision.
    """
    by_sample = prompt_scores(scores, scoring).mean(1)
    clearance = standard_errors * float(by_sample.std()) / len(by_sample) ** 0.5
    return abs(image_score(scores, scoring) - threshold) > clearance
