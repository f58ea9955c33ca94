"""What is asked of a model: which one, and how it predicts."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import DetectorOptions, ScoringConfig
from bayes_pfl.decisions.records import HowScored
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.how_scored import how_scored
from bayes_pfl.inference.images import ImageLike
from bayes_pfl.inference.prediction import Prediction
from bayes_pfl.inference.view import WHOLE, View


class ScoringTask(NamedTuple):
    """What is asked of the actors: the model, and how it predicts."""

    bundle: Bundle
    num_samples: int | Literal["auto"]
    seed: int
    threads: int
    device: str
    max_pixels: int
    view: View = WHOLE
    """How images are looked at."""
    region_thresholds: Mapping[str, float] | None = None
    """By class name, map value from which a pixel belongs to a region; None: no regions are wanted."""
    full_resolution: bool = False
    """Whether maps are scaled up to the images before pixels are counted."""
    bits: int | None = None
    """Of gray images with more than 8; None: as each file or its values say."""
    options: DetectorOptions = DetectorOptions()
    """How the model computes."""
    released: ScoringConfig | None = None
    """How maps are smoothed behind the model, whose own smoothing is off then: for the released protocol alone."""
    top_pixels: int = 2000
    """Of the released protocol: see `protocol.map_part`."""
    threshold: float | None = None
    """Image score that `auto` decides by; None: the model's own."""

    @property
    def image_size(self) -> int:
        """Side of the model's square input, pixels."""
        return self.bundle.config.backbone.image_size

    @property
    def looked_at(self) -> str:
        """The way of looking in words: what a threshold belongs to."""
        return self.view.name(self.image_size)

    @property
    def how_scored(self) -> HowScored | None:
        """What its scores have in common; None with `auto`, where R differs from image to image."""
        if self.num_samples == "auto":
            return None
        question = self.num_samples, self.options.precision, self.bits, self.seed
        return how_scored(self.bundle, self.looked_at, *question)

    def on_this_machine(self) -> "ScoringTask":
        """The task as this process can do it where actors have a GPU: without one, on the CPU and in float32 for tf32.

        Returns:
            The task itself where nothing has to change.
        """
        if self.device == "cpu" or torch.cuda.is_available():
            return self
        changes = {"precision": "float32"} if self.options.precision == "tf32" else {}
        return self._replace(device="cpu", options=self.options.model_copy(update=changes))

    def load(self) -> Detector:
        """A detector for this process.

        Returns:
            The detector, with the threads, device and options of the task.
        """
        torch.set_num_threads(self.threads)
        backbone = Backbone(self.bundle.backbone)
        return Detector(self.bundle, backbone, torch.device(self.device), **dict(self.options))

    def predict_all(self, detector: Detector, images: Sequence[tuple[ImageLike, str]]) -> list[Prediction]:
        """Predictions of several images; whole ones go together where the detector scores them so.

        Args:
            detector: the model.
            images: pixels, and what they show.

        Returns:
            One for each image.

        Raises:
            ClassNameError: a name is blank or too long.
            ImageError: an image is too narrow for tiles, or the region does not fit it.
            ConfigError: tiles or a region are looked at with `auto`.
        """
        if self.view == WHOLE:
            pixels, names = [image for image, _ in images], [name for _, name in images]
            return detector.predict(pixels, names, self.num_samples, self.seed, self.threshold)
        if self.num_samples == "auto":
            raise ConfigError(
                "The number of samples can be auto for whole images alone: give one for tiles or a region."
            )
        return [detector.predict_view(*pair, self.view, self.num_samples, self.seed) for pair in images]
