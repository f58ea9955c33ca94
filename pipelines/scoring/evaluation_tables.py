"""metrics.json -> tables for the terminal, the report and a spreadsheet, each value with its interval."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.platform.html import Cell, ReportTable, table

MOST_DEFECTS = 80
"""Kinds of defect in a table; metrics.csv has all."""

TITLES = {
    "image_auroc": "image AUROC",
    "image_f1_max": "image F1-max",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_pro": "PRO",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "pixel_aupimo": "AUPIMO",
}
"""Figures as the report calls them."""

Entry = Mapping[str, Any]
"""Figures of a set of images in metrics.json."""


def printed(result: Mapping[str, Any], columns: int) -> str:
    """Tables of every dataset for a terminal, in percent, with intervals where there is room.

    Args:
        result: content of metrics.json.
        columns: width of the terminal.

    Returns:
        Text of many lines; where there is no room, the mean alone has its interval, in two rows below it.
    """
    parts = []
    for name, dataset in result["datasets"].items():
        for title, entries in _tables_of(name, dataset):
            wide = table([labels | _cells(entry) for labels, entry in entries], decimals=1)
            if max(map(len, wide.splitlines())) > columns:
                rows = [labels | _percent(entry["values"]) for labels, entry in entries]
                rows += _bounds(entries[-1][1]) if "mean" in entries[-1][0].values() else []
                wide = table(rows, decimals=1)
            parts.append("\n".join([f"{title}, {_resolution(result)}", wide, *_reasons(entries[-1][1])]))
            if beside := [{**labels, **_beside(entry)} for labels, entry in entries if "defect" not in labels]:
                parts.append(f"{title}: F1-max, and what scores that tell nothing reach\n{table(beside, decimals=1)}")
    return "\n\n".join(parts)


def _reasons(entry: Mapping[str, Any]) -> list[str]:
    """A line for each reason why figures of an entry are undefined."""
    by_reason: dict[str, list[str]] = {}
    for metric, reason in entry["undefined"].items():
        by_reason.setdefault(reason, []).append(metric)
    return [f"- {', '.join(metrics)}: {reason}" for reason, metrics in by_reason.items()]


def report_tables(result: Mapping[str, Any]) -> list[ReportTable]:
    """Tables of every dataset for the report; every figure that is undefined or has no interval is explained below.

    Args:
        result: content of metrics.json.

    Returns:
        The tables, values in percent.
    """
    tables = []
    for name, dataset in result["datasets"].items():
        for title, entries in _tables_of(name, dataset):
            rows: list[dict[str, Cell]] = [
                {**labels, **_counts(entry), **_report_cells(entry)} for labels, entry in entries
            ]
            means = int("mean" in entries[-1][0].values())
            notes = _defect_notes(entries) if "defect" in entries[0][0] else _category_notes(entries)
            tables.append(ReportTable(f"{title}, {_resolution(result)}", rows, notes, means))
    return tables


def metric_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every figure as a row of metrics.csv.

    Args:
        result: content of metrics.json.

    Returns:
        Rows by column; figures in [0, 1], empty where undefined.
    """
    rows = []
    for name, dataset in result["datasets"].items():
        for labels, entry in _entries(dataset):
            for metric, value in entry["values"].items():
                bounds = entry["intervals"].get(metric, {"low": None, "high": None})
                best = entry["f1_max"].get(metric.removesuffix("_f1_max"), {})
                note = entry["undefined"].get(metric) or entry["without_interval"].get(metric, "")
                rows.append(
                    {"dataset": name, "category": labels["category"], "defect": labels.get("defect", "")}
                    | {"pixels_at": result["pixels_at"], "images": entry["images"], "anomalous": entry["anomalous"]}
                    | {"metric": metric, "value": value, **bounds, "note": note}
                    | {"threshold": best.get("threshold"), "all_positive_f1": best.get("all_positive")}
                    | {"against_chance": entry["image_auroc_is"] if metric == "image_auroc" else None}
                )
    return rows


def with_interval(value: float | None, bounds: Mapping[str, float] | None) -> str:
    """A figure and its interval in percent.

    Args:
        value: in [0, 1]; None where it is undefined.
        bounds: `low` and `high`.

    Returns:
        The text.

    >>> with_interval(0.861, {"low": 0.84, "high": 0.8824}), with_interval(1.0, None), with_interval(None, None)
    ('86.1 [84.0, 88.2]', '100.0', '-')
    """
    if value is None:
        return "-"
    return f"{100 * value:.1f}" + (f" [{100 * bounds['low']:.1f}, {100 * bounds['high']:.1f}]" if bounds else "")


