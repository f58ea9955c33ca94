"""A bundle -> the head that a training goes on from, if it is of the same model and backbone."""

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.bundle import Bundle, load_bundle
from pipelines.platform.settings import TrainSettings


def initial_head(settings: TrainSettings, backbone: Backbone) -> Bundle | None:
    """The bundle that `data.init` names.

    Args:
        settings: the run.
        backbone: its frozen CLIP.

    Returns:
        The bundle; None where a new head is trained.

    Raises:
        BundleError: there is no such bundle.
        ConfigError: its model or its CLIP is another one.
    """
    if settings.data.init is None:
        return None
    bundle = load_bundle(settings.data.init)
    theirs, ours = (model.model_dump() for model in (bundle.config.model, settings.model))
    differing = sorted(key for key in theirs | ours if theirs.get(key) != ours.get(key))
    if differing:
        raise ConfigError(
            f"The head of {settings.data.init} cannot be gone on from: its model differs from this run's in "
            f"{', '.join(f'model.{key}' for key in differing)}. Set these as its bundle.json has them."
        )
    if bundle.config.backbone.weights_sha256 not in ("", backbone.digest):
        raise ConfigError(
            f"The head of {settings.data.init} was trained on another CLIP, {bundle.config.backbone.name}: set "
            "backbone as its bundle.json has it."
        )
    return bundle
