"""Two finished evaluations of the same images -> the difference of every figure, and the images that differ most."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bayes_pfl.errors import ConfigError, DataError
from bayes_pfl.metrics.paired import difference, holm, placements
from bayes_pfl.metrics.resampling import (
    Replicates,
    image_replicates,
    image_weights,
    mean_replicates,
    pixel_replicates,
    too_few,
)
from pipelines.scoring.figures import Resampling
from pipelines.scoring.images_file import counts_of, read_images

NOTHING_SHOWN = "no difference shown"

SIGNIFICANT = 0.05

Row = dict[str, Any]


class Side(NamedTuple):
    """One of the two evaluations."""

    folder: str
    result: Mapping[str, Any]
    """Content of its metrics.json."""
    images: pa.Table

    def as_dict(self) -> dict[str, Any]:
        """What was evaluated, for comparison.json.

        Returns:
            Model and settings.
        """
        names = ("model", "num_samples", "seed", "looked_at", "pixels_at")
        return {"evaluation": self.folder} | {name: self.result[name] for name in names}


def read_side(folder: Path) -> Side:
    """A finished evaluation.

    Args:
        folder: where it was written.

    Returns:
        The evaluation.

    Raises:
        DataError: it is not finished, or of an earlier version.
    """
    try:
        result = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no finished evaluation: run `bayes-pfl evaluate` into it.") from error
    if "pixels_at" not in result:
        raise DataError(f"The evaluation in {folder} is of an earlier version: evaluate anew.")
    return Side(str(folder), result, read_images(folder))


def compared(first: Side, second: Side, resampling: Resampling, listed: int) -> dict[str, Any]:
    """Compare two evaluations, image by image.

    Args:
        first: A.
        second: B; differences are A less B.
        resampling: of the images, the same sets for both.
        listed: how many images that differ most are named.

    Returns:
        The content of comparison.json.

    Raises:
        ConfigError: their image scores are of different protocols.
        DataError: they are of different images, labels or masks.
    """
    if first.result["protocol"] != second.result["protocol"]:
        raise ConfigError("One has scores of the released protocol, the other each image's own: evaluate both alike.")
    pairs = _aligned(first, second)
    pixels = first.result["pixels_at"] == second.result["pixels_at"]
    scored = [np.isfinite(side["image_score"].to_numpy()) for side in pairs]
    both = scored[0] & scored[1]
    if not both.any():
        raise DataError("No image has a score in both evaluations: there is nothing to compare.")
    tables = [side.filter(pa.array(both)) for side in pairs]
    datasets, images = {}, list[Row]()
    for name in dict.fromkeys(tables[0]["dataset"].to_pylist()):
        categories = {}
        own = [table.filter(pc.equal(table["dataset"], name)) for table in tables]
        for category in sorted(set(own[0]["category"].to_pylist())):
            parts = [table.filter(pc.equal(table["category"], category)) for table in own]
            entries = [side.result["datasets"][name]["categories"][category] for side in (first, second)]
            pair = _Pair(parts[0], parts[1], entries[0], entries[1], pixels)
            categories[category] = pair.measured(resampling)
            images += pair.image_rows()
        datasets[name] = _with_verdicts(categories)
    left_out = int((~both).sum())
    return {
        "a": first.as_dict(),
        "b": second.as_dict(),
        "protocol": first.result["protocol"],
        "images": int(both.sum()),
        "notes": _notes(left_out, first, second),
        "interval": resampling.as_dict(),
        "correction": "Holm, over the differences of a dataset's mean, and over those of its categories",
        "datasets": datasets,
        "most_different": _most_different(images, listed),
        "every_image": images,
    }


class _Pair(NamedTuple):
    """The same images of one category in both evaluations."""

    first: pa.Table
    second: pa.Table
    first_entry: Mapping[str, Any]
    second_entry: Mapping[str, Any]
    pixels: bool

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self.first["label"].to_numpy())

    def sides(self) -> tuple[tuple[pa.Table, Mapping[str, Any]], ...]:
        return (self.first, self.first_entry), (self.second, self.second_entry)

    def measured(self, resampling: Resampling) -> "_Measured":
        """Values and replicates of both sides."""
        keys, reason = self.first["sha256"].to_pylist(), too_few(self.labels)
        weights = image_weights(keys, self.labels, resampling.seed, 1 if reason else resampling.resamples)
        values, replicates = [], []
        for table, entry in self.sides():
            drawn = dict(image_replicates(table["image_score"].to_numpy(), self.labels, weights))
            if self.pixels:
                aupimo = entry["values"].get("pixel_aupimo") is not None
                drawn |= pixel_replicates(counts_of(table), self.labels, weights, aupimo)
            drawn = {name: each for name, each in drawn.items() if entry["values"].get(name) is not None}
            whole = table.num_rows == entry["images"]
            values.append({name: entry["values"][name] if whole else float(each[0]) for name, each in drawn.items()})
            replicates.append(drawn)
        names = [name for name in self.first_entry["values"] if self.pixels or name.startswith("image")]
        undefined = self.second_entry["undefined"] | self.first_entry["undefined"]
        return _Measured(names, values, replicates, undefined, reason, len(keys), int(self.labels.sum()))

    def image_rows(self) -> list[Row]:
        """Both scores of each image, and where they put it among the images of the other kind."""
        columns = ("dataset", "category", "sample_id", "sha256", "label", "defect")
        rows = [
            dict(zip(columns, each, strict=True))
            for each in zip(*(self.first[c].to_pylist() for c in columns), strict=True)
        ]
        for name, (table, _) in zip("ab", self.sides(), strict=True):
            scores = table["image_score"].to_numpy()
            placed = placements(scores, self.labels)
            for row, score, rank, precision in zip(rows, scores, placed, table["pixel_ap"].to_numpy(), strict=True):
                row |= {f"score_{name}": float(score), f"placement_{name}": _number(rank)}
                row |= {f"pixel_ap_{name}": _number(precision)} if self.pixels else {}
        return rows


class _Measured(NamedTuple):
    """Figures of both sides on one category."""

    names: list[str]
    values: list[dict[str, float]]
    replicates: Sequence[Replicates]
    undefined: Mapping[str, str]
    reason: str | None
    images: int
    anomalous: int

    def metrics(self) -> dict[str, Row]:
        """The difference of each figure."""
        rows = {}
        for name in self.names:
            first, second = (values.get(name) for values in self.values)
            row: Row = {"a": first, "b": second, "difference": None, "low": None, "high": None, "p_value": None}
            if first is None or second is None:
                rows[name] = row | {"reason": self.undefined.get(name, "it is undefined in one of them")}
                continue
            row |= {"difference": first - second, "reason": self.reason}
            pair = (self.replicates[0][name], self.replicates[1][name])
            measured = None if self.reason else difference((first, second), pair)
            if measured is not None:
                row |= {"low": measured.low, "high": measured.high, "p_value": measured.p_value}
            rows[name] = row
        return rows


def _with_verdicts(categories: Mapping[str, _Measured]) -> dict[str, Any]:
    """A dataset's part of comparison.json."""
    tables = {category: measured.metrics() for category, measured in categories.items()}
    mean = _mean(categories).metrics()
    for rows in (list(mean.values()), [row for table in tables.values() for row in table.values()]):
        tested = [row for row in rows if row["p_value"] is not None]
        for row, corrected in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
            row["p_holm"] = corrected
        for row in rows:
            row.setdefault("p_holm", None)
            row["verdict"] = _verdict(row)
    return {
        "categories": {
            category: {"images": measured.images, "anomalous": measured.anomalous, "metrics": tables[category]}
            for category, measured in categories.items()
        },
        "mean": mean,
    }


