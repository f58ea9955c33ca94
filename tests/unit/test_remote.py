"""Files by path and URI: what is not there, what cannot be read and what leads out of a folder are told apart."""

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bayes_pfl.data.remote import Store, inside, local_copy
from bayes_pfl.errors import DamagedError, DataError


class SilentFileSystem(MemoryFileSystem):
    """A store that does not answer."""

    protocol = "silent"

    def cat_file(self, *args, **kwargs):
        raise TimeoutError("no answer")


class HostileFileSystem(MemoryFileSystem):
    """A store whose objects have names that lead out of a folder."""

    protocol = "hostile"
    names = ()

    def find(self, path, **kwargs):
        return [f"{path}/{name}" for name in self.names]

    def get_file(self, rpath, lpath, **kwargs):
        raise AssertionError(f"{rpath} was copied to {lpath}")


fsspec.register_implementation("silent", SilentFileSystem, clobber=True)
fsspec.register_implementation("hostile", HostileFileSystem, clobber=True)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_not_there_and_damaged_are_told_apart(tmp_path, scheme):
    store = Store(f"{scheme}{tmp_path}")
    assert store.read_json("x.json") is None
    assert store.read_json("below/x.json") is None
    (tmp_path / "x.json").write_text("null")
    assert store.read_json("x.json") is None
    for text in ("", '{"a": ', "[" * 100_000):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DamagedError, match=r"x\.json is damaged .*restore it from a copy, or delete it"):
            store.read_json("x.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DataError, match=r"folder\.json cannot be read"):
        store.read_json("folder.json")


def test_a_store_that_does_not_answer_is_not_an_empty_one():
    with pytest.raises(DataError, match=r"silent://bucket/run/x\.json cannot be read \(no answer\)"):
        Store("silent://bucket/run").read_json("x.json")


def test_the_empty_object_that_marks_a_folder_is_no_file(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="is no name inside a folder"):
        inside("")
    monkeypatch.setattr(HostileFileSystem, "names", ("", "inner/"))
    assert list(Store("hostile://bucket").download("run", tmp_path / "copy").iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", ".", "..", "C:\\x", "C:x", "\\x", "a\\..\\..\\x", "a\0b"])
def test_keys_never_leave_their_folder(tmp_path, monkeypatch, name):
    with pytest.raises(DataError, match="is no name inside a folder"):
        inside(name)
    monkeypatch.setattr(HostileFileSystem, "names", ("good", name))
    with pytest.raises(DataError, match="is no name inside a folder"):
        Store("hostile://bucket").download("run", tmp_path / "copy")
    assert not list((tmp_path / "copy").iterdir()), "nothing was copied"


def test_a_copy_lies_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "shard.arrow").write_bytes(b"content")
    copy = local_copy(f"file://{tmp_path}/shard.arrow")
    assert copy.read_bytes() == b"content"
    assert copy.is_relative_to(tmp_path / "cache")


def test_only_what_a_program_wrote_is_cleared(tmp_path):
    for name in ("trials/1/result.json", "notes/mine.txt", "sweep.json"):
        (tmp_path / "sweep" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sweep" / name).write_text("{}")
    Store(tmp_path / "sweep").clear("trials", "*.json")
    assert [path.name for path in (tmp_path / "sweep").rglob("*")] == ["notes", "mine.txt"]
    Store(tmp_path / "nowhere").clear("*")
