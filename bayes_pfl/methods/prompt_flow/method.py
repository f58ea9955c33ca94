"""Features of one image -> scores and maps over R nested samples: Bayes-PFL as a `Method` (section 3.5)."""

import functools
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.class_names import ClassNames
from bayes_pfl.clip.prompt_encoder import ClassTokens, PromptEncoder, pad_class_tokens
from bayes_pfl.config import DetectorConfig, ModelConfig
from bayes_pfl.errors import ConfigError
from bayes_pfl.methods.heads import loaded
from bayes_pfl.methods.maps import MapAccumulator, PromptScores, batch_maps
from bayes_pfl.methods.method import BatchQuery, ImageQuery
from bayes_pfl.methods.prompt_flow.distributions import OffsetSamples
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths, other_tokens
from bayes_pfl.methods.prompt_flow.noise import Noise, keyed_noise, ordered_noise
from bayes_pfl.methods.prompt_flow.pairs import mean_pair, without_spread

SAMPLE_GROUP = 5
"""Samples that go through the text encoder together: always as many, so that products have one shape for every R."""

Text = Float[Tensor, "batch samples bank 2 dim"]


class PromptFlow:
    """A trained head on a frozen backbone. Scores depend on image, class name, R and seed alone.

    Departs from that where `model.variant.draws_in_order` asks for the released code's noise, which depends on the
    image's position. With `model.variant.text_ensemble` the mean pair of all samples' text embeddings meets the image:
    one prompt of each kind, so there is no uncertainty.
    """

    def __init__(
        self, config: DetectorConfig, backbone: Backbone, device: torch.device, weights: dict[str, Tensor]
    ) -> None:
        self.backbone, self.device = backbone, device
        assert isinstance(config.model, ModelConfig)
        self.model = config.model
        self.in_order = self.model.variant.draws_in_order
        self.head = loaded(lambda: BayesPFL(self.model, Widths.from_backbone(backbone)), weights).to(device)
        self.encoder = PromptEncoder(backbone).to(device)
        self.encode_image = backbone.encode_image
        # Caches of functions that do not hold this object: a dropped method is freed at once.
        self.class_names = backbone.class_names(other_tokens(self.model, backbone.tokenizer))
        self._class_tokens = functools.lru_cache(maxsize=1024)(
            functools.partial(_class_tokens, self.class_names, device)
        )
        self._state_offsets = functools.lru_cache(maxsize=64)(
            functools.partial(_state_offsets, self.head, backbone.text_width, device)
        )

    def scores(self, query: ImageQuery, num_samples: Sequence[int]) -> dict[int, PromptScores]:
        """Scores for several R from one pass with the largest. See `Method.scores`.

        Args:
            query: the image.
            num_samples: numbers of samples R, each at least 1.

        Returns:
            By R.
        """
        starts = range(0, max(num_samples), SAMPLE_GROUP)
        texts = self._texts(query, starts, self._noise(query, max(num_samples), len(starts) * SAMPLE_GROUP))
        if self.model.variant.text_ensemble:
            return {number: self._mean_scores(query.features, texts, number) for number in num_samples}
        maps = self._accumulator(list(num_samples))
        self._add_groups(maps, query.features, texts)
        return {number: maps.result(number) for number in num_samples}

    def batch_scores(self, query: BatchQuery, num_samples: int) -> PromptScores:
        """All samples of several images together. See `Method.batch_scores`.

        Args:
            query: the images.
            num_samples: R.

        Returns:
            Scores of all the images, on the device.

        Raises:
            ConfigError: `model.variant.draws_in_order` is set: its noise depends on an image's position in a call.
        """
        if self.model.variant.draws_in_order:
            raise ConfigError("Images with model.variant.draws_in_order are scored one by one.")
        features, variant = query.features, self.model.variant
        noise = self._keyed_noise(query.seed, query.noise_keys, num_samples)
        context = self.head.sample_context(features, noise.context)
        states = (
            self.head.sample_states(noise.normal, noise.abnormal, features)
            if variant.states_from_image
            else self._state_offsets(query.seed, 0, num_samples)
        )
        text = self.head.encode(context, *states, self._class_tokens(*query.class_names), self.encoder).text
        logits = self.head.logits(features, mean_pair(text) if variant.text_ensemble else text)
        scores = batch_maps(*logits, self.backbone.config.image_size, variant.upsampled_corners)
        return without_spread(scores) if variant.text_ensemble else scores

    def growing_scores(self, query: ImageQuery, most: int) -> Iterator[tuple[int, PromptScores]]:
        """Scores after each group of samples. See `Method.growing_scores`.

        Args:
            query: the image.
            most: largest number of samples, a multiple of `SAMPLE_GROUP`.

        Returns:
            Pairs of R and the scores of the first R samples; of a text ensemble the last alone, since it has no spread
            that says whether fewer are enough.

        Raises:
            ConfigError: `model.variant.draws_in_order` is set: its noise depends on R.
        """
        if self.model.variant.draws_in_order:
            raise ConfigError(
                'num_samples="auto" needs draws that do not depend on R: set model.variant.draws_in_order to false.'
            )
        if self.model.variant.text_ensemble:
            yield from self.scores(query, [most]).items()
            return
        maps = self._accumulator(list(range(SAMPLE_GROUP, most + 1, SAMPLE_GROUP)))
        for start in range(0, most, SAMPLE_GROUP):
            self._add_groups(maps, query.features, self._texts(query, range(start, start + 1), None))
            yield start + SAMPLE_GROUP, maps.result(start + SAMPLE_GROUP)

    def _accumulator(self, wanted: list[int]) -> MapAccumulator:
        size, side = self.backbone.config.image_size, self.backbone.grid[0]
        return MapAccumulator(size, side, wanted, self.model.variant.upsampled_corners, self.device)

    def _noise(self, query: ImageQuery, num_samples: int, length: int) -> Noise | None:
        """The released code's noise where it is configured, filled up with unused zeros."""
        if not self.model.variant.draws_in_order:
            return None
        noise = ordered_noise(query.seed, query.position, num_samples, self.backbone.text_width)
        return Noise(*(F.pad(part, (0, 0, 0, length - num_samples)).to(self.device) for part in noise))

    def _keyed_noise(self, seed: int, keys: Sequence[bytes], length: int) -> Noise:
        by_image = self.model.variant.states_from_image
        noise = keyed_noise(seed, list(keys), length, self.backbone.text_width, by_image)
        return Noise(*(part.to(self.device) for part in noise))

    def _texts(self, query: ImageQuery, starts: range, noise: Noise | None) -> list[Text]:
        """Text embeddings of the groups of samples that begin at `starts`; keyed by the query, or from `noise`."""
        features, tokens = query.features, self._class_tokens(query.class_name)
        shared = noise is None and not self.model.variant.states_from_image
        noise = noise or self._keyed_noise(query.seed, [query.noise_key], starts[-1] + SAMPLE_GROUP)
        texts = []
        for start in starts:
            stop = start + SAMPLE_GROUP
            context = self.head.sample_context(features, noise.context[:, start:stop])
            normal, abnormal = (
                self._state_offsets(query.seed, start, stop)
                if shared
                else self.head.sample_states(
                    noise.normal[..., start:stop, :], noise.abnormal[..., start:stop, :], features
                )
            )
            texts.append(self.head.encode(context, normal, abnormal, tokens, self.encoder).text)
        return texts

    def _add_groups(self, maps: MapAccumulator, features: Features, texts: list[Text]) -> None:
        """Add groups of samples, layer by layer: memory holds one layer."""
        pixel_logits: list[list[Tensor]] = [[] for _ in texts]
        for layer in range(len(features.patches)):
            patches = self.head.patch_features(features, slice(layer, layer + 1))
            for text, logits in zip(texts, pixel_logits, strict=True):
                logits.append(self.head.pixel_logits(patches, text)[:, 0])
        for text, pixel in zip(texts, pixel_logits, strict=True):
            maps.add(torch.cat(pixel), self.head.image_logits(features, text)[0])

    def _mean_scores(self, features: Features, texts: list[Text], num_samples: int) -> PromptScores:
        """Text ensemble of the first samples, as large as a group of them: products have one shape for every R."""
        pair = mean_pair(torch.cat(texts, 1)[:, :num_samples])
        maps = self._accumulator([1])
        self._add_groups(maps, features, [pair.repeat(1, SAMPLE_GROUP, 1, 1, 1)])
        return without_spread(maps.result(1))


def _class_tokens(class_names: ClassNames, device: torch.device, *names: str) -> ClassTokens:
    return pad_class_tokens([class_names.tokens(name) for name in names], device)


def _state_offsets(
    head: BayesPFL, width: int, device: torch.device, seed: int, start: int, stop: int
) -> tuple[OffsetSamples, OffsetSamples]:
    """The states' samples from `start` to `stop`: they depend on no image, so once for a seed is enough."""
    noise = keyed_noise(seed, [b""], stop, width)
    return head.sample_states(noise.normal[start:].to(device), noise.abnormal[start:].to(device))
