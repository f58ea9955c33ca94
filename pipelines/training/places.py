"""Settings -> the same with every path absolute: workers run in a folder of Ray's."""

from pathlib import Path
from typing import TypeVar

from bayes_pfl.config import BackboneConfig
from bayes_pfl.data.remote import is_remote
from bayes_pfl.inference.bundle import load_bundle
from pipelines.platform.settings import TrainSettings, below_home
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
    if data.init is not None and not is_remote(data.init):
        # a registered model by its folder, so that a name that moves changes nothing during a training
        places["init"] = str(load_bundle(data.init).folder.resolve())
    storage = settings.cluster.storage and absolute(settings.cluster.storage).rstrip("/")
    return settings.model_copy(
        update={
            "backbone": absolute_files(settings.backbone),
            "data": data.model_copy(update=places),
            "cluster": settings.cluster.model_copy(update={"storage": storage}),
            "output": absolute(below_home(settings.output)).rstrip("/"),
            "tracking": resolved(settings.tracking),
        }
    )


def absolute_files(backbone: BackboneConfig) -> BackboneConfig:
    """Architecture and weights by absolute path where they are local files.

    Args:
        backbone: with paths relative to the current folder.

    Returns:
        The same CLIP for any process of this machine.
    """
    files = {field: Path(getattr(backbone, field)) for field in ("name", "pretrained")}
    return backbone.model_copy(update={field: str(file.resolve()) for field, file in files.items() if file.is_file()})
