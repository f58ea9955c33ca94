"""Batches for one worker in an order it decides: images decoded by Ray Data tasks, or frozen features from disk.

Every worker streams its own plan instead of a split of one dataset: which images make up a global batch then depends on
seed and epoch alone, not on the number of workers or on timing, and a restarted worker begins at any epoch.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bayes_pfl.clip.features import FeatureShards, collate
from bayes_pfl.data.samples import UNAUGMENTED, SampleRef, mosaic_partners
from bayes_pfl.errors import DataError
from bayes_pfl.methods.method import TrainingBatch
from bayes_pfl.training.trainer import Trainer
from pipelines.training.decoding import decode, tile_columns

Plan = list[tuple[list[int], int | None]]
"""Batches in order: positions in the list of references, and the augmentation's seed."""


def image_batches(trainer: Trainer, refs: Sequence[SampleRef], plan: Plan, cpus: float) -> Iterator[TrainingBatch]:
    """Every batch of the plan, decoded a few batches ahead of its use by tasks that reserve `cpus`.

    Raises DataError for an image that cannot be trained on.
    """
    import ray

    probability = trainer.run.training.mosaic_probability
    partners = {seed: mosaic_partners(refs, seed, probability) for seed in dict.fromkeys(seed for _, seed in plan)}
    rows = [
        {
            "seed": UNAUGMENTED if seed is None else seed,
            **tile_columns([(refs[p], *partners[seed][p]) for p in positions]),
        }
        for positions, seed in plan
    ]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        partial(decode, size=trainer.run.backbone.image_size), batch_size=None, num_cpus=cpus
    )
    context = dataset.context
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    for (positions, _), batch in zip(plan, dataset.iter_batches(batch_size=None, prefetch_batches=2), strict=True):
        if batch["error"][0]:
            raise DataError(str(batch["error"][0]))
        yield trainer.batch(
            _tensor(batch["images"]), _tensor(batch["masks"]), [refs[position] for position in positions]
        )


def feature_batches(
    trainer: Trainer, shards: FeatureShards, refs: Sequence[SampleRef], plan: Plan
) -> Iterator[TrainingBatch]:
    """The same batches from frozen features; a batch with an augmentation seed takes one of the stored views in turn.

    Raises DataError if augmentation is asked for and no views are stored, or a sample is missing.
    """
    for positions, seed in plan:
        if seed is not None and not shards.views:
            raise DataError("training.augment needs augmented views: run `bayes-pfl features` with --set views=4, say.")
        view = UNAUGMENTED if seed is None else shards.views[seed % len(shards.views)]
        chosen = [refs[position] for position in positions]
        yield trainer.encoded_batch(*collate([shards.load(ref, view) for ref in chosen]), chosen)


def shares(batches: Sequence[Sequence[int]], rank: int, workers: int) -> list[list[int]]:
    """One worker's part of each global batch: every `workers`-th image, from its own rank on."""
    return [list(batch[rank::workers]) for batch in batches]


def _tensor(column: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(column[0], np.float32))
