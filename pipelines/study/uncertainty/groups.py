"""Scores of one kind of images, good and defective, and random halves of them."""

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np

from bayes_pfl.decisions.records import ScoredImages


class ScoredGroup(NamedTuple):
    """Images of a category, or of all categories of a dataset; no image is in it twice."""

    name: str
    dataset: str
    normal: ScoredImages
    anomalous: ScoredImages | None
    """None: there are none."""
    relit: ScoredImages | None
    """The normal images at another brightness, under the originals' hashes and in their order; None: not made."""

    @property
    def labels(self) -> np.ndarray:
        """0 for each normal, then 1 for each anomalous image."""
        return np.repeat([0, 1], [len(self.normal), 0 if self.anomalous is None else len(self.anomalous)])

    @property
    def scores(self) -> np.ndarray:
        """Image scores in the same order."""
        return np.array([*self.normal.scores, *(() if self.anomalous is None else self.anomalous.scores)])


def chosen(images: ScoredImages, positions: Sequence[int] | np.ndarray) -> ScoredImages:
    """Some of the images.

    Args:
        images: all of them.
        positions: of those that are wanted.

    Returns:
        Them, in this order.
    """
    columns = {name: values for name, values in images if values is not None}
    return ScoredImages(**{name: tuple(values[at] for at in positions) for name, values in columns.items()})


def pools(groups: Sequence[ScoredGroup]) -> list[ScoredGroup]:
    """All categories of a dataset as one group, for every dataset that has several.

    Args:
        groups: one a category.

    Returns:
        One a dataset.
    """
    by_dataset: dict[str, list[ScoredGroup]] = {}
    for group in groups:
        by_dataset.setdefault(group.dataset, []).append(group)
    return [
        ScoredGroup(
            f"{dataset}, pooled",
            dataset,
            reduce(add, [group.normal for group in members]),
            reduce(add, present) if (present := [g.anomalous for g in members if g.anomalous is not None]) else None,
            reduce(add, relit) if len(relit := [g.relit for g in members if g.relit]) == len(members) else None,
        )
        for dataset, members in by_dataset.items()
        if len(members) > 1
    ]


def halves(count: int, seed: int, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Two random halves.

    Args:
        count: of images.
        seed: of the study.
        split: its number.

    Returns:
        Positions of the first half, the smaller where the count is odd, and of the second.
    """
    order = np.random.default_rng([seed, split, count]).permutation(count)
    return order[: count // 2], order[count // 2 :]


class Estimate(NamedTuple):
    """A mean over random splits, and a 95 % interval over splits and the choice of the measured images.

    The interval is the mean plus the 2.5 and 97.5 percentiles of what resampled images deviate from their own mean:
    resampling makes a calibration error larger, which must not move the interval.
    """

    value: float
    low: float
    high: float

    @classmethod
    def make(cls, values: Sequence[float], resampled: Sequence[float]) -> "Estimate | None":
        """From one value a split.

        Args:
            values: of the images as they are.
            resampled: of images drawn with replacement from them.

        Returns:
            The estimate; None where no split has a value.
        """
        if np.isnan(values).all() or np.isnan(resampled).all():
            return None
        mean = float(np.nanmean(values))
        low, high = np.nanpercentile(resampled, [2.5, 97.5]) - np.nanmean(resampled)
        return cls(mean, mean + float(low), mean + float(high))


def estimates(plain: Sequence[dict[str, float]], drawn: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Estimates of several figures.

    Args:
        plain: figures of each split's images.
        drawn: the same of resampled images.

    Returns:
        Value, low and high by figure; a figure that no split has is left out.
    """
    pairs = {name: Estimate.make([row[name] for row in plain], [row[name] for row in drawn]) for name in plain[0]}
    return {name: estimate._asdict() for name, estimate in pairs.items() if estimate is not None}


def resampled_positions(strata: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Positions drawn with replacement, as many of each stratum as there are.

    Args:
        strata: number of each image's stratum.
        random: generator.

    Returns:
        As many positions.
    """
    order = np.argsort(strata, kind="stable")
    sizes = np.unique(strata, return_counts=True)[1]
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(order[starts + (random.random(len(strata)) * np.repeat(sizes, sizes)).astype(int)])
