"""The one walk: what is an image, what is left out and why."""

import os
import unicodedata
from pathlib import Path

import pytest

from bayes_pfl.data.walk import (
    FolderListing,
    SkippedFile,
    composed,
    counts_by_reason,
    is_image,
    list_files,
    list_images,
    select_images,
    skipped_summary,
)
from bayes_pfl.errors import DataError


def make(folder: Path, *paths: str) -> None:
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")


def reasons(listing: FolderListing) -> dict[str, str]:
    return dict(listing.skipped)


@pytest.mark.parametrize("name", ["a.PNG", "a.jfif", "a.jpe", "a.mpo", "a.dcm", "x/y.TIFF", "s3://bucket/a.webp"])
def test_endings_of_images(name: str) -> None:
    assert is_image(name)


def test_everything_is_taken_or_skipped_with_a_reason(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.jfif", "c.GIF", "d.nii.gz", "e.heic", "e/f.heic", "notes.txt", "x/y/z.jpe")
    listing = list_images(tmp_path)
    assert listing.files == ("a.png", "b.jfif", "x/y/z.jpe")
    assert reasons(listing) == {
        "c.GIF": ".gif is not read; save it as PNG",
        "d.nii.gz": ".nii.gz is not read; save its slices as PNG",
        "e.heic": ".heic is not read; save it as PNG",
        "e/f.heic": ".heic is not read; save it as PNG",
        "notes.txt": "no image",
    }
    assert skipped_summary(listing.skipped)[-1] == "4 files are not read: 2 .heic, 1 .gif, 1 .nii.gz; save them as PNG"
    assert "notes.txt: no image" in skipped_summary(listing.skipped)
    assert counts_by_reason(listing.skipped)["no image"] == 1


def test_junk_is_never_an_image(tmp_path: Path) -> None:
    make(
        tmp_path,
        *("x.png", "._x.png", "__MACOSX/._x.png", ".thumbnails/normal/t.png", ".Trash-1000/files/old.png"),
        *(".ipynb_checkpoints/x-checkpoint.png", "@eaDir/x.png/SYNOPHOTO_THUMB_M.jpg", "lost+found/y.png"),
        *("Thumbs.db", "shard-00000.arrow", "_manifest/manifest.json"),
    )
    listing = list_images(tmp_path)
    assert listing.files == ("x.png",)
    assert len(listing.skipped) == 10


def test_own_results_are_no_input(tmp_path: Path) -> None:
    results = ("_manifest/shards/part-000000.arrow", "maps/000000-a.png", "gallery.html", "scores.arrow")
    make(tmp_path, "a.png", "maps/b.png", *(f"results/{name}" for name in results))
    make(tmp_path, "run/report.html", "run/heat-0.png", "run/part.png")
    listing = list_images(tmp_path)
    assert listing.files == ("a.png", "maps/b.png", "run/part.png")
    assert reasons(listing)["results/maps/000000-a.png"] == "results of an earlier run"
    make(tmp_path, *results)  # the input's own folder is the output
    assert list_images(tmp_path).files == ("a.png", "run/part.png")


def test_linked_folders_are_followed_once_and_named_the_second_time(tmp_path: Path) -> None:
    make(tmp_path / "data", "good/0.png")
    make(tmp_path / "in", "a/1.png", "z/2.png")
    (tmp_path / "in/a/good").symlink_to("../../data/good")
    (tmp_path / "in/b").symlink_to("../data/good")
    (tmp_path / "in/first").symlink_to("z")  # a link to a folder that is inside anyway
    (tmp_path / "in/z/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/file.png").symlink_to("../data/good/0.png")
    listing = list_images(tmp_path / "in")
    assert listing.files == ("a/1.png", "a/good/0.png", "file.png", "z/2.png")
    assert reasons(listing) == {
        "b/": "a link to a folder that is read already, as a/good",
        "first/": "a link to a folder that is read already, as z",
        "z/up/": "a link to a folder that is read already",
    }


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "self.png").symlink_to("self.png")
    os.mkfifo(tmp_path / "pipe.png")
    listing = list_images(tmp_path)
    assert listing.files == ("a.png",)
    assert reasons(listing) == {
        "gone.png": "cannot be read: No such file or directory",
        "pipe.png": "is no regular file",
        "self.png": "cannot be read: Too many levels of symbolic links",
    }


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^Cannot read .*nowhere: No such file"):
        list_files(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_locked_folder_is_named(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "locked/b.png", ".Trash-0/c.png")
    for folder in ("locked", ".Trash-0"):
        (tmp_path / folder).chmod(0)
    try:
        with pytest.raises(DataError, match=r"^Cannot read .*/locked: Permission denied\.$"):
            list_images(tmp_path)
        (tmp_path / "locked").chmod(0o700)
        assert list_images(tmp_path).files == ("a.png", "locked/b.png")  # junk may stay locked
    finally:
        for folder in ("locked", ".Trash-0"):
            (tmp_path / folder).chmod(0o700)


def test_uris_are_selected_by_the_same_names() -> None:
    images, skipped = select_images(["s3://b/x/a.JPG", "s3://b/x/._a.jpg", "s3://b/x/b.csv"])
    assert images == ("s3://b/x/a.JPG",)
    assert skipped == (SkippedFile("s3://b/x/._a.jpg", "hidden file"), SkippedFile("s3://b/x/b.csv", "no image"))


def test_names_are_compared_in_composed_unicode() -> None:
    assert composed(unicodedata.normalize("NFD", "Prüfung/Maß.png")) == "Prüfung/Maß.png"
