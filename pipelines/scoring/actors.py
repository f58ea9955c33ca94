"""Pieces of work -> results, through a pool of Ray Data actors that hold a model: evaluate, score, features."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bayes_pfl import errors
from bayes_pfl.data.preprocess import MAX_PIXELS, decode_mask, truth_at
from bayes_pfl.data.remote import local_copy
from bayes_pfl.data.shards import read_shard
from bayes_pfl.errors import ImageError
from bayes_pfl.inference.detector import Prediction
from bayes_pfl.inference.view import View


def through_actors(
    work: Sequence[Mapping[str, Any]],
    worker: type,
    options: Mapping[str, Any],
    actors: int,
    gpu: bool,
    *around: Callable[..., Any],
) -> Iterator[dict[str, Any]]:
    """Send every piece of work through a pool of actors.

    Args:
        work: rows, one a call.
        worker: class of the actors; an instance is called with a Ray Data batch of one row.
        options: arguments of its constructor.
        actors: how many of them.
        gpu: whether each gets a GPU.
        around: functions that run in tasks on CPUs, called as an actor is: one before it, one with what it returns.

    Yields:
        Rows that the actors return, as they come.

    Raises:
        BayesPFLError: an actor cannot be made; the sentence that it ended with.
    """
    import ray
    from ray.data import ActorPoolStrategy, Dataset

    before, after = around or (None, None)
    dataset: Dataset = ray.data.from_items(list(work), override_num_blocks=len(work))
    if before is not None:
        dataset = dataset.map_batches(before, batch_size=1, num_cpus=1)
    dataset = dataset.map_batches(
        worker,
        batch_size=1,
        compute=ActorPoolStrategy(size=min(actors, len(work))),
        num_cpus=None if gpu else 1,
        num_gpus=1 if gpu else None,
        fn_constructor_kwargs=dict(options),
    )
    if after is not None:
        dataset = dataset.map_batches(after, batch_size=1, num_cpus=1)
    dataset.context.enable_progress_bars = False
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        sentences = re.findall(r"bayes_pfl\.errors\.(\w+): (.+)", str(error))
        if not sentences:
            raise
        kind, sentence = sentences[-1]
        raise getattr(errors, kind)(sentence) from error


def read_row(shard: str, row: int, opened: dict[str, pa.Table] | None = None) -> tuple[bytes, bytes | None]:
    """Encoded image and mask of one row of a shard; one named by URI is copied to this machine once.

    Args:
        shard: path or URI.
        row: number of the row.
        opened: shards that are kept open, by name; the shard is added.

    Returns:
        The image, and the mask or None.

    Raises:
        DataError: the shard cannot be read.
    """
    opened = {} if opened is None else opened
    if shard not in opened:
        opened[shard] = read_shard(local_copy(shard))
    return opened[shard]["image"][row].as_py(), opened[shard]["mask"][row].as_py()


def truth_mask(
    mask: bytes | None, label: int, prediction: Prediction, max_pixels: int = MAX_PIXELS
) -> np.ndarray | None:
    """The ground truth at the size of the prediction's map.

    Args:
        mask: encoded mask, or None.
        label: 1 for an anomalous image, else 0.
        prediction: gives the size.
        max_pixels: largest mask that is decoded, width x height.

    Returns:
        (height, width), 1 where defective, NaN where a defect vanishes at that size; all 0 for a normal image; None for
        an anomalous one without a mask.

    Raises:
        ImageError: the mask cannot be decoded, or is not of the size of an image that was scored in tiles.
    """
    shape = prediction.anomaly_map.shape
    if mask is None:
        return np.zeros(shape, np.float32) if label == 0 else None
    decoded = decode_mask(mask, max_pixels=max_pixels)
    if decoded.shape == shape:
        return (decoded != 0).astype(np.float32)
    if shape[0] != shape[1]:
        raise ImageError("the mask is not of the image's size, so its tiles or region cannot be measured")
    return truth_at(decoded, shape[0])


def inside_region(view: View, truth: np.ndarray | None, label: int, prediction: Prediction) -> list[np.ndarray] | None:
    """Which pixels of an image count in an evaluation.

    Args:
        view: how it was looked at.
        truth: (height, width), 1 where defective; None if that is not known.
        label: 1 for an anomalous image, else 0.
        prediction: gives the size.

    Returns:
        One (height, width) array, True inside the region; None without a region.

    Raises:
        ImageError: all that is wrong with the image lies outside the region: it is neither normal nor anomalous.
    """
    if view.region is None:
        return None
    height, width = prediction.anomaly_map.shape
    inside = view.region.inside(width, height)
    if label == 1 and truth is not None and truth.any() and not truth[inside].any():
        raise ImageError("its defect lies outside the region, so it counts neither as normal nor as anomalous")
    return [inside]
