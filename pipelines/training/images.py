"""Settings -> the samples of a run: which are trained on, which validate, what they lack, and what names them all."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from bayes_pfl.clip.features import read_key
from bayes_pfl.data.preprocess import decode_mask, mask_tensor
from bayes_pfl.data.remote import local_copy
from bayes_pfl.data.samples import SampleRef, index_shards
from bayes_pfl.data.shards import file_sha256, read_shard
from bayes_pfl.errors import ConfigError, DataError
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.methods.builder import METHODS, class_names
from bayes_pfl.training.trainer import check_class_names
from pipelines.platform.settings import TrainSettings

RunSettings = TypeVar("RunSettings", bound=TrainSettings)


def split_samples(settings: TrainSettings) -> tuple[list[SampleRef], list[SampleRef]]:
    """The samples of a run: whole validation categories first, then a share of the rest chosen by content hash.

    Args:
        settings: the run.

    Returns:
        Training samples and validation samples.

    Raises:
        ConfigError: the method learns nothing, a validation category does not exist, or normal or anomalous images are
            missing.
        DataError: there are no shards.
        ClassNameError: a class name does not fit into the method's prompts.
    """
    data, method = settings.data, settings.model.method
    if METHODS[method].objective is None:
        raise ConfigError(f"{method} learns nothing: score with it at once (bayes-pfl score IMAGES --method {method}).")
    refs = index_shards(data.train, data.split)
    categories = {ref.category for ref in refs}
    unknown = set(data.validation_categories) - categories
    if unknown:
        raise ConfigError(f"data.validation_categories names {sorted(unknown)}; the shards have {sorted(categories)}.")
    training: list[SampleRef] = []
    validation: list[SampleRef] = []
    for ref in refs:
        share = int(hashlib.sha256(ref.sha256.encode()).hexdigest()[:8], 16) / 16**8
        is_validation = ref.category in data.validation_categories or share < data.validation_share
        (validation if is_validation else training).append(ref)
    _require_both_labels(refs, training, data.split)
    check_class_names(class_names(settings), refs)
    return training, validation


def _require_both_labels(refs: Sequence[SampleRef], training: Sequence[SampleRef], split: str | None) -> None:
    """Refuse training images of one label, with what the shards have. Raises ConfigError."""
    if {ref.label for ref in training} == {0, 1}:
        return
    good, anomalous = (sum(ref.label == label for ref in training) for label in (0, 1))
    held_out = len(refs) - len(training)
    validation = f", beside {held_out} kept for validation" if held_out else ""
    example = f" ({training[0].sample_id} for one)" if training else ""
    where = f"split {split}" if split is not None else "shards"
    raise ConfigError(
        f"Training needs normal and anomalous images, and the {len(training)} of {where} are {good} normal and "
        f"{anomalous} anomalous ones{example}{validation}: choose another data.split or fewer validation categories, "
        "or ingest images of both kinds."
    )


def run_name(settings: TrainSettings, training: Sequence[SampleRef], validation: Sequence[SampleRef]) -> str:
    """Name of a training run: what decides its result, wherever shards, features and weights lie.

    Args:
        settings: the run.
        training: samples trained on.
        validation: samples kept for validation.

    Returns:
        `train-` and 12 hexadecimal digits.

    Raises:
        DataError: the folder of features holds none.
    """
    return weights_by_content(settings).name(images_digest(training, validation, settings.data.features))


def images_digest(training: Sequence[SampleRef], validation: Sequence[SampleRef], features: str | None) -> str:
    """What the images of a run are, with their masks, labels and names, in order, wherever they lie.

    Args:
        training: samples trained on.
        validation: samples kept for validation.
        features: folder or URI of frozen features that stand in for the images; None if the images are encoded.

    Returns:
        Text that differs for other images, masks, labels or names, and for features of another precision or kind.

    Raises:
        DataError: the folder holds no features.
    """
    digest = hashlib.sha256()
    for kind, refs in (("training", training), ("validation", validation)):
        for ref in refs:
            content = [kind, ref.sha256, ref.category, ref.class_name, ref.label, ref.mask_sha256]
            digest.update(json.dumps(content).encode())
    key = "" if features is None else json.dumps(read_key(features).plain(), sort_keys=True)
    return f"{digest.hexdigest()} {key}"


def weights_by_content(settings: RunSettings) -> RunSettings:
    """The same settings, with local CLIP files and the head that is gone on from named by SHA-256 instead of path.

    Args:
        settings: a run with absolute paths.

    Returns:
        A copy that is the same wherever the files lie.
    """
    files = {field: Path(getattr(settings.backbone, field)) for field in ("name", "pretrained")}
    named = {field: file_sha256(file) for field, file in files.items() if file.is_file()}
    data = settings.data
    if data.init is not None:
        data = data.model_copy(update={"init": load_bundle(data.init).record["head_sha256"]})
    return settings.model_copy(update={"backbone": settings.backbone.model_copy(update=named), "data": data})


def require_masks(training: Sequence[SampleRef]) -> None:
    """Refuse anomalous training images without a mask: the loss compares pixels.

    Args:
        training: samples trained on.

    Raises:
        DataError: there are some; names one and their number.
    """
    anomalous = [ref for ref in training if ref.label == 1]
    missing = [ref for ref in anomalous if ref.mask_sha256 is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(anomalous)} anomalous training images have no mask, {missing[0].sample_id} among "
            "them, and training needs one for each: choose another data.train, or ingest these images with masks."
        )


def lacking_kind(validation: Sequence[SampleRef]) -> str:
    """Why figures of the validation images are undefined, as their labels alone show.

    Args:
        validation: samples kept for validation.

    Returns:
        A clause with numbers and an example; empty where there are normal and anomalous images.
    """
    if not validation:
        return "there are none"
    labels = {ref.label for ref in validation}
    if labels == {0, 1}:
        return ""
    kind = "anomalous" if labels == {1} else "normal"
    return f"all {len(validation)} of them are {kind}, {validation[0].sample_id} for one"


def require_selection(validation: Sequence[SampleRef], size: int, purpose: str) -> None:
    """Refuse validation images on which the pixel AP is undefined where something is chosen by it.

    Args:
        validation: samples kept for validation.
        size: side of the masks that predictions are compared with, pixels.
        purpose: what chooses by them, as the subject of a sentence, e.g. `A sweep`.

    Raises:
        ConfigError: normal or anomalous images are missing, or no mask has an anomalous pixel.
    """
    cure = "set data.validation_categories or data.validation_share."
    if lacking := lacking_kind(validation):
        raise ConfigError(f"{purpose} needs validation images, normal and anomalous, and {lacking}: {cure}")
    masked = [ref for ref in validation if ref.label == 1 and ref.mask_sha256 is not None]
    if any(0 < ref.shows_from_px <= size for ref in masked):
        return
    if not any(mask_tensor(decode_mask(mask), size).any() for mask in _masks(masked)):
        raise ConfigError(
            f"{purpose} chooses by the pixel AP of the validation images, and none of their masks has an anomalous "
            f"pixel at {size} x {size}: {cure}"
        )


def _masks(refs: Sequence[SampleRef]) -> Iterator[bytes]:
    """The mask of each sample; shards are opened one at a time."""
    for shard, group in itertools.groupby(refs, key=lambda ref: ref.shard):
        column = read_shard(local_copy(shard))["mask"]
        yield from (column[ref.row].as_py() for ref in group)
