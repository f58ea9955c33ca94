"""A folder of scores: written part by part, so that a run that was stopped goes on; then one table, a gallery, a summary."""

import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bayes_pfl.data.shards import MANIFEST_FOLDER, replacing, write_json
from bayes_pfl.errors import OutputError
from bayes_pfl.inference.bundle import Bundle
from pipelines.platform.html import write_page
from pipelines.scoring.inputs import Item

SHOWN = 500
"""Images in the gallery, those with the highest scores: a page of more is slow to open."""

PART = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("pred_score", pa.float64()),
        pa.field("uncertainty", pa.float64()),
        pa.field("anomaly_map", pa.string()),
        pa.field("error", pa.string()),
    ]
)


class Scored(NamedTuple):
    """What came of one image: a score, or the reason why there is none."""

    pred_score: float | None
    uncertainty: float | None
    error: str | None
    overlay: bytes | None
    """The heat map over the image, PNG, if wanted."""


class Plan(NamedTuple):
    """All that the scores depend on: the same plan gives the same scores."""

    model_version: str
    num_samples: int
    seed: int
    images: int
    images_sha256: str
    """Over names, class names and stamps, in order."""

    @classmethod
    def of(cls, bundle: Bundle, num_samples: int, seed: int, items: Sequence[Item]) -> "Plan":
        """The plan of scoring these images with this model."""
        listed = json.dumps([[item.sample_id, item.class_name, item.stamp] for item in items])
        return cls(bundle.version, num_samples, seed, len(items), hashlib.sha256(listed.encode()).hexdigest())


class Results:
    """An output folder that this process has claimed. Parts are lists of positions in `items`, the same in every run."""

    def __init__(self, folder: Path, plan: Plan, items: Sequence[Item], parts: Sequence[Sequence[int]]) -> None:
        self.folder, self.plan, self.items, self.parts = folder, plan, items, parts

    def begin(self) -> list[int]:
        """Numbers of the parts that are left to do. Raises OutputError if the folder holds results of another plan."""
        for unfinished in self.folder.rglob(".*.part"):  # of a run that was killed: this one holds the claim
            unfinished.unlink(missing_ok=True)
        path = self.folder / MANIFEST_FOLDER / "plan.json"
        if path.is_file() and any(path.parent.glob("shards/part-*.arrow")):
            held = json.loads(path.read_text("utf-8"))
            others = [name for name, value in self.plan._asdict().items() if held.get(name) != value]
            if others:
                raise OutputError(
                    f"{self.folder} holds the scores of another run (other {', '.join(others)}). "
                    "Choose another --output, or delete the folder first."
                )
        write_json(path, self.plan._asdict())
        return [number for number in range(len(self.parts)) if not self._part(number).is_file()]

    def add(self, number: int, scored: Sequence[Scored]) -> None:
        """Keep a part: its heat maps first, then its rows, whose file says that it is done."""
        rows = []
        for position, one in zip(self.parts[number], scored, strict=True):
            item = self.items[position]
            name = None if one.overlay is None else f"maps/{position:06d}-{_plain(item.sample_id)}.png"
            if name is not None and one.overlay is not None:
                (self.folder / "maps").mkdir(exist_ok=True)
                with replacing(self.folder / name) as temporary:
                    temporary.write_bytes(one.overlay)
            rows.append(row_of(item, one, name))
        with replacing(self._part(number)) as temporary:
            _write_arrow(pa.Table.from_pylist(rows, PART), temporary)

    def finish(self, bundle: Bundle, threshold: float | None) -> tuple[pa.Table, dict[str, Any]]:
        """Write scores.parquet, scores.arrow and gallery.html, and summary.json last; returns table and summary."""
        tables = []
        for number in range(len(self.parts)):
            with pa.memory_map(str(self._part(number))) as source:
                tables.append(pa.ipc.open_file(source).read_all())
        table = complete(pa.concat_tables(tables), bundle.version, threshold)
        with replacing(self.folder / "scores.parquet") as temporary:
            pq.write_table(table, temporary)
        with replacing(self.folder / "scores.arrow") as temporary:
            _write_arrow(table, temporary)
        summary = {**summarise(table, bundle, threshold), **self.plan._asdict(), "output": str(self.folder)}
        write_gallery(self.folder / "gallery.html", table, summary)
        write_json(self.folder / "summary.json", summary)
        return table, summary

    def _part(self, number: int) -> Path:
        return self.folder / MANIFEST_FOLDER / "shards" / f"part-{number:06d}.arrow"


