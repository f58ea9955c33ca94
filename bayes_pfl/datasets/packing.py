"""Records -> shards: the same plan and the same bytes, whoever does the work and however often.

A shard is planned from names and file sizes alone and is one independent piece of work: read, decode, check, write
under a temporary name, rename, and then write a note (its sidecar) that it is done.
"""

import hashlib
import itertools
import json
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from bayes_pfl.data.index import index_entry
from bayes_pfl.data.preprocess import decode, encode_mask, encode_png, shrink, vanishes
from bayes_pfl.data.remote import Store, is_remote
from bayes_pfl.data.shards import (
    MANIFEST_FOLDER,
    SCHEMA_VERSION,
    ShardRow,
    shard_name,
    write_json,
    write_shard,
)
from bayes_pfl.data.walk import SkippedFile
from bayes_pfl.datasets.masks import record_mask
from bayes_pfl.datasets.record import NORMAL, Record
from bayes_pfl.datasets.source import read_file
from bayes_pfl.errors import DataError, ImageError

MODEL_SIDES = (112, 518)
"""Input of the embedded model and of the published recipe, pixels: masks that vanish there are named."""


@dataclass(frozen=True)
class PackingOptions:
    """What decides the bytes of a row, beside the files themselves."""

    dataset: str
    """The value of the column ``dataset``."""
    mask_above: int | None
    """A mask's pixel is anomalous above this gray value; None: any that is not black."""
    max_side_px: int | None
    """Larger images are scaled down to it and stored as PNG; None keeps every file as it is."""
    max_pixels: int
    masks_as_stored: bool | None = None
    """Whether masks were drawn on pixels as they are stored, before EXIF turns them; None: as their size says."""
    bits: int | None = None
    """Of gray with more than 8, which is then stored with 8 as PNG; None keeps the file, which is read as it says."""

    def plain(self) -> dict[str, Any]:
        """The options as JSON has them, without those that say nothing.

        Returns:
            Their values by name.
        """
        optional = ("masks_as_stored", "bits")
        return {key: value for key, value in asdict(self).items() if value is not None or key not in optional}


@dataclass(frozen=True)
class ShardTask:
    """One shard to be written, with all that is needed to do so in another process."""

    index: int
    source: str
    output: str
    options: PackingOptions
    records: tuple[Record, ...]
    size_bytes: int
    """Of the files to be read."""
    newest_ns: int
    """The latest modification time among them: a shard is done again when a file was changed."""

    def to_json(self) -> str:
        """The task as a string that another process, perhaps of another version, can read.

        Returns:
            JSON.
        """
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["options"] = self.options.plain()
        values["records"] = [record.plain() for record in self.records]
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> "ShardTask":
        """The inverse of `to_json`.

        Args:
            text: JSON.

        Returns:
            The task.
        """
        values = json.loads(text)
        values["options"] = PackingOptions(**values["options"])
        values["records"] = tuple(Record.from_plain(record) for record in values["records"])
        return cls(**values)

    @property
    def shard(self) -> str:
        """File name of the shard."""
        return shard_name(self.index)

    @property
    def sidecar(self) -> Path:
        """The note that the shard is done."""
        return Path(self.output, MANIFEST_FOLDER, "shards", f"{self.shard}.json")

    def done(self, note: Any, size_bytes: int) -> bool:
        """Whether a note is true of the source files as they are now, and of a shard of this size.

        Args:
            note: the sidecar's content.
            size_bytes: of the shard; 0 if there is none.

        Returns:
            True if nothing is left to do.
        """
        try:
            fits = note["newest_ns"] == self.newest_ns and note["size_bytes"] == (size_bytes if note["rows"] else 0)
            return fits and len(note["images_sha256"]) == note["rows"]
        except (KeyError, TypeError):
            return False


