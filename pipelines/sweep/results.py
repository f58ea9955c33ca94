"""Outcomes of trials -> results.json, results.csv, a plot for each pair of parameters, the Pareto front, a page."""

import itertools
import json
import math
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bayes_pfl.data.remote import Store, is_remote
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.errors import TrainingError
from bayes_pfl.metrics.resampling import too_few
from pipelines.options.tune import TuneSettings
from pipelines.platform.csv_files import write_csv
from pipelines.platform.html import ReportTable, plots_html, write_report
from pipelines.sweep.certainty import SEED, combinations, judged, statements
from pipelines.sweep.search import trial_name
from pipelines.sweep.trial import Outcome, bundle_name, resampled_figures
from pipelines.training.loop import SELECTION

Row = dict[str, Any]
FIGURES = "validation_"
"""What keys of figures begin with: shares, which files hold as fractions and people read in percent."""


def gather(
    settings: TuneSettings, store: Store, outcomes: list[Outcome], validation: list[SampleRef]
) -> tuple[dict[str, Any], Path]:
    """All rows, best first, as files in `results/` of the sweep's folder.

    Args:
        settings: the sweep.
        store: its folder.
        outcomes: what its trials left behind.
        validation: samples that they were measured on.

    Returns:
        Content of results.json, with bundles and report where the sweep's folder is now, and a local folder of the
        files.

    Raises:
        TrainingError: no trial has a result; names the reasons.
    """
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    failed = [outcome.failure for outcome in outcomes if outcome.result is None and outcome.failure is not None]
    rows = _rows(results, settings.sweep.num_samples)
    if not rows:
        reasons = "; ".join(dict.fromkeys(failure["error"] for failure in failed))
        raise TrainingError(f"No trial has a result{f' ({reasons})' if reasons else '; run the sweep again'}.")
    remote = is_remote(store.root)
    folder = Path(tempfile.mkdtemp(prefix="bayes-pfl-sweep-")) if remote else Path(store.root) / "results"
    folder.mkdir(parents=True, exist_ok=True)
    resampled = {bundle_name(result["overrides"]): resampled_figures(store, result["overrides"]) for result in results}
    ranked = combinations(rows, resampled)
    certainty = judged(ranked, _varied(rows), too_few([ref.label for ref in validation]))
    anomalous = sum(ref.label for ref in validation)
    best = ranked[0].rows[0]
    content: dict[str, Any] = {
        "rows": rows,
        "best": best,
        "certainty": certainty,
        "statements": statements(certainty, ranked[0].figure, len(validation), anomalous),
        "metric": SELECTION,
        "validation_images": len(validation),
        "failed": failed,
        "report": "results/report.html",
    }
    write_csv(folder / "results.csv", rows)
    _write_page(folder, settings, content)
    temporary = folder / "results.json.tmp"
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / "results.json")  # last: says that the others are whole
    if remote:
        store.upload(folder, "results")
    located = [{**row, "bundle": f"{store.root}/{row['bundle']}"} for row in rows]
    return {
        **content,
        "rows": located,
        "best": located[rows.index(best)],
        "report": f"{store.root}/results/report.html",
    }, folder


def _rows(results: list[dict[str, Any]], num_samples: Sequence[int]) -> list[Row]:
    """A row for every trial and R that is wanted, best first."""
    rows: list[Row] = []
    for result in results:
        record = {
            "training_seconds": result["training_seconds"],
            "run_id": result["run_id"],
            "bundle": bundle_name(result["overrides"]),
        }
        rows += [
            {**result["overrides"], **row, **record} for row in result["rows"] if row["num_samples"] in num_samples
        ]
    return sorted(rows, key=lambda row: -row[SELECTION] if math.isfinite(row[SELECTION]) else math.inf)


def _varied(rows: list[Row]) -> list[str]:
    """Settings that are varied, R behind them: those that have several values, or all where none has."""
    keys = [key for key in rows[0] if "." in key and key != SEED]
    varied = [key for key in keys if len({str(row[key]) for row in rows}) > 1]
    return [*(varied or keys), "num_samples"]


