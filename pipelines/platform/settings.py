"""Settings of the programs beside those of the model: data, cluster, tracking. One YAML file holds all of a run."""

import hashlib
import os
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from bayes_pfl.config import RunConfig, Settings
from bayes_pfl.machine import MOST_THREADS, MOST_WORKERS


class DataSettings(Settings):
    """Which images a run trains on, and which of them only choose."""

    train: str = Field(
        "shards/train", min_length=1, description="folder of shards, by path or URI: the auxiliary dataset"
    )
    features: str | None = Field(
        None, description="folder or URI of frozen features of these shards; none: encode images in every epoch"
    )
    init: str | None = Field(
        None, description="bundle whose head the training goes on from (fine-tuning); none: a new head"
    )
    split: str | None = Field("test", description="split of the shards that is used; the method trains on test splits")
    validation_categories: tuple[str, ...] = Field((), description="categories kept out of training, for validation")
    validation_share: float = Field(
        0.0, ge=0, lt=1, description="share of the remaining images kept out for validation, chosen by content hash"
    )


class ClusterSettings(Settings):
    """How the work is spread. The defaults fit 2 CPUs; give a GPU machine more."""

    num_workers: int = Field(2, ge=1, le=MOST_WORKERS, description="data-parallel training workers")
    min_workers: int | None = Field(
        None,
        ge=1,
        description="fewest workers to go on with when machines are lost, up to num_workers; none: all of them",
    )
    use_gpu: bool | None = Field(None, description="a GPU for every worker; none: where there are GPUs")
    gpus_per_worker: float = Field(
        1.0, gt=0, le=1, description="with use_gpu: share of a GPU that a worker or trial reserves"
    )
    cpus_per_worker: float = Field(0.5, gt=0, description="logical CPUs a training worker reserves")
    cpus_per_loader: float = Field(0.5, gt=0, description="logical CPUs a decoding task reserves")
    threads_per_worker: int = Field(1, ge=1, le=MOST_THREADS, description="torch threads of a worker")
    max_failures: int = Field(3, ge=0, description="restarts of the worker group before a run is given up")
    storage: str | None = Field(
        None,
        description="folder or URI that every machine reaches, for checkpoints; none: training/ under BAYES_PFL_HOME",
    )

    @property
    def gpus(self) -> float:
        """GPUs that a worker or trial reserves."""
        return self.gpus_per_worker if self.use_gpu else 0.0

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError("min_workers must not be larger than num_workers")
        return self


class TrackingSettings(Settings):
    """Where runs and models are recorded."""

    uri: str | None = Field(
        None, description="MLflow tracking server or database; none: MLFLOW_TRACKING_URI, else SQLite under runs/"
    )
    experiment: str = Field("bayes-pfl", description="MLflow experiment")
    model_name: str = Field("bayes-pfl", description="name in the model registry")


class TrainSettings(RunConfig):
    """A training run: model, losses, optimisation, and where it happens."""

    data: DataSettings = DataSettings()
    cluster: ClusterSettings = ClusterSettings()
    tracking: TrackingSettings = TrackingSettings()
    output: str = Field("runs/model", min_length=1, description="folder of the resulting bundle, or URI")

    def portable(self) -> dict[str, Any]:
        """The settings that decide the result, without this machine's paths: what travels with a bundle.

        Returns:
            Nested settings that JSON can hold.
        """
        places: Any = {"output": True, "tracking": True, "cluster": {"storage"}, "data": {"train", "features", "init"}}
        return self.model_dump(mode="json", exclude=places)

    def name(self, images: str) -> str:
        """Name of the run: a hash of everything that decides its result, so that the same run is found again.

        Where shards and features lie decides nothing: what their images are does.

        Args:
            images: digest of the images that are trained on and validated with (`training.images.images_digest`).

        Returns:
            `train-` and 12 hexadecimal digits.
        """
        deciding = {"num_workers", "use_gpu", "threads_per_worker"}
        spread = set(ClusterSettings.model_fields) - deciding
        without = {"train", "features"} | ({"init"} if self.data.init is None else set())
        places: Any = {"output": True, "tracking": True, "cluster": spread, "data": without}
        cluster = self.cluster.model_copy(update={"use_gpu": bool(self.cluster.use_gpu)})
        text = self.model_copy(update={"cluster": cluster}).model_dump_json(exclude=places) + images
        return f"train-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def below_home(output: str) -> str:
    """Where an output lies: `runs/NAME` stands for NAME in the folder of everything, wherever that is.

    Args:
        output: path or URI as settings have it.

    Returns:
        The same, but with BAYES_PFL_HOME in place of a leading `runs`.
    """
    first, _, rest = output.removeprefix("./").partition("/")
    return str(home() / rest) if first == "runs" and rest else output


def home() -> Path:
    """The folder of everything this project keeps.

    Returns:
        BAYES_PFL_HOME, else `runs` in the current folder; absolute. An empty variable is none.
    """
    return Path(os.environ.get("BAYES_PFL_HOME") or "runs").resolve()
