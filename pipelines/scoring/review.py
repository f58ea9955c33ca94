"""Scored images -> a folder in which a person looks at them, the most uncertain first, and says what they are."""

import csv
import shutil
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from bayes_pfl.datasets.checks import counted
from bayes_pfl.errors import ConfigError, OutputError
from pipelines.platform.csv_files import write_csv
from pipelines.platform.html import write_page
from pipelines.platform.storage import check_writable
from pipelines.scoring.inputs import ImageInput, printable
from pipelines.scoring.lists import read_rows
from pipelines.scoring.thresholds import Labelling

SHOWN = 500
"""Images on the page, the most uncertain ones: a page of more is slow to open. The CSV file has all."""
COLUMNS = ("path", "class_name", "image_score", "p_value", "pred_label", "verdict")
INTRODUCTION = (
    "Say of each image what it is, then download what was said: <code>bayes-pfl calibrate</code> takes the CSV file "
    "for --normal and for --anomalous. What you said stays in this browser until you download it."
)
SCRIPT = """
"use strict";
const items = [...document.querySelectorAll("li[data-path]")];
const place = "review " + location.pathname;
let said = {};
try { said = JSON.parse(localStorage.getItem(place)) || {}; } catch (error) { said = {}; }
function show() {
  for (const item of items) {
    for (const button of item.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(said[item.dataset.path] === button.value));
    }
  }
  const count = Object.keys(said).length;
  document.getElementById("said").textContent = count + " of " + items.length + " looked at";
}
function say(item, verdict) {
  if (said[item.dataset.path] === verdict) delete said[item.dataset.path]; else said[item.dataset.path] = verdict;
  try { localStorage.setItem(place, JSON.stringify(said)); } catch (error) { /* stays until the page is closed */ }
  show();
}
for (const item of items) {
  for (const button of item.querySelectorAll("button")) button.addEventListener("click", () => say(item, button.value));
}
function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text]));
  link.download = name;
  link.click();
}
function cell(text) { return /[",\\r\\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text; }
document.getElementById("csv").addEventListener("click", () => {
  const lines = ["path,class_name,image_score,p_value,pred_label,verdict"];
  for (const { dataset } of items) {
    const values = [dataset.path, dataset.className, dataset.score, dataset.p, dataset.label, said[dataset.path] || ""];
    lines.push(values.map(cell).join(","));
  }
  download("verdicts.csv", lines.join("\\r\\n") + "\\r\\n");
});
document.getElementById("coco").addEventListener("click", () => {
  const images = [], annotations = [];
  for (const { dataset } of items) {
    const verdict = said[dataset.path];
    if (!verdict) continue;
    const id = images.length + 1, width = Number(dataset.width), height = Number(dataset.height);
    images.push({ id, file_name: dataset.path, width, height });
    annotations.push({ id, image_id: id, category_id: verdict === "good" ? 1 : 2, bbox: [0, 0, width, height],
      area: width * height, segmentation: [[0, 0, width, 0, width, height, 0, height]], iscrowd: 0 });
  }
  const categories = [{ id: 1, name: "good" }, { id: 2, name: "defective" }];
  download("verdicts.json", JSON.stringify({ images, annotations, categories }));
});
show();
"""


def check_review(folder: Path, output: Path | None, images: Sequence[ImageInput]) -> None:
    """Refuse a review that cannot be written, before anything is scored.

    Args:
        folder: of the review.
        output: folder of the results, where it is another one.
        images: to score.

    Raises:
        ConfigError: images lie in shards.
        OutputError: the folder cannot be written, or holds a review of other images, or files of something else.
    """
    if any(image.row is not None for image in images):
        raise ConfigError("--review lists image files for a person, and these lie in shards: give the files.")
    path = folder / "review.csv"
    if path.exists() and _listed(path) != {printable(image.location) for image in images}:
        raise OutputError(f"{path} is a review of other images: choose another --review.")
    alone = output is not None and output.expanduser().resolve() != folder
    names = ("review.html", "maps") if alone else ("review.html",)
    if not path.exists() and (foreign := [name for name in names if (folder / name).exists()]):
        raise OutputError(f"{folder} holds {foreign[0]} of something else: choose another --review.")
    check_writable(str(folder))


