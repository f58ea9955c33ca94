"""The index of a folder of shards: what is known of every image without opening a shard, in one Arrow file.

An ingest writes it beside the manifest, which names its hash and the shards that it is of. Whoever reads the folder
reads the index; shards that have none, or another one, are opened instead and their columns read.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from bayes_pfl.data.preprocess import decode_mask
from bayes_pfl.data.remote import Store, is_remote, landing, local_copy
from bayes_pfl.data.shards import MANIFEST_FOLDER, ShardRow, file_sha256, read_shard, shard_paths
from bayes_pfl.errors import DamagedError, DataError

logger = logging.getLogger(__name__)

INDEX_FILE = "index.arrow"
"""In the folder of the manifest."""
TAKEN = ("sample_id", "category", "class_name", "split", "label", "sha256", "height", "width")
"""Columns of a shard that the index repeats."""
MEASURED = "shows_from_px"
SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("mask_sha256", pa.string()),
        pa.field(MEASURED, pa.int32(), nullable=False),
    ],
    metadata={"bayes_pfl_index": "1"},
)


class IndexRecord(NamedTuple):
    """What a manifest says of its index."""

    rows: int
    size_bytes: int
    sha256: str


class _Verified(NamedTuple):
    """An index that fits its shards, or why there is none."""

    table: pa.Table | None
    reason: str


def index_entry(row: ShardRow, mask: np.ndarray | None) -> dict[str, Any]:
    """What the index holds of a row, but for its place.

    Args:
        row: the row.
        mask: its mask, (height, width) of 0 and 1.

    Returns:
        Values by column.
    """
    data = row["mask"]
    return {name: row[name] for name in TAKEN} | {  # type: ignore[literal-required]
        "mask_sha256": None if data is None else hashlib.sha256(data).hexdigest(),
        MEASURED: 0 if mask is None else shows_from(mask),
    }


def shows_from(mask: np.ndarray) -> int:
    """From which size on a mask resized to a square has an anomalous pixel for certain.

    Resizing averages over at most three pixels of the result in each direction, so a square of anomalous pixels of that
    side fills one of them; two pixels more allow for rounding.

    Args:
        mask: (height, width) of 0 and 1.

    Returns:
        Side of the result, pixels; 0 if nothing is certain, which the mask itself has to say then.

    >>> mask = np.zeros((100, 200), np.uint8)
    >>> mask[10:30, 10:42] = 1
    >>> shows_from(mask), shows_from(mask[:12])
    (36, 0)
    """
    from scipy import ndimage

    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return 0
    marked = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] != 0, 1)
    side = 2 * int(ndimage.distance_transform_cdt(marked, "chessboard").max()) - 1
    return 0 if side < 5 else -(-3 * max(mask.shape) // (side - 2))


def shard_entries(name: str, table: pa.Table) -> pa.RecordBatch:
    """The index of one shard, read from its columns; nothing is measured on its masks.

    Args:
        name: of the shard.
        table: its rows.

    Returns:
        Rows of `SCHEMA`; `shows_from_px` is 0.
    """
    count = table.num_rows
    columns: dict[str, Any] = {key: table[key].combine_chunks() for key in TAKEN}
    digests = (None if data is None else hashlib.sha256(data).hexdigest() for data in _cells(table["mask"]))
    columns |= {"shard": [name] * count, "row": range(count), "mask_sha256": list(digests), MEASURED: [0] * count}
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def measured_entries(name: str, table: pa.Table) -> pa.RecordBatch:
    """The index of one shard as its ingest writes it; every mask is decoded.

    Args:
        name: of the shard.
        table: its rows.

    Returns:
        Rows of `SCHEMA`.

    Raises:
        ImageError: a mask cannot be decoded.
    """
    sizes = [0 if data is None else shows_from(decode_mask(data)) for data in _cells(table["mask"])]
    entries = shard_entries(name, table)
    return entries.set_column(SCHEMA.get_field_index(MEASURED), SCHEMA.field(MEASURED), pa.array(sizes, pa.int32()))


def _cells(column: pa.ChunkedArray) -> Iterable[bytes | None]:
    """The values of a column, one in memory at a time."""
    return (cell.as_py() for chunk in column.chunks for cell in chunk)


def write_index(folder: Path | str, shards: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Write the index of a folder of shards, unless it is there.

    Args:
        folder: path or URI.
        shards: notes of the shards, in order; one of an earlier version has no `index`, and its shard is opened.

    Returns:
        `IndexRecord` by name, for the manifest.

    Raises:
        OutputError: it cannot be written.
        DataError: a shard cannot be read.
    """
    count, sink = 0, pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        for note in shards:
            batch = _entries_of(folder, note)
            count += batch.num_rows
            writer.write_batch(batch)
    data = sink.getvalue().to_pybytes()
    record = IndexRecord(count, len(data), hashlib.sha256(data).hexdigest())
    if not _is_written(folder, record):
        with landing(f"{folder}/{MANIFEST_FOLDER}", INDEX_FILE) as temporary:
            temporary.write_bytes(data)
    return record._asdict()


