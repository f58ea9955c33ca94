"""Miniatures of data sets that are not among the paper's, as their owners publish them: right, or named."""

from pathlib import Path

import painted
import pytest

from bayes_pfl.errors import DataError
from pipelines.ingest import ingest
from pipelines.options.ingest import IngestConfig


def counts(tree: painted.Tree, **options: object) -> dict[str, tuple[int, int, int]]:
    """Normal training images, normal and anomalous test images of each category."""
    summary = ingest("folder", tree.root, tree.root.parent / "shards", IngestConfig.model_validate(options))
    none = {"normal": 0, "anomalous": 0}
    found = {name: (splits.get("train", none), splits["test"]) for name, splits in summary["counts"].items()}
    return {name: (train["normal"], test["normal"], test["anomalous"]) for name, (train, test) in found.items()}


@pytest.fixture
def tree(tmp_path: Path) -> painted.Tree:
    return painted.Tree(tmp_path / "published")


def test_goods_ad(tree: painted.Tree) -> None:
    for category in ("cigarette_box", "drink_bottle"):
        for name in ("train/good/000", "train/good/001", "test/good/000"):
            tree.image(f"{category}/{name}.jpg")
        for kind in ("opened", "surface_damage"):
            tree.image(f"{category}/test/{kind}/000.jpg")
            tree.mask(f"{category}/ground_truth/{kind}/000.png")
    assert counts(tree) == {"cigarette_box": (2, 1, 2), "drink_bottle": (2, 1, 2)}


def test_mpdd(tree: painted.Tree) -> None:
    for category in ("bracket_black", "tubes"):
        for name in ("train/good/000", "test/good/000", "test/hole/000", "test/scratches/000"):
            tree.image(f"{category}/{name}.png")
        for kind in ("hole", "scratches"):
            tree.mask(f"{category}/ground_truth/{kind}/000_mask.png")
    assert counts(tree) == {"bracket_black": (1, 1, 2), "tubes": (1, 1, 2)}


def test_mvtec_ad_2(tree: painted.Tree) -> None:
    for category in ("can", "vial"):
        for folder in ("train/good", "validation/good", "test_public/good", "test_public/bad", "test_private"):
            tree.image(f"{category}/{folder}/000_regular.png")
        tree.image(f"{category}/test_private_mixed/000_mixed.png")
        tree.mask(f"{category}/test_public/ground_truth/bad/000_regular_mask.png")
    with pytest.raises(DataError, match="--split validation=none"):
        counts(tree)
    assert counts(tree, split_names={"validation": "none"}) == {"can": (1, 1, 1), "vial": (1, 1, 1)}


def test_validation_images_of_mvtec_ad_2_can_be_trained_on(tree: painted.Tree) -> None:
    for name in ("train/good/000", "validation/good/000", "test_public/good/000", "test_public/bad/000"):
        tree.image(f"can/{name}_regular.png")
    tree.mask("can/test_public/ground_truth/bad/000_regular_mask.png")
    assert counts(tree, split_names={"validation": "train"}) == {"can": (2, 1, 1)}


def test_real_iad(tree: painted.Tree) -> None:
    for category in ("audiojack", "bottle_cap"):
        for view in (1, 2):
            tree.image(f"{category}/OK/S0001/{category}_0001_OK_C{view}_2023.jpg")
            for kind in ("BX", "HS"):
                name = f"{category}/NG/{kind}/S0001/{category}_0001_NG_{kind}_C{view}_2023"
                tree.image(f"{name}.jpg")
                tree.mask(f"{name}.png")
    assert counts(tree) == {"audiojack": (0, 2, 4), "bottle_cap": (0, 2, 4)}


def test_kaputt_is_named_and_a_table_takes_it(tree: painted.Tree) -> None:
    for split in ("train", "test"):
        for number in (1, 2):
            tree.image(f"images/{split}/query-image/{number}.jpg")
            tree.image(f"images/{split}/query-crop/{number}.jpg")
            tree.mask(f"images/{split}/query-mask/{number}.png")
    with pytest.raises(DataError, match=r"images/test/query-crop/.*would become kinds of defects.*--normal"):
        counts(tree)
    lines = [f"images/test/query-image/{number}.jpg,{number - 1},test,item\n" for number in (1, 2)]
    tree.write("list.csv", "".join(["path,label,split,category\n", *lines]).encode())
    assert counts(tree) == {"item": (0, 1, 1)}
