"""The index of shards: what it says, when it is used, and that nothing wrong in it is."""

import argparse
import json
import logging
import os
import shutil
import stat
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st
from plain import plain_shards

from bayes_pfl.data import index
from bayes_pfl.data.index import INDEX_FILE, compare_with_shards, read_index, shows_from
from bayes_pfl.data.preprocess import decode_mask, mask_tensor
from bayes_pfl.data.samples import index_shards, load_samples
from bayes_pfl.data.shards import iterate_rows, read_manifest, shard_paths
from bayes_pfl.datasets.output import begin, claim, finish
from bayes_pfl.errors import ConfigError, DataError
from pipelines import datasets
from pipelines.cli import options_of
from pipelines.training.images import require_selection


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return plain_shards(tmp_path_factory.mktemp("index"), ("carpet", "gear"), seed=7)


@pytest.fixture
def copy(shards, tmp_path):
    return Path(shutil.copytree(shards, tmp_path / "copy"))


@pytest.fixture
def opened(monkeypatch):
    """Names of the shards that are opened to be indexed."""
    names = []
    read = index.read_shard
    monkeypatch.setattr(index, "read_shard", lambda path: names.append(Path(path).name) or read(path))
    return names


def rewritten(path: Path, change) -> None:
    """A shard in which `change` is applied to every row."""
    with pa.OSFile(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(pa.Table.from_pylist([change(row) for row in table.to_pylist()], table.schema))


def verify(*arguments) -> int:
    parser = argparse.ArgumentParser()
    options_of("datasets").add_arguments(parser)
    return datasets.run(parser.parse_args(["verify", *map(str, arguments)]))


def without_index(folder: Path) -> Path:
    """The folder as it was written before there was an index."""
    (folder / "_manifest" / INDEX_FILE).unlink()
    path = folder / "_manifest" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["index"]
    path.write_text(json.dumps(manifest))
    return folder


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31), st.integers(4, 120))
def test_a_mask_shows_wherever_it_is_said_to(height, width, seed, size):
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(3):
        top, left = random.integers(height), random.integers(width)
        mask[top : top + random.integers(1, 20), left : left + random.integers(1, 20)] = 1
    if 0 < shows_from(mask) <= size:
        assert mask_tensor(mask, size).any()


def test_large_defects_show_at_once_and_nothing_is_said_of_thin_ones():
    assert shows_from(np.ones((2000, 2000), np.uint8)) == 4
    assert shows_from(np.zeros((50, 50), np.uint8)) == 0
    assert shows_from(np.eye(50, dtype=np.uint8)) == 0


def test_the_index_says_what_the_shards_hold(shards, opened, caplog):
    table = read_index(shards).to_pylist()
    rows = list(iterate_rows(shards))
    assert len(table) == len(rows)
    for entry, row in zip(table, rows, strict=True):
        assert {name: entry[name] for name in index.TAKEN} == {name: row[name] for name in index.TAKEN}
        assert (entry["mask_sha256"] is None) == (row["mask"] is None)
        assert entry["shows_from_px"] == (0 if row["mask"] is None else shows_from(decode_mask(row["mask"])))
    assert {entry["shard"] for entry in table} == {path.name for path in shard_paths(shards)}
    assert read_manifest(shards)["index"]["rows"] == len(rows)
    assert compare_with_shards(shards) == []
    assert not opened or set(opened) == {path.name for path in shard_paths(shards)}, "only to compare"
    assert caplog.messages == []


def test_no_shard_is_opened_for_what_training_asks(shards, opened, tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path))
    for folder in (shards, f"file://{shards}"):
        refs = index_shards(folder)
        require_selection(refs, 64, "A sweep")
        assert any(ref.mask_sha256 for ref in refs)
    assert opened == []
    assert [path.name.partition("-")[2] for path in (tmp_path / "copies").iterdir()] == [INDEX_FILE]


def test_a_folder_moved_and_made_read_only_is_read_as_it_is(shards, copy, opened):
    moved = copy.rename(copy.with_name("moved"))
    for path in [*moved.rglob("*"), moved]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        refs = index_shards(moved)
        assert [ref.sha256 for ref in refs] == [ref.sha256 for ref in index_shards(shards)]
        assert refs[0].shard == str(moved / "shard-00000.arrow")
        load_samples(refs[:1], 32)
    finally:
        for path in [moved, *moved.rglob("*")]:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    assert opened == []


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_an_older_folder_is_indexed_from_its_shards_and_nothing_is_written_to_it(
    shards, copy, opened, caplog, scheme, monkeypatch, tmp_path
):
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path / "cache"))
    before = sorted(path.name for path in without_index(copy).rglob("*"))
    with caplog.at_level(logging.WARNING):
        refs = index_shards(f"{scheme}{copy}")
    expected = index_shards(shards)
    assert [ref[2:8] for ref in refs] == [ref[2:8] for ref in expected]
    assert len(opened) == len(shard_paths(copy))
    (message,) = caplog.messages
    assert message == f"{scheme}{copy} has no index; reading its {len(opened)} shards. Ingest again to have one."
    assert sorted(path.name for path in copy.rglob("*")) == before
    require_selection(refs, 64, "A sweep")  # which has to look at the masks
    with pytest.raises(ConfigError, match="none of their masks"):
        require_selection([ref._replace(mask_sha256=None) for ref in refs], 64, "A sweep")


