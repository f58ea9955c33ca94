"""One row of a plan -> the tensors of a batch, as a decoding task of Ray Data computes them.

A module of its own because each task's process imports it: without CLIP and its library, it is there in half the time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bayes_pfl.data.samples import UNAUGMENTED, SampleRef, load_samples, stack
from bayes_pfl.errors import DataError


def tile_columns(samples: Sequence[Sequence[SampleRef]]) -> dict[str, Any]:
    """References of samples as columns of a Ray Data row.

    Args:
        samples: for each image of a batch its reference, and those of the images that it forms a mosaic with.

    Returns:
        Columns by name.
    """
    flat = [ref for tiles in samples for ref in tiles]
    return {
        "tiles": [len(tiles) for tiles in samples],
        "shards": [ref.shard for ref in flat],
        "rows": [ref.row for ref in flat],
        "ids": [ref.sample_id for ref in flat],
        "labels": [ref.label for ref in flat],
        "hashes": [ref.sha256 for ref in flat],
    }


def tiles_of(rows: dict[str, np.ndarray]) -> list[list[SampleRef]]:
    """The inverse of `tile_columns`, as far as decoding needs it.

    Args:
        rows: a Ray Data batch of one row.

    Returns:
        For each image its reference, and those of the images that it forms a mosaic with.
    """
    columns = (rows[name][0].tolist() for name in ("shards", "rows", "ids", "labels", "hashes"))
    flat = iter(
        [SampleRef(shard, row, id_, "", "", label, sha) for shard, row, id_, label, sha in zip(*columns, strict=True)]
    )
    return [[next(flat) for _ in range(count)] for count in rows["tiles"][0].tolist()]


def decode(rows: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """Decode, augment and stack the images of one row.

    Args:
        rows: a Ray Data batch of one row: `tile_columns`, and the augmentation's `seed`.
        size: side of the square input, pixels.

    Returns:
        One row: `images` (batch, 3, size, size) and `masks` (batch, size, size), both of bytes, and `error`, a sentence
        where an image cannot be trained on.
    """
    seed, tiles = int(rows["seed"][0]), tiles_of(rows)
    try:
        samples = load_samples(
            [each[0] for each in tiles], size, None if seed == UNAUGMENTED else seed, [each[1:] for each in tiles]
        )
        images, masks = stack(samples)
        error = ""
    except DataError as problem:
        images, masks, error = torch.zeros(1, 3, 1, 1, dtype=torch.uint8), torch.zeros(1, 1, 1), str(problem)
    return {"images": images.numpy()[None], "masks": masks.to(torch.uint8).numpy()[None], "error": np.array([error])}
