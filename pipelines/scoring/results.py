"""Scored images -> a folder, part by part, so that a stopped run goes on; then a table, a gallery, a summary."""

import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bayes_pfl.config import DetectorOptions
from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.data.shards import MANIFEST_FOLDER, replacing, write_json
from bayes_pfl.datasets.checks import counted
from bayes_pfl.errors import OutputError
from pipelines.platform.html import write_page
from pipelines.scoring.inputs import ImageInput
from pipelines.scoring.task import ScoringTask
from pipelines.scoring.thresholds import no_label_because

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
        pa.field("regions", pa.string()),
        pa.field("read_as", pa.string()),
    ]
)


class ScoredImage(NamedTuple):
    """What came of one image: a score, or the reason why there is none."""

    pred_score: float | None
    uncertainty: float | None
    error: str | None
    overlay: bytes | None
    """The heat map over the image, PNG, if wanted."""
    regions: str | None = None
    """`RegionsOfImage` in JSON, if wanted."""
    read_as: str | None = None
    """What was assumed of the file, or left out: "first of 3 pages"."""


class ScoringPlan(NamedTuple):
    """All that the scores depend on: the same plan gives the same scores."""

    model_version: str
    num_samples: int | Literal["auto"]
    seed: int
    images: int
    images_sha256: str
    """Over names, class names and stamps, in order."""
    class_names_sha256: str
    """Over the different class names."""
    max_pixels: int = MAX_PIXELS
    """As all that follow: what a plan means that was written without it."""
    overlap: float | None = None
    """Of tiles; None: whole images."""
    region: str | None = None
    """Name of the region of interest; None: all of an image."""
    region_threshold: float | None = None
    """Map value from which a pixel belongs to a region; None: no regions were wanted."""
    options: dict[str, Any] = DetectorOptions().model_dump()
    """How the model computed."""
    bits: int | None = None
    """Of gray images with more than 8; None: as each file or its values say."""
    auto_threshold: float | None = None
    """That `auto` samples decide by; None with a number of samples."""

    @classmethod
    def make(cls, task: ScoringTask, inputs: Sequence[ImageInput]) -> "ScoringPlan":
        """The plan of scoring some images.

        Args:
            task: the model, and how it predicts.
            inputs: the images.

        Returns:
            The plan.
        """
        listed = [[image.sample_id, image.class_name, image.stamp] for image in inputs]
        names = sorted({image.class_name for image in inputs})
        digests = _digest(listed), _digest(names)
        region = None if task.view.region is None else task.view.region.name
        question = task.bundle.version, task.num_samples, task.seed, len(inputs)
        return cls(
            *question,
            *digests,
            task.max_pixels,
            task.view.overlap,
            region,
            task.region_threshold,
            task.options.model_dump(),
            task.bits,
            task.threshold if task.num_samples == "auto" else None,
        )

    def differences(self, earlier: dict[str, Any]) -> list[str]:
        """In what an earlier plan differs.

        Args:
            earlier: its fields as they were written.

        Returns:
            Names of fields, those with a plain word for it in front.
        """
        earlier = {**self._field_defaults, **earlier}
        names = [name for name, value in self._asdict().items() if name in earlier and earlier[name] != value]
        if "class_names_sha256" in names:
            return ["class name", *names]
        return names


class Results:
    """An output folder that this process holds. Parts are lists of positions in `inputs`, the same in every run."""

    def __init__(
        self, folder: Path, plan: ScoringPlan, inputs: Sequence[ImageInput], parts: Sequence[Sequence[int]]
    ) -> None:
        self.folder, self.plan, self.inputs, self.parts = folder, plan, inputs, parts

    def begin(self) -> list[int]:
        """Look for what an earlier run has done.

        Returns:
            Numbers of the parts that are left to do.

        Raises:
            OutputError: the folder holds results of another plan.
        """
        for unfinished in self.folder.rglob(".*.part"):  # of a run that was killed: this one holds the claim
            unfinished.unlink(missing_ok=True)
        path = self.folder / MANIFEST_FOLDER / "plan.json"
        if path.is_file() and any(path.parent.glob("shards/part-*.arrow")):
            others = self.plan.differences(json.loads(path.read_text("utf-8")))
            if others:
                raise OutputError(
                    f"{self.folder} holds the scores of another run (other {', '.join(others)}). Choose another "
                    "--output."
                )
        write_json(path, self.plan._asdict())
        return [number for number in range(len(self.parts)) if not self._part(number).is_file()]

    def add(self, number: int, scored: Sequence[ScoredImage]) -> None:
        """Keep a part: its heat maps first, then its rows, whose file says that it is done.

        Args:
            number: of the part.
            scored: its images in order.
        """
        rows = []
        for position, result in zip(self.parts[number], scored, strict=True):
            image = self.inputs[position]
            name = None if result.overlay is None else f"maps/{position:06d}-{_plain(image.sample_id)}.png"
            if name is not None and result.overlay is not None:
                (self.folder / "maps").mkdir(exist_ok=True)
                with replacing(self.folder / name) as temporary:
                    temporary.write_bytes(result.overlay)
            rows.append(part_row(image, result, name))
        with replacing(self._part(number)) as temporary:
            _write_arrow(pa.Table.from_pylist(rows, PART), temporary)

    def finish(self, task: ScoringTask, threshold: float | None) -> tuple[pa.Table, dict[str, Any], list[str | None]]:
        """Write scores.parquet, scores.arrow and gallery.html, and summary.json last.

        Args:
            task: the model, and how it predicts.
            threshold: scores from here on are anomalous; None: no labels.

        Returns:
            Table, summary, and the regions of every image.
        """
        tables = []
        for number in range(len(self.parts)):
            with pa.memory_map(str(self._part(number))) as source:
                tables.append(pa.ipc.open_file(source).read_all())
        rows = pa.concat_tables(tables, promote_options="default")  # parts of earlier versions have fewer columns
        table = complete(rows, task.bundle.version, threshold)
        with replacing(self.folder / "scores.parquet") as temporary:
            pq.write_table(table, temporary)
        with replacing(self.folder / "scores.arrow") as temporary:
            _write_arrow(table, temporary)
        summary = {**summarise(table, task, threshold), **self.plan._asdict(), "output": str(self.folder)}
        write_gallery(self.folder / "gallery.html", table, summary)
        write_json(self.folder / "summary.json", summary)
        return table, summary, regions_of(rows)

    def _part(self, number: int) -> Path:
        return self.folder / MANIFEST_FOLDER / "shards" / f"part-{number:06d}.arrow"


