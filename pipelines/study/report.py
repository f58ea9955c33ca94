"""Results of the embedded study -> a summary, tables for the terminal and a page, and a plot of the metrics over R."""

import json
import statistics
from pathlib import Path
from typing import Any

from pipelines.platform.html import Cell, ReportTable, plots_html, table, write_report

REPORTED_SAMPLES = 10
COLUMNS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_pro": "PRO",
    "pixel_ap": "pixel AP",
}
BARS = {"image_auroc": 0.82, "pixel_auroc": 0.93, "pixel_pro": 0.80, "pixel_ap": 0.42}
"""What the embedded model is to reach on held-out categories, in the mean over training seeds."""

Result = tuple[str, int, dict[str, Any]]
Row = dict[str, Cell]


def summarise(results: list[Result], main: str) -> dict[str, Any]:
    """Means and standard deviations over seeds: every method, the curve over R, single draws, other datasets, times.

    Args:
        results: method, seed and result of each job.
        main: the method that the others are compared with.

    Returns:
        Content of study.json; metrics in [0, 1].
    """
    trained: dict[str, list[dict[str, Any]]] = {}
    for method, _, result in results:
        if "rows" in result:
            trained.setdefault(method, []).append(result)
    full = trained[main]
    methods = {method: _over_seeds([_reported(run) for run in runs]) for method, runs in trained.items()}
    for name, part in (("without s_img", "text_score"), ("without s_text", "map_score")):
        alone = [
            {"image_auroc": row["mean"][f"{part}_auroc"], "image_ap": row["mean"][f"{part}_ap"]}
            for row in map(_reported, full)
        ]
        methods[name] = _over_seeds([{"mean": values} for values in alone])
    reached = {name: methods[main]["mean"][name] >= bar for name, bar in BARS.items()}
    return {
        "num_samples": REPORTED_SAMPLES,
        "methods": methods,
        "bars": {name: {"bar": bar, "reached": reached[name]} for name, bar in BARS.items()},
        "categories": _categories([_reported(run) for run in full]),
        "over_training_seeds": _curve([row for run in full for row in run["rows"] if row["draw_seed"] == 0]),
        "over_draws": _curve(full[0]["rows"]),
        "training_seconds": {
            method: statistics.mean(run["training_seconds"] for run in runs)
            for method, runs in trained.items()
            if "training_seconds" in runs[0]
        },
        "times": next(result for method, _, result in results if method == "timing"),
        "datasets": {
            method.removeprefix("dataset "): result for method, _, result in results if method.startswith("dataset ")
        },
        "main": main,
    }


def tables(result: dict[str, Any]) -> list[ReportTable]:
    """Everything as tables.

    Args:
        result: content of study.json.

    Returns:
        Tables, metrics in percent.
    """
    main = result["main"]
    bars: Row = {"method": "bar", **{title: _percent(BARS.get(key)) for key, title in COLUMNS.items()}}
    methods = [
        {"method": name, "seeds": entry["seeds"], **{title: _pair(entry, key) for key, title in COLUMNS.items()}}
        for name, entry in result["methods"].items()
    ]
    notes = [
        f"R = {REPORTED_SAMPLES}; percent, mean over categories, then mean ± standard deviation over training seeds."
    ]
    pages = [ReportTable(f"{result['images']} images of {result['set']} categories", [*methods, bars], notes)]
    for key, title in (("over_training_seeds", "Training seeds, one draw"), ("over_draws", "Draws, one training")):
        rows: list[Row] = [
            {
                "R": entry["num_samples"],
                "seeds": entry["seeds"],
                **{COLUMNS[name]: _pair(entry, name) for name in BARS},
                "lowest image AUROC": _percent(entry["lowest"]["image_auroc"]),
                "lowest pixel AUROC": _percent(entry["lowest"]["pixel_auroc"]),
            }
            for entry in result[key]
        ]
        pages.append(ReportTable(f"Over R: {title.lower()}", rows))
    categories: list[Row] = [
        {"category": name, **{COLUMNS[key]: _percent(values[key]) for key in BARS}}
        for name, values in result["categories"].items()
    ]
    pages.append(ReportTable(f"Categories, {main}, mean over training seeds", categories))
    if result["datasets"]:
        pages.append(
            ReportTable("Other datasets, the shipped bundle; [95 % interval over images]", _dataset_rows(result))
        )
    seconds: list[Row] = [
        {"what": f"training, {name}", "": f"{s:.0f} s"} for name, s in result["training_seconds"].items()
    ]
    seconds += [{"what": name.removesuffix("_ms"), "": f"{value:.1f} ms"} for name, value in result["times"].items()]
    pages.append(ReportTable("Time on one core", seconds, [f"One image: median of 50, R = {REPORTED_SAMPLES}."]))
    return pages