def _write_page(folder: Path, settings: TuneSettings, content: dict[str, Any]) -> None:
    """report.html and its plots."""
    rows: list[Row] = content["rows"]
    parameters = [key for key in rows[0] if "." in key and len({str(row[key]) for row in rows}) > 1]
    parameters += ["num_samples"] if len(settings.sweep.num_samples) > 1 else []
    plots = {}
    for first, second in itertools.combinations(parameters, 2):
        name = f"heat-{_short(first)}-{_short(second)}.png"
        plots[f"Best {_title(SELECTION)} by {_short(first)} and {_short(second)}"] = plot_pair(
            folder / name, rows, first, second
        )
    plots[f"{_title(SELECTION)} against seconds per image; the line joins the Pareto front"] = pareto_plot(
        folder / "pareto.png", rows
    )
    notes = [
        f"{settings.data.train}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
        "No trial was trained on the validation images.",
        *content["statements"],
    ]
    notes += [f"Failed: {trial_name(failure['overrides'])}: {failure['error']}" for failure in content["failed"]]
    table = ReportTable("Combinations, best first", printable(rows))
    write_report(folder / "report.html", "Sweep", [table], {}, notes, plots_html(plots))


def printable(rows: list[Row]) -> list[Row]:
    """Rows for a table: short names, figures in percent, no paths.

    Args:
        rows: rows of results.json.

    Returns:
        The same rows for people.
    """
    return [
        {
            _title(key): round(100 * value if key.startswith(FIGURES) else value, 4)
            if isinstance(value, float)
            else value
            for key, value in row.items()
            if key not in ("bundle", "run_id")
        }
        for row in rows
    ]


def pareto_front(rows: list[Row]) -> list[Row]:
    """Rows that no other row beats in both time per image and the metric.

    Args:
        rows: rows of results.json.

    Returns:
        Some of them, the fastest first.
    """
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["seconds_per_image"], -row[SELECTION])):
        if math.isfinite(row[SELECTION]) and (not front or row[SELECTION] > front[-1][SELECTION]):
            front.append(row)
    return front


def plot_pair(path: Path, rows: list[Row], first: str, second: str) -> Path:
    """Plot the best metric for each pair of values; empty where no trial has the pair.

    Args:
        path: PNG file to write.
        rows: rows of results.json.
        first: setting of the vertical axis.
        second: setting of the horizontal axis.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    down, across = _values(rows, first), _values(rows, second)
    grid = np.full((len(down), len(across)), np.nan)
    for row in rows:
        where = down.index(row[first]), across.index(row[second])
        grid[where] = np.fmax(grid[where], row[SELECTION])
    figure = Figure(figsize=(2 + 0.9 * len(across), 1.6 + 0.6 * len(down)), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(grid, cmap="viridis", aspect="auto")
    axes.set_xticks(
        range(len(across)), [f"{value:.4g}" if isinstance(value, float) else str(value) for value in across]
    )
    axes.set_yticks(range(len(down)), [f"{value:.4g}" if isinstance(value, float) else str(value) for value in down])
    axes.set_xlabel(_short(second))
    axes.set_ylabel(_short(first))
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2 if np.isfinite(grid).any() else 0.0
    for (y, x), value in np.ndenumerate(grid):
        if np.isfinite(value):
            axes.text(
                x, y, f"{100 * value:.1f}", ha="center", va="center", color="black" if value > middle else "white"
            )
    colours = figure.colorbar(shown, label=_title(SELECTION))
    colours.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}")
    figure.savefig(path, dpi=110)
    return path


def pareto_plot(path: Path, rows: list[Row]) -> Path:
    """Plot the metric against seconds per image for every combination.

    Args:
        path: PNG file to write.
        rows: rows of results.json.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.scatter([row["seconds_per_image"] for row in rows], [row[SELECTION] for row in rows], color="#888888", s=18)
    front = pareto_front(rows)
    axes.plot(
        [row["seconds_per_image"] for row in front], [row[SELECTION] for row in front], color="#c23b22", marker="o"
    )
    for row in front:
        axes.annotate(
            f"R={row['num_samples']}",
            (row["seconds_per_image"], row[SELECTION]),
            xytext=(4, 4),
            textcoords="offset points",
        )
    axes.set_xlabel("seconds per image, one process")
    axes.set_ylabel(_title(SELECTION))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}")
    figure.savefig(path, dpi=110)
    return path


def _values(rows: list[Row], key: str) -> list[Any]:
    """Values of a parameter that occur, in order where they have one."""
    values = list(dict.fromkeys(row[key] for row in rows))
    return sorted(values) if all(isinstance(value, int | float) for value in values) else sorted(values, key=str)


def _short(key: str) -> str:
    return key.split(".")[-1]


def _title(key: str) -> str:
    """A column's name for people; figures are shown in percent."""
    if not key.startswith(FIGURES):
        return key
    return f"{key.removeprefix(FIGURES) if key != SELECTION else 'validation pixel AP'}, %"
