"""Images and class names -> predictions. Evaluation, batch scoring and serving all call this one `Detector`."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.placement import check_precision, on_device, placed, usable_device
from bayes_pfl.config import MAX_SAMPLES, BackboneConfig, Precision
from bayes_pfl.errors import BundleError, ImageError
from bayes_pfl.inference.arguments import check_seed, check_share, checked_numbers, checked_pairs
from bayes_pfl.inference.bundle import Bundle, load_bundle, untrained_bundle
from bayes_pfl.inference.deciding import Decider
from bayes_pfl.inference.encoding import ImageEncoder
from bayes_pfl.inference.images import ImageLike, prepared_image, rgb_image
from bayes_pfl.inference.prediction import Prediction, batch_predictions, is_clear, prediction
from bayes_pfl.inference.tiling import tiled_scores, viewed_prediction
from bayes_pfl.inference.view import View, check_view, whole_threshold
from bayes_pfl.methods.builder import build_method
from bayes_pfl.methods.maps import PromptScores
from bayes_pfl.methods.method import BatchQuery, ImageQuery

CLEARANCE = 3.0
"""Standard errors by which the image score must clear the threshold for `num_samples="auto"` to stop."""
BATCH = 16
"""Images that a GPU scores together."""


class Detector:
    """A frozen backbone with a trained head: images and class names -> `Prediction`.

    `Detector.load` builds one. A prediction depends on image, class name, R and seed alone: not on the other images of
    the call, their order, or the process. On a GPU, where `predict` scores `BATCH` images together, that holds up to
    rounding, or to the bit with `deterministic`.

    Args:
        bundle: the trained head.
        backbone: the frozen CLIP that the bundle names; shared, and never changed.
        device: where to compute.
        precision: see `load`.
        compiled: see `load`.
        deterministic: see `load`.

    Raises:
        BundleError: the head does not fit its configuration.
        ConfigError: the precision is unknown, or there is no such device.

    >>> from PIL import Image
    >>> detector = Detector.load("embedded")
    >>> (prediction,) = detector.predict([Image.new("RGB", (100, 80))], ["metal plate"], num_samples=1)
    >>> prediction.anomaly_map.shape, prediction.num_samples
    ((112, 112), 1)
    >>> 0 <= prediction.image_score <= 1
    True
    """

    def __init__(
        self,
        bundle: Bundle,
        backbone: Backbone,
        device: torch.device,
        precision: Precision = "float32",
        compiled: bool = False,
        deterministic: bool = False,
    ) -> None:
        check_precision(precision, device)
        self.bundle = bundle
        self.config = bundle.config
        self.device = usable_device(device)
        self.precision, self.compiled = precision, compiled
        self.backbone = placed(backbone, device, reduce=precision == "bfloat16")
        try:
            self.method = build_method(bundle.config, self.backbone, device, bundle.weights)
        except RuntimeError as error:
            raise BundleError(f"The head in {bundle.folder} does not fit its configuration: {error}") from error
        one_by_one = deterministic or self.method.in_order
        self._batch = 1 if self.device.type == "cpu" or one_by_one else BATCH
        self._decider = Decider(bundle, precision)
        self._encoder = ImageEncoder(self.method.encode_image, self.device, precision, compiled)

    @classmethod
    def load(
        cls,
        source: str | Path = "embedded",
        device: str = "auto",
        precision: Precision = "float32",
        compiled: bool = False,
        deterministic: bool = False,
        weights: str | Path | None = None,
    ) -> "Detector":
        """Load a bundle.

        Args:
            source: a folder, `embedded` (the demonstration model), `models:/NAME@ALIAS` or `method:/NAME`.
            device: where to compute: `auto` (a GPU where there is one, else the CPU), `cpu`, `cuda`, `cuda:1`.
            precision: `float32` is exact; `bfloat16` of CLIP's matrix products is faster on a GPU or where the
                processor has it (AMX), and maps differ in the third digit; `tf32`, of GPUs alone, is between them.
            compiled: hand the image encoder to `torch.compile`: the first image takes minutes and, on a CPU, a C++
                compiler; later ones are faster and differ in the last digits.
            deterministic: score one by one on a GPU too, not `BATCH` images together: slower, and an image's numbers do
                not depend on the others of its call in the last digit either.
            weights: the file of CLIP's weights, if it has moved since the bundle was made; its SHA-256 is checked.

        Returns:
            The detector.

        Raises:
            BundleError: the bundle is missing or damaged.
            BackboneError: its CLIP cannot be loaded, or the file holds other weights.
            ConfigError: the precision is unknown, or there is no such device or file.
        """
        where = usable_device(device)  # before the weights are read
        bundle = load_bundle(source, weights)
        return cls(bundle, Backbone(bundle.backbone), where, precision, compiled, deterministic)

    @classmethod
    def of(cls, method: str, backbone: BackboneConfig | str | None = None, device: str = "auto") -> "Detector":
        """A detector by a method that needs no training, with its released settings.

        Args:
            method: `prompt_ensemble`, `winclip` or `clip_ad`.
            backbone: another CLIP than the method's own; `embedded`, or the name of an architecture, is enough.
            device: see `load`.

        Returns:
            The detector.

        Raises:
            ConfigError, BackboneError: the method must be trained, or cannot compute with this CLIP.
        """
        bundle = untrained_bundle(method, backbone)
        return cls(bundle, Backbone(bundle.backbone), usable_device(device))

    def __repr__(self) -> str:
        name = f"{self.bundle.folder.name or 'head'} ({self.bundle.record.get('head_sha256', '')[:12] or 'not stored'})"
        backbone, method = self.config.backbone, self.config.model.method
        clip = f"{Path(backbone.name).stem} at {backbone.image_size} px"
        return f"Detector({name}, {method} on {clip}, {self.device}, {self.precision})"

    @property
    def images_at_once(self) -> int:
        """Images that `predict` scores together: 1 on a CPU or with `deterministic`."""
        return self._batch

    @property
    def last_image_features(self) -> Tensor | None:
        """(images, dim) global features of what was encoded last, as the method takes them; None before that."""
        return self._encoder.last

    @property
    def class_name_room(self) -> int:
        """Tokens that a class name may have, its end of text included."""
        return self.method.class_names.room

    def check_class_names(self, class_names: Iterable[str]) -> None:
        """Refuse class names that no image can be scored with; costs microseconds.

        Args:
            class_names: any number of names.

        Raises:
            ClassNameError: a name is blank or longer than `class_name_room`.
        """
        self.method.class_names.check(class_names)

    def predict(
        self,
        images: Iterable[ImageLike],
        class_names: Iterable[str],
        num_samples: int | Literal["auto"] = 10,
        seed: int = 0,
        threshold: float | None = None,
    ) -> list[Prediction]:
        """One prediction for each image.

        Args:
            images: paths, encoded bytes, PIL images, or (height, width, 3) uint8 arrays; any iterable of them.
            class_names: what each image shows, such as "metal nut".
            num_samples: R. `auto`: samples are drawn until the image score is `CLEARANCE` standard errors off the
                threshold or R is `MAX_SAMPLES`; the result equals that of the same R given as a number.
            seed: seed of the samples.
            threshold: image score from 0 to 1 from which an image is defective, and that `auto` decides by. None: the
                bundle's calibration labels where it holds for this R and seed, else the bundle's own threshold.

        Returns:
            Predictions in the images' order.

        Raises:
            ConfigError: numbers of images and names differ, R, seed or threshold is none, or `auto` has no threshold.
            ClassNameError: a name is blank or too long; nothing was computed then.
            ImageError: an image cannot be read.
        """
        images, class_names = self._checked(images, class_names, seed)
        if threshold is not None:
            check_share("threshold", threshold)
        if num_samples == "auto":
            threshold = whole_threshold(self.config) if threshold is None else threshold
            pairs = zip(images, class_names, strict=True)
            scored = [self.predict_features_until(*self._encode(image), name, threshold, seed) for image, name in pairs]
        else:
            checked_numbers([num_samples])
            scored = self._scored(images, class_names, num_samples, seed)
        return [
            self._decider.decided(prediction, image, name, num_samples, seed, threshold=threshold)
            for prediction, image, name in zip(scored, images, class_names, strict=True)
        ]

    def predict_nested(
        self, images: Iterable[ImageLike], class_names: Iterable[str], num_samples: Iterable[int], seed: int = 0
    ) -> list[dict[int, Prediction]]:
        """Predictions for several R from one pass with the largest: each equals its own separate `predict`.

        Not so with `draws_in_order`, where the noise of every R is another. The model labels them, as in `predict`.

        Args:
            images: see `predict`.
            class_names: what each image shows.
            num_samples: several R.
            seed: seed of the samples.

        Returns:
            For each image, predictions by R.

        Raises:
            ConfigError, ClassNameError, ImageError: as in `predict`.
        """
        images, class_names = self._checked(images, class_names, seed)
        num_samples = checked_numbers(num_samples)
        predictions, decided = [], self._decider.decided
        for position, (image, name) in enumerate(zip(images, class_names, strict=True)):
            nested = self.predict_features(*self._encode(image), name, num_samples, seed, position)
            predictions.append({n: decided(each, image, name, n, seed) for n, each in nested.items()})
        return predictions

    @torch.inference_mode()
    def _scored(
        self, images: Sequence[ImageLike], class_names: Sequence[str], num_samples: int, seed: int
    ) -> list[Prediction]:
        """Predictions without decisions; each of a GPU's batches is copied to the device once and back once."""
        predictions: list[Prediction] = []
        if self._batch == 1:
            for position, pair in enumerate(zip(images, class_names, strict=True)):
                features, key = self._encode(pair[0])
                predictions += self.predict_features(features, key, pair[1], [num_samples], seed, position).values()
            return predictions
        for start in range(0, len(images), self._batch):
            batch = slice(start, start + self._batch)
            prepared = [prepared_image(image, self.config.backbone.image_size) for image in images[batch]]
            features = self._encoder(torch.stack([image.pixels for image in prepared]))
            keys = tuple(image.noise_key for image in prepared)
            scores = self.method.batch_scores(BatchQuery(features, keys, tuple(class_names[batch]), seed), num_samples)
            predictions += batch_predictions(scores, self.config.scoring, num_samples)
        return predictions

    @torch.inference_mode()
    def predict_features(
        self,
        features: Features,
        key: bytes,
        class_name: str,
        num_samples: Iterable[int],
        seed: int = 0,
        position: int = 0,
    ) -> dict[int, Prediction]:
        """Predictions from the frozen features of one image.

        Args:
            features: batch 1, on any device, in any precision.
            key: the image's `noise_key`.
            class_name: what the image shows.
            num_samples: several R.
            seed: seed of the samples.
            position: the image's position in its call; only with `draws_in_order` does anything depend on it.

        Returns:
            Predictions by R.

        Raises:
            ConfigError, ClassNameError: as in `predict`.
        """
        check_seed(seed)
        num_samples = checked_numbers(num_samples)
        query = ImageQuery(self._on_device(features), key, class_name, seed, position)
        scores = self.method.scores(query, num_samples)
        return {number: prediction(scores[number], self.config.scoring, number) for number in num_samples}

    @torch.inference_mode()
    def predict_features_until(
        self, features: Features, key: bytes, class_name: str, threshold: float, seed: int = 0
    ) -> Prediction:
        """The prediction of `num_samples="auto"` from the frozen features of one image.

        Args:
            features: batch 1.
            key: the image's `noise_key`.
            class_name: what the image shows.
            threshold: image score that decides.
            seed: seed of the samples.

        Returns:
            The prediction with the first R that is clear.
        """
        scoring, query = self.config.scoring, ImageQuery(self._on_device(features), key, class_name, seed)
        for number, scores in self.method.growing_scores(query, MAX_SAMPLES):
            if number >= MAX_SAMPLES or is_clear(scores, scoring, threshold, CLEARANCE):
                return prediction(scores, scoring, number)
        raise AssertionError("a method gives scores for up to the largest number of samples")

    def predict_tiled(
        self, image: ImageLike, class_name: str, overlap: float = 0.5, num_samples: int = 10, seed: int = 0
    ) -> Prediction:
        """One large image at its own resolution, tile by tile; smaller than `image_size`, it is enlarged for the model.

        Maps are (height, width) of the image: the tiles' weighted by sin^2 windows, then smoothed. The score takes the
        mean text score and the maximum of the blended map; its uncertainty is that of the tile with the largest map.

        Args:
            image: see `predict`.
            class_name: what the image shows.
            overlap: least share of a tile that the next one covers too, at least 0 and below 1.
            num_samples: R, a number.
            seed: seed of the samples.

        Returns:
            The prediction.

        Raises:
            ConfigError, ClassNameError, ImageError: as in `predict_view`.
        """
        return self.predict_view(image, class_name, View(overlap), num_samples, seed)

    def predict_view(
        self,
        image: ImageLike,
        class_name: str,
        view: View,
        num_samples: int = 10,
        seed: int = 0,
        most_seconds: float | None = None,
    ) -> Prediction:
        """One image as a view looks at it: `predict`, or `predict_tiled`, of all of it or of a region alone.

        No pixel outside the region counts in the score: it equals that of the image cut to the region's box. The maps
        of a region are (height, width) of the image and 0 outside; where a mask tells the region, the maximum of the
        map is that inside the mask, and the uncertainty that of its box.

        Args:
            image: see `predict`.
            class_name: what the image shows.
            view: the way of looking.
            num_samples: R.
            seed: seed of the samples.
            most_seconds: no further tile is begun after this time; None: no limit.

        Returns:
            The prediction.

        Raises:
            ConfigError: the view is none, its overlap is out of range, or R or the seed is none.
            ClassNameError: the name is blank or too long.
            ImageError: the image cannot be read, the region does not fit it, or its time is up.
        """
        start = time.monotonic()
        check_view(view)
        check_seed(seed)
        checked_numbers([num_samples])
        self.check_class_names([class_name])
        pixels = rgb_image(image)
        seen = pixels if view.region is None else view.region.cut(pixels)

        @torch.inference_mode()
        def _score(part: ImageLike) -> PromptScores:
            if most_seconds is not None and time.monotonic() - start > most_seconds:
                raise ImageError(f"its tiles take longer than {most_seconds:g} s")
            features, key = self._encode(part)
            return self.method.scores(ImageQuery(features, key, class_name, seed), [num_samples])[num_samples]

        scores = tiled_scores(seen, self.config.backbone.image_size, view.overlap, _score)
        seen_as_whole = viewed_prediction(scores, self.config.scoring, num_samples, view.region, pixels.size)
        return self._decider.decided(seen_as_whole, image, class_name, num_samples, seed, view)

    def _on_device(self, features: Features) -> Features:
        return Features(*(on_device(part, self.device).to(torch.float32) for part in features))

    def _checked(
        self, images: Iterable[ImageLike], names: Iterable[str], seed: int
    ) -> tuple[list[ImageLike], list[str]]:
        check_seed(seed)
        pairs = checked_pairs(images, names)
        self.check_class_names(pairs[1])
        return pairs

    def _encode(self, image: ImageLike) -> tuple[Features, bytes]:
        """Features and noise key of one image: one at a time, products have one shape and give the same bits."""
        prepared = prepared_image(image, self.config.backbone.image_size)
        return self._encoder(prepared.pixels[None]), prepared.noise_key
