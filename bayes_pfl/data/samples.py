"""Rows of shards -> references, the order in which an epoch visits them, and their tensors."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from bayes_pfl.data.augment import augment, keyed_random, mosaic
from bayes_pfl.data.index import read_index
from bayes_pfl.data.pixels import square_pixels
from bayes_pfl.data.preprocess import decode_image, decode_mask, mask_tensor
from bayes_pfl.data.remote import is_remote, local_copy
from bayes_pfl.data.shards import read_shard, require_row
from bayes_pfl.errors import DataError, ImageError

UNAUGMENTED = -1
"""The augmentation's seed of a view that is not augmented."""


class SampleRef(NamedTuple):
    """Where one image lies, and what is known of it without decoding it."""

    shard: str
    row: int
    sample_id: str
    category: str
    class_name: str
    label: int
    sha256: str
    mask_sha256: str | None = None
    """Of the mask as it is stored; None without one."""
    shows_from_px: int = 0
    """As `bayes_pfl.data.index.shows_from`."""


class Sample(NamedTuple):
    """One image and its mask as tensors."""

    image: UInt8[Tensor, "3 size size"]
    """Not normalised yet."""
    mask: Float[Tensor, "size size"]


def index_shards(
    folder: Path | str, split: str | None = None, categories: Collection[str] | None = None
) -> list[SampleRef]:
    """All rows of a folder's shards in order, optionally of one split and some categories; image bytes are not touched.

    Args:
        folder: path or URI (s3://, gs://, file://); references to a URI hold URIs, each machine copies the shards
            it reads, and this function only the index (see `read_index`).
        split: "train" or "test".
        categories: those wanted.

    Returns:
        A reference for each row.

    Raises:
        DataError: the folder has no shards, or no row is left.
    """
    table = read_index(folder)
    wanted = [] if split is None else [pc.field("split") == split]
    wanted += [] if categories is None else [pc.field("category").isin(pa.array(sorted(categories), pa.string()))]
    for condition in wanted:
        table = table.filter(condition)
    refs = _references(folder, table)
    if not refs:
        names = [f"of split '{split}'"] if split is not None else []
        names += [f"of categories {sorted(categories)}"] if categories is not None else []
        what = " ".join(["no image", *names])
        raise DataError(f"{folder} has {what}; check the names, or ingest again with other options.")
    return refs


def refs_digest(refs: Sequence[SampleRef]) -> str:
    """SHA-256 over the images' hashes, whatever their order: names a set of images.

    Args:
        refs: references.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256("".join(sorted(ref.sha256 for ref in refs)).encode()).hexdigest()


def _references(folder: Path | str, table: pa.Table) -> list[SampleRef]:
    """The rows of an index; each name of a shard, category or class is one string that all share."""
    root = str(folder).rstrip("/") if is_remote(folder) else str(Path(folder).resolve())
    shared: dict[str, str] = {}
    columns = {name: table[name].to_pylist() for name in SampleRef._fields}
    columns["shard"] = [f"{root}/{name}" for name in columns["shard"]]
    for name in ("shard", "category", "class_name"):
        columns[name] = [shared.setdefault(value, value) for value in columns[name]]
    return [SampleRef(*values) for values in zip(*columns.values(), strict=True)]


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The permutation in which an epoch visits its samples: a function of seed and epoch alone.

    Args:
        count: number of samples.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        Positions of the samples.
    """
    generator = np.random.Generator(np.random.Philox(key=(seed << 32) + epoch))
    return generator.permutation(count).tolist()