def part_row(image: ImageInput, result: ScoredImage, overlay: str | None = None) -> dict[str, Any]:
    """One row of a part.

    Args:
        image: the image.
        result: what came of it.
        overlay: file name of its heat map in the output.

    Returns:
        Values of the columns of `PART`.
    """
    return {
        "sample_id": image.sample_id,
        "class_name": image.class_name,
        "pred_score": result.pred_score,
        "uncertainty": result.uncertainty,
        "anomaly_map": overlay,
        "error": result.error,
        "regions": result.regions,
        "read_as": result.read_as,
    }


def regions_of(rows: pa.Table) -> list[str | None]:
    """The regions of every image.

    Args:
        rows: columns of `PART`.

    Returns:
        `RegionsOfImage` in JSON; None where there is no score or none were wanted.
    """
    names: list[str | None] = [None] * len(rows)
    return rows["regions"].to_pylist() if "regions" in rows.column_names else names


def complete(rows: pa.Table, model_version: str, threshold: float | None) -> pa.Table:
    """Rows with the columns that all of them share.

    Args:
        rows: columns of `PART`.
        model_version: version of the model.
        threshold: scores from here on are anomalous; None: no labels.

    Returns:
        The rows with `pred_label` (score >= threshold; null without one) and `model_version`.
    """
    labels = pa.nulls(len(rows), pa.bool_()) if threshold is None else pc.greater_equal(rows["pred_score"], threshold)
    rows = rows.select([name for name in PART.names if name != "regions"])
    rows = rows.add_column(3, pa.field("pred_label", pa.bool_()), labels)
    return rows.add_column(6, pa.field("model_version", pa.string(), False), pa.array([model_version] * len(rows)))


def summarise(table: pa.Table, task: ScoringTask, threshold: float | None) -> dict[str, Any]:
    """The table in a few figures.

    Args:
        table: all rows.
        task: the model, and how it predicts.
        threshold: of the labels; None: there are none.

    Returns:
        Counts, the highest score, why there are no labels, and every image that has no score.
    """
    failed = table.filter(pc.is_null(table["pred_score"]))
    scores = table["pred_score"].drop_null()
    return {
        "kind": task.bundle.kind,
        "looked_at": task.looked_at,
        "threshold": threshold,
        "no_label_because": no_label_because(threshold, task),
        "scored": len(scores),
        "highest": pc.max(scores).as_py(),
        "anomalous": None if threshold is None else pc.sum(pc.cast(table["pred_label"], pa.int64())).as_py(),
        "read_as": pc.value_counts(table["read_as"].drop_null()).to_pylist(),
        "unreadable": failed.select(["sample_id", "error"]).to_pylist(),
    }


def write_gallery(path: Path, table: pa.Table, summary: dict[str, Any]) -> None:
    """One page with the images of the highest scores first, each a link to its heat map; needs nothing but `maps/`.

    Args:
        path: HTML file to write.
        table: all rows.
        summary: see `summarise`.
    """
    ranked = table.filter(pc.is_valid(table["pred_score"])).sort_by([("pred_score", "descending")])
    body = [f"<h1>{counted(summary['scored'], 'image')} by score</h1>"]
    notes = [
        f"Model version {summary['model_version']}, R = {summary['num_samples']}, seed {summary['seed']}, "
        f"{summary['looked_at']}."
    ]
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
            f"<li>{escape(failed['sample_id'])}: {escape(failed['error'])}</li>\n"
            for failed in summary["unreadable"][:SHOWN]
        )
        body.append(f"<h2>{len(summary['unreadable']):,} without a score</h2>\n<ul>\n{lines}</ul>")
    write_page(path, "Scores", body, "'self' file:")


def _entry(row: dict[str, Any]) -> str:
    name, link = escape(row["sample_id"]), quote(row["anomaly_map"])
    label = {True: "anomalous, ", False: "normal, ", None: ""}[row["pred_label"]]
    return (
        f'<li><a href="{link}"><img src="{link}" loading="lazy" alt="heat map over {name}"></a>\n'
        f"<p><b>{row['pred_score']:.3f}</b> {name}<br>{label}{escape(row['class_name'])}, "
        f"uncertainty {'-' if row['uncertainty'] is None else format(row['uncertainty'], '.3f')}</p></li>"
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _write_arrow(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _plain(sample_id: str) -> str:
    """The last part of a name, for a file name on any system."""
    return re.sub(r"[^\w.-]+", "_", Path(sample_id).stem)[:80]
