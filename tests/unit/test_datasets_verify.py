"""verify names what is missing, extra, doubled or unusable."""

from pathlib import Path

import painted
import pytest

from bayes_pfl.datasets.catalogue import find
from bayes_pfl.datasets.description import Category, Counts, Dataset
from bayes_pfl.datasets.folders import FolderLayout, FolderTemplate
from bayes_pfl.datasets.source import Source
from bayes_pfl.datasets.verify import CountDifference, Verdict, verify

TOY = Dataset(
    name="toy",
    title="Toy",
    categories=(Category("cup", "cup", Counts(test_normal=4, test_anomalous=3, train_normal=2)),),
    published=(FolderLayout((FolderTemplate("{category}/{split}/{kind}/", "{category}/ground_truth/{kind}/"),)),),
)


@pytest.fixture
def tree(tmp_path: Path) -> painted.Tree:
    """Everything that TOY has."""
    tree = painted.Tree(tmp_path, "cup", "cup")
    for number in range(4):
        tree.good(f"cup/test/good/00{number}.png")
    for number in range(3):
        tree.bad(f"cup/test/chip/00{number}.png", f"cup/ground_truth/chip/00{number}_mask.png", "chip")
    for number in range(2):
        tree.good(f"cup/train/good/00{number}.png", "train")
    return tree


def judge(tree: painted.Tree) -> Verdict:
    return verify(TOY, tree.root, find(TOY, Source(tree.root)), "complete")


def test_a_whole_folder_is_complete(tree: painted.Tree) -> None:
    tree.stray("cup/license.txt")
    verdict = judge(tree)
    assert verdict.complete
    assert verdict.images == 9
    assert verdict[1:6] == ((), (), (), (), ())
    assert [path for path, _ in verdict.ignored] == ["cup/license.txt"]


def test_missing_files_are_counted_and_named_where_names_tell(tree: painted.Tree) -> None:
    (tree.root / "cup/test/good/001.png").unlink()
    (tree.root / "cup/ground_truth/chip/002_mask.png").unlink()
    verdict = judge(tree)
    assert verdict.differences == (
        CountDifference("cup", "test, normal", 4, 3),
        CountDifference("cup", "test, anomalous", 3, 2),
    )
    assert dict(verdict.missing) == {
        "cup/test/chip/002.png": "is defective and has no mask",
        "cup/test/good/001.png": "a gap in the numbering",
    }
    assert not verdict.complete


def test_numbers_that_do_not_count_the_files_have_no_gaps(tree: painted.Tree) -> None:
    (tree.root / "cup/test/good/001.png").unlink()
    (tree.root / "cup/test/good/003.png").rename(tree.root / "cup/test/good/20240131120000.png")
    verdict = judge(tree)
    assert verdict.differences == (CountDifference("cup", "test, normal", 4, 3),)
    assert verdict.missing == ()


def test_extra_and_doubled_files_are_named(tree: painted.Tree) -> None:
    whole = (tree.root / "cup/test/good/003.png").read_bytes()
    tree.write("cup/test/good/003(1).png", whole)
    tree.stray("saucer/test/good/000.png")
    verdict = judge(tree)
    assert dict(verdict.extra) == {
        "cup/test/good/003(1).png": "named unlike its neighbours",
        "saucer/test/good/000.png": "not part of the layout",
    }
    assert verdict.doubled == (("cup/test/good/003(1).png", "cup/test/good/003.png"),)
    assert verdict.differences == (CountDifference("cup", "test, normal", 4, 5),)


def test_unusable_files_are_named_with_the_reason(tree: painted.Tree) -> None:
    tree.write("cup/train/good/000.png", b"nothing")
    tree.write("cup/ground_truth/chip/000_mask.png", painted.encoded(painted.blob(size=(9, 9)), ".png"))
    verdict = judge(tree)
    reasons = dict(verdict.unusable)
    assert reasons["cup/test/chip/000.png"] == "its mask is 9 x 9, the image 24 x 16"
    assert "not a readable image" in reasons["cup/train/good/000.png"]
    assert not verdict.complete
