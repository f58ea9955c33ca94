"""Shards are plain Arrow files, whole or absent."""

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from bayes_pfl.data.shards import (
    BYTES_PER_BATCH,
    ROWS_PER_BATCH,
    SCHEMA,
    ShardRow,
    cannot_write,
    iterate_rows,
    read_manifest,
    read_shards,
    shard_name,
    shard_paths,
    write_json,
    write_shard,
)
from bayes_pfl.errors import DataError, OutputError


def row(number: int) -> ShardRow:
    data = bytes([number % 256]) * (number + 1)
    return ShardRow(
        sample_id=f"toys/{number}",
        dataset="toys",
        category=("car", "ball")[number % 2],
        class_name="toy",
        split=("train", "test")[number % 3 == 0],
        label=number % 2,
        defect="good",
        image=data,
        mask=data if number % 2 else None,
        path=str(number),
        height=1,
        width=number + 1,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    rows = [row(number) for number in range(2 * ROWS_PER_BATCH + 3)]
    write_shard(tmp_path / shard_name(1), rows[40:])
    write_shard(tmp_path / shard_name(0), rows[:40])
    assert list(iterate_rows(tmp_path)) == rows
    assert [table.num_rows for table in read_shards(tmp_path)] == [40, len(rows) - 40]


def test_rows_can_be_chosen(tmp_path: Path) -> None:
    rows = [row(number) for number in range(30)]
    write_shard(tmp_path / shard_name(0), rows)
    chosen = [r for r in rows if r["split"] == "test" and r["category"] == "ball"]
    assert list(iterate_rows(tmp_path, split="test", categories={"ball"})) == chosen
    assert chosen


def test_plain_pyarrow_reads_a_shard(tmp_path: Path) -> None:
    written = write_shard(tmp_path / shard_name(0), [row(3)])
    data = (tmp_path / "shard-00000.arrow").read_bytes()
    table = pa.ipc.open_file(data).read_all()
    assert table.schema.metadata == {b"bayes_pfl_schema": b"1"}
    assert table.to_pylist() == [dict(row(3))]
    assert written == (1, len(data), hashlib.sha256(data).hexdigest())


def test_images_are_mapped_and_not_copied(tmp_path: Path) -> None:
    write_shard(tmp_path / shard_name(0), [{**row(0), "image": bytes(2**20)} for _ in range(32)])
    before = pa.total_allocated_bytes()
    (table,) = read_shards(tmp_path)
    assert table["image"].nbytes > 32 * 2**20
    assert pa.total_allocated_bytes() - before < 2**20


def test_a_batch_is_bounded_in_rows_and_bytes(tmp_path: Path) -> None:
    write_shard(tmp_path / "small", [row(0)] * 70)
    write_shard(tmp_path / "large", [{**row(0), "image": bytes(BYTES_PER_BATCH // 2)}] * 5)
    batches = {name: pa.ipc.open_file((tmp_path / name).read_bytes()) for name in ("small", "large")}
    rows = {
        name: [file.get_batch(i).num_rows for i in range(file.num_record_batches)] for name, file in batches.items()
    }
    assert rows == {"small": [32, 32, 6], "large": [2, 2, 1]}


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    rows = [row(number) for number in range(50)]
    assert write_shard(tmp_path / "a", rows) == write_shard(tmp_path / "b", iter(rows))


def test_a_failing_source_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> object:
        yield row(0)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write_shard(tmp_path / shard_name(0), broken())
    assert list(tmp_path.iterdir()) == []


WRITE_TOO_MUCH = """
import sys
from pathlib import Path
from bayes_pfl.errors import OutputError
from bayes_pfl.data.shards import shard_name, write_shard
row = dict(sample_id="", dataset="", category="", class_name="", split="", label=0, defect="",
           image=bytes(2**20), mask=None, path="", height=1, width=1, sha256="")
try:
    write_shard(Path(sys.argv[1]) / shard_name(0), [row] * 64)
except OutputError as error:
    print(error)
"""


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    limit = 8 * 2**20  # of the size of a file: the kernel then refuses, as it does on a full disk
    done = subprocess.run(
        [sys.executable, "-c", WRITE_TOO_MUCH, str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.startswith(f"Cannot write {tmp_path / 'shard-00000.arrow'}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_called_so(code: int) -> None:
    assert "No room left to write here" in str(cannot_write(Path("here"), OSError(code, "")))


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        write_shard(tmp_path / "nowhere" / shard_name(0), [row(0)])


class TestFoldersThatAreNone:
    """Every one of them ends in a sentence."""

    def test_absent_and_empty(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="There is no folder"):
            shard_paths(tmp_path / "absent")
        with pytest.raises(DataError, match="holds no shards"):
            shard_paths(tmp_path)

    def test_another_schema(self, tmp_path: Path) -> None:
        other = SCHEMA.with_metadata({"bayes_pfl_schema": "9"})
        with pa.ipc.new_file(tmp_path / shard_name(0), other):
            pass
        with pytest.raises(DataError, match="has shard schema 9"):
            list(read_shards(tmp_path))

    def test_no_arrow_file(self, tmp_path: Path) -> None:
        (tmp_path / shard_name(0)).write_bytes(b"not Arrow at all")
        with pytest.raises(DataError, match="cannot be read as an Arrow file"):
            list(read_shards(tmp_path))

    def test_manifest(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no finished ingest"):
            read_manifest(tmp_path)
        (tmp_path / "_manifest").mkdir()
        write_json(tmp_path / "_manifest" / "manifest.json", {"rows": 3, "name": "é"})
        assert read_manifest(tmp_path) == {"rows": 3, "name": "é"}
        assert json.loads((tmp_path / "_manifest" / "manifest.json").read_text("utf-8"))["name"] == "é"
