"""Rows of shards as training samples: which there are, in which order an epoch visits them, and their tensors."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bayes_pfl.augment import augment
from bayes_pfl.errors import DataError
from bayes_pfl.preprocess import decode_image, decode_mask, image_tensor, mask_tensor
from bayes_pfl.shards import read_shard, shard_paths


class SampleRef(NamedTuple):
    """Where one image lies, and what is known of it without decoding it."""

    shard: str
    row: int
    sample_id: str
    category: str
    class_name: str
    label: int
    sha256: str


class Sample(NamedTuple):
    """One image and its mask as tensors."""

    image: Float[Tensor, "3 size size"]
    mask: Float[Tensor, "size size"]


def index_shards(
    folder: Path | str, split: str | None = None, categories: Collection[str] | None = None
) -> list[SampleRef]:
    """All rows of a folder's shards in order, optionally of one split and some categories; image bytes are not touched.

    Raises DataError if the folder has no shards, or no row is left.
    """
    refs = []
    for path in shard_paths(folder):
        table = read_shard(path).select(["sample_id", "category", "class_name", "split", "label", "sha256"])
        for row, values in enumerate(table.to_pylist()):
            if (split is None or values.pop("split") == split) and (categories is None or values["category"] in categories):
                values.pop("split", None)
                refs.append(SampleRef(shard=str(path.resolve()), row=row, **values))
    if not refs:
        wanted = f"split '{split}'" if categories is None else f"split '{split}' and categories {sorted(categories)}"
        raise DataError(f"{folder} has no image of {wanted}; check the names, or ingest again with other options.")
    return refs


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The permutation in which an epoch visits `count` samples: a function of seed and epoch alone."""
    generator = np.random.Generator(np.random.Philox(key=(seed << 32) + epoch))
    return generator.permutation(count).tolist()


def global_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The epoch's order cut into batches; a last, smaller one is left out unless it is the only one."""
    order = epoch_order(count, seed, epoch)
    batches = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    return batches if len(batches) == 1 or len(batches[-1]) == batch_size else batches[:-1]


def load_samples(refs: Sequence[SampleRef], size: int, augmentation_seed: int | None = None) -> list[Sample]:
    """Decode, optionally augment (seeded by `augmentation_seed` and each image's hash), and resize.

    Raises DataError if an anomalous image has no mask: pixels cannot be learned from it.
    """
    tables = {shard: read_shard(shard) for shard in {ref.shard for ref in refs}}
    return [_load(tables[ref.shard], ref, size, augmentation_seed) for ref in refs]


def _load(table: object, ref: SampleRef, size: int, augmentation_seed: int | None) -> Sample:
    image_bytes, mask_bytes = (table[name][ref.row].as_py() for name in ("image", "mask"))  # type: ignore[index]
    if mask_bytes is None and ref.label == 1:
        raise DataError(f"{ref.sample_id} is anomalous but has no mask; train on a dataset with masks.")
    image = decode_image(image_bytes)
    mask = np.zeros((image.height, image.width), np.uint8) if mask_bytes is None else decode_mask(mask_bytes)
    if augmentation_seed is not None:
        image, mask = augment(image, mask, f"{augmentation_seed}/{ref.sha256}")
    return Sample(image_tensor(image, size), mask_tensor(mask, size))


def stack(samples: Sequence[Sample]) -> tuple[Float[Tensor, "batch 3 size size"], Float[Tensor, "batch size size"]]:
    """Images and masks of a batch."""
    return torch.stack([sample.image for sample in samples]), torch.stack([sample.mask for sample in samples])
