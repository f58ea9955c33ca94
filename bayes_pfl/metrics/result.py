"""Named figures in [0, 1] with the reason for each that is undefined, and their mean over categories."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bayes_pfl.errors import DataError


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures in [0, 1] by name; an undefined one is NaN in `values` and explained in `undefined`.

    `left_out` is filled by `dataset_mean`: for a metric, the categories its mean had to ignore.
    """

    values: Mapping[str, float]
    undefined: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert {name for name, value in self.values.items() if math.isnan(value)} == set(self.undefined), (
            "each NaN has a reason, and nothing else has one"
        )

    def __getitem__(self, name: str) -> float:
        """The figure called `name`, NaN where it is undefined."""
        return self.values[name]

    def __or__(self, other: "Metrics") -> "Metrics":
        """Both sets of figures in one, for image and pixel metrics of the same data."""
        return Metrics(
            {**self.values, **other.values},
            {**self.undefined, **other.undefined},
            {**self.left_out, **other.left_out},
        )

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Plain dictionaries that JSON can hold: NaN becomes None.

        Returns:
            `values`, `undefined` and `left_out`, each by metric.
        """
        return {
            "values": {k: None if math.isnan(v) else float(v) for k, v in self.values.items()},
            "undefined": dict(self.undefined),
            "left_out": {name: list(categories) for name, categories in self.left_out.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, Any]]) -> "Metrics":
        """The inverse of `as_dict`.

        Args:
            data: of `as_dict`.

        Returns:
            The figures.
        """
        return cls(
            {k: math.nan if v is None else float(v) for k, v in data["values"].items()},
            dict(data["undefined"]),
            {name: tuple(categories) for name, categories in data["left_out"].items()},
        )


def dataset_mean(per_category: Mapping[str, Metrics]) -> Metrics:
    """Each metric's unweighted mean over the categories of a dataset, as the paper reports it.

    A category in which a metric is undefined is ignored for that metric and named in `left_out`;
    a metric that no category defines stays undefined.

    Args:
        per_category: figures of each category.

    Returns:
        The means in [0, 1].

    Raises:
        DataError: there is no category.

    >>> dataset_mean({"screw": Metrics({"image_ap": 0.5}), "cable": Metrics({"image_ap": 0.7})}).values
    {'image_ap': 0.6}
    """
    if not per_category:
        raise DataError("There is no category to average: evaluate at least one.")
    values: dict[str, float] = {}
    undefined: dict[str, str] = {}
    left_out: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(name for metrics in per_category.values() for name in metrics.values):
        figures = {c: m.values.get(name, math.nan) for c, m in per_category.items()}
        defined = [value for value in figures.values() if not math.isnan(value)]
        ignored = tuple(category for category, value in figures.items() if math.isnan(value))
        if ignored:
            left_out[name] = ignored
        if defined:
            values[name] = math.fsum(defined) / len(defined)
        else:
            values[name] = math.nan
            reasons = dict.fromkeys(m.undefined[name] for m in per_category.values() if name in m.undefined)
            undefined[name] = f"undefined in every category ({'; '.join(reasons)})"
    return Metrics(values, undefined, left_out)
