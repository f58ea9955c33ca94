"""Planned shards -> written shards: here for one, over a Ray cluster for more."""

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bayes_pfl.datasets.packing import ShardTask, pack_shard
from bayes_pfl.errors import BayesPFLError, DataError, OutputError
from pipelines.ingestion.progress import Progress
from pipelines.platform.cluster import start_ray


def pack(todo: Sequence[ShardTask], progress: Progress) -> Iterator[tuple[int, dict[str, Any]]]:
    """Write shards.

    Args:
        todo: the shards.
        progress: is told when the first begins.

    Yields:
        Number and note of each shard, in the order in which they are finished.

    Raises:
        OutputError: the output cannot be written.
        DataError: the source cannot be read for a reason outside the files.
    """
    if len(todo) < 2:  # nothing to spread, so a cluster would only cost its start
        progress.begin()
        yield from ((task.index, pack_shard(task)) for task in todo)
        return
    start_ray()
    import ray.data

    packers = min(len(todo), int(ray.cluster_resources()["CPU"]))
    rows = ray.data.from_items([{"task": task.to_json()} for task in todo], override_num_blocks=len(todo))
    # Actors hold their next shard while they write one; plain tasks would leave each CPU idle in between.
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=packers, initial_size=packers)
    packed = rows.map(Packer, num_cpus=1, compute=pool)  # type: ignore[arg-type]  # Ray's types know functions only
    for row in packed.iter_rows():
        progress.begin(row["seconds"])
        if row["error"]:
            raise (OutputError if row["of_output"] else DataError)(row["error"])
        yield row["index"], json.loads(row["note"])


class Packer:
    """Writes shards in a process of its own, one after the other."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write one; errors for people travel as values, without Ray's tracebacks around them."""
        started = time.monotonic()
        task = ShardTask.from_json(row["task"])
        note, error = {}, None
        try:
            note = pack_shard(task)
        except BayesPFLError as caught:
            error = caught
        return {
            "index": task.index,
            "note": json.dumps(note),
            "seconds": time.monotonic() - started,
            "error": str(error or ""),
            "of_output": isinstance(error, OutputError),
        }
