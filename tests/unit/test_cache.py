"""Copies of remote files: a limit, oldest out first, several processes at once, and nothing else is touched."""

import errno
import multiprocessing
import os
import time
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bayes_pfl.data import cache
from bayes_pfl.data.remote import local_copy
from bayes_pfl.errors import ConfigError, DataError, OutputError

MB = 10**6


class FullDiskFileSystem(MemoryFileSystem):
    """A store whose files meet a full disk where they are copied to."""

    protocol = "full"

    def info(self, path, **kwargs):
        return {"name": path, "size": 10, "type": "file"}

    def get_file(self, rpath, lpath, **kwargs):
        Path(lpath).write_bytes(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")


fsspec.register_implementation("full", FullDiskFileSystem, clobber=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The cache, limited to 3.5 MB."""
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BAYES_PFL_CACHE_GB", "0.0035")
    return tmp_path / "cache" / "copies"


def remote(tmp_path: Path, name: str, size_bytes: int = MB) -> str:
    """A file by URI."""
    path = tmp_path / "store" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(name.encode().ljust(size_bytes))
    return f"file://{path}"


def last_used(path: Path, seconds_ago: float) -> Path:
    os.utime(path, (time.time() - seconds_ago,) * 2)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in folder.iterdir())


def test_the_longest_unused_copies_make_room(tmp_path, folder):
    uris = {name: remote(tmp_path, name) for name in "abcde"}
    for age, name in enumerate("abc"):
        last_used(local_copy(uris[name]), 100 - age)
    local_copy(uris["a"])  # is used once more
    assert local_copy(uris["d"]).read_bytes().strip() == b"d"
    assert names(folder) == ["a", "c", "d"]
    assert local_copy(uris["b"]).read_bytes().strip() == b"b"
    assert names(folder) == ["a", "b", "d"]


def test_a_mapped_copy_stays(tmp_path, folder):
    oldest = last_used(local_copy(remote(tmp_path, "a")), 300)
    last_used(local_copy(remote(tmp_path, "b")), 200)
    last_used(local_copy(remote(tmp_path, "c")), 100)
    with pa.memory_map(str(oldest)) as source:
        content = source.read_buffer()
    local_copy(remote(tmp_path, "d"))
    assert names(folder) == ["a", "c", "d"]
    assert content.to_pybytes().strip() == b"a"


def test_where_all_is_being_read_it_is_said_in_a_sentence(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(cache, "PATIENCE_S", 0.0)
    for name in "abc":
        local_copy(remote(tmp_path, name))
    with pytest.raises(OutputError, match=r"No room in .* for a copy of 1 MB: .* Set BAYES_PFL_CACHE_GB to more"):
        local_copy(remote(tmp_path, "d"))
    assert names(folder) == ["a", "b", "c"]
    with pytest.raises(OutputError, match="for a copy of 4 MB"):
        local_copy(remote(tmp_path, "larger", 4 * MB))


@pytest.mark.parametrize("value", ["much", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_refused(tmp_path, folder, monkeypatch, value):
    monkeypatch.setenv("BAYES_PFL_CACHE_GB", value)
    with pytest.raises(ConfigError, match=f"BAYES_PFL_CACHE_GB is '{value}': give a number of gigabytes"):
        local_copy(remote(tmp_path, "a"))


def test_nothing_that_is_not_its_own_is_removed(tmp_path, folder):
    folder.mkdir(parents=True)
    mine = {"thesis.txt": MB, "shard-00000.arrow": MB, ".notes.part": MB}
    for name, size_bytes in mine.items():
        last_used((folder / name).absolute(), 9999) if (folder / name).write_bytes(b"x" * size_bytes) else None
    (folder / ("0" * 24 + "-linked")).symlink_to(folder / "thesis.txt")
    for name in "abcdef":
        last_used(local_copy(remote(tmp_path, name)), 100)
    assert {path.name for path in folder.iterdir()} >= {*mine, "0" * 24 + "-linked"}
    assert len(list(folder.glob("*-[a-f]"))) == 3


def test_what_a_killed_process_left_is_cleared(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(cache, "PATIENCE_S", 0.0)
    folder.mkdir(parents=True)
    claim, part = folder / f".{'1' * 24}.claim", folder / f".{'1' * 24}-a.123-abc.part"
    claim.write_bytes(b"")
    os.truncate(claim, 10 * MB)  # as much as it had reserved
    last_used(part, 2 * cache.ABANDONED_S) if part.write_bytes(b"x") else None
    local_copy(remote(tmp_path, "a"))
    assert names(folder) == ["a"]


def test_a_full_disk_is_a_sentence_and_leaves_nothing(folder):
    with pytest.raises(OutputError, match="No room left to write"):
        local_copy("full://bucket/shard")
    assert list(folder.iterdir()) == []


def test_too_little_room_on_the_disk_is_a_sentence(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(cache, "PATIENCE_S", 0.0)
    monkeypatch.setattr(cache, "SPARE_BYTES", 2**60)
    with pytest.raises(OutputError, match="or BAYES_PFL_CACHE to a folder on a larger disk"):
        local_copy(remote(tmp_path, "a"))


def test_a_file_that_is_gone_cannot_be_read(tmp_path, folder):
    with pytest.raises(DataError, match="gone cannot be read"):
        local_copy(f"file://{tmp_path}/gone")


def copy_slowly(log: Path) -> None:
    def fetch(target: Path) -> None:
        with log.open("a") as file:
            file.write("fetched\n")
        time.sleep(0.3)
        target.write_bytes(b"content")

    assert cache.cached("0" * 24, "a", 7, fetch).read_bytes() == b"content"


def test_what_several_processes_want_at_once_is_fetched_by_the_first(tmp_path, folder):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=copy_slowly, args=(tmp_path / "log",)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert (tmp_path / "log").read_text() == "fetched\n"


def read_all(uris: list[str], answers) -> None:
    for uri in uris:
        answers.put((uri[-1], local_copy(uri).read_bytes().strip() == uri[-1].encode()))


def test_several_processes_share_the_cache(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(cache, "JUST_USED_S", 0.2)
    uris = [remote(tmp_path, name) for name in "abcdef"]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    workers = [context.Process(target=read_all, args=(uris[turn:] + uris[:turn], answers)) for turn in (0, 2, 4)]
    for worker in workers:
        worker.start()
    results = [answers.get(timeout=60) for _ in range(18)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert all(whole for _, whole in results)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3.5 * MB
    assert all(cache.COPY.fullmatch(path.name) for path in folder.iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="a folder of another user is made by root")
def test_a_folder_of_another_user_is_not_used(tmp_path, monkeypatch):
    monkeypatch.delenv("BAYES_PFL_CACHE", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = cache.cache_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache.cache_folder() == folder
    os.chown(folder, 12345, 12345)
    with pytest.raises(OutputError, match="another user"):
        cache.cache_folder()
