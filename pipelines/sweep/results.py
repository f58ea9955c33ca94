"""What a sweep found: results.json and results.csv, a heat map for each pair of parameters, the Pareto front, one page."""

import base64
import csv
import itertools
import json
import math
import tempfile
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from bayes_pfl.data.remote import Store, is_remote
from bayes_pfl.errors import TrainingError
from pipelines.platform.html import Table, write_report
from pipelines.sweep.trial import TuneSettings
from pipelines.training.loop import SELECTION

Row = dict[str, Any]


def gather(settings: TuneSettings, store: Store, results: list[dict[str, Any]]) -> tuple[dict[str, Any], Path]:
    """All rows, best first, as files in `results/` of the sweep's folder; returns them and a local folder with the files.

    Raises TrainingError if no trial has finished.
    """
    rows: list[Row] = []
    for result in results:
        about = {"training_seconds": result["training_seconds"], "bundle": result["bundle"]}
        rows += [
            {**result["overrides"], **row, **about}
            for row in result["rows"]
            if row["num_samples"] in settings.sweep.num_samples
        ]
    if not rows:
        raise TrainingError("No trial has finished; run the sweep again.")
    rows.sort(key=lambda row: -row[SELECTION] if math.isfinite(row[SELECTION]) else math.inf)
    remote = is_remote(store.root)
    folder = Path(tempfile.mkdtemp(prefix="bayes-pfl-sweep-")) if remote else Path(store.root) / "results"
    folder.mkdir(parents=True, exist_ok=True)
    found = {"rows": rows, "best": rows[0], "metric": SELECTION, "report": f"{store.root}/results/report.html"}
    _write_csv(folder / "results.csv", rows)
    parameters = [key for key in results[0]["overrides"] if len({str(row[key]) for row in rows}) > 1]
    parameters += ["num_samples"] if len(settings.sweep.num_samples) > 1 else []
    pictures = {}
    for first, second in itertools.combinations(parameters, 2):
        name = f"heat-{_short(first)}-{_short(second)}.png"
        pictures[f"Best {_title(SELECTION)} by {_short(first)} and {_short(second)}"] = heat_map(
            folder / name, rows, first, second
        )
    pictures[f"{_title(SELECTION)} against seconds per image; the line joins what nothing beats in both"] = pareto_plot(
        folder / "pareto.png", rows
    )
    notes = [f"Chosen by {SELECTION} on validation images, which no trial was trained on."]
    write_report(folder / "report.html", "Sweep", [Table("Combinations, best first", printable(rows))], {}, notes)
    add_pictures(folder / "report.html", pictures)
    temporary = folder / "results.json.tmp"
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / "results.json")  # last: says that the others are whole
    if remote:
        store.upload(folder, "results")
    return found, folder


def printable(rows: list[Row]) -> list[Row]:
    """Rows for a table: short names, rounded figures, no paths."""
    return [
        {
            _title(key): round(value, 4) if isinstance(value, float) else value
            for key, value in row.items()
            if key != "bundle"
        }
        for row in rows
    ]


def pareto_front(rows: list[Row]) -> list[Row]:
    """Rows that no other row beats in both time per image and the metric, fastest first."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["seconds_per_image"], -row[SELECTION])):
        if math.isfinite(row[SELECTION]) and (not front or row[SELECTION] > front[-1][SELECTION]):
            front.append(row)
    return front


def heat_map(path: Path, rows: list[Row], first: str, second: str) -> Path:
    """The best metric for each pair of values, as PNG; empty where no trial has the pair."""
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
            axes.text(x, y, f"{value:.3f}", ha="center", va="center", color="black" if value > middle else "white")
    figure.colorbar(shown, label=_title(SELECTION))
    figure.savefig(path, dpi=110)
    return path


def pareto_plot(path: Path, rows: list[Row]) -> Path:
    """Metric against seconds per image for every combination, as PNG."""
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
    figure.savefig(path, dpi=110)
    return path


def _values(rows: list[Row], key: str) -> list[Any]:
    """Values of a parameter that occur, in order where they have one."""
    values = list(dict.fromkeys(row[key] for row in rows))
    return sorted(values) if all(isinstance(value, int | float) for value in values) else sorted(values, key=str)


def add_pictures(page: Path, pictures: dict[str, Path]) -> None:
    """Put PNG files under headings at the end of a report."""
    figures = "\n".join(
        f'<h2>{escape(title)}</h2>\n<img style="max-width: 48rem" alt="{escape(title)}" '
        f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode("ascii")}">'
        for title, path in pictures.items()
    )
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{figures}\n</body>"), encoding="utf-8")


def _write_csv(path: Path, rows: list[Row]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def _short(key: str) -> str:
    return key.split(".")[-1]


def _title(key: str) -> str:
    return key.removeprefix("validation_") if key != SELECTION else "validation pixel AP"
