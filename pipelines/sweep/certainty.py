"""Rows of a sweep -> its combinations, the best of them, and which of the others cannot be told from it.

What can be told is the scatter over validation images, which are resampled with replacement; and over trainings where
`training.seed` is one of the settings that are varied.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bayes_pfl.config.settings import PAPER_LETTERS
from bayes_pfl.metrics.paired import Difference, difference
from bayes_pfl.metrics.resampling import Range, interval
from pipelines.training.loop import SELECTION

SEED = "training.seed"
LETTERS = {f"model.{name}": letter for letter, name in PAPER_LETTERS.items()} | {"num_samples": "R"}
"""Letters of the paper by the keys of rows."""
LOWER_BY = ("validation_lower_by", "validation_lower_by_low", "validation_lower_by_high")
"""Keys of a combination: how much lower than the best it is, and the ends of the 95 % interval."""

Row = dict[str, Any]


class Combination(NamedTuple):
    """Trainings of the same settings but for the seed, evaluated with the same R."""

    rows: list[Row]
    """One a training, by seed."""
    resampled: np.ndarray | None
    """Mean pixel AP of the trainings on the images as they are and on each resampled set; None for older trials."""

    @property
    def figure(self) -> float:
        """Mean of the selection metric over the trainings; minus infinity where it is undefined."""
        mean = float(np.mean([row[SELECTION] for row in self.rows]))
        return mean if math.isfinite(mean) else -math.inf

    @property
    def spread(self) -> float | None:
        """Standard deviation over the trainings, if there are several."""
        return float(np.std([row[SELECTION] for row in self.rows], ddof=1)) if len(self.rows) > 1 else None

    @property
    def cost(self) -> tuple[int, int]:
        """What an image costs: prompts B x R, and steps K of the flow; 1 and 0 where they are not varied."""
        first = self.rows[0]
        return first.get("model.num_prompts", 1) * first["num_samples"], first.get("model.flow_length", 0)

    def less(self, other: "Combination") -> Difference | None:
        """The figure of this combination less that of another, on the same resampled images.

        Args:
            other: combination.

        Returns:
            Difference and interval; None where one of them has no figure, no resampled ones, or fewer seeds.
        """
        if self.resampled is None or other.resampled is None or len(self.rows) != len(other.rows):
            return None
        if not math.isfinite(self.figure) or not math.isfinite(other.figure):
            return None
        return difference((self.figure, other.figure), (self.resampled, other.resampled))

    def name(self, keys: Sequence[str]) -> str:
        """What is varied, with the letters of the paper.

        Args:
            keys: of the rows, those that are varied.

        Returns:
            Such as `B = 3 (num_prompts), R = 5 (num_samples)`.
        """
        return ", ".join(written(key, self.rows[0][key]) for key in keys)


def written(key: str, value: Any) -> str:
    """A setting for people.

    Args:
        key: dotted, or `num_samples`.
        value: of it.

    Returns:
        Letter of the paper and name, or the name alone.

    >>> written("model.flow_length", 10), written("training.learning_rate", 0.001)
    ('K = 10 (flow_length)', 'learning_rate = 0.001')
    """
    name = key.split(".")[-1]
    return f"{LETTERS[key]} = {value} ({name})" if key in LETTERS else f"{name} = {value}"


def combinations(rows: Sequence[Row], resampled: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Combination]:
    """The combinations of a sweep, best first; behind them those with fewer seeds, whose means are of other luck.

    Args:
        rows: of results.json.
        resampled: of each trial's bundle, figures by R.

    Returns:
        The combinations.
    """
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: str(row.get(SEED, ""))):
        settings = {key: value for key, value in row.items() if ("." in key and key != SEED) or key == "num_samples"}
        groups.setdefault(str(settings), []).append(row)
    ranked = []
    for group in groups.values():
        figures = [resampled.get(row["bundle"], {}).get(str(row["num_samples"])) for row in group]
        whole = [np.array(each) for each in figures if each is not None]
        ranked.append(Combination(group, np.mean(whole, axis=0) if len(whole) == len(group) else None))
    return sorted(ranked, key=lambda each: (not math.isfinite(each.figure), -len(each.rows), -each.figure))


def combination_rows(ranked: Sequence[Combination], keys: Sequence[str], sure: bool) -> list[Row]:
    """The combinations as rows for results.json, best first.

    Args:
        ranked: combinations, best first.
        keys: of the rows, those that are varied.
        sure: whether there are images enough for intervals.

    Returns:
        Settings, R, number of trainings, mean figure, its spread, how much lower than the best it is with the
        interval, and the mean seconds per image.
    """
    rows = []
    for each in ranked:
        row = {key: each.rows[0][key] for key in keys}
        row |= {"trainings": len(each.rows), SELECTION: each.figure if math.isfinite(each.figure) else math.nan}
        row |= {"validation_spread": each.spread} if each.spread is not None else {}
        less = ranked[0].less(each) if sure and each is not ranked[0] else None
        row |= dict(zip(LOWER_BY, (None,) * 3 if less is None else less[:3], strict=True))
        rows.append(row | {"seconds_per_image": float(np.mean([entry["seconds_per_image"] for entry in each.rows]))})
    return rows


def judged(ranked: Sequence[Combination], keys: Sequence[str], few: str | None) -> dict[str, Any]:
    """How sure the best combination is, as results.json has it.

    Args:
        ranked: combinations, best first.
        keys: of the rows, those that are varied.
        few: why there is no interval; None where there are images enough.

    Returns:
        Name, number of trainings, spread over them, interval, the runner-up, how many cannot be told from the best, and
        the cheapest of these where that is not the best itself.
    """
    best = ranked[0]
    bounds: Range | None = None
    if few is None and best.resampled is not None and math.isfinite(best.figure):
        bounds = interval(best.figure, best.resampled)
    answer: dict[str, Any] = {
        "name": best.name(keys),
        "trainings": len(best.rows),
        "spread": best.spread,
        "interval": None if bounds is None else list(bounds),
        "no_interval": (few or "the trials are of an earlier version") if bounds is None else None,
        "combinations": len(ranked),
        "undefined": sum(not math.isfinite(each.figure) for each in ranked),
        "fewer_seeds": sum(len(each.rows) < len(best.rows) and math.isfinite(each.figure) for each in ranked),
    }
    if bounds is None:
        return answer | {"runner_up": None, "not_told_apart": None, "cheapest": None}
    differences = [best.less(other) for other in ranked[1:]]
    near = [other for other, less in zip(ranked[1:], differences, strict=True) if less is not None and less.low <= 0]
    cheapest = min([best, *near], key=lambda each: each.cost)
    answer["not_told_apart"] = len(near)
    answer["cheapest"] = None
    if cheapest is not best:
        answer["cheapest"] = {"name": cheapest.name(keys), "row": cheapest.rows[0]}
    answer["runner_up"] = None
    if differences and differences[0] is not None:
        first = differences[0]
        runner = {"name": ranked[1].name(keys), "lower_by": first.value, "interval": [first.low, first.high]}
        answer["runner_up"] = runner | {"differs": first.low > 0}
    return answer


def statements(certainty: Mapping[str, Any], figure: float, images: int, anomalous: int) -> list[str]:
    """Sentences on the best combination.

    Args:
        certainty: of `judged`.
        figure: of the best combination.
        images: number of validation images.
        anomalous: how many of them are.

    Returns:
        What is best and by what, and what cannot be told from it.
    """
    if not math.isfinite(figure):
        return ["No combination has a validation pixel AP: it is undefined on these images."]
    trainings = certainty["trainings"]
    seeds = "1 training of each combination" if trainings == 1 else f"the mean of {trainings} seeds"
    if certainty["spread"] is not None:
        seeds += f", standard deviation {100 * certainty['spread']:.1f}"
    bounds = certainty["interval"]
    sure = "" if bounds is None else f" (95 % interval {100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})"
    lines = [
        f"Best: {certainty['name']}: validation pixel AP {100 * figure:.1f} %{sure} on {images} validation images "
        f"({anomalous} anomalous), {seeds}."
    ]
    if certainty["undefined"]:
        lines.append(f"{certainty['undefined']} of the combinations have no figure: their pixel AP is undefined.")
    if certainty["fewer_seeds"]:
        lines.append(
            f"{certainty['fewer_seeds']} of the combinations have fewer than {trainings} seeds, because trials failed, "
            "were stopped early or were not drawn. They stand last, and are not compared."
        )
    if bounds is None:
        lines.append(f"No interval: {certainty['no_interval']}. The order of near figures is chance.")
        return lines
    runner = certainty["runner_up"]
    others = certainty["combinations"] - 1 - certainty["undefined"] - certainty["fewer_seeds"]
    if runner is not None:
        low, high = runner["interval"]
        verdict = "is lower" if runner["differs"] else "cannot be told from it"
        lines.append(
            f"The runner-up, {runner['name']}, {verdict}: {100 * runner['lower_by']:.1f} points lower (95 % interval "
            f"{100 * low:.1f} to {100 * high:.1f})."
        )
        lines.append(
            f"{certainty['not_told_apart']} of the {others} other combinations cannot be told from the best on these "
            "images." + ("" if trainings > 1 else " Another seed would move all of them too: vary training.seed.")
        )
    if certainty["cheapest"] is not None:
        lines.append(f"The cheapest of these, by B x R and then K, is {certainty['cheapest']['name']}.")
    return lines