def plan_shards(
    source: Path,
    output: Path | str,
    options: PackingOptions,
    records: Sequence[Record],
    rows_per_shard: int,
    bytes_per_shard: int,
) -> list[ShardTask]:
    """Cut the sorted records into shards.

    Args:
        source: folder of the files.
        output: folder or URI of the shards.
        options: what decides the bytes of a row.
        records: sorted.
        rows_per_shard: at most so many rows in one.
        bytes_per_shard: at most so many bytes of files in one, beyond its first row.

    Returns:
        One task for each shard.
    """
    tasks: list[ShardTask] = []
    pending: list[Record] = []
    size = newest = 0

    def close() -> None:
        head = (len(tasks), str(source), str(output), options)
        tasks.append(ShardTask(*head, tuple(pending), size, newest))

    for record in records:
        file_size, modified = _stat(source, record)
        if pending and (len(pending) == rows_per_shard or size + file_size > bytes_per_shard):
            close()
            pending, size, newest = [], 0, 0
        pending.append(record)
        size += file_size
        newest = max(newest, modified)
    if pending:
        close()
    return tasks


def plan_digest(tasks: Sequence[ShardTask]) -> str:
    """A hash of everything that decides the shards' contents, except the contents of the files.

    Args:
        tasks: the whole plan.

    Returns:
        Hexadecimal SHA-256.
    """
    digest = hashlib.sha256(f"schema {SCHEMA_VERSION}".encode())
    for task in tasks:
        part = [task.options.plain(), task.index, task.size_bytes, [record.plain() for record in task.records]]
        digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()


def pack_shard(task: ShardTask) -> dict[str, Any]:
    """Write one shard and its note; no file is written for no rows.

    For an output by URI both are made in a temporary folder and copied there, the note last.

    Args:
        task: the shard.

    Returns:
        The note.

    Raises:
        OutputError: the output cannot be written.
        DataError: the source is not on this machine, or cannot be read for a reason outside the files.
    """
    if not Path(task.source).is_dir():
        raise DataError(
            f"There is no folder {task.source} on {socket.gethostname()}: every machine of the cluster has to mount it."
        )
    if not is_remote(task.output):
        return _pack(task)
    store = Store(task.output)
    with tempfile.TemporaryDirectory(prefix="bayes-pfl-") as temporary:
        local = replace(task, output=temporary)
        local.sidecar.parent.mkdir(parents=True)
        note = _pack(local)
        if note["rows"]:
            store.put(Path(temporary, task.shard), task.shard)
        else:
            store.remove(task.shard)
        store.put(local.sidecar, local.sidecar.relative_to(temporary).as_posix())
    return note


def _pack(task: ShardTask) -> dict[str, Any]:
    notes = _ShardNotes()
    rows = _rows(task, notes)
    first = next(rows, None)
    path = Path(task.output, task.shard)
    note: dict[str, Any] = {"shard": path.name, "rows": 0, "size_bytes": 0, "sha256": None}
    if first is None:
        path.unlink(missing_ok=True)
    else:
        note |= write_shard(path, itertools.chain([first], rows))._asdict()
    note |= {
        "newest_ns": task.newest_ns,
        "counts": [[*key, count] for key, count in sorted(notes.counts.items())],
        "images_sha256": notes.images_sha256,
        "set_aside": notes.set_aside,
        "masks": notes.masks,
        "empty_masks": notes.empty_masks,
        "large_masks": notes.large_masks,
        "full_masks": notes.full_masks,
        "turned_masks": notes.turned_masks,
        "pages": notes.pages,
        "marked_normals": notes.marked_normals,
        "read_as": notes.read_as,
        "index": {name: [entry[name] for entry in notes.index] for name in (notes.index or [{}])[0]},
    }
    write_json(task.sidecar, note)
    return note


class StoredImage(NamedTuple):
    """An image that can be used: its bytes as they will be stored, and what they decode to."""

    data: bytes
    image: Image.Image
    mask: np.ndarray | None
    turned: str
    """As `RecordMask.turned`."""
    pages: int
    """Of the file, of which the first is taken."""
    remarks: tuple[str, ...]
    """As `Decoded.remarks`."""
    marked: bool
    """Whether the image is normal and has a mask that marks something."""


