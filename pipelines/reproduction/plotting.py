"""Cells of a target -> a picture: curves over R or epochs, else a row of dots for each figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.reproduction.cells import Cell

COLOURS = ("#c23b22", "#3b6fb6", "#4c9f70", "#8e5ea2", "#d08c2c", "#6b6b6b", "#1f9e9e")
NUMBERED = ("table3", "figure4")
"""Targets whose rows are numbers."""


def plot(path: Path, name: str, made: Sequence[Cell], titles: Mapping[str, str]) -> None:
    """Draw the cells of a target, what is expected beside them.

    Args:
        path: PNG file to write.
        name: of the target.
        made: its cells.
        titles: of the figures.
    """
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(cell.metric for cell in made))
    rows = list(dict.fromkeys(cell.row for cell in made))
    numbered = name in NUMBERED
    height = 3.0 if numbered else max(2.2, 0.32 * len(rows) + 1.2)
    columns = min(2, len(metrics))
    figure = Figure(figsize=(6 * columns, height * -(-len(metrics) // columns)), layout="constrained")
    axes = figure.subplots(-(-len(metrics) // columns), columns, squeeze=False)
    for panel in list(axes.flat)[len(metrics) :]:
        panel.set_visible(False)
    for panel, metric in zip(axes.flat, metrics, strict=False):
        chosen = [cell for cell in made if cell.metric == metric]
        draw = _curves if numbered else _dots
        draw(panel, chosen)
        panel.set_title(titles[metric], fontsize=10)
        panel.grid(alpha=0.3)
        if any(cell.column for cell in chosen):
            panel.legend(fontsize=7)
    figure.savefig(path, dpi=110, format="png")


def _curves(axes: Any, made: Sequence[Cell]) -> None:
    """A line for each column over the number in its rows; the band is the standard deviation."""
    for colour, column in zip(COLOURS, dict.fromkeys(cell.column for cell in made), strict=False):
        line = [cell for cell in made if cell.column == column and cell.ours is not None]
        numbers = [int(cell.row.split()[-1]) for cell in line]
        ours = [cell.ours or 0.0 for cell in line]
        spread = [cell.std or 0.0 for cell in line]
        low, high = ([a + sign * b for a, b in zip(ours, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(numbers, low, high, color=colour, alpha=0.15)
        axes.plot(numbers, ours, color=colour, marker="o", markersize=3, label=column or "ours")
    axes.set_xlabel(made[0].row.rpartition(" ")[0].removesuffix(" ="), fontsize=8)


def _dots(axes: Any, made: Sequence[Cell]) -> None:
    """A filled dot for ours with its standard deviation, a hollow one for what is expected."""
    rows = list(dict.fromkeys(cell.row for cell in made))
    for colour, column in zip(COLOURS, dict.fromkeys(cell.column for cell in made), strict=False):
        ours = [cell for cell in made if cell.column == column and cell.ours is not None]
        places = [len(rows) - rows.index(cell.row) for cell in ours]
        values, spread = [cell.ours or 0.0 for cell in ours], [cell.std or 0.0 for cell in ours]
        axes.errorbar(values, places, xerr=spread, fmt="o", color=colour, markersize=4, label=column or "ours")
        expected = [cell for cell in made if cell.column == column and cell.expected is not None]
        where = [len(rows) - rows.index(cell.row) for cell in expected]
        axes.plot([cell.expected or 0.0 for cell in expected], where, "o", mfc="none", color=colour, markersize=8)
    axes.set_yticks(range(len(rows), 0, -1), rows, fontsize=8)
