"""Training batches for a small CLIP, rendered on the fly: step and seed decide every pixel."""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bayes_pfl.synthetic.captions import KIND_STATES, CaptionPair, caption_pair, is_true
from bayes_pfl.synthetic.fields import brightness
from bayes_pfl.synthetic.scene import Scene, render, render_composite
from bayes_pfl.synthetic.splits import PRETRAIN, VALIDATION, kinds_for

MIN_MASK_PIXELS = 10
"""A crop that shows less of a defect than this counts as flawless."""


class CaptionBatch(NamedTuple):
    """Twin-paired images and captions: rows 2p (defective) and 2p + 1 (its flawless twin).

    images: (2 pairs, side, side, 3) float32 in [0, 1]. masks: (2 pairs, side, side) bool.
    captions: 2 pairs sentences, 2p flawless and 2p + 1 damaged. truth: (images, captions) bool.
    """

    images: NDArray[np.float32]
    masks: NDArray[np.bool_]
    captions: list[str]
    truth: NDArray[np.bool_]


class BatchOptions(NamedTuple):
    """What batches are made of. Shares and probabilities lie in [0, 1], sizes are pixels."""

    pairs: int
    scene_size: int
    composite_share: float
    name_dropout: float
    kind_share: float


def _crop(rng: Generator, scene: Scene, side: int) -> Scene:
    """A random window of `side` pixels; four times of five it contains a pixel of the defect."""
    room = len(scene.mask) - side
    top, left = rng.integers(0, room + 1, 2)
    where = np.argwhere(scene.mask)
    if len(where) and rng.uniform() < 0.8:
        row, column = where[rng.integers(len(where))]
        top = int(np.clip(row - rng.integers(0, side), 0, room))
        left = int(np.clip(column - rng.integers(0, side), 0, room))
    window = np.s_[top : top + side, left : left + side]
    return Scene(scene.image[window], scene.mask[window], scene.twin[window], scene.defect)


def _augmented(rng: Generator, scene: Scene, size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Image and twin, turned and flipped and lit alike: (2, size, size, 3); and the mask."""
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    both = np.stack([scene.image, scene.twin]).astype(np.float32) / 255
    both, mask = np.rot90(both, turns, (1, 2)), np.rot90(scene.mask, turns)
    if flip:
        both, mask = both[:, :, ::-1], mask[:, ::-1]
    if rng.uniform() < 0.1:
        both = np.repeat(brightness(both)[..., None], 3, axis=-1)
    gains = rng.uniform(0.8, 1.2) * rng.uniform(0.92, 1.08, 3)
    shift = rng.uniform(-0.06, 0.06)
    return np.clip(both * gains.astype(np.float32) + np.float32(shift), 0, 1), mask


def training_batch(options: BatchOptions, side: int, seed: int, step: int, rank: int) -> CaptionBatch:
    """The batch of one step on one worker; the same arguments give the same batch.

    Where ``side`` is below the scene's size, half of the scenes are windows cut out at full resolution and half are
    whole scenes painted small, so that both fine marks and whole objects are seen cheaply.

    Args:
        options: what batches are made of.
        side: of the images, pixels.
        seed: of the training.
        step: number of the step.
        rank: of the worker.

    Returns:
        The batch.
    """
    rng = np.random.default_rng([seed, step, rank])
    images, masks, facts, captions = [], [], [], []
    for _ in range(options.pairs):
        index, scene_seed = int(rng.integers(2**31)), int(rng.integers(2**31))
        cut = side < options.scene_size and rng.uniform() < 0.5
        size = options.scene_size if cut else side
        severity = float(rng.uniform(0.15, 1.0))
        category = None
        if rng.uniform() < options.composite_share:
            kind = str(rng.choice(list(KIND_STATES)))
            scene = render_composite(PRETRAIN, index, scene_seed, size, kind, severity)
        else:
            category = str(rng.choice(PRETRAIN))
            kind = str(rng.choice(kinds_for(category)))
            scene = render(category, index, scene_seed, size, kind, severity)
        both, mask = _augmented(rng, _crop(rng, scene, side) if cut else scene, side)
        visible = int(mask.sum()) >= MIN_MASK_PIXELS
        images.append(both)
        masks.extend([mask if visible else np.zeros_like(mask), np.zeros_like(mask)])
        facts.extend([(category, kind if visible else None), (category, None)])
        captions.append(caption_pair(rng, category, kind, options.name_dropout, options.kind_share))
    return CaptionBatch(np.concatenate(images), np.stack(masks), _sentences(captions), _truth(facts, captions))


def _sentences(captions: list[CaptionPair]) -> list[str]:
    return [text for pair in captions for text in (pair.flawless, pair.damaged)]


def _truth(facts: list[tuple[str | None, str | None]], captions: list[CaptionPair]) -> NDArray[np.bool_]:
    """Which caption holds of which image: (images, 2 x pairs)."""
    return np.array(
        [[is_true(pair, damaged, *fact) for pair in captions for damaged in (False, True)] for fact in facts]
    )


class ValidationSet(NamedTuple):
    """Fixed images of the validation categories: (n, size, size, 3) uint8, masks and names."""

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    categories: list[str]


def validation_set(per_category: int, size: int, seed: int) -> ValidationSet:
    """As many flawless as defective images of each validation category, never twins of each other.

    Args:
        per_category: flawless images, and defective ones, of each category.
        size: side of the images, pixels.
        seed: of the set.

    Returns:
        The images, masks and names.
    """
    scenes, names = [], []
    for category in VALIDATION:
        kinds = kinds_for(category)
        for number in range(per_category):
            kind = kinds[number % len(kinds)]
            severity = 0.3 + 0.6 * (number % 5) / 4
            scenes.append(render(category, 2 * number, seed, size, kind, severity))
            scenes.append(render(category, 2 * number + 1, seed, size, None))
            names.extend([category, category])
    return ValidationSet(np.stack([s.image for s in scenes]), np.stack([s.mask for s in scenes]), names)
