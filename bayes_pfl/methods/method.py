"""The two protocols of a method: image features -> scores (`Method`), labelled features -> loss (`TrainableMethod`).

`bayes_pfl.inference` and `bayes_pfl.training` speak to these alone; `bayes_pfl.methods.builder` is the only place that
knows which method a configuration describes. A method knows CLIP; it knows no file, no Ray and no HTTP.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, NotRequired, Protocol, TypedDict, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from bayes_pfl.clip.backbone import FeatureKind, Features
from bayes_pfl.clip.class_names import ClassNames
from bayes_pfl.methods.maps import PromptScores


class FrozenEncoder(NamedTuple):
    """The part of a method that learns nothing: what it takes from the frozen image encoder."""

    encode_image: Callable[[Float[Tensor, "batch 3 height width"]], Features]
    """Normalised images -> features, without gradients."""
    kind: FeatureKind


class ImageQuery(NamedTuple):
    """One image to score: all that its scores may depend on, beside the number of samples."""

    features: Features
    """Of a batch of one image."""
    noise_key: bytes
    """SHA-256 of the image's pixels: what its noise is keyed by (`inference.images.noise_key`)."""
    class_name: str
    seed: int = 0
    position: int = 0
    """Position of the image in its call; only the released code's noise depends on it."""


class BatchQuery(NamedTuple):
    """Several images to score together."""

    features: Features
    """Of all the images."""
    noise_keys: tuple[bytes, ...]
    class_names: tuple[str, ...]
    seed: int = 0


@runtime_checkable
class Method(Protocol):
    """Scores of one image from its features. A method without samples answers every number of samples alike."""

    @property
    def in_order(self) -> bool:
        """Whether scores depend on an image's position in its call, so that images cannot be scored together."""
        ...

    @property
    def class_names(self) -> ClassNames:
        """Which class names fit into this method's prompts."""
        ...

    def encode_image(self, images: Float[Tensor, "batch 3 height width"]) -> Features:
        """What this method takes from the frozen image encoder.

        Args:
            images: normalised images.

        Returns:
            Features of the batch.
        """
        ...

    def scores(self, query: ImageQuery, num_samples: Sequence[int]) -> dict[int, PromptScores]:
        """Scores for several numbers of samples from one pass with the largest.

        Args:
            query: the image.
            num_samples: numbers of samples R, each at least 1.

        Returns:
            By R, exactly the scores that a pass with this R alone gives; in the CPU's memory.
        """
        ...

    def batch_scores(self, query: BatchQuery, num_samples: int) -> PromptScores:
        """Scores of several images in as few operations as for one: for devices where each one costs a launch.

        Args:
            query: the images.
            num_samples: R, at least 1.

        Returns:
            As `scores`, up to rounding, every part with the images as its first axis; on the method's device.
        """
        ...

    def growing_scores(self, query: ImageQuery, most: int) -> Iterator[tuple[int, PromptScores]]:
        """Scores for a growing number of samples, computed as they are asked for.

        Args:
            query: the image.
            most: largest number of samples.

        Returns:
            Pairs of R and the scores of the first R samples, R rising to `most`.

        Raises:
            ConfigError: the noise of this configuration depends on R.
        """
        ...


@runtime_checkable
class Scorer(Protocol):
    """Scores of images from their features, for a method without samples; `WithoutSamples` makes a `Method` of it."""

    @property
    def class_names(self) -> ClassNames:
        """Which class names fit into this method's sentences."""
        ...

    def encode_image(self, images: Float[Tensor, "batch 3 height width"]) -> Features:
        """See `Method.encode_image`.

        Args:
            images: normalised images.

        Returns:
            Features of the batch.
        """
        ...

    def score(self, query: BatchQuery) -> PromptScores:
        """Scores of several images; those of an image depend on no other.

        Args:
            query: the images.

        Returns:
            As of `maps.single_scores`, on the method's device.
        """
        ...


