"""Measurements -> cells with the paper's figure, the difference and a verdict; and what becomes of claims."""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.reproduction.plan import Claim, Comparison, Key, Measurement, Plan, PlannedFigure

Rows = Mapping[str, Mapping[str, Any]]
"""By number of samples the `mean` and `categories` of a measurement."""

WITHIN, OUTSIDE, NOT_RUN, NOT_COMPARED = "within", "outside", "not run", "not compared"
NO_FIGURE = "there is no figure of these settings to compare with"

HOLDS, SO_FAR, FAILS, UNCLEAR = "holds", "holds so far", "does not hold", "within the scatter"

FIGURES = Path(__file__).parent
PAPER, EMBEDDED = "paper.csv", "embedded.csv"
"""Files of expected figures: the paper's, and those of the embedded CLIP as they were measured before."""


class Expected(NamedTuple):
    """A figure that was published or recorded."""

    value: float
    """Percent, percentage points or milliseconds."""
    std: float | None


class Cell(NamedTuple):
    """One figure of a table; all values in percent, differences in percentage points."""

    row: str
    column: str
    metric: str
    ours: float | None
    std: float | None
    """Over trainings or draws; None of a single one."""
    trainings: int
    paper: float | None
    """What the paper has here; None where it gives no number."""
    expected: float | None
    """What the verdict compares with: the paper's figure, or the recorded one of the embedded CLIP."""
    difference: float | None
    tolerance: float | None
    verdict: str
    why: str
    """Why there is no comparison."""

    @property
    def key(self) -> Key:
        """Row, column and metric."""
        return self.row, self.column, self.metric


class Checked(NamedTuple):
    """A claim and what was found."""

    text: str
    holds: int
    """Comparisons that hold."""
    measured: int
    """Comparisons whose cells were measured."""
    comparisons: int
    verdict: str


def expected_figures(file: str) -> dict[tuple[str, str, str, str], Expected]:
    """Figures of a file of this package.

    Args:
        file: `PAPER` or `EMBEDDED`.

    Returns:
        By target, row, column and metric.
    """
    with (FIGURES / file).open(encoding="utf-8", newline="") as lines:
        return {
            (line["target"], line["row"], line["column"], line["metric"]): Expected(
                float(line["value"]), float(line["std"]) if line["std"] else None
            )
            for line in csv.DictReader(lines)
        }


def cells(
    plan: Plan,
    results: Mapping[Measurement, Rows],
    reasons: Mapping[Measurement, str],
    embedded: bool,
    as_recorded: bool,
    differing: Mapping[Measurement, str],
    tolerance: float,
) -> list[Cell]:
    """The cells of a table or figure.

    Args:
        plan: what belongs into it.
        results: what was measured.
        reasons: why other measurements are missing.
        embedded: with the embedded CLIP, whose figures on painted images are compared with recorded ones.
        as_recorded: whether those were recorded with these settings.
        differing: why measurements at full size are not the paper's: its images or its settings are others.
        tolerance: percentage points that are within in any case.

    Returns:
        One for each planned figure.
    """
    paper = expected_figures(PAPER)
    recorded = expected_figures(EMBEDDED) if embedded and as_recorded else {}
    made = []
    for figure in plan.figures:
        published = _published(paper, plan.name, figure)
        compared = recorded.get((plan.name, *_key(figure))) if embedded else published
        values, why = _values(figure, results, reasons)
        other = "" if embedded else differing.get(figure.measured[0], "")
        made.append(_cell(figure, values, why or other or NO_FIGURE, published, None if other else compared, tolerance))
    return made