def read_record(source: Path, options: PackingOptions, record: Record) -> StoredImage:
    """Read, decode and check the image and mask of one record.

    Args:
        source: folder of the files.
        options: what decides the bytes of a row.
        record: the image.

    Returns:
        The bytes to store, and what they decode to.

    Raises:
        ImageError: the image or its mask cannot be used; the message is the reason.
    """
    data = read_file(source, record.image)
    decoded = decode(data, options.max_pixels, bits=options.bits)
    image = decoded.image
    if options.bits is not None and decoded.bits is not None:
        data = encode_png(image)
    try:
        drawn = record_mask(
            source, record, data, image.size, options.mask_above, options.masks_as_stored, options.max_pixels
        )
    except ImageError:
        if record.label != NORMAL:
            raise
        drawn = None
    marked = record.label == NORMAL and drawn is not None and bool(drawn.mask.any())
    if record.label == NORMAL:
        drawn = None
    mask = None if drawn is None else drawn.mask
    if options.max_side_px is not None and max(image.size) > options.max_side_px:
        image, mask = shrink(image, mask, options.max_side_px)
        data = encode_png(image)  # lossless: artefacts of another JPEG pass look like defects
    return StoredImage(data, image, mask, drawn.turned if drawn else "", decoded.pages, decoded.remarks, marked)


def _rows(task: ShardTask, notes: "_ShardNotes") -> Iterator[ShardRow]:
    """The task's rows one after the other, noting in ``notes`` what came of them."""
    options = task.options
    for record in task.records:
        try:
            data, image, mask, turned, pages, remarks, marked = read_record(Path(task.source), options, record)
        except ImageError as error:
            notes.set_aside.append(SkippedFile(record.image, str(error)))
            continue
        digest = hashlib.sha256(data).hexdigest()
        notes.images_sha256.append(digest)
        notes.counts[record.category, record.split, record.label] += 1
        if marked:
            notes.marked_normals.append(record.image)
        if pages > 1:
            notes.pages.append((record.image, pages))
        notes.read_as += [(remark, record.image) for remark in remarks if not remark.startswith("first of")]
        if mask is not None:
            notes.add_mask(record.image, float(mask.mean()), turned)
            lost = [side for side in MODEL_SIDES if vanishes(mask, side, side)]
            notes.read_as += [(f"mask vanishes at a model's input of {side} px", record.image) for side in lost]
        row = ShardRow(
            sample_id=f"{options.dataset}/{record.image}",
            dataset=options.dataset,
            category=record.category,
            class_name=record.class_name,
            split=record.split,
            label=record.label,
            defect=record.defect,
            image=data,
            mask=None if mask is None else encode_mask(mask),
            path=record.image,
            height=image.height,
            width=image.width,
            sha256=digest,
        )
        notes.index.append(index_entry(row, mask))
        yield row


@dataclass
class _ShardNotes:
    """What became of a shard's records."""

    images_sha256: list[str] = field(default_factory=list)
    set_aside: list[SkippedFile] = field(default_factory=list)
    masks: int = 0
    empty_masks: list[str] = field(default_factory=list)
    large_masks: list[str] = field(default_factory=list)
    """Images more than half of which is marked."""
    full_masks: list[str] = field(default_factory=list)
    marked_normals: list[str] = field(default_factory=list)
    """Normal images whose mask marks something."""
    pages: list[tuple[str, int]] = field(default_factory=list)
    """Files of several pages, with their number."""
    read_as: list[tuple[str, str]] = field(default_factory=list)
    """What was assumed of a file or left out of it, with its name; pages excepted."""
    turned_masks: list[tuple[str, str]] = field(default_factory=list)
    """Images that EXIF turns and whose masks it does not, with `RecordMask.turned`."""
    counts: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    index: list[dict[str, Any]] = field(default_factory=list)
    """What the index holds of each row."""

    def add_mask(self, image: str, share: float, turned: str) -> None:
        self.masks += 1
        if share == 0:
            self.empty_masks.append(image)
        elif share == 1:
            self.full_masks.append(image)
        elif share > 0.5:
            self.large_masks.append(image)
        if turned:
            self.turned_masks.append((image, turned))


def _stat(source: Path, record: Record) -> tuple[int, int]:
    """Bytes and latest modification of a record's files; one that is gone is found out later."""
    size = newest = 0
    for path in (record.image, *record.masks):
        try:
            stat = (source / path).stat()
        except OSError:
            continue
        size += stat.st_size
        newest = max(newest, stat.st_mtime_ns)
    return size, newest
