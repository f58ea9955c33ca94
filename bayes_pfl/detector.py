"""Detector: images and class names -> predictions. Evaluation, batch scoring and serving all call this one."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from bayes_pfl.backbone import Backbone, Features
from bayes_pfl.bundle import Bundle, load_bundle
from bayes_pfl.draws import keyed_draws
from bayes_pfl.errors import BundleError, ConfigError
from bayes_pfl.model import BayesPFL, Widths
from bayes_pfl.preprocess import decode_image, image_tensor
from bayes_pfl.prompts import Draws
from bayes_pfl.scoring import MapAccumulator, PromptScores, smooth
from bayes_pfl.text import PromptEncoder, pad_class_tokens

SAMPLE_GROUP = 5
"""Samples that go through the text encoder together: always this many, so that products keep their shape for every R."""

Picture = bytes | Image.Image | np.ndarray


class Prediction(NamedTuple):
    """What is said of one image."""

    image_score: float
    """text_weight * s_text + map_weight * max of the unsmoothed map (section 3.5): the higher, the more anomalous."""
    uncertainty: float
    """Standard deviation of the image score over the B x R prompts."""
    anomaly_map: np.ndarray
    """(image_size, image_size) float32 in [0, 1], smoothed as configured."""
    uncertainty_map: np.ndarray
    """(image_size, image_size) float32: standard deviation over the B x R prompts."""
    text_score: float
    """s_text: mean abnormal probability of the global image feature."""
    map_score: float
    """s_img: maximum of the unsmoothed map."""
    num_samples: int
    """R that was used."""


class Detector:
    """A frozen backbone with a trained head. A prediction depends on image, class name, R and seed alone."""

    def __init__(self, bundle: Bundle, backbone: Backbone, device: torch.device) -> None:
        self.bundle = bundle
        self.config = bundle.config
        self.device = device
        self.backbone = backbone.to(device)
        self.encoder = PromptEncoder(self.backbone).to(device)
        model = BayesPFL(bundle.config.model, Widths.of(backbone))
        try:
            model.load_state_dict(bundle.weights)
        except RuntimeError as error:
            raise BundleError(f"The head in {bundle.folder} does not fit its configuration: {error}") from error
        self.model = model.to(device).eval()

    @classmethod
    def load(cls, source: str | Path = "embedded", device: str = "cpu") -> "Detector":
        """Load a bundle: a folder, `embedded` (the demonstration model inside the package) or `models:/NAME@ALIAS`.

        Raises BundleError or BackboneError with what to do.
        """
        bundle = load_bundle(source)
        return cls(bundle, Backbone(bundle.config.backbone), torch.device(device))

    def predict(
        self, images: Sequence[Picture], class_names: Sequence[str], num_samples: int = 10, seed: int = 0
    ) -> list[Prediction]:
        """One prediction an image: encoded bytes, PIL image, or (height, width, 3) uint8 array.

        Raises ConfigError if the numbers of images and names differ or R < 1, ImageError for bytes that do not decode.
        """
        return [of[num_samples] for of in self.predict_nested(images, class_names, [num_samples], seed)]

    def predict_nested(
        self, images: Sequence[Picture], class_names: Sequence[str], num_samples: Sequence[int], seed: int = 0
    ) -> list[dict[int, Prediction]]:
        """Predictions for several R from one pass with the largest: each equals its own separate `predict`."""
        if len(images) != len(class_names):
            raise ConfigError(f"{len(images)} images but {len(class_names)} class names; give one name for each image.")
        if not num_samples or min(num_samples) < 1:
            raise ConfigError("num_samples must be at least 1.")
        return [
            self._predict_one(image, name, list(num_samples), seed) for image, name in zip(images, class_names, strict=True)
        ]

    @torch.inference_mode()
    def predict_features(
        self, features: Features, key: bytes, class_name: str, num_samples: Sequence[int], seed: int = 0
    ) -> dict[int, Prediction]:
        """Predictions from the frozen features of one image (batch 1); `key` is the image's `draw_key`."""
        scores = self._score(features, key, class_name, list(num_samples), seed)
        return {number: self._finish(scores[number], number) for number in num_samples}

    @torch.inference_mode()
    def _predict_one(self, image: Picture, class_name: str, wanted: list[int], seed: int) -> dict[int, Prediction]:
        """One image at a time: products of the same shape whatever the batch, and so the same bits."""
        tensor = image_tensor(_to_pil(image), self.config.backbone.image_size)
        features = self.backbone.encode_image(tensor[None].to(self.device))
        return self.predict_features(features, draw_key(tensor), class_name, wanted, seed)

    def _score(
        self, features: Features, key: bytes, class_name: str, wanted: list[int], seed: int
    ) -> dict[int, PromptScores]:
        """Sample, encode and accumulate group after group."""
        size, side = self.config.backbone.image_size, self.backbone.grid[0]
        groups = -(-max(wanted) // SAMPLE_GROUP)
        draws = keyed_draws(seed, [key], groups * SAMPLE_GROUP, self.backbone.text_width)
        tokens = pad_class_tokens([self.backbone.class_tokens(class_name)], self.device)
        patches = self.model.patch_features(features)
        maps = MapAccumulator(size, side, wanted, self.config.model.upsampled_corners)
        for start in range(0, groups * SAMPLE_GROUP, SAMPLE_GROUP):
            stop = start + SAMPLE_GROUP
            group = Draws(draws.context[:, start:stop], draws.normal[start:stop], draws.abnormal[start:stop])
            group = Draws(*(part.to(self.device) for part in group))
            prompts = self.model.prompts(features, tokens, group, self.encoder)
            pixel = self.model.pixel_logits(patches, prompts.text)[:, 0]
            maps.add(pixel.cpu(), self.model.image_logits(features, prompts.text)[0].cpu())
        return {number: maps.result(number) for number in wanted}

    def _finish(self, scores: PromptScores, num_samples: int) -> Prediction:
        """Image score, uncertainty and smoothing."""
        scoring = self.config.scoring
        text, largest = float(scores.text_scores.mean()), float(scores.anomaly_map.max())
        by_prompt = scoring.text_weight * scores.text_scores + scoring.map_weight * scores.map_maxima
        return Prediction(
            image_score=scoring.text_weight * text + scoring.map_weight * largest,
            uncertainty=float(by_prompt.std(correction=0)),
            anomaly_map=smooth(scores.anomaly_map, scoring.smoothing_sigma_px).numpy(),
            uncertainty_map=scores.uncertainty_map.numpy(),
            text_score=text,
            map_score=largest,
            num_samples=num_samples,
        )


def draw_key(image: torch.Tensor) -> bytes:
    """What an image's draws are keyed by: the SHA-256 of its normalised pixels at the model's size."""
    return hashlib.sha256(image.numpy().tobytes()).digest()


def _to_pil(image: Picture) -> Image.Image:
    if isinstance(image, bytes):
        return decode_image(image)
    if isinstance(image, np.ndarray):
        return Image.fromarray(image).convert("RGB")
    return image.convert("RGB")