def write_review(folder: Path, maps: Path, rows: pa.Table, images: Sequence[ImageInput], labelling: Labelling) -> str:
    """Write `review.html`, `review.csv` and the heat maps that the page shows.

    Args:
        folder: of the review.
        maps: the folder that the rows' heat maps are named from.
        rows: of `results.TABLE`, one an image.
        images: the images, in the same order.
        labelling: what labels were made by.

    Returns:
        A sentence that says where it is.

    Raises:
        OutputError: it cannot be written.
    """
    everything = [
        {**row, "path": printable(image.location)} for row, image in zip(rows.to_pylist(), images, strict=True)
    ]
    everything.sort(key=lambda entry: _certainty(entry, labelling))
    entries = [entry for entry in everything if entry["image_score"] is not None]
    shown, path = entries[:SHOWN], folder / "review.csv"
    was_there = path.exists()  # what somebody wrote into it stays
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not was_there:  # first: it says whose the other files are
            write_csv(path, [{name: _cell(entry.get(name)) for name in COLUMNS} for entry in everything])
        for entry in shown if folder != maps else ():
            (folder / "maps").mkdir(exist_ok=True)
            shutil.copyfile(maps / entry["anomaly_map"], folder / entry["anomaly_map"])
    except OSError as error:
        raise OutputError(f"Cannot write {folder} ({error.strerror or error}): choose another --review.") from error
    more = f" The page has the {SHOWN} most uncertain; review.csv has all." if len(entries) > SHOWN else ""
    body = [
        f"<h1>{counted(len(shown), 'image')} to look at, {_order(labelling)} first</h1>",
        f"<p>{INTRODUCTION}{more}</p>",
        '<p><span id="said" role="status"></span> <button id="csv" type="button">Download CSV</button> '
        '<button id="coco" type="button">Download COCO</button></p>',
        '<ol class="gallery">',
        *(_entry(entry) for entry in shown),
        "</ol>",
    ]
    write_page(folder / "review.html", "Review", body, "'self' file:", SCRIPT)
    csv_file = "review.csv, which was there, is kept as it is" if was_there else "fill in verdict in review.csv"
    return f"Look at {folder / 'review.html'}, {_order(labelling)} first; or {csv_file}."


def _certainty(entry: dict[str, Any], labelling: Labelling) -> tuple[bool, float]:
    """Sorts what is unsure first, then what is close to the threshold; without one, the highest scores first."""
    own = None if labelling.calibration is None else labelling.calibration.boundaries(entry["class_name"])
    threshold = labelling.threshold if own is None else own.defective_above
    if threshold is None or entry["image_score"] is None:
        return True, -(entry["image_score"] or 0.0)
    return entry["pred_label"] != "unsure", abs(entry["image_score"] - threshold)


def _entry(entry: dict[str, Any]) -> str:
    name, link = escape(entry["sample_id"]), quote(entry["anomaly_map"])
    p_value = "" if entry["p_value"] is None else f"{entry['p_value']:.4g}"
    data = {
        "path": entry["path"],
        "class-name": entry["class_name"],
        "score": f"{entry['image_score']:.6g}",
        "p": p_value,
        "label": entry["pred_label"] or "",
        "width": str(entry["width"] or ""),
        "height": str(entry["height"] or ""),
    }
    attributes = " ".join(f'data-{key}="{escape(value)}"' for key, value in data.items())
    why = f"<br>{escape(entry['unsure_because'])}" if entry["unsure_because"] else ""
    buttons = " ".join(f'<button type="button" value="{word}">{word}</button>' for word in ("good", "defective"))
    return (
        f'<li {attributes}><a href="{link}"><img src="{link}" loading="lazy" alt="heat map over {name}"></a>\n'
        f"<p><b>{entry['pred_label'] or 'no verdict'}</b>, {entry['image_score']:.3f}"
        f"{f', p = {p_value}' if p_value else ''} {name}{why}</p>\n<p>{buttons}</p></li>"
    )


def _order(labelling: Labelling) -> str:
    return "the highest scores" if labelling.because else "the most uncertain images"


def _cell(value: Any) -> Any:
    return "" if value is None else value


def _listed(path: Path) -> set[str]:
    """Paths in a review's CSV file."""
    try:
        return {row.get("path", "") for _, row in read_rows(path)}
    except (OSError, UnicodeDecodeError, csv.Error):
        return set()
