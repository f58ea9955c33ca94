"""Tables and images -> one HTML file that needs nothing else, or a plain table for the terminal."""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from PIL import Image

from bayes_pfl.errors import OutputError
from bayes_pfl.inference.heatmap import css_gradient, heat_map, overlay
from bayes_pfl.metrics import Metrics

Cell = str | int | float | None

TILE_PX = 288
"""Longest side of an image in the report, pixels: sharp on a phone, at half a megabyte a sample or less."""

STYLE = """
:root { color-scheme: light dark; --text: #1c1d22; --page: #ffffff; --soft: #666a75;
  --line: #d9dbe1; --card: #f5f6f8; --link: #1b5fae; --warning: #9a4a00; --normal: #2f6db0; --anomalous: #c04a2b; }
@media (prefers-color-scheme: dark) { :root { --text: #e7e8ec; --page: #15161a; --soft: #a3a7b3;
  --line: #33353d; --card: #1e2026; --link: #8ab8f0; --warning: #f0b266; --normal: #79aee3; --anomalous: #ee8a6c; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  margin: 0 auto; max-width: 72rem; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2.5rem; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; overflow-wrap: anywhere; }
p, dd { overflow-wrap: anywhere; } a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .4rem 1rem; padding: .5rem 0; border-block: 1px solid var(--line); }
nav a { padding: .2rem 0; }
section { scroll-margin-top: 1rem; } section > h2 { border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
.warning { border-left: .25rem solid var(--warning); padding: .1rem .8rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .7rem; margin: .5rem 0; }
.figures > div { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
.figures dt { color: var(--soft); font-size: .85rem; } .figures dd { margin: 0; }
.figures b { font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.figures small { display: block; color: var(--soft); }
.facts { display: grid; grid-template-columns: minmax(8rem, 15rem) 1fr; margin: .5rem 0; }
.facts dt, .facts dd { margin: 0; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line); }
.facts dt { color: var(--soft); }
@media (max-width: 36rem) { .facts { display: block; } .facts dt { border: 0; padding-bottom: 0; } }
pre { background: var(--card); border-radius: .5rem; padding: .8rem; overflow-x: auto; font-size: .85rem; }
summary { cursor: pointer; padding: .3rem 0; }
.scale { display: flex; align-items: center; gap: .5rem; max-width: 26rem; margin: .6rem 0; font-size: .85rem;
  font-variant-numeric: tabular-nums; }
.scale i { flex: 1; height: .8rem; border-radius: .2rem; border: 1px solid var(--line); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap;
  text-align: left; }
th { white-space: normal; vertical-align: bottom; } th.number, td.number { text-align: right; }
tr.mean { font-weight: 600; }
.note { color: var(--soft); font-size: .9rem; }
article { background: var(--card); border-radius: .5rem; padding: .8rem; margin: 1rem 0; }
article h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
article p { margin: .2rem 0 .6rem; color: var(--soft); font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 46%), 1fr)); gap: .6rem; }
figure { margin: 0; max-width: 288px; } figcaption { color: var(--soft); font-size: .8rem; }
img { width: 100%; height: auto; display: block; border-radius: .25rem; }
a:focus-visible { outline: 3px solid; outline-offset: 3px; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(13rem, 100%), 1fr)); gap: 1rem;
  padding: 0; list-style: none; }
.gallery.three { grid-template-columns: repeat(auto-fill, minmax(min(30rem, 100%), 1fr)); }
.three .tiles { grid-template-columns: repeat(3, 1fr); align-items: start; }
.three figure { max-width: none; }
.gallery li { background: var(--card); border-radius: .5rem; padding: .6rem; }
button { font: inherit; padding: .2rem .7rem; }
button[aria-pressed="true"] { font-weight: 600; outline: 2px solid; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; } .charts svg { width: 300px; max-width: 100%; }
.picker { background: var(--card); border-radius: .5rem; padding: .8rem; }
.picker label { display: block; margin: .4rem 0; } .picker input { width: 100%; }
.cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .4rem; }
.cells output { font-weight: 600; }
.gallery p { margin: .4rem 0 0; font-size: .85rem; overflow-wrap: anywhere; }
"""


class ReportTable(NamedTuple):
    """Rows under a title; the columns are the rows' keys in order of appearance."""

    title: str
    rows: Sequence[Mapping[str, Cell]]
    notes: Sequence[str] = ()
    """Sentences below the table."""
    mean_rows: int = 0
    """How many of the last rows are means, set in bold."""


