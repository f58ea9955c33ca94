"""A trained head -> its bundle: the configuration names the very weights of the backbone that it was trained with."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import RunConfig
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.inference.bundle import save_bundle


def write_bundle(
    folder: Path,
    run: RunConfig,
    backbone: Backbone,
    head: dict[str, Tensor],
    record: dict[str, Any],
    training: Sequence[SampleRef],
    earlier: Iterable[str] = (),
) -> None:
    """Write a bundle that is refused with any other weights of the backbone.

    Args:
        folder: where it is written.
        run: the run that trained it.
        backbone: the frozen CLIP it was trained with.
        head: state dict of the method.
        record: where it comes from, as JSON holds it.
        training: samples it was trained on.
        earlier: SHA-256 of images that the head was trained on before.

    Raises:
        BundleError: the folder cannot be written, or holds something else.
    """
    config = run.detector()
    weights = config.backbone.model_copy(update={"weights_sha256": backbone.digest})
    images = [*(ref.sha256 for ref in training), *earlier]
    save_bundle(folder, config.model_copy(update={"backbone": weights}), head, record, images)
