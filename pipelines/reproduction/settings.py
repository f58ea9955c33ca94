"""Settings of a reproduction: which datasets, how many seeds, by which protocol, on which machine."""

from pydantic import Field

from bayes_pfl.config import BackboneConfig, DetectorOptions, Settings
from pipelines.platform.settings import TrackingSettings
from pipelines.reproduction.recipes import Scale
from pipelines.scoring.protocol import Protocol

EMBEDDED_SEEDS, PAPER_SEEDS = 2, 5


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
        None, description="folder for shards, models, results and tables; none: reproduce/ under BAYES_PFL_HOME"
    )

    @property
    def as_recorded(self) -> bool:
        """Whether the recorded figures were measured with these settings, places and speed aside."""
        free = {"data", "tolerance", "timed_images", "workers", "use_gpu", "output", "tracking"}
        recorded = ReproduceSettings(embedded=True, seeds=EMBEDDED_SEEDS)
        mine = self.model_copy(update={"seeds": self.trainings})
        return mine.model_dump(exclude=free) == recorded.model_dump(exclude=free)

    @property
    def scale(self) -> Scale:
        """What all models have in common."""
        return Scale(self.embedded, self.backbone, self.epochs)

    @property
    def trainings(self) -> int:
        """Trainings of each model."""
        return self.seeds or (EMBEDDED_SEEDS if self.embedded else PAPER_SEEDS)
