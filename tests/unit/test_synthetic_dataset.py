"""Generated folders: MVTec's layout, exact masks on disk, all or nothing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bayes_pfl.errors import DataError, OutputError
from bayes_pfl.synthetic import write_dataset
from bayes_pfl.synthetic.splits import HELD_OUT_KINDS


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


def test_layout_and_counts(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    written = write_dataset(folder, ["hex nut", "paper"], 3, 40, 48, 7)
    files = _files(folder)
    images = [name for name in files if "ground_truth" not in name]
    masks = [name for name in files if "ground_truth" in name]
    assert written == len(images) == 2 * (3 + 3 + 40)
    assert len(masks) == 80
    assert "hex_nut/train/good/000.png" in files
    for name in masks:
        category, _, kind, file = name.split("/")
        assert f"{category}/test/{kind}/{file.replace('_mask', '')}" in files
        mask = np.asarray(Image.open(folder / name))
        assert mask.shape == (48, 48)
        assert set(np.unique(mask)) == {0, 255}


def test_same_seed_same_bytes_and_another_seed_other_images(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_dataset(tmp_path / name, ["screw"], 2, 4, 32, seed)
    first, second, third = (_files(tmp_path / name) for name in "abc")
    assert first == second
    assert not set(first.values()) & set(third.values())


def test_no_image_appears_twice(tmp_path: Path) -> None:
    write_dataset(tmp_path / "images", ["screw", "paper"], 5, 10, 32, 1)
    images = [data for name, data in _files(tmp_path / "images").items() if "ground_truth" not in name]
    assert len(set(images)) == len(images)


def test_kinds_kept_for_reporting_appear_on_held_out_categories_only(tmp_path: Path) -> None:
    write_dataset(tmp_path / "images", ["paper", "brick wall"], 1, 40, 32, 1)
    seen = {
        name: {p.name.replace("_", " ") for p in (tmp_path / "images" / name / "test").iterdir()}
        for name in ("paper", "brick_wall")
    }
    assert not seen["paper"] & set(HELD_OUT_KINDS)
    assert seen["brick_wall"] >= set(HELD_OUT_KINDS)


def test_chosen_kinds_only(tmp_path: Path) -> None:
    write_dataset(tmp_path / "images", ["paper"], 1, 4, 32, 1, kinds=("scratch", "stain"))
    assert {p.name for p in (tmp_path / "images/paper/test").iterdir()} == {"good", "scratch", "stain"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["unicorn"], 1, 1, 64, 0), "no synthetic category 'unicorn'"),
        ((["paper"], 0, 1, 64, 0), "at least one normal"),
        ((["paper"], 1, -1, 64, 0), "at least one normal"),
        ((["paper"], 1, 1, 8, 0), "too small"),
        ((["skin"], 1, 1, 64, 0, ("tear",)), "None of the kinds"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write_dataset(tmp_path / "images", *arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "images", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match="Cannot write"):
            write_dataset(folder, ["paper"], 1, 1, 64, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    def take_its_place(images: int) -> None:
        (tmp_path / "images").write_text("somebody else's")

    with pytest.raises(OutputError, match="Cannot write"):
        write_dataset(tmp_path / "images", ["paper"], 1, 0, 64, 0, written=take_its_place)
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        write_dataset(tmp_path, ["paper"], 1, 1, 64, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]
