"""A method's scores of one image -> `Prediction`: image score, uncertainty, smoothed map (section 3.5)."""

import inspect
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bayes_pfl.config import ScoringConfig
from bayes_pfl.data.preprocess import encode_png
from bayes_pfl.decisions.boundaries import Decision, Label
from bayes_pfl.errors import ConfigError, OutputError
from bayes_pfl.inference import heatmap
from bayes_pfl.inference.arguments import check_share, check_size
from bayes_pfl.inference.images import Photo, rgb_image
from bayes_pfl.inference.outlines import OutlinedRegion, outlined_regions
from bayes_pfl.inference.view import RegionOfInterest
from bayes_pfl.methods.maps import PromptScores, smooth

UNDECIDED = Decision(None)


class Prediction(NamedTuple):
    """Scores and maps of one image. It holds no pixels: methods that draw or measure take the image once more.

    Attributes:
        image_score: text_weight * text_score + map_weight * map_score (0.5 each by default), a number from 0 to 1: the
            higher, the more anomalous.
        uncertainty: standard deviation of the image score over the B x R prompts, in the score's unit; None for a
            method that has no distribution: it is not known then, and not 0.
        anomaly_map: (height, width) float32 in [0, 1], smoothed as configured; at the model's image size, or for tiles
            and regions at the image's own; 0 outside the region.
        uncertainty_map: (height, width) float32: standard deviation over the B x R prompts, in the map's unit; None
            where `uncertainty` is.
        text_score: mean abnormal probability of the whole image's feature, in [0, 1] (s_text).
        map_score: maximum of the map before smoothing, in [0, 1] (s_img); of the smoothed map where
            `scoring.smoothed_maximum` says so.
        num_samples: number of samples R that was used; a method without a distribution ignores it.
        decision: what the threshold or the model's calibration says of the image: label, p-value and reasons. Its label
            is None where there is neither, and for predictions from features.

    >>> from PIL import Image
    >>> from bayes_pfl import Detector
    >>> photo = Image.new("RGB", (100, 80))
    >>> (prediction,) = Detector.load("embedded").predict([photo], ["metal plate"], num_samples=1, threshold=1.0)
    >>> prediction.label, prediction.overlay(photo).size, prediction.resized(photo).shape
    ('good', (100, 80), (80, 100))
    """

    image_score: float
    uncertainty: float | None
    anomaly_map: np.ndarray
    uncertainty_map: np.ndarray | None
    text_score: float
    map_score: float
    num_samples: int
    decision: Decision = UNDECIDED

    def __repr__(self) -> str:
        maps = {name: value.shape for name, value in self._asdict().items() if isinstance(value, np.ndarray)}
        shown = [f"{name}={maps.get(name, value)!r}" for name, value in self._asdict().items()]
        return f"Prediction({', '.join(shown)})"

    @property
    def label(self) -> Label | None:
        """`good`, `defective`, or `unsure`, which only a calibration says; None where nothing decides."""
        return self.decision.label

    def resized(self, image: Photo | tuple[int, int]) -> Float[np.ndarray, "height width"]:
        """The anomaly map at the image's own size, scaled bilinearly.

        Args:
            image: the image that was scored (path, bytes, PIL image or array), or its (width, height) in pixels, after
                its EXIF note turned it upright.

        Returns:
            (height, width) float32 in [0, 1].

        Raises:
            ConfigError: the size is not (width, height) in whole pixels.
            ImageError: the image cannot be read.
        """
        size = _size(image)
        if size == self.anomaly_map.shape[::-1]:
            return self.anomaly_map
        return np.asarray(Image.fromarray(self.anomaly_map).resize(size, Image.Resampling.BILINEAR))

    def overlay(self, image: Photo, alpha: float = 0.6) -> Image.Image:
        """The image with the anomaly map over it: 0 leaves a pixel as it is, 1 is brightest, whatever the image.

        Args:
            image: the image that was scored.
            alpha: opacity of the value 1, from 0 to 1.

        Returns:
            An RGB image of the image's size.

        Raises:
            ConfigError: alpha is no number from 0 to 1.
            ImageError: the image cannot be read.
        """
        return heatmap.overlay(rgb_image(image), self.anomaly_map, alpha)

    def save(self, path: str | Path, image: Photo | None = None) -> None:
        """Write the heat map as an 8-bit RGB PNG: dark for 0, bright for 1, of the map's size.

        The map's own values are `anomaly_map`: `numpy.save` keeps them.

        Args:
            path: ends in .png; a file that is there is replaced.
            image: the image that was scored: its `overlay` is written instead.

        Raises:
            ConfigError: the path does not end in .png.
            ImageError: the image cannot be read.
            OutputError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ConfigError(f"'{path}' does not end in .png, which is what is written; name it {path.stem}.png.")
        picture = heatmap.heat_map(self.anomaly_map) if image is None else self.overlay(image)
        try:
            path.write_bytes(encode_png(picture))
        except OSError as error:
            raise OutputError(f"Cannot write {path} ({error.strerror or error}); choose another path.") from error

    def regions(self, threshold: float, image: Photo | tuple[int, int]) -> list[OutlinedRegion]:
        """The connected parts of the map at or above a threshold.

        Args:
            threshold: lowest map value inside a region, from 0 to 1. A threshold of image scores is another thing.
            image: the image that was scored, or its (width, height): see `resized`.

        Returns:
            Box, polygons and area in pixels of the image, and the largest map value inside as `score`; the highest
            score first.

        Raises:
            ConfigError: the threshold is no number from 0 to 1, or the size is not (width, height) in whole pixels.
            ImageError: the image cannot be read.
        """
        check_share("threshold", threshold)
        width, height = _size(image)
        return outlined_regions(self.anomaly_map, threshold, width, height)


for _name, _sentence in re.findall(
    r"^    (\w+): (.+(?:\n {8}.+)*)", inspect.cleandoc(Prediction.__doc__ or ""), re.MULTILINE
):  # help() would say "Alias for field number 0"
    getattr(Prediction, _name).__doc__ = " ".join(_sentence.split())


def image_score(scores: PromptScores, scoring: ScoringConfig) -> float:
    """text_weight * s_text + map_weight * maximum of the map.

    Args:
        scores: of one image.
        scoring: the weights.

    Returns:
        The score: the higher, the more anomalous.
    """
    text, peak = float(scores.text_scores.mean()), float(_peaks(scores, scoring))
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


def uncertainty(scores: PromptScores, scoring: ScoringConfig) -> float | None:
    """Standard deviation of the image score over the prompts.

    Args:
        scores: of one image.
        scoring: the weights.

    Returns:
        The deviation; None for a method without a distribution.
    """
    if scores.uncertainty_map is None:
        return None
    return float(prompt_scores(scores, scoring).std(correction=0))


def smoothed(anomaly_map: Tensor, scoring: ScoringConfig) -> Tensor:
    """A map, or several, as a user gets them.

    Args:
        anomaly_map: (*batch, height, width).
        scoring: how it is smoothed.

    Returns:
        The smoothed map.
    """
    return smooth(anomaly_map, scoring.smoothing_sigma_px, scoring.edge_twice)


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
        uncertainty=uncertainty(scores, scoring),
        anomaly_map=smoothed(scores.anomaly_map, scoring).numpy(),
        uncertainty_map=None if scores.uncertainty_map is None else scores.uncertainty_map.numpy(),
        text_score=float(scores.text_scores.mean()),
        map_score=float(_peaks(scores, scoring)),
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
    text, peak = scores.text_scores.mean((1, 2)), _peaks(scores, scoring)
    numbers = [scoring.text_weight * text + scoring.map_weight * peak]
    numbers += [prompt_scores(scores, scoring).std((1, 2), correction=0), text, peak]
    deviation = scores.uncertainty_map
    maps = [smoothed(scores.anomaly_map, scoring), *([] if deviation is None else [deviation])]
    packed = torch.cat([torch.stack(numbers, 1), *(part.flatten(1) for part in maps)], 1).cpu().numpy()
    shape = (len(packed), len(maps), *scores.anomaly_map.shape[1:])
    return [
        Prediction(
            image_score=float(score),
            uncertainty=None if deviation is None else float(uncertain),
            anomaly_map=images[0],
            uncertainty_map=None if deviation is None else images[1],
            text_score=float(text_score),
            map_score=float(map_score),
            num_samples=num_samples,
        )
        for (score, uncertain, text_score, map_score), images in zip(
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
    seen = smoothed(scores.anomaly_map, scoring) if scoring.smoothed_maximum else scores.anomaly_map
    peak = float((seen * inside).max())
    return whole._replace(
        image_score=scoring.text_weight * whole.text_score + scoring.map_weight * peak,
        map_score=peak,
        anomaly_map=region.spread(whole.anomaly_map, *size),
        uncertainty_map=None if whole.uncertainty_map is None else region.spread(whole.uncertainty_map, *size),
    )


def is_clear(scores: PromptScores, scoring: ScoringConfig, threshold: float, standard_errors: float) -> bool:
    """Whether the image score is further from the threshold than the noise of its samples explains.

    Args:
        scores: of one image.
        scoring: the weights.
        threshold: image score that decides.
        standard_errors: how many standard errors of the mean over samples the distance must exceed.

    Returns:
        True where more samples would hardly change the decision, or there are none to draw.
    """
    if scores.uncertainty_map is None:
        return True
    by_sample = prompt_scores(scores, scoring).mean(1)
    clearance = standard_errors * float(by_sample.std()) / len(by_sample) ** 0.5
    return abs(image_score(scores, scoring) - threshold) > clearance


def _peaks(scores: PromptScores, scoring: ScoringConfig) -> Tensor:
    """Maximum of the map of an image, or of each of several; before smoothing unless it is asked for behind it."""
    maps = smoothed(scores.anomaly_map, scoring) if scoring.smoothed_maximum else scores.anomaly_map
    return maps.amax((-2, -1))


def _size(image: Photo | tuple[int, int]) -> tuple[int, int]:
    """Width and height of an image, or as they are given."""
    if not isinstance(image, tuple):
        return rgb_image(image).size
    check_size(image)
    return image