def _entries_of(folder: Path | str, note: Mapping[str, Any]) -> pa.RecordBatch:
    name = note["shard"]
    if "index" not in note:
        return measured_entries(name, read_shard(local_copy(f"{folder}/{name}")))
    columns = {**note["index"], "shard": [name] * note["rows"], "row": range(note["rows"])}
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def _is_written(folder: Path | str, record: IndexRecord) -> bool:
    """Whether the very index lies there, and is not older than a shard."""
    path = f"{folder}/{MANIFEST_FOLDER}/{INDEX_FILE}"
    try:
        same = file_sha256(local_copy(path)) == record.sha256
    except (DataError, OSError):
        return False
    return same and (is_remote(folder) or not _older(Path(path), shard_paths(folder)))


def _older(index: Path, shards: Iterable[Path]) -> bool:
    written = index.stat().st_mtime_ns
    return any(path.stat().st_mtime_ns > written for path in shards)


def read_index(folder: Path | str) -> pa.Table:
    """What is known of every image of a folder's shards, in order.

    By URI the manifest, the index and the listing of the folder are all that is fetched.

    Args:
        folder: path or URI.

    Returns:
        Rows of `SCHEMA`, memory-mapped. Where the folder has no index that fits its shards, they are opened, a
        line in the log says so, and `shows_from_px` is 0.

    Raises:
        DataError: the folder has no shards, or one cannot be read.
    """
    sizes = shard_sizes(folder)
    verified = _verified(folder, sizes)
    if verified.table is not None and (is_remote(folder) or not _older(_index_path(folder), shard_paths(folder))):
        return verified.table
    table = pa.Table.from_batches(
        [shard_entries(name, read_shard(local_copy(f"{folder}/{name}"))) for name in sizes], SCHEMA
    )
    if verified.table is not None and verified.table.drop([MEASURED]).equals(table.drop([MEASURED])):
        return verified.table  # copied, and the shards after it
    reason = verified.reason or "has an index of other shards"
    logger.warning("%s %s; reading its %d shards. Ingest again to have one.", folder, reason, len(sizes))
    return table


def shard_sizes(folder: Path | str) -> dict[str, int | None]:
    """The shards of a folder.

    Args:
        folder: path or URI.

    Returns:
        Bytes by name, in order; None where a store does not tell.

    Raises:
        DataError: there are none.
    """
    if not is_remote(folder):
        return {path.name: path.stat().st_size for path in shard_paths(folder)}
    sizes = Store(folder).sizes()
    names = sorted(name for name in sizes if name.startswith("shard-") and name.endswith(".arrow"))
    if not names:
        raise DataError(f"{folder} holds no shards. Make some with `bayes-pfl ingest` and copy them there.")
    return {name: sizes[name] for name in names}


def _index_path(folder: Path | str) -> Path:
    return local_copy(f"{folder}/{MANIFEST_FOLDER}/{INDEX_FILE}")


def _verified(folder: Path | str, sizes: Mapping[str, int | None]) -> _Verified:
    """The index that the manifest names, if it is whole and of these very shards."""
    try:
        manifest: Any = Store(folder).read_json(f"{MANIFEST_FOLDER}/manifest.json")
        record = IndexRecord(**manifest["index"])
        shards: Sequence[Mapping[str, Any]] = manifest["shards"]
        named = {shard["shard"]: shard["size_bytes"] for shard in shards}
        path = _index_path(folder)
    except (DamagedError, TypeError, KeyError):
        return _Verified(None, "has no index")
    except DataError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return _Verified(None, "has no index")
        raise
    if named.keys() != sizes.keys() or any(size not in (None, named[name]) for name, size in sizes.items()):
        return _Verified(None, "has an index of other shards")
    try:
        if file_sha256(path) != record.sha256:
            return _Verified(None, "has a damaged index")
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except FileNotFoundError:
        return _Verified(None, "has no index")
    except (OSError, pa.ArrowInvalid):
        return _Verified(None, "has a damaged index")
    fits = table.schema.equals(SCHEMA) and table.num_rows == sum(shard["rows"] for shard in shards)
    return _Verified(table, "") if fits else _Verified(None, "has an index of another version")


def compare_with_shards(folder: Path | str) -> list[str]:
    """What is wrong with a folder of shards: their bytes against the manifest, the index against their rows.

    Args:
        folder: path or URI; all of it is read.

    Returns:
        Sentences; none if all is as its ingest wrote it.

    Raises:
        DataError: it holds no shards or no manifest.
    """
    sizes = shard_sizes(folder)
    manifest = Store(folder).read_json(f"{MANIFEST_FOLDER}/manifest.json")
    if not isinstance(manifest, dict):
        raise DataError(f"{folder} has no finished ingest: run `bayes-pfl ingest` again, or copy the whole folder.")
    named = {shard["shard"]: shard for shard in manifest["shards"]}
    problems = [f"{name} is missing" for name in named if name not in sizes]
    verified = _verified(folder, sizes)
    index = verified.table
    if index is None:
        problems.append(f"the folder {verified.reason}")
    start = 0
    for name in sizes:
        path = local_copy(f"{folder}/{name}")
        if name not in named or file_sha256(path) != named[name]["sha256"]:
            problems.append(f"{name} is not the one that was ingested")
            continue
        entries = pa.Table.from_batches([measured_entries(name, read_shard(path))])
        if index is not None and not index.slice(start, entries.num_rows).equals(entries):
            problems.append(f"the index does not say what {name} holds")
        start += entries.num_rows
    return problems
