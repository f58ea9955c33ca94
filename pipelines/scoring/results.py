"""Scored images -> a folder, part by part, so that a stopped run goes on; then a table, a gallery, a summary."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bayes_pfl.data.shards import MANIFEST_FOLDER, remove_unfinished, replacing, write_json
from bayes_pfl.decisions.conformal import select
from bayes_pfl.errors import OutputError
from pipelines.scoring.gallery import tiles_of, write_gallery
from pipelines.scoring.inputs import ImageInput
from pipelines.scoring.plan import ScoringPlan, read_plan
from pipelines.scoring.task import ScoringTask
from pipelines.scoring.thresholds import Labelling

LABELS = ("defective", "unsure", "good")
"""In the order in which people look at them."""

PART = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("image_score", pa.float64()),
        pa.field("uncertainty", pa.float64()),
        pa.field("anomaly_map", pa.string()),
        pa.field("error", pa.string()),
        pa.field("regions", pa.string()),
        pa.field("read_as", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("map_maximum", pa.float64()),
        pa.field("width", pa.int64()),
        pa.field("height", pa.int64()),
    ]
)

OLD_NAMES = {"pred_score": "image_score"}
"""Columns of parts that earlier versions wrote, and their names now."""

TABLE = (
    "sample_id",
    "class_name",
    "image_score",
    "pred_label",
    "p_value",
    "uncertainty",
    "anomaly_map",
    "model_version",
    "error",
    "read_as",
    "unsure_because",
    "no_label_because",
    "sha256",
    "width",
    "height",
)
"""Columns of scores.parquet."""


class ScoredImage(NamedTuple):
    """What came of one image: a score, or the reason why there is none."""

    image_score: float | None
    uncertainty: float | None
    error: str | None
    overlay: bytes | None
    """The heat map over the image, PNG, if wanted."""
    regions: str | None = None
    """`RegionsOfImage` in JSON, if wanted."""
    read_as: str | None = None
    """What was assumed of the file, or left out: "first of 3 pages"."""
    sha256: str | None = None
    """Of the file."""
    map_maximum: float | None = None
    """Largest value of the map as it is returned."""
    width: int | None = None
    """Of the upright image, pixels."""
    height: int | None = None
    image: bytes | None = None
    """The image as the gallery shows it, JPEG, if a heat map is wanted."""
    heat: bytes | None = None
    """The anomaly map alone, PNG, of the same size."""


WRITTEN = ("gallery.html", "summary.json", "scores.parquet", "scores.arrow", "maps")
"""What an output folder holds in the end, beside its plan."""

PARTS = "part-*.arrow"
"""Finished parts, in a folder of their own."""


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
            OutputError: the folder holds results of another plan, or files of others with the names of results.
        """
        path = self.folder / MANIFEST_FOLDER / "plan.json"
        earlier = read_plan(path)
        if earlier is not None and any(path.parent.glob(f"shards/{PARTS}")):
            others = self.plan.differences(earlier)
            if others:
                raise OutputError(
                    f"{self.folder} holds the scores of another run ({', '.join(others)}). Choose another --output."
                )
        written = (*WRITTEN, f"{MANIFEST_FOLDER}/shards/{PARTS}", f"{MANIFEST_FOLDER}/*.json")
        if earlier is None and (foreign := [file for name in written for file in self.folder.glob(name)]):
            name = foreign[0].relative_to(self.folder)
            raise OutputError(f"{self.folder} holds {name} of something else. Choose another --output.")
        remove_unfinished(path.parent, r"plan\.json")  # of a run that was killed: this one holds the claim
        remove_unfinished(path.parent / "shards", r"part-\d{6}\.arrow")
        remove_unfinished(self.folder / "maps", r"\d{6}-.+")
        remove_unfinished(self.folder, "|".join(map(re.escape, WRITTEN)))
        write_json(path, self.plan._asdict())
        return [number for number in range(len(self.parts)) if not _is_whole(self._part(number))]

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
                drawn = zip((name, *tiles_of(name)), (result.overlay, result.image, result.heat), strict=True)
                for file, content in drawn:
                    assert content is not None, file
                    with replacing(self.folder / file) as temporary:
                        temporary.write_bytes(content)
            rows.append(part_row(image, result, name))
        with replacing(self._part(number)) as temporary:
            _write_arrow(pa.Table.from_pylist(rows, PART), temporary)

    def rows(self) -> pa.Table:
        """All parts, once they are done.

        Returns:
            Columns of `PART`; parts of earlier versions have fewer.
        """
        tables = []
        for number in range(len(self.parts)):
            with pa.memory_map(str(self._part(number))) as source:
                table = pa.ipc.open_file(source).read_all()
            tables.append(table.rename_columns([OLD_NAMES.get(name, name) for name in table.column_names]))
        return pa.concat_tables(tables, promote_options="default")

    def finish(self, task: ScoringTask, labelling: Labelling) -> tuple[pa.Table, dict[str, Any], list[str | None]]:
        """Write scores.parquet, scores.arrow and gallery.html, and summary.json last.

        Args:
            task: the model, and how it predicts.
            labelling: what labels are made by.

        Returns:
            Table, summary, and the regions of every image.
        """
        rows = self.rows()
        table = complete(rows, task.bundle.version, labelling)
        with replacing(self.folder / "scores.parquet") as temporary:
            pq.write_table(table, temporary)
        with replacing(self.folder / "scores.arrow") as temporary:
            _write_arrow(table, temporary)
        summary = {**summarise(table, task, labelling), **self.plan._asdict(), "output": str(self.folder)}
        write_gallery(self.folder / "gallery.html", table, summary)
        write_json(self.folder / "summary.json", summary)
        return table, summary, regions_of(rows)

    def _part(self, number: int) -> Path:
        return self.folder / MANIFEST_FOLDER / "shards" / f"part-{number:06d}.arrow"