class WithoutSamples:
    """A method that draws nothing: R is ignored, and there is no uncertainty."""

    in_order = False

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.class_names, self.encode_image = scorer.class_names, scorer.encode_image

    def scores(self, query: ImageQuery, num_samples: Sequence[int]) -> dict[int, PromptScores]:
        """The same scores for every R. See `Method.scores`.

        Args:
            query: the image.
            num_samples: numbers of samples.

        Returns:
            By R.
        """
        batch = self.scorer.score(BatchQuery(query.features, (query.noise_key,), (query.class_name,), query.seed))
        anomaly_map, text, maxima = (part[0].cpu() for part in (batch.anomaly_map, batch.text_scores, batch.map_maxima))
        single = PromptScores(anomaly_map, None, text, maxima)
        return dict.fromkeys(num_samples, single)

    def batch_scores(self, query: BatchQuery, num_samples: int) -> PromptScores:
        """See `Method.batch_scores`.

        Args:
            query: the images.
            num_samples: ignored.

        Returns:
            Scores of all the images.
        """
        return self.scorer.score(query)

    def growing_scores(self, query: ImageQuery, most: int) -> Iterator[tuple[int, PromptScores]]:
        """One pair, of R = 1: more samples would change nothing. See `Method.growing_scores`.

        Args:
            query: the image.
            most: ignored.

        Returns:
            The pair.
        """
        yield from self.scores(query, [1]).items()


class TrainingBatch(NamedTuple):
    """One worker's part of a global batch."""

    features: Features
    label: Float[Tensor, "batch"]
    """1 for anomalous images, else 0."""
    mask: Float[Tensor, "batch height width"]
    """1 where the image is defective, else 0."""
    class_names: tuple[str, ...]
    noise_keys: tuple[bytes, ...]
    sample_ids: tuple[str, ...]
    """Names for messages."""

    def part(self, rows: slice) -> "TrainingBatch":
        """The images of some rows.

        Args:
            rows: which images.

        Returns:
            Views of their tensors.
        """
        return TrainingBatch(
            Features(self.features.image[rows], self.features.patches[:, rows]),
            self.label[rows],
            self.mask[rows],
            self.class_names[rows],
            self.noise_keys[rows],
            self.sample_ids[rows],
        )


class Loss(NamedTuple):
    """Loss of a batch, and what is recorded of it."""

    total: Float[Tensor, ""]
    """What is minimised."""
    shared: Float[Tensor, ""]
    """Part of `total` that depends on no image: a batch in several parts has it once, not once a part."""
    terms: dict[str, Tensor]
    """Scalars that must be finite, `total` among them, each before its weight."""
    diagnostics: dict[str, Tensor]
    """Further scalars that are recorded."""


class ParameterGroup(TypedDict):
    """Parameters with one learning rate, as torch's optimisers take them: Adam, or AdamW where a decay is decoupled."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: NotRequired[float]
    decoupled_weight_decay: NotRequired[bool]


@runtime_checkable
class TrainableMethod(Protocol):
    """What training asks of a method: the loss of a batch, and which parameters learn, how fast."""

    @property
    def head(self) -> nn.Module:
        """All that is learned: its state dict is what checkpoints and bundles hold."""
        ...

    @property
    def feature_kind(self) -> FeatureKind:
        """What `encode_image` gives: stored features must be of this kind."""
        ...

    @property
    def class_names(self) -> ClassNames:
        """Which class names fit into this method's prompts."""
        ...

    def encode_image(self, images: Float[Tensor, "batch 3 height width"]) -> Features:
        """See `Method.encode_image`.

        Args:
            images: normalised images.

        Returns:
            Features of the batch.
        """
        ...

    def parameter_groups(self, second_stage: bool) -> list[ParameterGroup]:
        """Parameters that a stage of the training changes; all others are frozen in it.

        Args:
            second_stage: whether it is the second stage (`training.second_stage_epochs`).

        Returns:
            Groups with a learning rate each.
        """
        ...

    def loss(self, batch: TrainingBatch, step: int, second_stage: bool, add: Callable[[Tensor], Tensor]) -> Loss:
        """Loss of a batch of which this worker, or this part, has some images.

        Args:
            batch: the images here.
            step: optimiser steps done so far: noise is keyed by it.
            second_stage: whether the second stage trains.
            add: returns the sum over all workers and parts of a vector of sums over images, and passes gradients.

        Returns:
            The loss of the whole batch, the same for all its parts.
        """
        ...
