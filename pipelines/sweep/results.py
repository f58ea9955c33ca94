"""Outcomes of trials -> results.json, results.csv, a plot for each pair of parameters, the Pareto front, a page."""

import itertools
import json
import math
import shlex
import sys
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
from pipelines.platform.settings import TrackingSettings
from pipelines.platform.tracking import without_password
from pipelines.sweep.certainty import LETTERS, LOWER_BY, SEED, combination_rows, combinations, judged, statements
from pipelines.sweep.search import trial_name
from pipelines.sweep.trial import Outcome, bundle_name, resampled_figures
from pipelines.training.loop import SELECTION

Row = dict[str, Any]
EARLIER = "earlier-results-"
"""What names of folders with the results of an earlier grid begin with."""
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
    if not remote:
        keep_earlier(folder, rows)
    folder.mkdir(parents=True, exist_ok=True)
    resampled = {bundle_name(result["overrides"]): resampled_figures(store, result["overrides"]) for result in results}
    ranked = combinations(rows, resampled)
    varied, few = _varied(rows), too_few([ref.label for ref in validation])
    certainty = judged(ranked, varied, few)
    anomalous = sum(ref.label for ref in validation)
    best = ranked[0].rows[0]
    content: dict[str, Any] = {
        "rows": rows,
        "best": best,
        "combinations": combination_rows(ranked, varied, few is None),
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
    cheapest = certainty["cheapest"]
    located = [{**row, "bundle": f"{store.root}/{row['bundle']}"} for row in rows]
    return {
        **content,
        "rows": located,
        "best": located[rows.index(best)],
        "cheapest": None if cheapest is None else located[rows.index(cheapest["row"])],
        "report": f"{store.root}/results/report.html",
    }, folder


def keep_earlier(folder: Path, rows: Sequence[Row]) -> None:
    """Rename the results of an earlier grid that the new ones do not hold, and say so.

    Args:
        folder: of the results.
        rows: of the new ones.
    """
    earlier = Store(folder).read_json("results.json") or {}
    new = {(row["bundle"], row["num_samples"]) for row in rows}
    if all((row["bundle"], row["num_samples"]) in new for row in earlier.get("rows", [])):
        return
    number = next(number for number in range(1, 10**6) if not folder.with_name(f"{EARLIER}{number}").exists())
    kept_as = folder.rename(folder.with_name(f"{EARLIER}{number}"))
    print(f"The results of an earlier grid were moved to {kept_as}.", file=sys.stderr)


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
    rows: list[Row] = content["combinations"]
    parameters = [key for key in rows[0] if "." in key and len({str(row[key]) for row in rows}) > 1]
    parameters += ["num_samples"] if len(settings.sweep.num_samples) > 1 else []
    plots = {}
    for first, second in itertools.combinations(parameters, 2):
        name = f"heat-{_short(first)}-{_short(second)}.png"
        plots[f"Best {_title(SELECTION)} by {_title(first)} and {_title(second)}"] = plot_pair(
            folder / name, rows, first, second
        )
    plots[f"{_title(SELECTION)} against seconds per image; the line joins the Pareto front"] = pareto_plot(
        folder / "pareto.png", rows
    )
    notes = [
        f"{settings.data.train}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
        "No trial was trained on the validation images.",
        "Trials that run at the same moment share the machine, so their seconds differ by chance too: what an image "
        "costs grows with B x R.",
        *content["statements"],
    ]
    notes += [f"Failed: {trial_name(failure['overrides'])}: {failure['error']}" for failure in content["failed"]]
    tables = [
        ReportTable("Combinations, best first", printable(rows)),
        ReportTable("Every training and R, on the validation images", printable(content["rows"])),
    ]
    write_report(folder / "report.html", "Sweep", tables, {}, notes, plots_html(plots))


def next_commands(best: Row, tracking: TrackingSettings) -> list[str]:
    """What to type to measure the best combination on other images and to register it.

    Args:
        best: row of the best combination, with its bundle where it is now.
        tracking: where runs are recorded, as the settings have it.

    Returns:
        The commands; without the second where MLflow has no run of the training.

    >>> next_commands({"bundle": "b", "num_samples": 3, "run_id": "a1"}, TrackingSettings(model_name="screws"))[1]
    'bayes-pfl register a1 --alias champion --name screws'
    """
    store = [] if tracking.uri is None else [f"MLFLOW_TRACKING_URI={shlex.quote(without_password(tracking.uri))} "]
    name = "" if tracking.model_name == TrackingSettings().model_name else f" --name {shlex.quote(tracking.model_name)}"
    evaluate = f"bayes-pfl evaluate --model {shlex.quote(best['bundle'])} --num-samples {best['num_samples']}"
    commands = [f"{evaluate} --shards SHARDS", f"bayes-pfl register {best['run_id']} --alias champion{name}"]
    return ["".join([*store, command]) for command in commands[: 2 if best["run_id"] else 1]]


def printable(rows: list[Row]) -> list[Row]:
    """Rows for a table: short names, figures in percent, no paths.

    Args:
        rows: rows of results.json.

    Returns:
        The same rows for people.
    """
    return [
        {_title(key): _cell(key, value) for key, value in row.items() if key not in ("bundle", "run_id", *LOWER_BY)}
        | (
            {"points below the best (95 % interval)": _below(row), "told from it": _told(row)}
            if LOWER_BY[0] in row
            else {}
        )
        for row in rows
    ]


def _cell(key: str, value: Any) -> Any:
    """A value for people: figures in percent, settings as they were given."""
    if not isinstance(value, float):
        return value
    return f"{value:g}" if "." in key else round(100 * value if key.startswith(FIGURES) else value, 4)


def _below(row: Row) -> str:
    """How much lower than the best a combination is."""
    value, low, high = (row[key] for key in LOWER_BY)
    return "-" if value is None else f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _told(row: Row) -> str:
    """Whether the images tell a combination from the best."""
    low = row[LOWER_BY[1]]
    return "-" if low is None else "yes" if low > 0 else "no"


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
    axes.set_xlabel(_title(second))
    axes.set_ylabel(_title(first))
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
    if key in LETTERS:
        return f"{LETTERS[key]} ({_short(key)})"
    if not key.startswith(FIGURES):
        return key.replace("_", " ")
    return f"{key.removeprefix(FIGURES).replace('_', ' ') if key != SELECTION else 'validation pixel AP'}, %"
