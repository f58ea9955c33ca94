"""Rows of images and masks <-> Arrow IPC files, which plain pyarrow reads too.

A folder holds ``shard-00000.arrow``, ``shard-00001.arrow``, ... and ``_manifest/`` with JSON about them and their
index (`bayes_pfl.data.index`). Images are stored as they were found (encoded), masks as gray PNG of 0 and 255, so a
shard can be memory-mapped and read row by row without loading it.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import pyarrow as pa

from bayes_pfl.errors import DataError, OutputError

SCHEMA_VERSION = "1"
MANIFEST_FOLDER = "_manifest"
ROWS_PER_BATCH = 32
BYTES_PER_BATCH = 16 * 2**20
"""A record batch ends at whichever comes first; a writer holds one batch in memory."""

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("defect", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("mask", pa.binary()),
        pa.field("path", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
    ],
    metadata={"bayes_pfl_schema": SCHEMA_VERSION},
)


class ShardRow(TypedDict):
    """One image with its mask and what is known of it; the keys are the columns."""

    sample_id: str
    """``<dataset>/<path>``, unique within a dataset."""
    dataset: str
    category: str
    class_name: str
    split: str
    label: int
    defect: str
    image: bytes
    mask: bytes | None
    path: str
    height: int
    """Of the upright image, in pixels."""
    width: int
    sha256: str
    """Of ``image``."""


class ShardFile(NamedTuple):
    """What was written: the number of rows, the file's size and its hash."""

    rows: int
    size_bytes: int
    sha256: str


def shard_name(index: int) -> str:
    """The file name of a shard.

    Args:
        index: counted from 0.

    Returns:
        The name.

    >>> shard_name(3)
    'shard-00003.arrow'
    """
    return f"shard-{index:05d}.arrow"


def write_shard(path: Path, rows: Iterable[ShardRow]) -> ShardFile:
    """Write rows as they come, under a temporary name until the file is whole.

    Args:
        path: where the shard shall be.
        rows: read once; one record batch of them is held in memory.

    Returns:
        Number of rows, size and hash.

    Raises:
        OutputError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    count = 0
    with replacing(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            pending: list[ShardRow] = []
            pending_bytes = 0
            for row in rows:
                pending.append(row)
                pending_bytes += len(row["image"])
                count += 1
                if len(pending) == ROWS_PER_BATCH or pending_bytes >= BYTES_PER_BATCH:
                    writer.write_batch(pa.RecordBatch.from_pylist(pending, schema=SCHEMA))
                    pending, pending_bytes = [], 0
            if pending:
                writer.write_batch(pa.RecordBatch.from_pylist(pending, schema=SCHEMA))
        size, digest = temporary.stat().st_size, file_sha256(temporary)
    return ShardFile(count, size, digest)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all.

    Args:
        path: where the file shall be.
        value: what JSON can hold.

    Raises:
        OutputError: as `write_shard`.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that becomes ``path`` if the block ends well, else vanishes.

    Args:
        path: what is written or replaced.

    Yields:
        The temporary name.

    Raises:
        OutputError: the block met a full disk or a folder that cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # the name must not outlive the content in a power cut
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, names: str) -> None:
    """Delete what `replacing` left in a folder when its process was killed; the caller alone writes there.

    Args:
        folder: it alone, not the folders in it.
        names: regular expression of the names of the files that were to be written.
    """
    unfinished = re.compile(rf"\.(?:{names})\.\d+-[0-9a-f]{{8}}\.part")
    for path in folder.iterdir() if folder.is_dir() else ():
        if unfinished.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The sentence for a failed write.

    Args:
        path: what was to be written.
        error: of the system.

    Returns:
        The error to raise.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"No room left to write {path}. Free some space or choose another output, "
            "then run the same command again: finished shards are kept."
        )
    reason = error.strerror or str(error)
    return OutputError(f"Cannot write {path}: {reason}. Check the path and its permissions.")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shard_paths(folder: Path | str) -> list[Path]:
    """The shards of a folder, in order.

    Args:
        folder: that `bayes-pfl ingest` wrote.

    Returns:
        Their paths.

    Raises:
        DataError: there is no such folder, or it holds no shards.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Make shards first with `bayes-pfl ingest`.")
    paths = sorted(folder.glob("shard-*.arrow"))
    if not paths:
        raise DataError(f"{folder} holds no shards. Make some with `bayes-pfl ingest`.")
    return paths


def read_shard(path: Path | str) -> pa.Table:
    """One shard as a memory-mapped table: columns are paged in as they are touched.

    Args:
        path: the file.

    Returns:
        The table, with the columns of `SCHEMA`.

    Raises:
        DataError: the file is no Arrow file, or was written with another schema.
    """
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as an Arrow file ({error}). Ingest the dataset again.") from error
    version = (table.schema.metadata or {}).get(b"bayes_pfl_schema", b"none").decode()
    if version != SCHEMA_VERSION or not table.schema.equals(SCHEMA):
        raise DataError(
            f"{path} has shard schema {version}; this version reads {SCHEMA_VERSION}. Ingest the dataset again."
        )
    return table


def require_row(table: pa.Table, shard: str, row: int, sha256: str) -> None:
    """Refuse a shard that has changed since it was indexed.

    Args:
        table: of `read_shard`.
        shard: its path or URI.
        row: number of a row.
        sha256: of the image that the row shall hold.

    Raises:
        DataError: it holds another one.
    """
    if row >= table.num_rows or table["sha256"][row].as_py() != sha256:
        raise DataError(f"{shard} has changed since its index was written or read: ingest the dataset again.")


def read_shards(folder: Path | str) -> Iterator[pa.Table]:
    """The shards of a folder as memory-mapped tables, in order.

    Args:
        folder: that `bayes-pfl ingest` wrote.

    Yields:
        The tables.

    Raises:
        DataError: as `shard_paths` and `read_shard`.
    """
    for path in shard_paths(folder):
        yield read_shard(path)


def iterate_rows(
    folder: Path | str,
    split: str | None = None,
    categories: Collection[str] | None = None,
) -> Iterator[ShardRow]:
    """The rows of a folder one by one, optionally of one split and of some categories only.

    Args:
        folder: that `bayes-pfl ingest` wrote.
        split: "train" or "test".
        categories: those wanted.

    Yields:
        The rows.

    Raises:
        DataError: as `shard_paths` and `read_shard`.
    """
    for table in read_shards(folder):
        for batch in table.to_batches():
            for index in range(batch.num_rows):
                if split is not None and batch["split"][index].as_py() != split:
                    continue
                if categories is not None and batch["category"][index].as_py() not in categories:
                    continue
                yield {name: batch[name][index].as_py() for name in SCHEMA.names}  # type: ignore[misc]


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """What the ingest that wrote a folder recorded: counts, hashes, files set aside.

    Args:
        folder: of shards.

    Returns:
        The manifest.

    Raises:
        DataError: the folder has no finished manifest.
    """
    path = Path(folder) / MANIFEST_FOLDER / "manifest.json"
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} has no finished ingest ({path.name} is missing or damaged). "
            "Run `bayes-pfl ingest` again; it goes on where it stopped."
        ) from error
