"""A comparison's result -> its files and its tables for the terminal."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bayes_pfl.data.shards import replacing
from pipelines.platform.csv_files import write_csv
from pipelines.platform.html import Cell, ReportTable, table, write_report
from pipelines.scoring.evaluation_files import move_aside

FILES = ("comparison.csv", "images.csv", "comparison.md", "comparison.html", "comparison.json")
"""What a comparison writes, in this order."""

IMAGE_COLUMNS = ("category", "sample_id", "kind", "image_score A", "image_score B", "rank A", "rank B", "A - B")


def write_comparison(folder: Path, result: Mapping[str, Any], images: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write all files of a comparison; comparison.json comes last. Files of another one are moved aside.

    Args:
        folder: where to write.
        result: content of comparison.json.
        images: both scores of every image, for images.csv.

    Returns:
        The files.

    Raises:
        OutputError: they cannot be written.
    """
    pages, notes, text = tables(result), describing(result), json.dumps(result, indent=1) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "comparison.json"
    if not last.is_file() or last.read_bytes() != text.encode():
        move_aside(folder, FILES)
    write_csv(folder / "comparison.csv", _csv_rows(result))
    write_csv(folder / "images.csv", images)
    _write(
        folder / "comparison.md", "\n".join(["# Comparison", "", *[f"- {n}" for n in notes], *map(_markdown, pages)])
    )
    write_report(folder / "comparison.html", "Comparison", pages, {}, notes)
    _write(last, text)
    return [folder / name for name in FILES]


def describing(result: Mapping[str, Any]) -> list[str]:
    """What was compared, as sentences.

    Args:
        result: content of comparison.json.

    Returns:
        Sentences.
    """
    sides = []
    for name in "ab":
        side = result[name]
        version = side["model"]["version"]
        sides.append(
            f"{name.upper()}: {side['model']['source']} (version {version}), R = {side['num_samples']}, "
            f"{side['looked_at']}, pixels at {side['pixels_at']}."
        )
    interval = result["interval"]
    method = (
        f"{result['images']:,} images; differences are A - B in percentage points, with 95 % intervals of "
        f"{interval['resamples']:,} resampled sets, the same for both; p is two-sided. {result['correction']}."
    )
    return [*sides, method, *result["notes"]]


def tables(result: Mapping[str, Any]) -> list[ReportTable]:
    """Tables of every dataset: means, categories, and the images that differ most.

    Args:
        result: content of comparison.json.

    Returns:
        The tables, in percent.
    """
    pages = []
    for name, dataset in result["datasets"].items():
        pages.append(ReportTable(f"{name}, mean over categories", _rows(dataset["mean"], {})))
        rows = [
            row
            for category, entry in dataset["categories"].items()
            for row in _rows(entry["metrics"], {"category": category})
        ]
        pages.append(ReportTable(f"{name}, by category", rows))
    if result["most_different"]:
        note = (
            "A rank is the share of the images of the other kind that an image is ranked rightly against, in percent."
        )
        pages.append(ReportTable("Images that differ most", [_image(row) for row in result["most_different"]], [note]))
    return pages


def printed(result: Mapping[str, Any]) -> str:
    """The means, the categories with a difference and the images that differ most, for a terminal.

    Args:
        result: content of comparison.json.

    Returns:
        Text of many lines.
    """
    parts = ["\n".join(describing(result))]
    for page in tables(result):
        rows = page.rows
        if page.title.endswith("by category"):
            rows = [row for row in rows if "higher" in str(row["verdict"])]
            if len(rows) < len(page.rows):
                parts.append(f"{page.title}: {len(rows)} of {len(page.rows)} differ; comparison.csv has all.")
        if rows:
            parts.append("\n".join([page.title, table(rows, decimals=1), *page.notes]))
    return "\n\n".join(parts)


def _rows(metrics: Mapping[str, Mapping[str, Any]], labels: dict[str, Cell]) -> list[dict[str, Cell]]:
    return [
        {
            **labels,
            "metric": name,
            "A": _percent(row["a"]),
            "B": _percent(row["b"]),
            "A - B": _percent(row["difference"], signed=True),
            "95 %": "-" if row["low"] is None else f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]",
            "p": _probability(row["p_value"]),
            "p (Holm)": _probability(row["p_holm"]),
            "verdict": row["verdict"],
        }
        for name, row in metrics.items()
    ]


def _image(row: Mapping[str, Any]) -> dict[str, Cell]:
    kind = row["defect"] if row["label"] else "normal"
    ranks = [_percent(row[name]) for name in ("placement_a", "placement_b")]
    cells = [row["category"], row["sample_id"], kind, f"{row['score_a']:.3f}", f"{row['score_b']:.3f}", *ranks]
    return dict(zip(IMAGE_COLUMNS, [*cells, _percent(row["placement_difference"], signed=True)], strict=True))


def _csv_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of comparison.csv; figures in [0, 1]."""
    rows = []
    for name, dataset in result["datasets"].items():
        groups = [(category, entry["metrics"]) for category, entry in dataset["categories"].items()]
        for category, metrics in [*groups, ("mean", dataset["mean"])]:
            rows += [{"dataset": name, "category": category, "metric": key, **row} for key, row in metrics.items()]
    return rows


def _percent(value: float | None, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"


def _probability(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _markdown(page: ReportTable) -> str:
    columns = list(page.rows[0]) if page.rows else []
    lines = [columns, ["---"] * len(columns), *[[str(row[column]) for column in columns] for row in page.rows]]
    cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join(["", f"## {page.title}", "", *(f"| {line} |" for line in cells), "", *page.notes])


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
