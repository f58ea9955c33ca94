"""Bundles: replaced whole or not at all, read with a sentence whatever their files hold."""

import copy
import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small import random_bundle

from bayes_pfl.errors import BundleError
from bayes_pfl.inference.bundle import load_bundle, refuse_other_model, save_bundle, training_images
from bayes_pfl.inference.detector import Detector

OLD, NEW = ["a" * 64], ["b" * 64]
HOSTILE = [None, True, 0, -1, 1e308, "x", "\ud800", [], ["x"], {}, {"x": 1}]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_bundle(random_bundle(tmp_path_factory.mktemp("bundle") / "bundle"))


@pytest.fixture
def folder(loaded, tmp_path):
    """A copy of a bundle, to be damaged."""
    return Path(shutil.copytree(loaded.folder, tmp_path / "bundle"))


def save(loaded, folder, images):
    save_bundle(folder, loaded.config, loaded.weights, {"x": 1}, images)


def killed_at(step, action):
    """Whether a process that does `action` was killed before its `step`-th change of the disk; else it ended well."""
    child = os.fork()
    if not child:
        changes = iter(range(1000))

        def watch(event, arguments):
            writes = event == "open" and arguments[1] is not None and "w" in arguments[1]
            changes_disk = writes or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")
            if changes_disk and next(changes) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_moment_leaves_the_old_bundle_or_the_new_one(loaded, tmp_path):
    steps, seen = 0, set()
    while True:
        folder = tmp_path / str(steps) / "bundle"
        save(loaded, folder, OLD)
        (folder / "notes.txt").write_text("mine")
        killed = killed_at(steps, lambda folder=folder: save(loaded, folder, NEW))
        images = sorted(training_images(load_bundle(folder)))
        assert images in (OLD, NEW)
        seen.add(images[0])
        if not killed:
            break
        save(loaded, folder, NEW)  # leftovers of the kill do not matter
        assert sorted(training_images(load_bundle(folder))) == NEW
        assert [path.read_text() for path in folder.parent.rglob("notes.txt")] == ["mine"]
        assert (folder / "notes.txt").is_file()
        steps += 1
    assert steps > 8, "every file, both renamings and the deletions"
    assert seen == {OLD[0], NEW[0]}
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"], "without a kill nothing is left"


@pytest.mark.parametrize("text", ["", "{}", '{"modules": []}', "[" * 100_000, "not json"])
def test_a_folder_with_somebody_elses_bundle_json_is_refused(loaded, tmp_path, text):
    (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match="holds something that is no bundle"):
        save(loaded, tmp_path, NEW)
    assert (tmp_path / "bundle.json").read_text() == text


def test_a_file_in_the_way_is_refused(loaded, tmp_path):
    (tmp_path / "bundle").write_text("mine")
    with pytest.raises(BundleError, match="holds something that is no bundle"):
        save(loaded, tmp_path / "bundle", NEW)
    with pytest.raises(BundleError, match="Cannot write the bundle"):
        save(loaded, tmp_path / "bundle" / "below", NEW)


def test_a_link_to_a_folder_stays_one(loaded, tmp_path):
    save(loaded, tmp_path / "real", OLD)
    (tmp_path / "link").symlink_to("real")
    save(loaded, tmp_path / "link", NEW)
    assert (tmp_path / "link").is_symlink()
    assert sorted(training_images(load_bundle(tmp_path / "real"))) == NEW


def paths_of(value, path=()):
    """The path of every key of nested mappings."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from paths_of(inner, (*path, key))


def test_a_damaged_record_is_a_sentence_or_harmless(folder):
    record = json.loads((folder / "bundle.json").read_text())
    sentences = []
    for path in paths_of(record):
        for value in (..., *HOSTILE):
            changed = copy.deepcopy(record)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            if value is ...:
                del parent[path[-1]]
            else:
                parent[path[-1]] = value
            (folder / "bundle.json").write_text(json.dumps(changed))
            try:
                training_images(load_bundle(folder))
            except BundleError as error:
                sentences.append(str(error))
    assert len(sentences) > 300
    bad = [sentence for sentence in sentences if not sentence.endswith(".") or len(sentence) >= 600]
    assert not bad


@pytest.mark.parametrize("key", ["format", "config", "head_sha256", "training_images_sha256", "training"])
def test_a_missing_key_is_named(folder, key):
    record = json.loads((folder / "bundle.json").read_text())
    del record[key]
    (folder / "bundle.json").write_text(json.dumps(record))
    with pytest.raises(BundleError, match=key):
        load_bundle(folder)


@pytest.mark.parametrize("text", ["", "null", "[]", '"x"', "1" * 5000, "[" * 100_000, '{"a":' * 100_000, "\x00\xff"])
def test_no_json_of_ours_is_no_bundle(folder, text):
    (folder / "bundle.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError):
        load_bundle(folder)


def with_head(folder, weights):
    head = safetensors.torch.save(weights)
    record = json.loads((folder / "bundle.json").read_text()) | {"head_sha256": hashlib.sha256(head).hexdigest()}
    (folder / "head.safetensors").write_bytes(head)
    (folder / "bundle.json").write_text(json.dumps(record))


def test_a_head_of_another_form_is_a_bundle_error(loaded, folder):
    name = next(iter(loaded.weights))
    for weights in (
        {},
        {other: tensor for other, tensor in loaded.weights.items() if other != name},
        loaded.weights | {"other": torch.zeros(1)},
        loaded.weights | {name: torch.zeros(1, 2, 3)},
    ):
        with_head(folder, weights)
        with pytest.raises(BundleError):
            Detector.load(folder)


def test_another_model_is_not_replaced_and_the_same_is(loaded, folder):
    refuse_other_model(folder, loaded.config, loaded.weights)
    refuse_other_model(folder.with_name("new"), loaded.config, loaded.weights)
    other = {name: value + 1 for name, value in loaded.weights.items()}
    with pytest.raises(BundleError, match="holds another model"):
        refuse_other_model(folder, loaded.config, other)
