"""Scored images -> a page with the highest scores first, and their labels in words."""

from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from bayes_pfl.datasets.checks import counted
from pipelines.platform.html import write_page

SHOWN = 500
"""Images in the gallery, those with the highest scores: a page of more is slow to open."""


def labels_in_words(summary: dict[str, Any]) -> str:
    """How many images have which label, and by what.

    Args:
        summary: see `summarise`.

    Returns:
        Words.
    """
    counts = ", ".join(f"{count:,} {label}" for label, count in summary["labels"].items() if count or label != "unsure")
    if without := summary["scored"] - sum(summary["labels"].values()):
        counts += f", {without:,} without a verdict"
    by = f"calibration {summary['calibration']}" if summary["calibration"] else f"threshold {summary['threshold']:g}"
    return f"{counts} (by {by}, for {summary['looked_at']})"


def write_gallery(path: Path, table: pa.Table, summary: dict[str, Any]) -> None:
    """One page with the images of the highest scores first, each a link to its heat map; needs nothing but `maps/`.

    Args:
        path: HTML file to write.
        table: all rows.
        summary: see `summarise`.
    """
    ranked = table.filter(pc.is_valid(table["image_score"])).sort_by([("image_score", "descending")])
    body = [f"<h1>{counted(summary['scored'], 'image')} by score</h1>"]
    notes = [
        f"Model version {summary['model_version']}, R = {summary['num_samples']}, seed {summary['seed']}, "
        f"{summary['looked_at']}."
    ]
    if summary["labels"] is not None:
        notes.append(f"{labels_in_words(summary)}.")
    if len(ranked) > SHOWN:
        notes.append(f"The {SHOWN} highest are shown; scores.parquet has all.")
    if summary["kind"]:
        notes.append(f"Model: {summary['kind']}.")
    body.append(f'<p>{escape(" ".join(notes))}</p>\n<ol class="gallery">')
    body += [_entry(row) for row in ranked.slice(0, SHOWN).to_pylist()]
    body.append("</ol>")
    if summary["unreadable"]:
        lines = "".join(
            f"<li>{escape(failed['sample_id'])}: {escape(failed['error'])}</li>\n"
            for failed in summary["unreadable"][:SHOWN]
        )
        body.append(f"<h2>{len(summary['unreadable']):,} without a score</h2>\n<ul>\n{lines}</ul>")
    write_page(path, "Scores", body, "'self' file:")


def _entry(row: dict[str, Any]) -> str:
    name, link = escape(row["sample_id"]), quote(row["anomaly_map"])
    label = f"{row['pred_label']}, " if row["pred_label"] else ""
    return (
        f'<li><a href="{link}"><img src="{link}" loading="lazy" alt="heat map over {name}"></a>\n'
        f"<p><b>{row['image_score']:.3f}</b> {name}<br>{label}{escape(row['class_name'])}, "
        f"uncertainty {'-' if row['uncertainty'] is None else format(row['uncertainty'], '.3f')}</p></li>"
    )