def printed(result: dict[str, Any]) -> str:
    """The tables for a terminal.

    Args:
        result: content of study.json.

    Returns:
        Text of several lines.
    """
    return "\n\n".join("\n".join([each.title, table(each.rows, decimals=1), *each.notes]) for each in tables(result))


def metrics_of(result: dict[str, Any]) -> dict[str, float]:
    """The full model's means for MLflow.

    Args:
        result: content of study.json.

    Returns:
        Metrics in [0, 1] by name.
    """
    means: dict[str, float] = result["methods"][result["main"]]["mean"]
    return {name: means[name] for name in COLUMNS}


def write_study(folder: Path, result: dict[str, Any]) -> None:
    """Write report.html, samples.png, and last study.json.

    Args:
        folder: where to write.
        result: content of study.json; it gets the report's path.
    """
    result["report"] = str(folder / "report.html")
    plot = samples_plot(folder / "samples.png", result)
    curves = plots_html({"Metrics over R; the band is one standard deviation over draws": plot})
    write_report(folder / "report.html", "The embedded model", tables(result), {}, sections=curves)
    temporary = folder / "study.json.tmp"
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / "study.json")


def samples_plot(path: Path, result: dict[str, Any]) -> Path:
    """Plot the four metrics over R: mean and standard deviation over draws of one training.

    Args:
        path: PNG file to write.
        result: content of study.json.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    entries = result["over_draws"]
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, name in zip(figure.subplots(2, 2).flat, BARS, strict=True):
        numbers = [entry["num_samples"] for entry in entries]
        means = [entry["mean"][name] for entry in entries]
        spread = [entry["std"][name] or 0.0 for entry in entries]  # none of a single draw
        low, high = ([m + sign * s for m, s in zip(means, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(numbers, low, high, color="#c23b22", alpha=0.2)
        axes.plot(numbers, means, color="#c23b22", marker="o")
        axes.set_title(COLUMNS[name])
        axes.set_xlabel("R, Monte Carlo samples")
    figure.savefig(path, dpi=110)
    return path


def _reported(result: dict[str, Any]) -> dict[str, Any]:
    """The row of a result that is reported: the first draw, R = 10 where there are several R."""
    rows = result["rows"]
    return next((row for row in rows if row.get("num_samples") == REPORTED_SAMPLES), rows[0])


def _over_seeds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, sample standard deviation and lowest value of every metric over rows."""
    names = [name for name in rows[0]["mean"] if all(row["mean"][name] is not None for row in rows)]
    columns = {name: [row["mean"][name] for row in rows] for name in names}
    return {
        "seeds": len(rows),
        "mean": {name: statistics.fmean(values) for name, values in columns.items()},
        "std": {name: statistics.stdev(values) if len(rows) > 1 else None for name, values in columns.items()},
        "lowest": {name: min(values) for name, values in columns.items()},
    }


def _curve(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same for every R."""
    numbers = sorted({row["num_samples"] for row in rows})
    return [{"num_samples": n, **_over_seeds([row for row in rows if row["num_samples"] == n])} for n in numbers]


def _categories(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Every category's metrics, averaged over seeds."""
    return {
        category: {name: statistics.fmean(row["categories"][category][name] for row in rows) for name in BARS}
        for category in rows[0]["categories"]
    }


def _dataset_rows(result: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for name, entry in result["datasets"].items():
        for method, intervals in entry["methods"].items():
            row: Row = {"dataset": name, "images": entry["images"], "anomalous": entry["anomalous"], "method": method}
            for key in ("image_auroc", "pixel_auroc"):
                auroc = intervals.get(key)
                row[COLUMNS[key]] = f"{auroc['value']:.3f} [{auroc['low']:.3f}, {auroc['high']:.3f}]" if auroc else "-"
            rows.append(row)
    return rows


def _pair(entry: dict[str, Any], name: str) -> str:
    if name not in entry["mean"]:
        return "-"
    spread = entry["std"][name]
    return f"{100 * entry['mean'][name]:.1f}" + (f" ± {100 * spread:.1f}" if spread is not None else "")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
