"""From records to shards without Ray: the plan, the checks, resuming, and who may write."""

import json
import os
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import painted
import pytest

from bayes_pfl.data.preprocess import MAX_PIXELS, decode_image, decode_mask
from bayes_pfl.data.shards import iterate_rows, read_manifest
from bayes_pfl.datasets import output as output_module
from bayes_pfl.datasets.catalogue import find, get_dataset
from bayes_pfl.datasets.output import begin, claim, finish
from bayes_pfl.datasets.packing import PackingOptions, ShardTask, pack_shard, plan_digest, plan_shards
from bayes_pfl.datasets.source import Source
from bayes_pfl.errors import DataError, OutputError


def plan(tree: painted.Tree, output: Path, dataset: str, rows: int = 4, **options: object) -> list[ShardTask]:
    description = get_dataset(dataset)
    found = find(description, Source(tree.root))
    values = {"max_side_px": None, "max_pixels": MAX_PIXELS, **options}
    made = PackingOptions(dataset, description.mask_above, **values)
    return plan_shards(tree.root, output, made, found.records, rows, 2**20)


def pack(tree: painted.Tree, output: Path, dataset: str, **choices: object) -> dict:
    """All of an ingest but Ray."""
    found = find(get_dataset(dataset), Source(tree.root))
    tasks = plan(tree, output, dataset, **choices)
    with claim(output):
        for task in begin(output, tasks):
            pack_shard(task)
        return finish(output, tasks, found, {"dataset": dataset})


def test_every_record_becomes_one_row(tmp_path: Path) -> None:
    tree = painted.paint("mvtec", tmp_path / "in")
    manifest = pack(tree, tmp_path / "out", "mvtec")
    rows = list(iterate_rows(tmp_path / "out"))
    assert [row["path"] for row in rows] == [record.image for record in sorted(tree.records)]
    for row, record in zip(rows, sorted(tree.records), strict=True):
        assert row["image"] == (tree.root / record.image).read_bytes()
        assert (row["height"], row["width"]) == decode_image(row["image"]).size[::-1]
        named = (row["label"], row["category"], row["class_name"], row["split"], row["defect"])
        assert named == tuple(record[2:7])
        if record.mask is None:
            assert row["mask"] is None
        else:
            np.testing.assert_array_equal(decode_mask(row["mask"]), np.asarray(painted.blob()) > 0)
    assert manifest == read_manifest(tmp_path / "out")
    assert manifest["rows"] == len(rows)
    assert manifest["counts"] == {
        category: {"test": {"normal": 1, "anomalous": 4}, "train": {"normal": 3, "anomalous": 0}}
        for category in ("metal_nut", "screw")
    }
    assert sorted(path for path, _ in manifest["ignored"]) == sorted(tree.strays)


def test_shards_do_not_depend_on_the_order_of_work(tmp_path: Path) -> None:
    tree = painted.paint("visa", tmp_path / "in")
    manifest = pack(tree, tmp_path / "one", "visa")
    tasks = plan(tree, tmp_path / "two", "visa")
    with claim(tmp_path / "two"):
        for task in reversed(begin(tmp_path / "two", tasks)):
            pack_shard(ShardTask.from_json(task.to_json()))
        found = find(get_dataset("visa"), Source(tree.root))
        again = finish(tmp_path / "two", tasks, found, {"dataset": "visa"})
    assert again == manifest
    assert len(manifest["shards"]) == 3


def test_the_plan_respects_rows_and_bytes(tmp_path: Path) -> None:
    tree = painted.paint("kvasir", tmp_path)
    records = find(get_dataset("kvasir"), Source(tmp_path)).records * 10
    options = PackingOptions("kvasir", 128, None, MAX_PIXELS)
    for rows, size in ((3, 2**20), (100, 5000), (100, 1)):
        tasks = plan_shards(tree.root, tmp_path, options, records, rows, size)
        assert [record for task in tasks for record in task.records] == list(records)
        assert [task.index for task in tasks] == list(range(len(tasks)))
        for task in tasks:
            assert len(task.records) <= rows
            assert len(task.records) == 1 or task.size_bytes <= size