def checked(claim: Claim, made: Sequence[Cell], tolerance: float) -> Checked:
    """What becomes of a claim.

    A comparison holds if the difference is above 0. It fails if the difference is below 0 by more than the scatter: the
    root of the sum of the two variances, or `tolerance` where a cell has a single training. Two standard deviations are
    compared as they are.

    Args:
        claim: what the paper says.
        made: the cells.
        tolerance: percentage points.

    Returns:
        `does not hold` if one comparison fails, `within the scatter` if another does not hold, `holds` if all do;
        `holds so far` or `not run` where some or all of its cells were not measured.
    """
    by_key = {cell.key: cell for cell in made}
    results = [_difference(each, by_key, tolerance) for each in claim.comparisons]
    differences = [each for each in results if each is not None]
    positive = sum(difference > 0 for difference, _ in differences)
    if not differences:
        verdict = NOT_RUN
    elif any(difference < -scatter for difference, scatter in differences):
        verdict = FAILS
    elif positive < len(differences):
        verdict = UNCLEAR
    else:
        verdict = HOLDS if len(differences) == len(results) else SO_FAR
    return Checked(claim.text, positive, len(differences), len(results), verdict)


def _difference(comparison: Comparison, made: Mapping[Key, Cell], tolerance: float) -> tuple[float, float] | None:
    """The larger minus the smaller, and their scatter; None where one was not measured."""
    field = "std" if comparison.of_scatter else "ours"
    values, variance = list[float](), 0.0
    for key in filter(None, (comparison.larger, comparison.smaller)):
        value = getattr(made[key], field) if key in made else None
        if value is None:
            return None
        values.append(value)
        cell = made[key]
        std = tolerance if cell.std is None else cell.std
        # a standard deviation of n values has itself one of about std / sqrt(2 (n - 1))
        variance += std**2 / (2 * (cell.trainings - 1)) if comparison.of_scatter else std**2
    return values[0] - sum(values[1:]), math.sqrt(variance)


def _key(figure: PlannedFigure) -> Key:
    return figure.row, figure.column, figure.metric


def _published(paper: Mapping[Any, Expected], target: str, figure: PlannedFigure) -> Expected | None:
    """The paper's figure; tables 2 to 4 have no columns of their own, draws of one training are not in the paper."""
    if "," in figure.column:
        return None
    return paper.get((target, *_key(figure))) or paper.get((target, figure.row, "", figure.metric))


def _values(
    figure: PlannedFigure, results: Mapping[Measurement, Rows], reasons: Mapping[Measurement, str]
) -> tuple[list[float], str]:
    """Figures of all measurements of a cell in percent, or why there are none."""
    name = figure.metric.replace("image", figure.part) if figure.part else figure.metric
    for measurement in (*figure.measured, *figure.minus):
        if measurement not in results:
            return [], reasons.get(measurement, "not measured")

    def _of(measurement: Measurement) -> float | None:
        value = results[measurement][str(figure.num_samples)]["mean"].get(name)
        return None if value is None else 100 * float(value)

    values = [_of(measurement) for measurement in figure.measured]
    minus = [_of(measurement) for measurement in figure.minus] or [0.0] * len(values)
    if None in values or None in minus:
        return [], "the dataset has images of one label alone"
    return [a - b for a, b in zip(values, minus, strict=True) if a is not None and b is not None], ""


def _cell(
    figure: PlannedFigure,
    values: Sequence[float],
    why: str,
    published: Expected | None,
    compared: Expected | None,
    tolerance: float,
) -> Cell:
    paper = None if published is None else published.value
    expected = None if compared is None else compared.value
    if not values:
        return Cell(*_key(figure), None, None, 0, paper, expected, None, None, NOT_RUN, why)
    ours = statistics.fmean(values)
    std = statistics.stdev(values) if len(values) > 1 else None
    if expected is None:
        return Cell(*_key(figure), ours, std, len(values), paper, None, None, None, NOT_COMPARED, why)
    allowed = max(tolerance, 2 * (std or 0.0))
    difference = ours - expected
    verdict = WITHIN if abs(difference) <= allowed else OUTSIDE
    return Cell(*_key(figure), ours, std, len(values), paper, expected, difference, allowed, verdict, "")