def _tables_of(name: str, dataset: Entry) -> Iterator[tuple[str, list[tuple[dict[str, str], Entry]]]]:
    """Title and rows of a dataset's tables: by category, and by defect where a category has several."""
    entries = list(_entries(dataset))
    yield name, [(labels, entry) for labels, entry in entries if "defect" not in labels]
    defects = [(labels, entry) for labels, entry in entries if "defect" in labels]
    if any(len(category["defects"]) > 1 for category in dataset["categories"].values()):
        shown = (
            f" (the first {MOST_DEFECTS} of {len(defects)}; metrics.csv has all)" if len(defects) > MOST_DEFECTS else ""
        )
        yield f"{name} by kind of defect{shown}", defects[:MOST_DEFECTS]


def _entries(dataset: Entry) -> Iterator[tuple[dict[str, str], Entry]]:
    for category, entry in dataset["categories"].items():
        yield {"category": category}, entry
    yield {"category": "mean"}, dataset["mean"]
    for category, entry in dataset["categories"].items():
        for defect, part in entry["defects"].items():
            yield {"category": category, "defect": defect}, part


def _cells(entry: Entry) -> dict[str, str]:
    return {name: with_interval(value, entry["intervals"].get(name)) for name, value in entry["values"].items()}


def _counts(entry: Entry) -> dict[str, int]:
    return {"images": entry["images"], "anomalous": entry["anomalous"]}


def _report_cells(entry: Entry) -> dict[str, str]:
    """A row of the report: each F1-max with its threshold and the F1 of calling everything anomalous beside it."""
    cells = {}
    for metric, text in _cells(entry).items():
        title, level = TITLES.get(metric, metric), metric.split("_")[0]
        at_chance = metric == "image_auroc" and entry["image_auroc_is"] in ("at chance", "below chance")
        cells[title] = f"{text} {entry['image_auroc_is']}" if at_chance else text
        if metric.endswith("_f1_max"):
            best = entry["f1_max"].get(level, {"threshold": None, "all_positive": None})
            cells[f"{level} F1 threshold"] = "-" if best["threshold"] is None else f"{best['threshold']:.4g}"
            cells[f"all-positive {level} F1"] = with_interval(best["all_positive"], None)
    return cells


def _beside(entry: Entry) -> dict[str, str | float | None]:
    """A row of the terminal's second table."""
    row: dict[str, str | float | None] = {}
    for level, best in entry["f1_max"].items():
        value = entry["values"].get(f"{level}_f1_max")
        row[f"{level}_f1_max"] = None if value is None else 100 * value
        row[f"{level} threshold"] = "-" if best["threshold"] is None else f"{best['threshold']:.4g}"
        row[f"all-positive {level} F1"] = 100 * best["all_positive"]
    if "image_auroc" in entry["values"]:
        row["image_auroc is"] = entry["image_auroc_is"] or "-"
    return row


def _percent(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else 100 * value for name, value in values.items()}


def _bounds(mean: Entry) -> list[dict[str, Any]]:
    """The mean's interval as two rows."""
    intervals = mean["intervals"]
    if not intervals:
        return []
    names = {"low": "mean, 2.5 %", "high": "mean, 97.5 %"}
    return [
        {"category": title, **_percent({name: bounds[end] for name, bounds in intervals.items()})}
        for end, title in names.items()
    ]


def _resolution(result: Mapping[str, Any]) -> str:
    return f"in percent, pixels at {result['pixels_at']}"


def _category_notes(entries: Sequence[tuple[Mapping[str, str], Entry]]) -> list[str]:
    """Every figure that is undefined or has no interval, and what the mean leaves out."""
    notes = []
    for labels, entry in entries:
        name = labels["category"]
        notes += [f"{name}: {metric} is undefined, {reason}." for metric, reason in entry["undefined"].items()]
        notes += [f"{name}: no interval, {reason}." for reason in dict.fromkeys(entry["without_interval"].values())]
        notes += [
            f"The mean of {metric} leaves out {', '.join(categories)}."
            for metric, categories in entry["left_out"].items()
            if metric not in entry["undefined"]
        ]
    return notes


def _defect_notes(entries: Sequence[tuple[Mapping[str, str], Entry]]) -> list[str]:
    """Reasons with the number of kinds that they hold for: there may be many."""
    undefined = Counter(reason for _, entry in entries for reason in dict.fromkeys(entry["undefined"].values()))
    without = Counter(reason for _, entry in entries for reason in dict.fromkeys(entry["without_interval"].values()))
    notes = [f"Figures are undefined in {number} rows: {reason}." for reason, number in undefined.items()]
    return notes + [f"No interval in {number} rows: {reason}." for reason, number in without.items()]
