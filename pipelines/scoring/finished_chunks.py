"""Chunks that an evaluation has scored, kept as files: what a killed evaluation does not score again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bayes_pfl.config import DetectorOptions
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.data.shards import replacing
from pipelines.scoring.task import ScoringTask

TEXTS = ("problems", "defects", "machines")
"""Columns in JSON."""


class FinishedChunks:
    """Chunks that an evaluation has scored, as Arrow files in a folder that its question names."""

    def __init__(self, parent: Path, task: ScoringTask, refs: Sequence[SampleRef]) -> None:
        question = [task.bundle.record["head_sha256"], task.bundle.config.model_dump_json()]
        question += [task.num_samples, task.seed, task.max_pixels, task.looked_at, task.full_resolution, "milliseconds"]
        question += [] if task.released is None else [task.released.model_dump(), task.top_pixels]
        question += [task.options.model_dump()] if task.options != DetectorOptions() else []
        question += [[ref.sha256, ref.class_name, ref.category, ref.label] for ref in refs]
        self.folder = parent / hashlib.sha256(json.dumps(question).encode()).hexdigest()[:16]

    def positions(self) -> dict[int, list[int]]:
        """Which images an earlier, unfinished run has scored.

        Returns:
            Positions of each chunk's images, by the first of them.
        """
        chunks = (
            self._columns(path, ("positions",))["positions"] for path in sorted(self.folder.glob("chunk-*.arrow"))
        )
        return {int(positions[0]): positions.tolist() for positions in chunks}

    def row(self, first: int) -> dict[str, Any]:
        """One chunk of an earlier run.

        Args:
            first: position of its first image.

        Returns:
            The row of `ChunkResults`.
        """
        return self._columns(self._path(first), None)

    def _path(self, first: int) -> Path:
        return self.folder / f"chunk-{first:08d}.arrow"

    @staticmethod
    def _columns(path: Path, names: Sequence[str] | None) -> dict[str, Any]:
        """Columns of a chunk's file, all of them for None."""
        with pa.memory_map(str(path)) as source:
            schema = pa.ipc.open_file(source).schema
            fields = [schema.get_field_index(name) for name in names or schema.names]
            table = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields)).read_all()
            return {
                name: table[name][0].as_py() if name in TEXTS else np.array(table[name][0].values)
                for name in table.column_names
            }

    def add(self, row: dict[str, Any]) -> None:
        """Keep a chunk, whole or not at all.

        Args:
            row: a row of `ChunkResults`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        columns = {name: pa.array([value]) for name, value in row.items()}
        with (
            replacing(self._path(int(row["positions"][0]))) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
        ):
            table = pa.table(columns)
            with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
                writer.write_table(table)

    def remove(self) -> None:
        """Delete the folder, once the results are written."""
        Store(self.folder).clear("chunk-*.arrow", ".chunk-*.part")
