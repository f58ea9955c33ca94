"""The study's figures -> tables for the terminal, Markdown and CSV, and uncertainty.json, which comes last."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bayes_pfl.data.shards import replacing
from pipelines.platform.csv_files import write_csv
from pipelines.platform.html import Cell, ReportTable, table
from pipelines.study.uncertainty.abstention import BOTH, DISTANCE, SPREAD
from pipelines.study.uncertainty.picture import draw

Row = dict[str, Cell]
TOLD = ("right told from wrong", "the same of those called good")
PARTS = ("abstention", "probabilities", "promises", "elsewhere")


def tables(result: dict[str, Any]) -> list[ReportTable]:
    """Everything as tables.

    Args:
        result: content of uncertainty.json.

    Returns:
        Tables; figures as "mean [95 % interval]", floors without.
    """
    settings = result["settings"]
    rate, splits = settings["false_alarms"], settings["splits"]
    pages = [
        ReportTable("Images", [{"dataset": name, **counts} for name, counts in result["datasets"].items()]),
        ReportTable(
            f"Abstention: AURC of verdicts at a false-alarm rate of {rate:g}",
            _estimates(result["abstention"], ["error rate", SPREAD, DISTANCE, BOTH, "oracle"]),
            ["AURC: mean error rate over all coverages. In a random order it is the error rate. Lower is better."],
        ),
        ReportTable(
            "Abstention: differences of AURC, and the probability that a right verdict is surer than a wrong one",
            _estimates(
                result["abstention"],
                [f"{SPREAD} - random", f"{SPREAD} - distance", f"{BOTH} - distance"]
                + [f"{name}: {what}" for what in TOLD for name in (SPREAD, DISTANCE)],
            ),
            ["Below 0: better than the second."],
        ),
        ReportTable(
            "Scores as probabilities",
            _estimates(
                result["probabilities"],
                ["ECE, equal width", "floor, equal width", "ECE, equal mass", "floor, equal mass", "Brier score"],
                ("group", "scaling", "images", "temperature"),
            ),
            [
                "15 bins. Fitted on one half of the images, measured on the other. Floor: what an ECE of as many "
                "images would be if the probabilities were right."
            ],
        ),
        *_promise_tables(result),
    ]
    notes = [f"{splits} random splits. In brackets: 95 % interval over splits and resampled images."]
    return [page for page in pages if page.rows] + [ReportTable("Notes", [], notes + _by_reason(result["left_out"]))]


def _promise_tables(result: dict[str, Any]) -> list[ReportTable]:
    """Promised and found, what it costs, and where images are others."""
    rows = result["promises"]
    held: list[Row] = [
        {
            "group": row["group"],
            "promised": row["promised"],
            "calibrated on": row["calibration"],
            "tested on": row["tested"],
            "expected": _number(row["expected"]),
            "found": _number(row["false alarms"]),
            "over splits": f"{row['lowest']:.3f} to {row['highest']:.3f}",
            "95 % bound": _number(row["bound"]),
            "splits within": _number(row["within bound"]),
            "expected within": _number(row["expected within bound"]),
        }
        for row in rows
    ]
    cost = ["recall", "missed", "unsure, good", "unsure, defective", "prompts disagree, good"]
    cost.append("prompts disagree, defective")
    costs: list[Row] = [
        {"group": row["group"], "promised": row["promised"], **{name: _number(row.get(name)) for name in cost}}
        for row in rows
    ]
    notes = [
        "Expected: of exchangeable images, exactly. Within: the rate that is found on the tested images is at most the "
        "bound; their number makes it scatter, and the expected share counts that in."
    ]
    return [
        ReportTable("Promised and found false alarms, random halves of the normal images", held, notes),
        ReportTable("What the threshold costs", costs, ["Shares of the good, and of the defective images."]),
        ReportTable(
            "Promised and found where images are not exchangeable",
            _elsewhere(result),
            ["Other light: the tested images, at another brightness. Others': of the images of all other groups."],
        ),
    ]


def _elsewhere(result: dict[str, Any]) -> list[Row]:
    """A row a group and rate."""
    others = {(row["group"], row["promised"]): row for row in result["elsewhere"]}
    own = {(row["group"], row["promised"]): row for row in result["promises"]}
    rows: list[Row] = []
    for group, promised in dict.fromkeys([*own, *others]):
        here, away = own.get((group, promised), {}), others.get((group, promised), {})
        rows.append(
            {
                "group": group,
                "promised": promised,
                "like the calibration": _number(here.get("false alarms")),
                "other light": _number(here.get("false alarms, other light")),
                "unsure, other light": _number(here.get("unsure, good, other light")),
                "others' threshold": _interval(away.get("false alarms"), away.get("low"), away.get("high")),
                "recall, own": _number(here.get("recall")),
                "recall, others'": _number(away.get("recall")),
                "unsure, others'": _number(away.get("unsure, good")),
            }
        )
    return rows


def _by_reason(sentences: Sequence[str]) -> list[str]:
    """Sentences "GROUP: reason", those of one reason together."""
    groups: dict[str, list[str]] = {}
    for sentence in sentences:
        group, reason = sentence.split(": ", 1)
        groups.setdefault(reason, []).append(group)
    return [f"{', '.join(names)}: {reason}" for reason, names in groups.items()]


def printed(result: dict[str, Any]) -> str:
    """The tables for a terminal.

    Args:
        result: content of uncertainty.json.

    Returns:
        Text of several lines.
    """
    pages = [[page.title, *([table(page.rows)] if page.rows else []), *page.notes] for page in tables(result)]
    return "\n\n".join("\n".join(page) for page in pages)


def markdown(result: dict[str, Any]) -> str:
    """The tables in Markdown.

    Args:
        result: content of uncertainty.json.

    Returns:
        A page.
    """
    model = result["model"]
    lines = ["# Uncertainty", "", f"Model {model['source']} (version {model['version']}), R = {_samples(result)}.", ""]
    for page in tables(result):
        lines += [f"## {page.title}", ""]
        if page.rows:
            columns = list(dict.fromkeys(name for row in page.rows for name in row))
            lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
            lines += [f"| {' | '.join(_plain(row.get(name)) for name in columns)} |" for row in page.rows] + [""]
        lines += [f"- {note}" for note in page.notes] + [""]
    return "\n".join([*lines, "![Risk and coverage, reliability, promised and found](uncertainty.svg)", ""])


def write_study(folder: Path, result: dict[str, Any]) -> None:
    """Write uncertainty.svg, a CSV file a part, uncertainty.md and, last, uncertainty.json.

    Args:
        folder: where to write.
        result: content of uncertainty.json; it gets the folder.
    """
    draw(folder / "uncertainty.svg", result)
    for part in PARTS:
        write_csv(folder / f"{part}.csv", [_flat(row) for row in result[part]])
    for name, text in (("uncertainty.md", markdown(result)), ("uncertainty.json", json.dumps(result, indent=1) + "\n")):
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    result["output"] = str(folder)


def _flat(row: Mapping[str, Any]) -> Row:
    """A row of one number or text a column."""
    flat: Row = {name: value for name, value in row.items() if isinstance(value, str | int | float)}
    for name, estimate in row.get("figures", {}).items():
        flat |= {name: estimate["value"], f"{name}, low": estimate["low"], f"{name}, high": estimate["high"]}
    return flat


def _estimates(
    rows: Sequence[Mapping[str, Any]], figures: Sequence[str], columns: Sequence[str] = ("group", "images")
) -> list[Row]:
    """Rows with estimates as text; figures that no row has are left out."""
    names = [name for name in figures if any(name in row["figures"] for row in rows)]
    return [
        {name: row[name] for name in columns} | {name: _estimate(name, row["figures"].get(name)) for name in names}
        for row in rows
    ]


def _estimate(name: str, figure: Mapping[str, float] | None) -> str:
    """A figure as text; of a floor no more than its value."""
    if figure is None:
        return "-"
    return _number(figure["value"]) if name.startswith("floor") else _interval(**figure)


def _interval(value: float | None = None, low: float | None = None, high: float | None = None) -> str:
    if value is None or low is None or high is None:
        return "-"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _plain(value: Cell) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _samples(result: dict[str, Any]) -> int:
    return int(result["settings"]["num_samples"])
