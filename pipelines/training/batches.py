"""Seed and epoch -> the batches of one worker: images decoded by Ray Data tasks, or frozen features from disk.

Every worker streams its own plan instead of a split of one dataset. Which images make up a global batch then depends on
seed and epoch alone, not on the number of workers or on timing, and a restarted worker begins at any epoch.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np
import torch

from bayes_pfl.clip.features import FeatureShards, collate
from bayes_pfl.clip.placement import on_device
from bayes_pfl.config import TrainingConfig
from bayes_pfl.data.pixels import normalized
from bayes_pfl.data.samples import UNAUGMENTED, Mosaics, SampleRef, global_batches
from bayes_pfl.errors import DataError
from bayes_pfl.methods.method import TrainingBatch
from bayes_pfl.training.trainer import Trainer, mean_terms
from pipelines.training.decoding import decode, tile_columns

EpochPlan = list[tuple[list[int], int | None]]
"""Batches in order: positions in the list of references, and the augmentation's seed, or None without augmentation."""

COLUMNS = ("images", "masks")

PLANNED_BATCHES = 256
"""Batches of a plan that Ray's object store holds at a time."""


def epoch_plan(count: int, options: TrainingConfig, epoch: int, rank: int = 0, workers: int = 1) -> EpochPlan:
    """One worker's part of an epoch: every `workers`-th image of each global batch, from its rank on.

    Args:
        count: training images of all workers.
        options: batch size, seed, augmentation.
        epoch: number of the epoch, from 0.
        rank: number of the worker, from 0.
        workers: workers that share each batch.

    Returns:
        One entry for each optimiser step.
    """
    seed = (options.seed << 20) + epoch if options.augment else None
    batches = global_batches(count, options.batch_size, options.seed, epoch)
    return [(list(batch[rank::workers]), seed) for batch in batches]


def image_batches(
    trainer: Trainer, refs: Sequence[SampleRef], plan: Iterable[tuple[list[int], int | None]], cpus: float
) -> Iterator[TrainingBatch]:
    """Batches of a plan, decoded a few batches ahead of their use by Ray Data tasks.

    Args:
        trainer: encodes the images.
        refs: the training images.
        plan: batches in order, of any number of epochs; `PLANNED_BATCHES` of them are handed to Ray at a time.
        cpus: CPUs that a decoding task reserves.

    Yields:
        The batches, on the trainer's device.

    Raises:
        DataError: an image cannot be trained on.
    """
    batches, mosaics = iter(plan), Mosaics(refs)
    while part := list(islice(batches, PLANNED_BATCHES)):
        yield from _decoded(trainer, refs, mosaics, part, cpus)


def feature_batches(
    trainer: Trainer,
    shards: FeatureShards,
    refs: Sequence[SampleRef],
    plan: Iterable[tuple[list[int], int | None]],
) -> Iterator[TrainingBatch]:
    """Batches of a plan from frozen features; one with an augmentation seed takes one of the stored views in turn.

    Args:
        trainer: puts them on its device.
        shards: frozen features of all images.
        refs: the training images.
        plan: batches in order.

    Yields:
        The batches, on the trainer's device.

    Raises:
        DataError: augmentation needs views that are not stored, or a sample has no features.
    """
    for positions, seed in plan:
        if seed is not None and not shards.views:
            raise DataError("training.augment needs augmented views: run `bayes-pfl features` with --set views=4, say.")
        view = UNAUGMENTED if seed is None else shards.views[seed % len(shards.views)]
        chosen = [refs[position] for position in positions]
        yield trainer.encoded_batch(*collate([shards.load(ref, view) for ref in chosen]), chosen)


def feature_epochs(trainer: Trainer, shards: FeatureShards, refs: Sequence[SampleRef]) -> Iterator[dict[str, float]]:
    """Train all epochs on frozen features in one process: what trials of a sweep and the embedded study do.

    Args:
        trainer: one worker, untrained.
        shards: frozen features of all images.
        refs: the training images.

    Yields:
        Mean loss terms, after each epoch.

    Raises:
        DataError: see `feature_batches`.
        TrainingError: a loss is not finite.
    """
    options = trainer.run.training
    for epoch in range(options.epochs):
        batches = feature_batches(trainer, shards, refs, epoch_plan(len(refs), options, epoch))
        yield mean_terms([trainer.step(batch) for batch in batches])


def _decoded(
    trainer: Trainer, refs: Sequence[SampleRef], mosaics: Mosaics, plan: EpochPlan, cpus: float
) -> Iterator[TrainingBatch]:
    """The batches of one piece of a plan, through a Ray Data pipeline of its own."""
    import ray

    probability = trainer.run.training.mosaic_probability
    rows = [
        {
            "seed": UNAUGMENTED if seed is None else seed,
            **tile_columns(
                [(ref, *mosaics.partners(ref, seed, probability)) for ref in map(refs.__getitem__, positions)]
            ),
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
        images, masks = (on_device(torch.from_numpy(np.array(batch[name][0])), trainer.device) for name in COLUMNS)
        yield trainer.batch(normalized(images), masks.float(), [refs[position] for position in positions])
