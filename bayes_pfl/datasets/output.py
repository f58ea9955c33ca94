"""An ingest's output, a folder or a URI: the lock on it, the plan it was started for, the manifest at the end."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bayes_pfl.data.index import INDEX_FILE, write_index
from bayes_pfl.data.remote import Store, is_remote
from bayes_pfl.data.shards import MANIFEST_FOLDER, SCHEMA_VERSION, cannot_write
from bayes_pfl.datasets.packing import ShardTask, plan_digest
from bayes_pfl.datasets.record import ANOMALOUS, NORMAL
from bayes_pfl.datasets.source import DatasetListing
from bayes_pfl.errors import DamagedError, DataError, OutputError

PLAN = f"{MANIFEST_FOLDER}/plan.json"
MANIFEST = f"{MANIFEST_FOLDER}/manifest.json"
NOTES = f"{MANIFEST_FOLDER}/shards"
FEATURES = "features.json"
"""In the manifest's folder, where a folder holds features."""
UNFINISHED = re.compile(
    rf"\.?(?:shard-\d+\.arrow(?:\.json)?|plan\.json|manifest\.json|{re.escape(INDEX_FILE)})\.(?:\d+-)?[0-9a-f]+\.part"
)
"""Names of what writers leave that are killed."""
SPARE_BYTES = 32 * 2**20
"""Room that must stay free beside the shards, for the notes and everyone else."""


@contextlib.contextmanager
def claim(output: Path) -> Iterator[None]:
    """Hold an output folder alone while it is written.

    The lock ends with its process, however that ends: a killed ingest leaves nothing to clean up.

    Args:
        output: the folder; it is made.

    Yields:
        None, once.

    Raises:
        OutputError: another process holds it, or it cannot be written.
    """
    path = output / MANIFEST_FOLDER / "lock"
    try:
        (path.parent / "shards").mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise cannot_write(output, error) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 200, 0).decode(errors="replace") or "another process"
            raise OutputError(
                f"{output} is being written by {holder}. Wait for it, or choose another --output."
            ) from error
        with contextlib.suppress(OSError):  # only for the sentence above
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(lock)


def begin(output: Path | str, tasks: Sequence[ShardTask]) -> list[ShardTask]:
    """Make sure that an output is for this plan.

    Args:
        output: folder or URI.
        tasks: the whole plan.

    Returns:
        The tasks that are left to do.

    Raises:
        OutputError: it holds shards of another plan or something else, or has too little room.
    """
    store = Store(output)
    digest = plan_digest(tasks)
    plan = _whole(store, PLAN)
    held = plan.get("digest") if isinstance(plan, dict) else None
    noted = Store(f"{store.root}/{NOTES}").names()
    work = [name for name in (*store.names(), *noted) if not UNFINISHED.fullmatch(name)]
    names = Store(f"{store.root}/{MANIFEST_FOLDER}").names()
    if (plan is not None and held is None) or FEATURES in names or any(name.startswith("part-") for name in noted):
        raise OutputError(f"{output} holds no shards, but scores, features or something else. Choose another --output.")
    # A plan of which nothing is done yet binds nobody.
    if held != digest and any(name.startswith("shard-") for name in work):
        raise OutputError(
            f"{output} holds another ingest: other files, another dataset or other options. Choose another --output."
        )
    _remove_parts(output)
    store.write_json(PLAN, {"digest": digest, "shards": len(tasks)})
    todo = [task for task, note in zip(tasks, notes_of(output, tasks), strict=True) if note is None]
    if todo:
        store.remove(MANIFEST)
        if not is_remote(output):
            _check_room(Path(output), todo)
    return todo


def notes_of(output: Path | str, tasks: Sequence[ShardTask]) -> list[dict[str, Any] | None]:
    """The notes of finished shards.

    Args:
        output: folder or URI.
        tasks: the whole plan.

    Returns:
        For every task its note, if it is there and true of the source files and the shard as they are now.
    """
    store = Store(output)
    sizes, noted = store.sizes(), set(Store(f"{store.root}/{NOTES}").names())
    notes = []
    for task in tasks:
        note = _whole(store, f"{NOTES}/{task.shard}.json") if f"{task.shard}.json" in noted else None
        notes.append(note if task.done(note, sizes.get(task.shard) or 0) else None)
    return notes


