"""Scores and pixels of an evaluation -> figures with 95 % intervals, by category and kind of defect, and their mean."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bayes_pfl.data.samples import SampleRef
from bayes_pfl.inference.view import WHOLE
from bayes_pfl.metrics import BestF1, Metrics, dataset_mean, image_best_f1, image_metrics, metrics_by_category
from bayes_pfl.metrics.resampling import (
    Range,
    Replicates,
    image_replicates,
    image_weights,
    interval,
    mean_replicates,
    pixel_replicates,
    too_few,
    without_bias,
)
from pipelines.scoring.evaluation import ScoredSamples
from pipelines.scoring.task import ScoringTask


class EvaluatedDataset(NamedTuple):
    """One dataset and where its samples stand among all of an evaluation."""

    manifest: dict[str, Any]
    refs: list[SampleRef]
    positions: slice

    @property
    def name(self) -> str:
        """The dataset's name, as its ingest recorded it."""
        return str(self.manifest["dataset"])


class Resampling(NamedTuple):
    """How intervals are made."""

    seed: int
    resamples: int

    def as_dict(self) -> dict[str, Any]:
        """For metrics.json.

        Returns:
            What the intervals are, in words and numbers.
        """
        method = (
            "bootstrap over images, percentiles, F1-max corrected for bias; normal and anomalous images each from "
            "their own, within a category"
        )
        return {"level": 0.95, "method": method, "resamples": self.resamples, "seed": self.seed}


CHANCE = 0.5
"""AUROC of scores that tell nothing."""


class Figures(NamedTuple):
    """Figures of a set of images."""

    metrics: Metrics
    replicates: Replicates
    """None of those for which there is no interval."""
    reason: str | None
    """Why there is no interval."""
    images: int
    anomalous: int
    best_f1: Mapping[str, BestF1]
    """Of `image` and `pixel`: where F1-max is reached, and the F1 of calling everything anomalous."""

    def as_dict(self) -> dict[str, Any]:
        """For metrics.json.

        Returns:
            `values`, `undefined`, `left_out`, `images`, `anomalous`, `intervals`, `without_interval`, `f1_max` and
            `image_auroc_is`.
        """
        ranges = ranges_of(self.metrics, self.replicates)
        without = {name: self.reason for name in self.metrics.values if self.reason and name not in ranges}
        return self.metrics.as_dict() | {
            "images": self.images,
            "anomalous": self.anomalous,
            "intervals": {name: found_range._asdict() for name, found_range in ranges.items()},
            "without_interval": {name: why for name, why in without.items() if name not in self.metrics.undefined},
            "f1_max": {
                level: {"threshold": _number(best.threshold), "all_positive": best.all_positive}
                for level, best in self.best_f1.items()
            },
            "image_auroc_is": None if "image_auroc" not in ranges else against_chance(ranges["image_auroc"]),
        }


def against_chance(bounds: Range) -> str:
    """What the interval of an AUROC says of scores that tell nothing.

    Args:
        bounds: the interval.

    Returns:
        `at chance` where it contains 0.5.

    >>> against_chance(Range(0.45, 0.7)), against_chance(Range(0.6, 0.7)), against_chance(Range(0.2, 0.4))
    ('at chance', 'above chance', 'below chance')
    """
    if bounds.low > CHANCE:
        return "above chance"
    return "below chance" if bounds.high < CHANCE else "at chance"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def pixels_at(task: ScoringTask) -> str:
    """The size at which pixels are measured, in words: figures of different sizes are not comparable.

    Args:
        task: how images are looked at.

    Returns:
        The size.
    """
    if task.full_resolution:
        return "the masks' own size"
    return f"{task.image_size} x {task.image_size} px" if task.view == WHOLE else "the images' own size"


def images_digest(refs: Sequence[SampleRef]) -> str:
    """SHA-256 over images and masks with their names, labels and categories, whatever their order.

    Args:
        refs: the images.

    Returns:
        64 hexadecimal digits.
    """
    lines = (json.dumps([ref.sha256, ref.mask_sha256, ref.label, ref.category, ref.class_name]) for ref in refs)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def ranges_of(metrics: Metrics, replicates: Replicates) -> dict[str, Range]:
    """Intervals of the figures that have one.

    Args:
        metrics: the exact figures.
        replicates: of resampled sets.

    Returns:
        Intervals by name.
    """
    ranges = {name: interval(metrics[name], drawn) for name, drawn in replicates.items() if name in metrics.values}
    return {
        name: Range(*(min(max(end, 0.0), 1.0) for end in each)) for name, each in ranges.items() if each is not None
    }


