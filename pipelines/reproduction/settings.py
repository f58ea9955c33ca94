"""Settings of a reproduction: which datasets, how many seeds, by which protocol, on which machine."""

from typing import NamedTuple

from pydantic import Field, field_validator

from bayes_pfl.config import BackboneConfig, DetectorOptions, Settings
from pipelines.options.evaluate import Protocol
from pipelines.platform.settings import TrackingSettings, TrainSettings

EMBEDDED_SEEDS, PAPER_SEEDS = 2, 5

REPORTED = 10
"""R of every table but the third."""


class Scale(NamedTuple):
    """What all models of a reproduction have in common."""

    embedded: bool
    """The small CLIP inside this package."""
    backbone: BackboneConfig | None = None
    """Instead of the paper's, at full size."""
    epochs: int | None = None
    """Other than those of the recipes."""


class ReproduceSettings(Settings):
    """What is measured, and at which scale."""

    data: str | None = Field(
        None, description="folder with the datasets, each in a folder of its own; none: no datasets"
    )
    embedded: bool = Field(
        False,
        description="the small CLIP inside this package, trained and measured on painted images, in place of "
        "ViT-L-14-336",
    )
    seeds: int | None = Field(
        None,
        ge=1,
        description=f"trainings of each model, seeds 0, 1, ...; none: {PAPER_SEEDS}, embedded {EMBEDDED_SEEDS}",
    )
    draws: int = Field(3, ge=2, description="draws of the noise with one training, in table 3")
    num_samples: tuple[int, ...] = Field((1, 3, 5, 7, 10, 13, 16, 20), description="R of table 3; 10 is among them")
    protocol: Protocol = Field(
        "image",
        description="image score: of each image alone, or released: as the released codes; never both in one table",
    )
    top_pixels: int | None = Field(
        None,
        ge=1,
        description="values of a map that Bayes-PFL's released score averages; none: 2,000 of 518 x 518, embedded as "
        "large a share",
    )
    model: str | None = Field(
        None, description="bundle that stands for Bayes-PFL in table 1, such as imported weights; none: it is trained"
    )
    tolerance: float = Field(
        2.0,
        ge=0,
        description="difference in percentage points that is within; twice the standard deviation over seeds where "
        "that is larger",
    )
    backbone: BackboneConfig | None = Field(
        None, description="another CLIP for every method, not embedded; none: the paper's ViT-L-14-336 at 518 px"
    )
    epochs: int | None = Field(None, ge=1, description="of every training; none: those of each recipe")
    normal: int = Field(8, ge=1, description="embedded: painted flawless test images of each held-out category")
    defective: int = Field(16, ge=1, description="embedded: painted defective test images of each held-out category")
    auxiliary_normal: int = Field(12, ge=1, description="embedded: flawless training images of each auxiliary category")
    auxiliary_defective: int = Field(
        30, ge=1, description="embedded: defective training images of each auxiliary category"
    )
    timed_images: int = Field(50, ge=1, description="images behind a time")
    workers: int | None = Field(
        None, ge=1, description="jobs at a time, each on a GPU, or on a core where there are none; none: all GPUs, or 2"
    )
    use_gpu: bool | None = Field(None, description="one GPU for every job; none: where there are GPUs")
    options: DetectorOptions = DetectorOptions()
    tracking: TrackingSettings = TrackingSettings()
    output: str | None = Field(
        None,
        description="folder for shards, models, results and tables; none: reproduce/embedded or reproduce/paper under "
        "BAYES_PFL_HOME",
    )

    @property
    def as_recorded(self) -> bool:
        """Whether the recorded figures were measured with these settings, places and speed aside."""
        free = {"data", "tolerance", "timed_images", "workers", "use_gpu", "output", "tracking"}
        recorded = ReproduceSettings(embedded=True, seeds=EMBEDDED_SEEDS)
        mine = self.model_copy(update={"seeds": self.trainings})
        return mine.model_dump(exclude=free) == recorded.model_dump(exclude=free)

    @property
    def clip(self) -> str:
        """Which CLIP all models have, in a word."""
        return "embedded" if self.embedded else "paper"

    @property
    def conditions(self) -> str:
        """What all figures of a table have in common, in a sentence."""
        clip = "the CLIP inside this package, painted images" if self.embedded else TrainSettings().backbone.name
        if self.backbone is not None:
            clip = self.backbone.name
        parts = [
            clip,
            f"protocol {self.protocol}",
            f"up to {self.trainings} training{'s' * (self.trainings > 1)} of each model",
        ]
        parts += [f"{self.epochs} epoch{'s' * (self.epochs > 1)}"] if self.epochs is not None else []
        parts += [f"Bayes-PFL is {self.model}"] if self.model is not None else []
        return f"{'; '.join(parts)}; percent."

    @property
    def not_as_paper(self) -> str:
        """Settings at full size that are not the paper's, in words; empty without any."""
        changed = [name for name in ("backbone", "epochs", "top_pixels") if getattr(self, name) is not None]
        return f"{' and '.join(changed)} {'is' if len(changed) == 1 else 'are'} not the paper's" if changed else ""

    @field_validator("num_samples")
    @classmethod
    def _numbers_differ(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1 or len(set(value)) < max(2, len(value)) or REPORTED not in value:
            raise ValueError(f"give at least two different numbers from 1 on, {REPORTED} among them")
        return value

    @property
    def scale(self) -> Scale:
        """What all models have in common."""
        return Scale(self.embedded, self.backbone, self.epochs)

    @property
    def trainings(self) -> int:
        """Trainings of each model."""
        return self.seeds or (EMBEDDED_SEEDS if self.embedded else PAPER_SEEDS)
