"""Scored images -> a page with the highest scores first, and their labels in words."""

from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from bayes_pfl.datasets.checks import counted
from pipelines.platform.html import colour_bar, write_page

COLOURS = {"defective": "#c53030; color: white", "unsure": "#f6c945; color: black", "good": "#276749; color: white"}
"""Background and text of a verdict; the word stands there too, for those who do not tell the colours apart."""

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


def tiles_of(overlay: str) -> tuple[str, str]:
    """Where the image and the anomaly map lie that a heat map over an image was made of.

    Args:
        overlay: file name of the heat map over the image.

    Returns:
        Names of both.

    >>> tiles_of("maps/000001-nut.png")
    ('maps/000001-nut.image.jpg', 'maps/000001-nut.map.png')
    """
    stem = overlay.removesuffix(".png")
    return f"{stem}.image.jpg", f"{stem}.map.png"


def write_gallery(path: Path, table: pa.Table, summary: dict[str, Any]) -> None:
    """One page with the images of the highest scores first: image, anomaly map, and the map over the image.

    It needs nothing but `maps/`.

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
    body.append(f'<p>{escape(" ".join(notes))}</p>\n{colour_bar(1.0)}\n<ol class="gallery three">')
    body += [_entry(row, path.parent) for row in ranked.slice(0, SHOWN).to_pylist()]
    body.append("</ol>")
    if summary["unreadable"]:
        lines = "".join(
            f"<li>{escape(failed['sample_id'])}: {escape(failed['error'])}</li>\n"
            for failed in summary["unreadable"][:SHOWN]
        )
        body.append(f"<h2>{len(summary['unreadable']):,} without a score</h2>\n<ul>\n{lines}</ul>")
    write_page(path, "Scores", body, "'self' file:")


def _entry(row: dict[str, Any], folder: Path) -> str:
    name, over = escape(row["sample_id"]), row["anomaly_map"]
    files = dict(zip(("image", "anomaly map", "overlay"), (*tiles_of(over), over), strict=True))
    tiles = "\n".join(
        f'<figure><a href="{quote(file)}"><img src="{quote(file)}" loading="lazy" alt="{kind} of {name}"></a>'
        f"<figcaption>{kind}</figcaption></figure>"
        for kind, file in files.items()
        if (folder / file).is_file()  # parts that an earlier version scored have the overlay alone
    )
    word = row["pred_label"]
    label = f'<b style="background: {COLOURS[word]}; padding: 0 .4em; border-radius: .25em">{word}</b> ' if word else ""
    return (
        f'<li><div class="tiles">\n{tiles}\n</div>\n'
        f"<p><b>{row['image_score']:.3f}</b> {label}{name}<br>{escape(row['class_name'])}, "
        f"uncertainty {'-' if row['uncertainty'] is None else format(row['uncertainty'], '.3f')}</p></li>"
    )