def test_images_that_cannot_be_used_are_set_aside_with_the_reason(tmp_path: Path) -> None:
    tree = painted.paint("mvtec", tmp_path / "in")
    first, second, third, fourth, fifth = [record for record in sorted(tree.records) if record.label][:5]
    whole = (tree.root / first.image).read_bytes()
    tree.write(first.image, whole[: len(whole) // 2])
    tree.write(second.mask, painted.encoded(painted.blob(size=(30, 20)), ".png"))
    tree.write(third.image, painted.encoded(painted.surface(0, (800, 40)), ".png"))
    tree.write(third.mask, painted.encoded(painted.blob(size=(800, 40)), ".png"))
    tree.write(fourth.mask, painted.encoded(painted.blob(0), ".png"))
    tree.write(fifth.mask, b"nothing")
    manifest = pack(tree, tmp_path / "out", "mvtec", max_pixels=31_999)
    reasons = dict(manifest["set_aside"])
    assert list(reasons) == [first.image, second.image, third.image, fifth.image]
    assert "cut short" in reasons[first.image]
    assert reasons[second.image] == "its mask is 30 x 20, the image 24 x 16"
    assert reasons[third.image] == "800 x 40 is larger than 31999 pixels (max_pixels)"
    assert reasons[fifth.image].startswith(f"its mask {fifth.mask}: not a readable image")
    assert manifest["empty_masks"] == [fourth.image]
    assert manifest["rows"] == len(tree.records) - 4 == len(list(iterate_rows(tmp_path / "out")))


def test_a_shard_whose_images_are_all_unusable_is_no_file(tmp_path: Path) -> None:
    tree = painted.paint("br35h", tmp_path / "in")
    for record in sorted(tree.records)[:2]:
        tree.write(record.image, b"nothing")
    manifest = pack(tree, tmp_path / "out", "br35h", rows=2)
    assert [shard["shard"] for shard in manifest["shards"]] == ["shard-00001.arrow", "shard-00002.arrow"]
    assert len(manifest["set_aside"]) == 2
    assert len(list(iterate_rows(tmp_path / "out"))) == len(tree.records) - 2


def test_large_images_are_scaled_with_their_masks(tmp_path: Path) -> None:
    tree = painted.paint("endo", tmp_path / "in")
    pack(tree, tmp_path / "out", "endo", max_side_px=12)
    for row in iterate_rows(tmp_path / "out"):
        assert (row["width"], row["height"]) == decode_image(row["image"]).size == (12, 8)
        assert decode_mask(row["mask"]).shape == (8, 12)
        assert decode_mask(row["mask"]).sum() == 3 * 2


def test_identical_images_are_kept_and_counted(tmp_path: Path) -> None:
    tree = painted.paint("br35h", tmp_path / "in")
    for name in ("no7.jpg", "no8.jpg"):
        tree.good(f"no/{name}")
        (tree.root / f"no/{name}").write_bytes((tree.root / "no/no0.jpg").read_bytes())
    manifest = pack(tree, tmp_path / "out", "br35h")
    assert manifest["identical_images"] == 2
    assert manifest["rows"] == len(tree.records)


class TestResuming:
    """What is finished stays; what was touched is done again."""

    def test_only_unfinished_shards_are_done(self, tmp_path: Path) -> None:
        tree = painted.paint("mvtec", tmp_path / "in")
        whole = pack(tree, tmp_path / "whole", "mvtec")
        tasks = plan(tree, tmp_path / "out", "mvtec")
        with claim(tmp_path / "out"):
            todo = begin(tmp_path / "out", tasks)
            assert todo == tasks
            for task in todo[:2]:
                pack_shard(task)
            # Killed between a shard and its note, and in the middle of a shard.
            pack_shard(todo[2])
            todo[2].sidecar.unlink()
            (tmp_path / "out" / ".shard-00003.arrow.1-0.part").write_bytes(b"half")
            assert begin(tmp_path / "out", tasks) == tasks[2:]
        resumed = pack(tree, tmp_path / "out", "mvtec")
        assert resumed["digest"] == whole["digest"]
        assert not list((tmp_path / "out").rglob("*.part"))

    def test_a_changed_file_is_noticed(self, tmp_path: Path) -> None:
        tree = painted.paint("kvasir", tmp_path / "in")
        before = pack(tree, tmp_path / "out", "kvasir", rows=1)
        mask = tree.root / tree.records[0].mask
        later = time.time_ns() + 10**9
        os.utime(mask, ns=(later, later))
        todo = begin(tmp_path / "out", plan(tree, tmp_path / "out", "kvasir", rows=1))
        assert [task.records[0] for task in todo] == [tree.records[0]]
        assert pack(tree, tmp_path / "out", "kvasir", rows=1)["digest"] == before["digest"]

    def test_a_lost_or_cut_shard_is_done_again(self, tmp_path: Path) -> None:
        tree = painted.paint("kvasir", tmp_path / "in")
        before = pack(tree, tmp_path / "out", "kvasir", rows=1)
        (tmp_path / "out/shard-00000.arrow").unlink()
        (tmp_path / "out/shard-00001.arrow").write_bytes(b"cut")
        assert pack(tree, tmp_path / "out", "kvasir", rows=1) == before

    def test_an_unfinished_ingest_has_no_manifest(self, tmp_path: Path) -> None:
        tree = painted.paint("kvasir", tmp_path / "in")
        pack(tree, tmp_path / "out", "kvasir")
        (tmp_path / "out/shard-00000.arrow").unlink()
        tasks = plan(tree, tmp_path / "out", "kvasir")
        begin(tmp_path / "out", tasks)
        with pytest.raises(DataError, match="no finished ingest"):
            read_manifest(tmp_path / "out")
        with pytest.raises(OutputError, match=r"Shards of .* were not written \(1 of \d+\)"):
            finish(tmp_path / "out", tasks, find(get_dataset("kvasir"), Source(tree.root)), {})


class TestOutputs:
    """One plan and one writer to a folder."""

    def test_another_plan_is_refused(self, tmp_path: Path) -> None:
        tree = painted.paint("kvasir", tmp_path / "in")
        pack(tree, tmp_path / "out", "kvasir")
        with pytest.raises(OutputError, match="holds another ingest"):
            pack(tree, tmp_path / "out", "kvasir", max_side_px=16)
        tree.bad("Kvasir-SEG/images/new.jpg", "Kvasir-SEG/masks/new.jpg", "polyp")
        with pytest.raises(OutputError, match="holds another ingest"):
            pack(tree, tmp_path / "out", "kvasir")

    def test_foreign_shards_are_not_overwritten(self, tmp_path: Path) -> None:
        tree = painted.paint("kvasir", tmp_path / "in")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/shard-00000.arrow").write_bytes(b"precious")
        with pytest.raises(OutputError, match="holds another ingest"):
            pack(tree, tmp_path / "out", "kvasir")
        assert (tmp_path / "out/shard-00000.arrow").read_bytes() == b"precious"

    def test_the_plan_does_not_depend_on_the_place(self, tmp_path: Path) -> None:
        plans = []
        for place in ("a", "b"):
            tree = painted.paint("visa", tmp_path / place)
            plans.append(plan_digest(plan(tree, tmp_path / "out" / place, "visa")))
        assert plans[0] == plans[1]

    def test_a_second_writer_is_refused(self, tmp_path: Path) -> None:
        message = f"being written by process {os.getpid()} on "
        with claim(tmp_path / "out"), pytest.raises(OutputError, match=message), claim(tmp_path / "out"):
            pass
        with claim(tmp_path / "out"):
            pass

    def test_the_lock_of_a_dead_process_is_no_hindrance(self, tmp_path: Path) -> None:
        child = os.fork()
        if child == 0:
            with claim(tmp_path / "out"):
                os._exit(0)  # without unlocking, as after kill -9
        os.waitpid(child, 0)
        assert f"process {child} " in (tmp_path / "out/_manifest/lock").read_text()
        with claim(tmp_path / "out"):
            pass

    def test_too_little_room_is_said_before_work(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tree = painted.paint("kvasir", tmp_path / "in")
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(output_module.shutil, "disk_usage", lambda path: usage(9, 9, 2**20))
        with pytest.raises(OutputError, match=r"No room in .*: 32 MB are needed there, .* 1 MB are free"):
            pack(tree, tmp_path / "out", "kvasir")
        assert not list((tmp_path / "out").glob("shard-*"))
        monkeypatch.undo()
        assert pack(tree, tmp_path / "out", "kvasir", max_side_px=16)["rows"] == 2  # nothing was promised yet

    def test_a_file_in_the_way_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("a file")
        with pytest.raises(OutputError, match="Cannot write"), claim(tmp_path / "out"):
            pass


def test_notes_are_plain_json(tmp_path: Path) -> None:
    tree = painted.paint("kvasir", tmp_path / "in")
    pack(tree, tmp_path / "out", "kvasir")
    note = json.loads((tmp_path / "out/_manifest/shards/shard-00000.arrow.json").read_text())
    assert note["rows"] == 2
    assert note["counts"] == [["colon", "test", 1, 2]]
