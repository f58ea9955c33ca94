"""Settings -> the same with every path absolute: workers run in a folder of Ray's."""

from pathlib import Path
from typing import TypeVar

from bayes_pfl.config import BackboneConfig
from pipelines.platform.settings import TrainSettings
from pipelines.platform.storage import absolute
from pipelines.platform.tracking import resolved

RunSettings = TypeVar("RunSettings", bound=TrainSettings)


def with_absolute_paths(settings: RunSettings) -> RunSettings:
    """Write out shards, features, checkpoints, output, tracking store and local CLIP files.

    Args:
        settings: a run, with paths relative to the current folder.

    Returns:
        The same run for any process of this machine; URIs and names of published weights stay.
    """
    data = settings.data
    places = {"train": absolute(data.train), "features": data.features and absolute(data.features)}
    if data.init is not None and Path(data.init).is_dir():
        places["init"] = absolute(data.init)
    storage = settings.cluster.storage and absolute(settings.cluster.storage).rstrip("/")
    return settings.model_copy(
        update={
            "backbone": _absolute_files(settings.backbone),
            "data": data.model_copy(update=places),
            "cluster": settings.cluster.model_copy(update={"storage": storage}),
            "output": absolute(settings.output).rstrip("/"),
            "tracking": resolved(settings.tracking),
        }
    )


def _absolute_files(backbone: BackboneConfig) -> BackboneConfig:
    """Architecture and weights by absolute path where they are local files."""
    files = {field: Path(getattr(backbone, field)) for field in ("name", "pretrained")}
    return backbone.model_copy(update={field: str(file.resolve()) for field, file in files.items() if file.is_file()})