def test_an_ingest_again_writes_the_index_that_is_missing(shards, copy):
    found = (copy / "_manifest" / INDEX_FILE).read_bytes()
    images = shards.with_name(shards.name.replace("shards", "images"))
    for note in (without_index(copy) / "_manifest" / "shards").iterdir():  # nor do notes of earlier versions have it
        values = json.loads(note.read_text())
        del values["index"]
        note.write_text(json.dumps(values))
    tasks, listing = planned(images, copy)
    with claim(copy):
        assert begin(copy, tasks) == []
        finish(copy, tasks, listing, {"dataset": "painted", "metrics": read_manifest(copy)["metrics"]})
    assert (copy / "_manifest" / INDEX_FILE).read_bytes() == found
    assert read_manifest(copy) == read_manifest(shards)


def planned(images: Path, output: Path):
    """The plan of `plain_shards`, and what its reader found."""
    from bayes_pfl.datasets.catalogue import find, get_dataset
    from bayes_pfl.datasets.packing import PackingOptions, plan_shards
    from bayes_pfl.datasets.source import Source

    dataset = get_dataset("folder")
    listing = find(dataset, Source(images), splits=("test",))
    options = PackingOptions("painted", dataset.mask_above, None, 10**8)
    return plan_shards(images, output, options, listing.records, rows_per_shard=4, bytes_per_shard=10**9), listing


def test_a_byte_of_the_index_flipped_or_cut_off_is_noticed(shards, copy, opened, caplog):
    path = copy / "_manifest" / INDEX_FILE
    whole, expected = path.read_bytes(), [ref[1:8] for ref in index_shards(shards)]
    at = whole.index(b"carpet")
    for data in (whole[:at] + b"x" + whole[at + 1 :], whole[:-9], b""):
        path.write_bytes(data)
        opened.clear()
        assert [ref[1:8] for ref in index_shards(copy)] == expected
        assert len(opened) == len(shard_paths(copy))
        assert "has a damaged index" in caplog.messages[-1]
        assert compare_with_shards(copy) == ["the folder has a damaged index"]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_shards_copied_without_their_manifest_or_index_are_read(shards, copy, caplog, scheme, monkeypatch, tmp_path):
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path / "cache"))
    expected = [ref[2:8] for ref in index_shards(shards)]
    (copy / "_manifest" / INDEX_FILE).unlink()
    assert [ref[2:8] for ref in index_shards(f"{scheme}{copy}")] == expected
    shutil.rmtree(copy / "_manifest")
    assert [ref[2:8] for ref in index_shards(f"{scheme}{copy}")] == expected
    assert [message.split(";")[0] for message in caplog.messages] == [f"{scheme}{copy} has no index"] * 2


class BusyFileSystem(LocalFileSystem):
    """A store that lists files and does not hand out the manifest."""

    protocol = "busy"

    def cat_file(self, path, *args, **kwargs):
        raise TimeoutError("no answer")


fsspec.register_implementation("busy", BusyFileSystem, clobber=True)


def test_a_store_that_does_not_answer_is_no_reason_to_read_all_shards(shards, opened):
    with pytest.raises(DataError, match=r"manifest\.json cannot be read \(no answer\)"):
        index_shards(f"busy://{shards}")
    assert opened == []


def test_deleted_shards_are_noticed(copy, caplog, capsys):
    first, *others = shard_paths(copy)
    first.unlink()
    refs = index_shards(copy)
    assert {Path(ref.shard).name for ref in refs} == {path.name for path in others}
    assert "has an index of other shards" in caplog.messages[-1]
    assert verify("--shards", copy) == 1
    assert "shard-00000.arrow is missing" in capsys.readouterr().out
    for path in others:
        path.unlink()
    with pytest.raises(DataError, match="holds no shards"):
        index_shards(copy)


def test_a_replaced_shard_is_noticed(copy, caplog, capsys):
    path = shard_paths(copy)[1]
    rewritten(path, lambda row: row | {"class_name": "xxxx"[: len(row["class_name"])]})
    assert "xxxx" in {ref.class_name for ref in index_shards(copy)}
    assert "has an index of other shards" in caplog.messages[-1]
    assert verify("--shards", copy) == 1
    assert "shard-00001.arrow is not the one that was ingested" in capsys.readouterr().out
    assert verify("--shards", f"file://{copy}", "--json") == 1


def test_another_image_in_an_indexed_row_is_refused_when_it_is_read(copy):
    refs = index_shards(copy)
    path = shard_paths(copy)[0]
    rewritten(path, lambda row: row | {"sha256": "0" * 64})
    with pytest.raises(DataError, match=r"shard-00000\.arrow has changed since its index was written or read"):
        load_samples(refs[:1], 32)


def test_a_copy_whose_files_have_the_times_of_copying_is_not_complained_about(shards, copy, opened, caplog):
    os.utime(copy / "_manifest" / INDEX_FILE, (0, 0))
    assert [ref[1:] for ref in index_shards(copy)] == [ref[1:] for ref in index_shards(shards)]
    assert len(opened) == len(shard_paths(copy))
    assert caplog.messages == []


def test_verify_agrees_with_what_an_ingest_wrote(shards, capsys):
    assert verify("--shards", shards) == 0
    assert capsys.readouterr().out == "complete: shards, manifest and index say the same\n"
    with pytest.raises(DataError, match="or verify --shards FOLDER"):
        verify()