def measured(dataset: EvaluatedDataset, scored: ScoredSamples, resampling: Resampling) -> dict[str, Any]:
    """Metrics of one dataset; images without a score are left out.

    Args:
        dataset: where its images stand.
        scored: all images of the evaluation.
        resampling: of the intervals.

    Returns:
        The dataset's part of metrics.json.
    """
    start = dataset.positions.start
    chosen = [start + index for index in range(len(dataset.refs)) if np.isfinite(scored.scores[start + index])]
    refs, kinds = [dataset.refs[position - start] for position in chosen], dataset.manifest["metrics"]
    groups = {ref.category: f"{dataset.name}/{ref.category}" for ref in refs}
    metrics = metrics_by_category(
        [ref.category for ref in refs],
        [ref.label for ref in refs],
        scored.scores[chosen] if "image" in kinds else None,
        {category: scored.pixel[group] for category, group in groups.items()} if "pixel" in kinds else {},
    )
    categories, per_category = {}, []
    for category, values in metrics.items():
        members = [position for ref, position in zip(refs, chosen, strict=True) if ref.category == category]
        own = [dataset.refs[position - start] for position in members]
        images = _Images(own, members, scored, groups[category], kinds)
        figures = images.figures(values, resampling, scored.pixel_f1.get(groups[category]))
        per_category.append(figures)
        categories[category] = figures.as_dict() | {"defects": images.by_defect(resampling)}
    mean = _mean(dict(zip(metrics, per_category, strict=True)))
    return {"images": len(dataset.refs), "categories": categories, "mean": mean.as_dict()}


class _Images(NamedTuple):
    """Images of one category that have a score."""

    refs: list[SampleRef]
    positions: list[int]
    scored: ScoredSamples
    group: str
    kinds: Sequence[str]

    def figures(self, metrics: Metrics, resampling: Resampling, pixel_f1: BestF1 | None = None) -> Figures:
        """Exact figures with their resampled ones."""
        labels = np.array([ref.label for ref in self.refs])
        reason, drawn = too_few(labels), dict[str, np.ndarray]()
        if reason is None:
            weights = image_weights([ref.sha256 for ref in self.refs], labels, *resampling)
            if "image" in self.kinds:
                drawn |= image_replicates(self.scored.scores[self.positions], labels, weights)
            if "pixel" in self.kinds:
                pixels = self.scored.groups[self.group]
                rows = np.searchsorted(pixels.positions, self.positions)
                aupimo = "pixel_aupimo" not in metrics.undefined
                drawn |= pixel_replicates(pixels.counts.rows(rows), labels, weights, aupimo)
        image_f1 = image_best_f1(self.scored.scores[self.positions], labels) if "image" in self.kinds else None
        best = {"image": image_f1, "pixel": pixel_f1 if "pixel" in self.kinds else None}
        best_f1 = {level: each for level, each in best.items() if each is not None}
        return Figures(metrics, without_bias(drawn), reason, len(labels), int(labels.sum()), best_f1)

    def by_defect(self, resampling: Resampling) -> dict[str, Any]:
        """Figures of the normal images and those with one kind of defect, by kind."""
        places = range(len(self.refs))
        names = [self.scored.defects[p] if ref.label else "" for ref, p in zip(self.refs, self.positions, strict=True)]
        figures = {}
        for kind in sorted(set(names) - {""}):
            rows = [row for row in places if names[row] == kind or not self.refs[row].label]
            part = self._replace(refs=[self.refs[r] for r in rows], positions=[self.positions[r] for r in rows])
            metrics = Metrics({})
            if "image" in self.kinds:
                metrics |= image_metrics(self.scored.scores[part.positions], np.array([ref.label for ref in part.refs]))
            if "pixel" in self.kinds:
                metrics |= self.scored.groups[self.group].by_defect[kind]
            figures[kind] = part.figures(metrics, resampling).as_dict()
        return figures


def _mean(per_category: Mapping[str, Figures]) -> Figures:
    """Means over categories; one that lacks an interval leaves the mean without."""
    metrics = dataset_mean({name: figures.metrics for name, figures in per_category.items()})
    lacking = {name: figures.reason for name, figures in per_category.items() if figures.reason}
    reason = "; ".join(f"{name}: {why}" for name, why in lacking.items()) or None
    drawn = {} if reason else mean_replicates([figures.replicates for figures in per_category.values()])
    images, anomalous = (sum(getattr(each, name) for each in per_category.values()) for name in ("images", "anomalous"))
    best_f1 = {}
    for level in ("image", "pixel"):
        shares = [each.best_f1[level].all_positive for each in per_category.values() if level in each.best_f1]
        if shares:  # each category has a threshold of its own
            best_f1[level] = BestF1(math.nan, math.fsum(shares) / len(shares))
    return Figures(metrics, drawn, reason, images, anomalous, best_f1)