def global_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The epoch's order cut into batches; a last, smaller one is left out unless it is the only one.

    Args:
        count: number of samples.
        batch_size: samples in a batch, over all workers.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        Positions of each batch's samples.
    """
    order = epoch_order(count, seed, epoch)
    batches = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    return batches if len(batches) == 1 or len(batches[-1]) == batch_size else batches[:-1]


def mosaic_partners(
    refs: Sequence[SampleRef], augmentation_seed: int | None, probability: float
) -> list[tuple[SampleRef, ...]]:
    """For every sample three others that it forms a mosaic with, or none: anomalous ones of its category.

    Args:
        refs: samples of an epoch.
        augmentation_seed: decides together with an image's content; None for no mosaics.
        probability: of a mosaic, for an anomalous image.

    Returns:
        Three references or none for each sample.

    Departs from the released code, which puts a mosaic in place of any image: here only an anomalous image becomes
    one, so labels stay.
    """
    mosaics = Mosaics(refs)
    return [mosaics.partners(ref, augmentation_seed, probability) for ref in refs]


class Mosaics:
    """The samples that mosaics are made of; which go together is asked image by image.

    Args:
        refs: samples of an epoch.
    """

    def __init__(self, refs: Sequence[SampleRef]) -> None:
        self._anomalous: dict[str, list[SampleRef]] = {}
        for ref in refs:
            if ref.label == 1:
                self._anomalous.setdefault(ref.category, []).append(ref)

    def partners(self, ref: SampleRef, augmentation_seed: int | None, probability: float) -> tuple[SampleRef, ...]:
        """Three others that a sample forms a mosaic with, or none.

        Args:
            ref: one of the samples.
            augmentation_seed: as for `mosaic_partners`.
            probability: as for `mosaic_partners`.

        Returns:
            Three references or none.
        """
        if augmentation_seed is None or probability == 0 or ref.label != 1:
            return ()
        random = keyed_random(f"mosaic/{augmentation_seed}/{ref.sha256}")
        if random.random() >= probability:
            return ()
        pool = self._anomalous[ref.category]
        return tuple(pool[index] for index in random.integers(len(pool), size=3))


def load_samples(
    refs: Sequence[SampleRef],
    size: int,
    augmentation_seed: int | None = None,
    partners: Sequence[Sequence[SampleRef]] | None = None,
) -> list[Sample]:
    """Decode, put mosaics together, augment, and resize.

    Args:
        refs: which samples.
        size: side of the square tensors, pixels.
        augmentation_seed: decides together with an image's hash; None for no augmentation.
        partners: of `mosaic_partners`, one entry a sample.

    Returns:
        The samples, in order.

    Raises:
        DataError: an anomalous image has no mask, so pixels cannot be learned from it; or one cannot be decoded.
    """
    tables: dict[str, pa.Table] = {}
    return [
        _load(tables, [ref, *others], size, augmentation_seed)
        for ref, others in zip(refs, partners or [()] * len(refs), strict=True)
    ]


def _load(tables: dict[str, pa.Table], tiles: Sequence[SampleRef], size: int, augmentation_seed: int | None) -> Sample:
    decoded = [_decode(tables, ref) for ref in tiles]
    image, mask = (
        decoded[0] if len(decoded) == 1 else mosaic([image for image, _ in decoded], [mask for _, mask in decoded])
    )
    if augmentation_seed is not None:
        image, mask = augment(image, mask, f"{augmentation_seed}/{tiles[0].sha256}")
    return Sample(square_pixels(image, size), mask_tensor(mask, size))


def _decode(tables: dict[str, pa.Table], ref: SampleRef) -> tuple[Image.Image, np.ndarray]:
    """Image and mask of one row; shards stay open in `tables`."""
    if ref.shard not in tables:
        tables[ref.shard] = read_shard(local_copy(ref.shard))
    require_row(tables[ref.shard], ref.shard, ref.row, ref.sha256)
    image_bytes, mask_bytes = (tables[ref.shard][name][ref.row].as_py() for name in ("image", "mask"))
    if mask_bytes is None and ref.label == 1:
        raise DataError(f"{ref.sample_id} is anomalous but has no mask; train on a dataset with masks.")
    try:
        image = decode_image(image_bytes)
        mask = np.zeros((image.height, image.width), np.uint8) if mask_bytes is None else decode_mask(mask_bytes)
    except ImageError as error:
        raise DataError(f"{ref.sample_id}: {error}") from error
    return image, mask


def stack(samples: Sequence[Sample]) -> tuple[UInt8[Tensor, "batch 3 size size"], Float[Tensor, "batch size size"]]:
    """Images and masks of a batch.

    Args:
        samples: of one size.

    Returns:
        Both stacked along the batch.
    """
    return torch.stack([sample.image for sample in samples]), torch.stack([sample.mask for sample in samples])