def row_of(item: Item, one: Scored, overlay: str | None = None) -> dict[str, Any]:
    """One row of a part; `overlay` is the heat map's place in the output."""
    return {
        "sample_id": item.sample_id,
        "class_name": item.class_name,
        "pred_score": one.pred_score,
        "uncertainty": one.uncertainty,
        "anomaly_map": overlay,
        "error": one.error,
    }


def complete(rows: pa.Table, model_version: str, threshold: float | None) -> pa.Table:
    """The rows with what is known of all of them: `pred_label` (score >= threshold; null without one) and `model_version`."""
    labels = pa.nulls(len(rows), pa.bool_()) if threshold is None else pc.greater_equal(rows["pred_score"], threshold)
    rows = rows.add_column(3, pa.field("pred_label", pa.bool_()), labels)
    return rows.add_column(6, pa.field("model_version", pa.string(), False), pa.array([model_version] * len(rows)))


def summarise(table: pa.Table, bundle: Bundle, threshold: float | None) -> dict[str, Any]:
    """The table in a few figures, and every image that has no score."""
    failed = table.filter(pc.is_null(table["pred_score"]))
    scores = table["pred_score"].drop_null()
    return {
        "kind": bundle.kind,
        "threshold": threshold,
        "scored": len(scores),
        "highest": pc.max(scores).as_py(),
        "anomalous": None if threshold is None else pc.sum(pc.cast(table["pred_label"], pa.int64())).as_py(),
        "unreadable": failed.select(["sample_id", "error"]).to_pylist(),
    }


def write_gallery(path: Path, table: pa.Table, summary: dict[str, Any]) -> None:
    """One page with the images of the highest scores first, each a link to its heat map; needs nothing but `maps/`."""
    ranked = table.filter(pc.is_valid(table["pred_score"])).sort_by([("pred_score", "descending")])
    body = [f"<h1>{summary['scored']:,} images by score</h1>"]
    notes = [f"Model version {summary['model_version']}, R = {summary['num_samples']}, seed {summary['seed']}."]
    if summary["threshold"] is not None:
        notes.append(f"{summary['anomalous']:,} reach the threshold of {summary['threshold']:g}.")
    if len(ranked) > SHOWN:
        notes.append(f"The {SHOWN} highest are shown; scores.parquet has all.")
    if summary["kind"]:
        notes.append(f"Model: {summary['kind']}.")
    body.append(f'<p>{escape(" ".join(notes))}</p>\n<ol class="gallery">')
    body += [_entry(row) for row in ranked.slice(0, SHOWN).to_pylist()]
    body.append("</ol>")
    if summary["unreadable"]:
        lines = "".join(
            f"<li>{escape(one['sample_id'])}: {escape(one['error'])}</li>\n" for one in summary["unreadable"][:SHOWN]
        )
        body.append(f"<h2>{len(summary['unreadable']):,} without a score</h2>\n<ul>\n{lines}</ul>")
    write_page(path, "Scores", body, "'self' file:")


def _entry(row: dict[str, Any]) -> str:
    name, place = escape(row["sample_id"]), quote(row["anomaly_map"])
    label = {True: "anomalous, ", False: "normal, ", None: ""}[row["pred_label"]]
    return (
        f'<li><a href="{place}"><img src="{place}" loading="lazy" alt="heat map over {name}"></a>\n'
        f"<p><b>{row['pred_score']:.3f}</b> {name}<br>{label}{escape(row['class_name'])}, "
        f"uncertainty {row['uncertainty']:.3f}</p></li>"
    )


def _write_arrow(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _plain(sample_id: str) -> str:
    """The last part of a name, for a file name on any system."""
    return re.sub(r"[^\w.-]+", "_", Path(sample_id).stem)[:80]