class ReportImage(NamedTuple):
    """One image with its ground truth and prediction."""

    name: str
    image: Image.Image
    anomaly_map: Float[np.ndarray, "height width"]
    mask: Shaped[np.ndarray, "mask_height mask_width"] | None
    """Anomalous where not 0; None if the dataset has no mask for the image."""
    label: int
    image_score: float
    uncertainty: float | None


def metrics_table(title: str, per_category: Mapping[str, Metrics], mean: Metrics) -> ReportTable:
    """One row a category, then their mean; every undefined figure is explained below.

    Args:
        title: of the table.
        per_category: metrics by category.
        mean: their mean.

    Returns:
        The table.
    """
    rows: list[dict[str, Cell]] = [
        {"category": category, **metrics.values} for category, metrics in [*per_category.items(), ("mean", mean)]
    ]
    notes = [
        f"{category}: {name} is undefined, {reason}."
        for category, metrics in per_category.items()
        for name, reason in metrics.undefined.items()
    ]
    notes += [
        f"The mean of {name} leaves out {', '.join(categories)}."
        for name, categories in mean.left_out.items()
        if name not in mean.undefined
    ]
    return ReportTable(title, rows, notes, mean_rows=1)


def percent_rows(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an evaluation for `table`.

    Args:
        dataset: a dataset's part of metrics.json.

    Returns:
        Each category, then the mean, in percent.
    """
    named = [*dataset["categories"].items(), ("mean", dataset["mean"])]
    return [
        {
            "category": name,
            **{key: None if value is None else 100 * value for key, value in entry["values"].items()},
        }
        for name, entry in named
    ]


def table(rows: Sequence[Mapping[str, Cell]], decimals: int = 3) -> str:
    """Rows as aligned plain text: a heading, a rule, numbers to the right, no trailing blanks.

    Args:
        rows: values by column.
        decimals: digits of floats behind the point.

    Returns:
        The text; empty without rows.
    """
    if not rows:
        return ""
    columns = _columns(rows)
    lines = [columns] + [[_text(row.get(column), decimals) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = [_is_numeric(rows, column) for column in columns]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def write_report(
    path: str | Path,
    title: str,
    tables: Sequence[ReportTable],
    images: Mapping[str, Sequence[ReportImage]],
    notes: Sequence[str] = (),
    sections: Sequence[str] = (),
    script: str = "",
) -> Path:
    """One self-contained HTML file: notes, sections, tables, then images under each heading.

    All heat maps share one scale, from 0 to the largest value shown. The same input gives the same bytes.

    Args:
        path: the file.
        title: of the page.
        tables: in order.
        images: predictions to show, by heading.
        notes: sentences at the top.
        sections: lines of HTML.
        script: of the page, the only one that a browser runs.

    Returns:
        The path.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    body = [f"<h1>{escape(title)}</h1>"]
    body += [f"<p>{escape(note)}</p>" for note in notes]
    body += sections
    body += [table_html(each) for each in tables]
    body += galleries_html(images)
    return write_page(Path(path), title, body, script=script)


def galleries_html(images: Mapping[str, Sequence[ReportImage]], heading: str = "h2") -> list[str]:
    """Images with their maps under each heading; all maps share one scale, from 0 to the largest value shown.

    Args:
        images: by heading.
        heading: tag of the headings.

    Returns:
        Lines of HTML.
    """
    peaks = [float(image.anomaly_map.max()) for group in images.values() for image in group]
    high = max(peaks, default=0.0)
    high = high if high > 0 else 1.0
    lines = [colour_bar(high)] if peaks else []
    for title, group in images.items():
        lines.append(f"<{heading}>{escape(title)}</{heading}>")
        lines += [_image_html(image, high) for image in group]
    return lines


def colour_bar(high: float) -> str:
    """The colour scale of heat maps with its ends.

    Args:
        high: value of the brightest colour; the darkest is 0.

    Returns:
        HTML.
    """
    stops = ", ".join(f"{colour} {100 * share:.0f}%" for share, colour in css_gradient())
    return (
        f'<div class="scale" role="img" aria-label="Colours of the anomaly maps, from 0 to {high:.3g}">'
        f'<span>anomaly map 0</span><i style="background:linear-gradient(to right, {stops})"></i>'
        f"<span>{high:.3g}</span></div>"
    )


def facts_html(facts: Mapping[str, str]) -> str:
    """Names and values in two columns, one below the other on a phone.

    Args:
        facts: values by name.

    Returns:
        HTML.
    """
    rows = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return '<dl class="facts">\n' + "\n".join(rows) + "\n</dl>"


def write_page(path: Path, title: str, body: Sequence[str], image_sources: str = "data:", script: str = "") -> Path:
    """One HTML file in the report's style.

    Args:
        path: the file.
        title: of the page.
        body: lines of HTML.
        image_sources: where images may come from, as in a Content-Security-Policy's img-src.
        script: at the end of the page; the policy allows this very text alone.

    Returns:
        The path.

    Raises:
        OutputError: it cannot be written; nothing is left behind.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    allowed = f"; script-src 'sha256-{digest}'" if script else ""
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # The browser itself holds the promise that the file needs nothing else.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"img-src {image_sources}; style-src 'unsafe-inline'{allowed}\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join([*body, f"<script>{script}</script>"] if script else body)
        + "\n</body>\n</html>\n"
    )
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"The report cannot be written to {path} ({error.strerror}): choose another place."
        ) from error
    return path


def table_html(each: ReportTable, heading: str = "h2") -> str:
    """A table under its title, in a box that scrolls sideways by itself.

    Args:
        each: the table.
        heading: tag of the title.

    Returns:
        HTML.
    """
    columns = _columns(each.rows)
    kinds = [' class="number"' if _is_numeric(each.rows, column) else "" for column in columns]
    head = "".join(f"<th{k}>{escape(c)}</th>" for c, k in zip(columns, kinds, strict=True))
    lines = [f"<tr>{head}</tr>"]
    for index, row in enumerate(each.rows):
        style = ' class="mean"' if index >= len(each.rows) - each.mean_rows else ""
        cells = (f"<td{k}>{escape(_text(row.get(c)))}</td>" for c, k in zip(columns, kinds, strict=True))
        lines.append(f"<tr{style}>{''.join(cells)}</tr>")
    notes = "".join(f'\n<p class="note">{escape(note)}</p>' for note in each.notes)
    rows = "\n".join(lines)
    title = f"<{heading}>{escape(each.title)}</{heading}>"
    return f'{title}\n<div class="wide" tabindex="0"><table>\n{rows}\n</table></div>{notes}'


def _image_html(sample: ReportImage, high: float) -> str:
    image = sample.image.convert("RGB")
    image.thumbnail((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
    tiles = {"image": image}
    if sample.mask is not None:
        mask = Image.fromarray(np.where(sample.mask, 255, 0).astype(np.uint8))
        tiles["mask"] = mask.resize(image.size, Image.Resampling.NEAREST)
    heat = heat_map(sample.anomaly_map, high=high)
    tiles["anomaly map"] = heat.resize(image.size, Image.Resampling.BILINEAR)
    tiles["overlay"] = overlay(image, sample.anomaly_map, high=high)
    figures = "\n".join(
        f'<figure><img src="{_data_uri(tile)}" alt="{escape(f"{kind} of {sample.name}")}" '
        f'width="{tile.width}" height="{tile.height}">'
        f"<figcaption>{kind}</figcaption></figure>"
        for kind, tile in tiles.items()
    )
    facts = (
        f"{'anomalous' if sample.label else 'normal'}{'' if sample.mask is not None else ', no mask'}; "
        f"score {sample.image_score:.3f}, "
        f"{'' if sample.uncertainty is None else f'uncertainty {sample.uncertainty:.3f}, '}"
        f"highest pixel {sample.anomaly_map.max():.3f}"
    )
    return f'<article><h3>{escape(sample.name)}</h3><p>{facts}</p>\n<div class="tiles">\n{figures}\n</div></article>'


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _columns(rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _is_numeric(rows: Sequence[Mapping[str, Cell]], column: str) -> bool:
    return not any(isinstance(row.get(column), str) for row in rows)


def _text(cell: Cell, decimals: int = 3) -> str:
    if cell is None or cell != cell:  # NaN alone differs from itself
        return "-"
    return f"{cell:.{decimals}f}" if isinstance(cell, float) else str(cell)


def plots_html(plots: Mapping[str, Path]) -> list[str]:
    """Plots under headings.

    Args:
        plots: PNG files by heading.

    Returns:
        Lines of HTML that need no other file.
    """
    return [
        f'<h2>{escape(title)}</h2>\n<img style="max-width: 100%" alt="{escape(title)}" '
        f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode("ascii")}">'
        for title, path in plots.items()
    ]
