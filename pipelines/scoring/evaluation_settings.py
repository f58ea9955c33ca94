"""Settings of an evaluation, from a YAML file or the command line: which model, which images, looked at how."""

from typing import Literal

from pydantic import Field

from bayes_pfl.config import DetectorOptions, NumSamples, Settings
from bayes_pfl.data.preprocess import MAX_PIXELS
from pipelines.platform.settings import TrackingSettings

Protocol = Literal["image", "released"]
"""`image`: the score of each image alone; `released`: that of the released code."""


class EvaluateSettings(Settings):
    """What is evaluated on what."""

    model: str = Field("embedded", description="bundle by path or URI, embedded, or models:/NAME@ALIAS")
    weights: str | None = Field(None, description="file of CLIP's weights; none: where the bundle says")
    shards: tuple[str, ...] = Field((), description="folders of shards by path or URI, one dataset each")
    split: str | None = Field("test", description="split that is evaluated; none: all")
    categories: tuple[str, ...] | None = Field(None, description="only these categories; none: all")
    num_samples: NumSamples = Field(10, description="R, Monte Carlo samples, or auto")
    seed: int = Field(0, ge=0, description="of the noise")
    workers: int = Field(2, ge=1, description="actors that hold a model")
    threads: int = Field(1, ge=1, description="torch threads of an actor")
    use_gpu: bool | None = Field(None, description="one GPU for every actor; none: where there are GPUs")
    options: DetectorOptions = DetectorOptions()
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="largest width x height of an image, pixels")
    tile: bool = Field(False, description="look at images tile by tile, at their own resolution")
    overlap: float | None = Field(None, ge=0, lt=1, description="share of a tile that the next covers; none: 0.5")
    roi: str | None = Field(None, description="region alone: x,y,width,height in pixels, or a mask image; none: all")
    full_resolution: bool = Field(False, description="measure pixels at the masks' own size, not at the model's")
    protocol: Protocol = Field(
        "image",
        description="image score: of each image alone, or released: as the released code, which scales the parts of "
        "Bayes-PFL's and CLIP-AD's over all test images of a category",
    )
    top_pixels: int = Field(
        2000, ge=1, description="values of a map that Bayes-PFL's released score averages; 20 for small defects"
    )
    resamples: int = Field(2000, ge=100, le=1_000_000, description="resampled sets of images behind every interval")
    cases: int = Field(
        4, ge=0, description="images of each kind shown in the report: missed, false alarm, uncertain, best"
    )
    allow_overlap: bool = Field(False, description="evaluate images that were trained on, and mark the result")
    output: str | None = Field(
        None,
        description="folder or URI for metrics.json, predictions.csv and report.html; "
        "none: evaluation/ under BAYES_PFL_HOME",
    )
    hub_datasets: dict[str, str] = Field(
        {}, description="ids of datasets on the Hugging Face Hub by name, for .eval_results; others keep their name"
    )
    tracking: TrackingSettings = TrackingSettings()