def _is_whole(path: Path) -> bool:
    """Whether a part is there and can be read: a power cut may have left less."""
    try:
        with pa.memory_map(str(path)) as source:
            pa.ipc.open_file(source)
        return True
    except (OSError, pa.ArrowInvalid):
        return False


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
        "image_score": result.image_score,
        "uncertainty": result.uncertainty,
        "anomaly_map": overlay,
        "error": result.error,
        "regions": result.regions,
        "read_as": result.read_as,
        "sha256": result.sha256,
        "map_maximum": result.map_maximum,
        "width": result.width,
        "height": result.height,
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


def complete(rows: pa.Table, model_version: str, labelling: Labelling) -> pa.Table:
    """Rows with their labels.

    Args:
        rows: columns of `PART`.
        model_version: version of the model.
        labelling: what labels are made by.

    Returns:
        The rows with `TABLE`'s columns; `selected` too where false discoveries are controlled, null for an image
        without a p-value of its own class.
    """
    decided = [labelling.decide(row) for row in rows.to_pylist()]
    columns = {
        "pred_label": pa.array([each.label for each in decided], pa.string()),
        "p_value": pa.array([each.p_value for each in decided], pa.float64()),
        "model_version": pa.array([model_version] * len(rows), pa.string()),
        "unsure_because": pa.array([each.unsure_because for each in decided], pa.string()),
        "no_label_because": pa.array([each.no_label_because for each in decided], pa.string()),
    }
    present = {name: rows[name] for name in rows.column_names}
    missing = {name: pa.nulls(len(rows), PART.field(name).type) for name in PART.names if name not in present}
    table = pa.table({name: {**present, **missing, **columns}[name] for name in TABLE})
    if labelling.false_discoveries is None:
        return table
    names = rows["class_name"].to_pylist()
    others = set(labelling.pooled(set(names)))  # their p-values are of no class of their own
    own = [None if name in others else each.p_value for each, name in zip(decided, names, strict=True)]
    chosen = iter(select([value for value in own if value is not None], labelling.false_discoveries))
    selected = [None if value is None else next(chosen) for value in own]
    return table.append_column("selected", pa.array(selected, pa.bool_()))


def summarise(table: pa.Table, task: ScoringTask, labelling: Labelling) -> dict[str, Any]:
    """The table in a few figures.

    Args:
        table: all rows.
        task: the model, and how it predicts.
        labelling: what labels were made by.

    Returns:
        Counts, the highest score, why there are no labels, and every image that has no score.
    """
    failed = table.filter(pc.is_null(table["image_score"]))
    scores = table["image_score"].drop_null()
    counts = Counter(table["pred_label"].to_pylist())
    return {
        "kind": task.bundle.kind,
        "looked_at": task.looked_at,
        "threshold": labelling.threshold,
        "calibration": None if labelling.calibration is None else labelling.calibration.version,
        "no_label_because": labelling.because,
        "no_calibration_because": labelling.no_calibration_because,
        "pooled_class_names": labelling.pooled(table["class_name"].unique().to_pylist()),
        "false_discoveries": labelling.false_discoveries,
        "selected": None if labelling.false_discoveries is None else table["selected"].to_pylist().count(True),
        "selected_from": None if labelling.false_discoveries is None else len(table["selected"].drop_null()),
        "scored": len(scores),
        "highest": pc.max(scores).as_py(),
        "labels": None if labelling.because else {label: counts.get(label, 0) for label in LABELS},
        "read_as": pc.value_counts(table["read_as"].drop_null()).to_pylist(),
        "unreadable": failed.select(["sample_id", "error"]).to_pylist(),
    }


def _write_arrow(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _plain(sample_id: str) -> str:
    """The last part of a name, for a file name on any system."""
    plain = re.sub(r"[^\w.-]+", "_", Path(sample_id).stem)
    return plain.encode()[:80].decode(errors="ignore")