def gather(
    output: Path | str, tasks: Sequence[ShardTask], listing: DatasetListing, header: dict[str, Any]
) -> dict[str, Any]:
    """The manifest of an output: the notes of all shards in one. Their index is written first.

    Args:
        output: folder or URI.
        tasks: the whole plan.
        listing: what the reader made of the source.
        header: entries that the manifest begins with.

    Returns:
        The manifest.

    Raises:
        OutputError: a shard is not done, or the index cannot be written.
    """
    done = [note for note in notes_of(output, tasks) if note is not None]
    if len(done) < len(tasks):
        raise OutputError(
            f"Shards of {output} were not written ({len(tasks) - len(done)} of {len(tasks)}), or their source files "
            "changed meanwhile. Run the same command again."
        )
    shards = [note for note in done if note["rows"]]
    hashes = "".join(note["sha256"] for note in shards)
    set_aside = [[*skipped] for skipped in listing.set_aside]
    set_aside += [skipped for note in done for skipped in note["set_aside"]]
    manifest = {
        "schema": SCHEMA_VERSION,
        **header,
        "digest": hashlib.sha256(hashes.encode()).hexdigest(),
        "rows": sum(note["rows"] for note in shards),
        "size_bytes": sum(note["size_bytes"] for note in shards),
        "counts": _counts(done),
        "identical_images": _identical(done),
        "good_and_defective": _good_and_defective(shards),
        "masks": sum(note.get("masks", 0) for note in done),
        "empty_masks": sorted(path for note in done for path in note["empty_masks"]),
        **{
            key: sorted(entry for note in done for entry in note.get(key, ()))
            for key in ("large_masks", "full_masks", "turned_masks", "pages", "marked_normals", "read_as")
        },
        "set_aside": sorted(set_aside),
        "ignored": [[*skipped] for skipped in listing.ignored],
        "left_out": [[*skipped] for skipped in listing.left_out],
        "shards": [{key: note[key] for key in ("shard", "rows", "size_bytes", "sha256")} for note in shards],
        "index": write_index(output, shards),
    }
    return manifest


def finish(
    output: Path | str, tasks: Sequence[ShardTask], listing: DatasetListing, header: dict[str, Any]
) -> dict[str, Any]:
    """Write the manifest of an output, which says that it is complete.

    Args:
        output: folder or URI.
        tasks: the whole plan.
        listing: what the reader made of the source.
        header: entries that the manifest begins with.

    Returns:
        The manifest.

    Raises:
        OutputError: a shard is not done, or the manifest cannot be written.
    """
    manifest = gather(output, tasks, listing, header)
    write_manifest(output, manifest)
    return manifest


def write_manifest(output: Path | str, manifest: dict[str, Any]) -> None:
    """Write a manifest, unless it is there already.

    Args:
        output: folder or URI.
        manifest: of `gather`.

    Raises:
        OutputError: it cannot be written.
    """
    _remove_parts(output)  # workers of a killed ingest may have outlived its successor's start
    store = Store(output)
    if _whole(store, MANIFEST) != manifest:
        store.write_json(MANIFEST, manifest)


def _whole(store: Store, name: str) -> Any | None:
    """What a file holds; None also for one that is not whole, which is written anew."""
    try:
        return store.read_json(name)
    except DamagedError:
        return None
    except DataError as error:
        if isinstance(error.__cause__, IsADirectoryError):  # told by whoever writes the file
            return None
        raise


def _remove_parts(output: Path | str) -> None:
    """Delete what writers left that were killed; whoever holds the claim is the only one alive."""
    for folder in (f"{output}", f"{output}/{MANIFEST_FOLDER}", f"{output}/{NOTES}"):
        store = Store(folder)
        for name in store.names():
            if UNFINISHED.fullmatch(name):
                store.remove(name)


def _check_room(output: Path, todo: Iterable[ShardTask]) -> None:
    """Shards hold the files as they are, so their size is known; that of scaled ones is not."""
    needed = sum(task.size_bytes for task in todo if task.options.max_side_px is None)
    free = shutil.disk_usage(output).free
    if needed + SPARE_BYTES > free:
        raise OutputError(
            f"No room in {output}: {(needed + SPARE_BYTES) / 2**20:,.0f} MB are needed there, some of them to spare, "
            f"and {free / 2**20:,.0f} MB are free. Free some space, choose another --output, or take less with --limit."
        )


def _counts(notes: Iterable[dict[str, Any]]) -> dict[str, dict[str, dict[str, int]]]:
    """``{category: {split: {"normal": n, "anomalous": m}}}``."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for note in notes:
        for category, split, label, number in note["counts"]:
            splits = counts.setdefault(category, {})
            labels = splits.setdefault(split, {"normal": 0, "anomalous": 0})
            labels["anomalous" if label else "normal"] += number
    return {category: dict(sorted(splits.items())) for category, splits in sorted(counts.items())}


def _identical(notes: Iterable[dict[str, Any]]) -> int:
    """How many images have the same bytes as one before them."""
    seen = Counter(digest for note in notes for digest in note["images_sha256"])
    return seen.total() - len(seen)


def _good_and_defective(notes: Iterable[dict[str, Any]]) -> list[list[str]]:
    """Images with the same bytes that one name calls good and another one defective: the first of both names."""
    names: dict[str, dict[int, str]] = {}
    for note in notes:
        index = note.get("index", {"sha256": (), "label": (), "sample_id": ()})  # notes of earlier versions have none
        for digest, label, sample_id in zip(index["sha256"], index["label"], index["sample_id"], strict=True):
            names.setdefault(digest, {}).setdefault(label, sample_id.partition("/")[2])
    return sorted([labels[NORMAL], labels[ANOMALOUS]] for labels in names.values() if len(labels) > 1)
