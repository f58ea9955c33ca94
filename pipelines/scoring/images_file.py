"""images.arrow of a finished evaluation: every image with its score and its pixels, from which two are compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bayes_pfl.data.shards import replacing
from bayes_pfl.errors import DataError
from bayes_pfl.metrics.levels import LevelCounts
from pipelines.scoring.evaluation import ScoredSamples
from pipelines.scoring.figures import EvaluatedDataset

IMAGES_FILE = "images.arrow"

SCHEMA = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("defect", pa.string(), nullable=False),
        pa.field("image_score", pa.float64(), nullable=False),
        pa.field("pixel_ap", pa.float64(), nullable=False),
        pa.field("pixel_aupimo", pa.float64(), nullable=False),
        pa.field("normal", pa.list_(pa.uint32()), nullable=False),
        pa.field("anomalous", pa.list_(pa.uint32()), nullable=False),
        pa.field("overlap", pa.list_(pa.float32()), nullable=False),
    ],
    metadata={"bayes_pfl_evaluated_images": "1"},
)
"""NaN for figures that an image does not have; the lists are its rows of `LevelCounts`, by category of one length."""


def image_columns(datasets: Sequence[EvaluatedDataset], scored: ScoredSamples) -> dict[str, np.ndarray]:
    """Pixel AP and AUPIMO of each image of an evaluation, in order.

    Args:
        datasets: with the images.
        scored: their scores.

    Returns:
        `pixel_ap` and `pixel_aupimo`; NaN for an image without anomalous pixels.
    """
    count = sum(len(dataset.refs) for dataset in datasets)
    columns = {name: np.full(count, np.nan) for name in ("pixel_ap", "pixel_aupimo")}
    for group in scored.groups.values():
        columns["pixel_ap"][group.positions] = group.image_ap
        columns["pixel_aupimo"][group.positions] = group.image_aupimo
    return columns


def write_images(path: Path, datasets: Sequence[EvaluatedDataset], scored: ScoredSamples) -> None:
    """Write the file, whole or not at all, category by category.

    Args:
        path: the file.
        datasets: with the images.
        scored: their scores.
    """
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA, options=options) as writer,
    ):
        for dataset in datasets:
            for category in sorted({ref.category for ref in dataset.refs}):
                writer.write_batch(_batch(dataset, category, scored))


def _batch(dataset: EvaluatedDataset, category: str, scored: ScoredSamples) -> pa.RecordBatch:
    group = scored.groups[f"{dataset.name}/{category}"]
    refs = [dataset.refs[position - dataset.positions.start] for position in group.positions]
    columns: dict[str, Any] = {
        "dataset": [dataset.name] * len(refs),
        "category": [category] * len(refs),
        **{name: [getattr(ref, name) for ref in refs] for name in ("sample_id", "sha256", "label")},
        "defect": [scored.defects[position] for position in group.positions],
        "image_score": scored.scores[group.positions],
        "pixel_ap": group.image_ap,
        "pixel_aupimo": group.image_aupimo,
        **{name: list(rows) for name, rows in group.counts._asdict().items()},
    }
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def read_images(folder: Path) -> pa.Table:
    """The images of a finished evaluation.

    Args:
        folder: of the evaluation.

    Returns:
        Rows of `SCHEMA`.

    Raises:
        DataError: the file is missing, damaged or of another version.
    """
    path = folder / IMAGES_FILE
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read: evaluate anew, a finished evaluation has it.") from error
    if not table.schema.equals(SCHEMA, check_metadata=True):
        raise DataError(f"{path} is of another version: evaluate anew.")
    return table


def counts_of(table: pa.Table) -> LevelCounts:
    """Pixels of images of one category.

    Args:
        table: rows of `SCHEMA` of one category.

    Returns:
        Their counts.
    """
    return LevelCounts(*(np.stack([np.asarray(row.values) for row in table[name]]) for name in LevelCounts._fields))