def _mean(categories: Mapping[str, _Measured]) -> _Measured:
    """Means over the categories in which both sides have the figure."""
    parts, lacking = list(categories.values()), [name for name, each in categories.items() if each.reason]
    names = list(dict.fromkeys(name for part in parts for name in part.names))
    values: list[dict[str, float]] = [{}, {}]
    replicates: list[dict[str, np.ndarray]] = [{}, {}]
    for name in names:
        shared = [part for part in parts if all(name in values for values in part.values)]
        for side in (0, 1) if shared else ():
            values[side][name] = math.fsum(part.values[side][name] for part in shared) / len(shared)
            if not lacking:
                drawn = mean_replicates([{name: part.replicates[side][name]} for part in shared])
                replicates[side][name] = drawn[name]
    reason = f"{', '.join(lacking)}: too few images to resample" if lacking else None
    return _Measured(names, values, replicates, {}, reason, 0, 0)


def _verdict(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return f"not tested: {row['reason']}"
    if row["low"] <= 0 <= row["high"]:
        return NOTHING_SHOWN
    higher = "A higher" if row["difference"] > 0 else "B higher"
    return higher if row["p_holm"] < SIGNIFICANT else f"{higher}, but not after Holm's correction"


def _aligned(first: Side, second: Side) -> list[pa.Table]:
    """The images of both in the same order, the first's."""
    keys = [_keys(side.images) for side in (first, second)]
    for name, other, own, others in (("A", "B", *keys), ("B", "A", *keys[::-1])):
        if missing := set(own) - set(others):
            example = min(missing, key=str)
            raise DataError(
                f"{name} has {len(missing):,} images that {other} has not, one of them in {example[0]}/{example[1]}: "
                "evaluate both on the same shards, split and categories."
            )
    place_of = {key: row for row, key in enumerate(keys[1])}
    tables = [first.images, second.images.take(pa.array([place_of[key] for key in keys[0]]))]
    if tables[0]["label"] != tables[1]["label"]:
        raise DataError("The same images have other labels in A than in B: evaluate both on the same shards.")
    if first.result["pixels_at"] == second.result["pixels_at"]:
        scored = [np.isfinite(table["image_score"].to_numpy()) for table in tables]
        sizes = [[_total(table["anomalous"]), _total(table["normal"])] for table in tables]
        if any((left != right)[scored[0] & scored[1]].any() for left, right in zip(*sizes, strict=True)):
            raise DataError("The same images have other masks in A than in B: evaluate both on the same shards.")
    return tables


def _keys(images: pa.Table) -> list[tuple[str, str, str, int]]:
    """What names each image in both: dataset, category, hash, and which of several with the same bytes."""
    columns = (images[name].to_pylist() for name in ("dataset", "category", "sha256"))
    seen, keys = Counter[tuple[str, ...]](), []
    for key in zip(*columns, strict=True):
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys


def _total(lists: pa.ChunkedArray) -> np.ndarray:
    """Sum of each list."""
    return np.array([np.asarray(each.values).sum(dtype=np.int64) for each in lists])


def _notes(left_out: int, first: Side, second: Side) -> list[str]:
    notes = [f"{left_out:,} images have no score in A or B and are left out."] if left_out else []
    sizes = [side.result["pixels_at"] for side in (first, second)]
    if sizes[0] != sizes[1]:
        notes.append(
            f"Pixels are measured at {sizes[0]} in A and at {sizes[1]} in B, so their figures are not compared: "
            "evaluate both with --at mask."
        )
    for side, name in ((first, "A"), (second, "B")):
        if count := side.result["trained_on_images_evaluated"]:
            notes.append(f"{name} was trained on {count:,} of these images: this is no zero-shot result.")
    return notes


def _most_different(images: Sequence[Row], listed: int) -> list[Row]:
    """Images by how differently both rank them; those that cannot be ranked are left out."""
    ranked = [row for row in images if row["placement_a"] is not None]
    for row in ranked:
        row["placement_difference"] = row["placement_a"] - row["placement_b"]
    ranked.sort(key=lambda row: (-abs(row["placement_difference"]), row["dataset"], row["sample_id"]))
    return ranked[:listed]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
