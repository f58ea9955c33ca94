"""Detector: images and class names -> predictions. Evaluation, batch scoring and serving all call this one."""

import functools
import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.prompt_encoder import ClassTokens, PromptEncoder, pad_class_tokens
from bayes_pfl.data.preprocess import decode_image, image_tensor
from bayes_pfl.errors import BundleError, ConfigError
from bayes_pfl.inference.bundle import Bundle, load_bundle
from bayes_pfl.inference.tiling import BlendedMap, tile_starts
from bayes_pfl.methods.maps import MapAccumulator, PromptScores, smooth
from bayes_pfl.methods.prompt_flow.distributions import Draws, Sampled
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.methods.prompt_flow.noise import keyed_draws, ordered_draws

SAMPLE_GROUP = 5
"""Samples that go through the text encoder together: always this many, so that products keep their shape for every R."""

MAX_SAMPLES = 20
"""R at which `num_samples="auto"` stops in any case."""

CLEARANCE = 3.0
"""Standard errors by which the image score must clear the threshold for `num_samples="auto"` to stop."""

logger = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]
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

    def __init__(
        self,
        bundle: Bundle,
        backbone: Backbone,
        device: torch.device,
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> None:
        if precision not in ("float32", "bfloat16"):
            raise ConfigError(f"precision is '{precision}'; choose float32 (exact) or bfloat16 (faster).")
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
        self.precision = precision
        if precision == "bfloat16":
            _reduce_matrices(self.backbone)
            if device.type == "cpu" and not multiplies_bfloat16():
                logger.warning("This processor has no AMX: float32 is faster on it than bfloat16.")
        self._encode_image = self.backbone.encode_image
        if compiled:
            self._encode_image = torch.compile(self.backbone.encode_image, dynamic=False)
        self._tokens = functools.lru_cache(maxsize=1024)(self._class_tokens)
        self._states = functools.lru_cache(maxsize=64)(self._sampled_states)

    @classmethod
    def load(
        cls,
        source: str | Path = "embedded",
        device: str = "cpu",
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> "Detector":
        """Load a bundle: a folder, `embedded` (the demonstration model inside the package) or `models:/NAME@ALIAS`.

        `bfloat16` runs CLIP's matrix products in that type, for speed where the processor has AMX or on a GPU: maps then differ
        from the exact ones in the third digit. `compiled` hands the image encoder to `torch.compile`: the first image takes
        minutes and, on a CPU, a C++ compiler; the later ones are faster and differ from those of the same encoder not compiled
        in the last digits. Raises BundleError, BackboneError or ConfigError with what to do.
        """
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise ConfigError("There is no GPU that torch can use here; leave device out, or install its driver.")
        bundle = load_bundle(source)
        return cls(bundle, Backbone(bundle.config.backbone), torch.device(device), precision, compiled)

    def predict(
        self,
        images: Sequence[Picture],
        class_names: Sequence[str],
        num_samples: int | Literal["auto"] = 10,
        seed: int = 0,
        threshold: float | None = None,
    ) -> list[Prediction]:
        """One prediction an image: encoded bytes, PIL image, or (height, width, 3) uint8 array.

        With `auto`, samples are drawn until the image score is `CLEARANCE` standard errors off `threshold` (the bundle's own
        if it is not given) or R is `MAX_SAMPLES`; the result equals that of the same R given as a number.
        Raises ConfigError if the numbers of images and names differ, R < 1, or `auto` finds no threshold; ImageError for bytes
        that do not decode.
        """
        if num_samples != "auto":
            return [of[num_samples] for of in self.predict_nested(images, class_names, [num_samples], seed)]
        if self.config.scoring.draws_in_order:
            raise ConfigError(
                'num_samples="auto" needs draws that do not depend on R: set scoring.draws_in_order to false.'
            )
        threshold = self.config.scoring.threshold if threshold is None else threshold
        if threshold is None:
            raise ConfigError('num_samples="auto" needs a threshold: give one, or use a bundle that has one.')
        _check_names(images, class_names)
        return [
            self.predict_features_until(*self._encode(image), name, threshold, seed)
            for image, name in zip(images, class_names, strict=True)
        ]

    def predict_nested(
        self, images: Sequence[Picture], class_names: Sequence[str], num_samples: Sequence[int], seed: int = 0
    ) -> list[dict[int, Prediction]]:
        """Predictions for several R from one pass with the largest: each equals its own separate `predict`.

        Not so with `draws_in_order`, where the draws of every R are others.
        """
        _check_names(images, class_names)
        if not num_samples or min(num_samples) < 1:
            raise ConfigError("num_samples must be at least 1.")
        all_draws: Iterable[Draws | None] = [None] * len(images)
        if self.config.scoring.draws_in_order:
            all_draws = ordered_draws(seed, len(images), max(num_samples), self.backbone.text_width)
        return [
            self.predict_features(*self._encode(image), name, num_samples, seed, draws)
            for image, name, draws in zip(images, class_names, all_draws, strict=True)
        ]

    @torch.inference_mode()
    def predict_features(
        self,
        features: Features,
        key: bytes,
        class_name: str,
        num_samples: Sequence[int],
        seed: int = 0,
        draws: Draws | None = None,
    ) -> dict[int, Prediction]:
        """Predictions from the frozen features of one image (batch 1); `key` is the image's `draw_key`.

        `draws` (batch 1, the largest R) stand in for those that seed and key give.
        """
        maps = self._maps(list(num_samples))
        self._add(maps, features, key, class_name, range(0, max(num_samples), SAMPLE_GROUP), seed, draws)
        return {number: self._finish(maps.result(number), number) for number in num_samples}

    @torch.inference_mode()
    def predict_features_until(
        self, features: Features, key: bytes, class_name: str, threshold: float, seed: int = 0
    ) -> Prediction:
        """The prediction of `num_samples="auto"` from the frozen features of one image (batch 1)."""
        maps = self._maps(list(range(SAMPLE_GROUP, MAX_SAMPLES + 1, SAMPLE_GROUP)))
        for start in range(0, MAX_SAMPLES, SAMPLE_GROUP):
            self._add(maps, features, key, class_name, range(start, start + 1), seed)
            seen = start + SAMPLE_GROUP
            scores = maps.result(seen)
            by_sample = self._by_prompt(scores).mean(1)
            clear = CLEARANCE * float(by_sample.std()) / seen**0.5
            if abs(self._image_score(scores) - threshold) > clear:
                break
        return self._finish(scores, seen)

    def predict_tiled(
        self, image: Picture, class_name: str, overlap: float = 0.5, num_samples: int = 10, seed: int = 0
    ) -> Prediction:
        """One large image at its own resolution, tile by tile; `overlap` is the least share of a tile shared with the next.

        Maps are (height, width) of the image: the tiles' weighted by sin^2 windows, then smoothed; memory holds one tile beside
        them. The image score takes the mean text score of the tiles and the maximum of the blended map; its uncertainty is that
        of the tile with the largest map score. An image with a side below `image_size` is enlarged for the model.
        Raises ConfigError unless 0 <= overlap < 1 and R >= 1.
        """
        if not 0 <= overlap < 1:
            raise ConfigError(f"overlap is {overlap}; give a share of a tile, at least 0 and below 1.")
        picture, tile = _to_pil(image), self.config.backbone.image_size
        width, height = picture.size
        scale = max(1.0, tile / min(width, height))
        large = (
            picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
            if scale > 1
            else picture
        )
        mean, variance = (BlendedMap(large.height, large.width, tile) for _ in range(2))
        tiles = []
        for top in tile_starts(large.height, tile, overlap):
            for left in tile_starts(large.width, tile, overlap):
                features, key = self._encode(large.crop((left, top, left + tile, top + tile)))
                one = self._raw(features, key, class_name, num_samples, seed)
                mean.add(one.anomaly_map, top, left)
                variance.add(one.uncertainty_map.square(), top, left)
                tiles.append(
                    (float(one.anomaly_map.max()), float(self._by_prompt(one).std(correction=0)), one.text_scores)
                )
        blended, deviation = (_resize(values, height, width) for values in (mean.result(), variance.result().sqrt_()))
        scores = PromptScores(blended, deviation, torch.cat([text for _, _, text in tiles]), blended.max().view(1, 1))
        return self._finish(scores, num_samples)._replace(uncertainty=max(tiles, key=lambda one: one[0])[1])

    @torch.inference_mode()
    def _raw(self, features: Features, key: bytes, class_name: str, num_samples: int, seed: int) -> PromptScores:
        """The scores of one image, not smoothed."""
        if num_samples < 1:
            raise ConfigError("num_samples must be at least 1.")
        maps = self._maps([num_samples])
        self._add(maps, features, key, class_name, range(0, num_samples, SAMPLE_GROUP), seed)
        return maps.result(num_samples)

    @torch.inference_mode()
    def _encode(self, image: Picture) -> tuple[Features, bytes]:
        """Features and draw key of one image at a time: products of the same shape whatever the batch, so the same bits."""
        tensor = image_tensor(_to_pil(image), self.config.backbone.image_size)
        with self._autocast():
            features = self._encode_image(tensor[None].to(self.device))
        return Features(*(part.float() for part in features)), draw_key(tensor)

    def _add(
        self,
        maps: MapAccumulator,
        features: Features,
        key: bytes,
        class_name: str,
        starts: range,
        seed: int,
        given: Draws | None = None,
    ) -> None:
        """Add the groups of samples that begin at `starts`: first all texts, then layer by layer, so that memory holds one."""
        length = starts[-1] + SAMPLE_GROUP
        if given is None:
            contexts = keyed_draws(seed, [key], length, self.backbone.text_width).context.to(self.device)
        else:
            given = Draws(*(_padded(part, length).to(self.device) for part in given))
            contexts = given.context
        texts, image_logits = [], []
        for start in starts:
            group = slice(start, start + SAMPLE_GROUP)
            context = self.model.sample_context(features, contexts[:, group])
            states = (
                self._states(seed, start)
                if given is None
                else self.model.sample_states(given.normal[group], given.abnormal[group])
            )
            with self._autocast():
                prompts = self.model.encode(context, *states, self._tokens(class_name), self.encoder)
            texts.append(prompts.text)
            image_logits.append(self.model.image_logits(features, prompts.text)[0])
        pixel_logits: list[list[torch.Tensor]] = [[] for _ in starts]
        for layer in range(len(features.patches)):
            patches = self.model.patch_features(features, slice(layer, layer + 1))
            for text, found in zip(texts, pixel_logits, strict=True):
                found.append(self.model.pixel_logits(patches, text)[:, 0])
        for pixel, image in zip(pixel_logits, image_logits, strict=True):
            maps.add(torch.cat(pixel), image)

    def _maps(self, wanted: list[int]) -> MapAccumulator:
        size, side = self.config.backbone.image_size, self.backbone.grid[0]
        return MapAccumulator(size, side, wanted, self.config.model.upsampled_corners, self.device)

    def _class_tokens(self, class_name: str) -> ClassTokens:
        return pad_class_tokens([self.backbone.class_tokens(class_name)], self.device)

    def _sampled_states(self, seed: int, start: int) -> tuple[Sampled, Sampled]:
        """The states' samples of one group: they depend on no image, so once for a seed is enough."""
        draws = keyed_draws(seed, [b""], start + SAMPLE_GROUP, self.backbone.text_width)
        return self.model.sample_states(draws.normal[start:].to(self.device), draws.abnormal[start:].to(self.device))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def _image_score(self, scores: PromptScores) -> float:
        scoring = self.config.scoring
        return scoring.text_weight * float(scores.text_scores.mean()) + scoring.map_weight * float(
            scores.anomaly_map.max()
        )

    def _by_prompt(self, scores: PromptScores) -> torch.Tensor:
        """(samples, bank): every prompt's own image score."""
        return self.config.scoring.text_weight * scores.text_scores + self.config.scoring.map_weight * scores.map_maxima

    def _finish(self, scores: PromptScores, num_samples: int) -> Prediction:
        """Image score, uncertainty and smoothing."""
        return Prediction(
            image_score=self._image_score(scores),
            uncertainty=float(self._by_prompt(scores).std(correction=0)),
            anomaly_map=smooth(scores.anomaly_map, self.config.scoring.smoothing_sigma_px).numpy(),
            uncertainty_map=scores.uncertainty_map.numpy(),
            text_score=float(scores.text_scores.mean()),
            map_score=float(scores.anomaly_map.max()),
            num_samples=num_samples,
        )


def multiplies_bfloat16() -> bool:
    """Whether this processor multiplies matrices of bfloat16 faster than those of float32: with AMX."""
    capabilities: dict[str, object] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # older releases of torch have no such list
    return bool(capabilities.get("amx_bf16", False))


def draw_key(image: torch.Tensor) -> bytes:
    """What an image's draws are keyed by: the SHA-256 of its normalised pixels at the model's size."""
    return hashlib.sha256(image.numpy().tobytes()).digest()


def _to_pil(image: Picture) -> Image.Image:
    if isinstance(image, bytes):
        return decode_image(image)
    if isinstance(image, str | Path):
        raise ConfigError(f"{image} is a path; give the file's bytes: Path(...).read_bytes().")
    if isinstance(image, np.ndarray):
        return Image.fromarray(image).convert("RGB")
    return image.convert("RGB")


def _check_names(images: Sequence[Picture], class_names: Sequence[str]) -> None:
    if isinstance(class_names, str):
        raise ConfigError(f'class_names is one string; give a list with one name for each image: ["{class_names}"].')
    if len(images) != len(class_names):
        raise ConfigError(f"{len(images)} images but {len(class_names)} class names; give one name for each image.")


def _reduce_matrices(module: nn.Module) -> None:
    """Keep the matrices of linear layers in bfloat16; all that is added or normalised stays float32."""
    for part in module.modules():
        for name in ("weight", "in_proj_weight") if isinstance(part, nn.Linear | nn.MultiheadAttention) else ():
            if getattr(part, name, None) is not None:
                matrix = getattr(part, name)
                matrix.data = matrix.data.to(torch.bfloat16)


def _padded(noise: torch.Tensor, samples: int) -> torch.Tensor:
    """Noise of `samples` samples: those behind the given ones are zero, and nobody looks at what becomes of them."""
    return F.pad(noise, (0, 0, 0, samples - noise.shape[-2]))


def _resize(values: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if values.shape == (height, width):
        return values
    return F.interpolate(
        values[None, None], size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )[0, 0]
