"""Folders as people name them: which images are normal, which is whose mask, and what is said where no name tells."""

import unicodedata
from pathlib import Path, PurePosixPath

import painted
import pytest

from bayes_pfl.datasets.catalogue import find
from bayes_pfl.datasets.names import NameChoices
from bayes_pfl.datasets.own import own_images
from bayes_pfl.datasets.source import DatasetListing, Source
from bayes_pfl.errors import ConfigError, DataError

MASK_WORDS = ("mask", "gt", "ground", "truth", "label", "seg", "annot")


def paint(root: Path, *paths: str) -> None:
    """Files at these paths; those that are called like masks hold one."""
    tree = painted.Tree(root)
    for path in paths:
        if PurePosixPath(path).suffix.lower() not in painted.FORMATS:
            tree.write(path, b"text")
        elif any(word in path.lower() for word in MASK_WORDS):
            tree.mask(path)
        else:
            tree.image(path)


def read(
    root: Path,
    normal: tuple[str, ...] = (),
    anomalous: tuple[str, ...] = (),
    splits: dict[str, str] | None = None,
    label_from_masks: bool = False,
) -> DatasetListing:
    choices = NameChoices(frozenset(normal), frozenset(anomalous), splits or {})
    return find(own_images(choices, label_from_masks), Source(root))


def kinds(listing: DatasetListing) -> dict[str, str]:
    """``category split defect`` by image."""
    return {record.image: f"{record.category} {record.split} {record.defect}" for record in listing.records}


def masks(listing: DatasetListing) -> dict[str, tuple[str, ...]]:
    return {record.image: record.masks for record in listing.records if record.masks}


@pytest.mark.parametrize(
    ("normal", "anomalous"),
    [
        *(("OK", "NG"), ("normal", "abnormal"), ("pass", "fail"), ("healthy", "lesion"), ("0", "1"), ("no", "yes")),
        *(("non-defective", "defective"), ("Good", "Bad"), ("Negative", "Positive"), ("Non-cracked", "Cracked")),
        *(("no_crack", "crack"), ("undamaged", "damaged"), ("NoTumor", "glioma"), ("ok_front", "def_front")),
        *(("good_parts", "bad_parts"), ("accepted", "rejected"), ("iO", "niO"), ("defect-free", "scratch")),
        *(("good images", "defect images"), ("benign", "malignant"), ("clean", "dirty"), ("false", "true")),
    ],
)
@pytest.mark.parametrize(
    "form", ["{}/1.png", "cup/{}/1.png", "cup/images/{}/1.png", "test/{}/1.png", "cup/test/{}/1.png"]
)
def test_names_of_normal_and_anomalous_folders(normal: str, anomalous: str, form: str, tmp_path: Path) -> None:
    paint(tmp_path / "cup", form.format(normal), form.format(anomalous))
    labels = {record.image: record.label for record in read(tmp_path / "cup").records}
    assert labels == {form.format(normal): 0, form.format(anomalous): 1}
    assert {record.category for record in read(tmp_path / "cup").records} == {"cup"}


def test_kinds_of_defects_beside_a_normal_folder(tmp_path: Path) -> None:
    paint(tmp_path, "bottle/good/1.png", "bottle/scratch/1.png", "bottle/flash/1.png")
    assert kinds(read(tmp_path)) == {
        "bottle/good/1.png": "bottle test good",
        "bottle/scratch/1.png": "bottle test scratch",
        "bottle/flash/1.png": "bottle test flash",
    }


def test_kinds_inside_a_folder_of_defects(tmp_path: Path) -> None:
    paint(tmp_path / "s", "NG/BX/S0001/a.jpg", "NG/HS/S0001/a.jpg", "OK/S0002/a.jpg")
    assert kinds(read(tmp_path / "s")) == {
        "NG/BX/S0001/a.jpg": "s test BX",
        "NG/HS/S0001/a.jpg": "s test HS",
        "OK/S0002/a.jpg": "s test good",
    }


def test_products_inside_normal_and_anomalous(tmp_path: Path) -> None:
    paint(tmp_path, "good/cup/1.png", "good/plate/1.png", "bad/cup/1.png", "bad/plate/1.png")
    assert {record.category for record in read(tmp_path).records} == {"cup", "plate"}


def test_one_name_of_a_category_in_two_places(tmp_path: Path) -> None:
    paint(tmp_path, "line1/cup/good/1.png", "line1/cup/bad/1.png", "line2/cup/good/1.png", "line2/cup/bad/1.png")
    assert {(record.category, record.class_name) for record in read(tmp_path).records} == {
        ("line1_cup", "cup"),
        ("line2_cup", "cup"),
    }


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("a.png",), r"\./ \(1 image\)\. Name the folders: --normal NAME and --anomalous NAME"),
        (("bottle/1.png", "cable/1.png", "cable/2.png"), r"cable/ \(2 images\), bottle/ \(1 image\)\."),
        (("0/1.png", "1/1.png", "2/1.png"), "0/ .*1/ .*2/"),
        (("train/base/1.png", "test/base/1.png", "test/crack/1.png"), r"train/base/ would become kinds.*--normal base"),
        (("train/good/1.png", "test/good/1.png", "val/bad/1.png"), r"val/ .*--split val=train.*--split val=none"),
        (
            ("train/good/1.png", "test/bad/1.png", "more/good/1.png"),
            r"more/ stands beside test/, train/ and would become a",
        ),
        (("trainA/good/1.png", "testB/bad/1.png"), r"testB/ has the name of a split in it.*--split testB=train"),
        (("images/1.png", "masks/1.png"), r"images/ \(1 image\).*there are masks \(1\), --label-from-masks"),
        (("a.zip", "b.txt"), r"a\.zip is an archive: unpack it"),
        (("masks/1.png", "masks/2.png"), r"All 2 images .* lie in folders whose name means masks"),
    ],
)
def test_what_no_name_tells_is_an_error_that_names_the_folder(
    paths: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    paint(tmp_path, *paths)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_the_user_says_what_folders_are(tmp_path: Path) -> None:
    paint(tmp_path / "s", "train/base/1.png", "test/base/1.png", "test/odd/1.png", "x/2.png", "docs/3.png")
    listing = read(tmp_path / "s", normal=("Base", "x"))
    assert {record.image: record.label for record in listing.records} == {
        "test/base/1.png": 0,
        "test/odd/1.png": 1,
        "train/base/1.png": 0,
        "x/2.png": 0,
    }
    assert read(tmp_path / "s", normal=("base", "x"), anomalous=("docs",)).records[0].defect == "docs"
    one = read(tmp_path / "s", normal=("train/base",), anomalous=("test/base", "odd"))
    assert {record.image for record in one.records if record.label == 0} == {"train/base/1.png"}


def test_names_that_no_folder_has_are_named(tmp_path: Path) -> None:
    paint(tmp_path, "cup/good/1.png", "cup/bad/1.png")
    for choice in ({"normal": ("goood",)}, {"anomalous": ("cup/dent",)}, {"splits": {"val": "test"}}):
        with pytest.raises(ConfigError, match=r"^There is no folder .* There are: bad, cup, good\.$"):
            read(tmp_path, **choice)


def test_images_in_the_source_itself_can_be_normal(tmp_path: Path) -> None:
    paint(tmp_path / "s", "1.png", "NG/1.png")
    assert kinds(read(tmp_path / "s", normal=(".",))) == {"1.png": "s test good", "NG/1.png": "s test NG"}


def test_a_folder_beside_good_and_bad_is_named(tmp_path: Path) -> None:
    paint(tmp_path, "good/1.png", "bad/1.png", "notes/1.png")
    ((path, reason),) = read(tmp_path).ignored
    assert path == "notes/1.png"
    assert "notes/: stands beside bad/, good/" in reason
    assert "--anomalous notes" in reason


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("train", "valid"),
        ("trainset", "test_public"),
        ("train", "validation"),
        ("TRAIN", "eval"),
    ],
)
def test_names_of_splits(train: str, test: str, tmp_path: Path) -> None:
    paint(tmp_path / "s", f"{train}/good/1.png", f"{test}/good/1.png", f"{test}/bad/1.png")
    assert {record.image.split("/")[0]: record.split for record in read(tmp_path / "s").records} == {
        train: "train",
        test: "test",
    }
    assert {record.category for record in read(tmp_path / "s").records} == {"s"}


@pytest.mark.parametrize(("split", "images"), [("train", 1), ("test", 3), ("none", 0)])
def test_a_validation_folder_is_what_the_user_says(split: str, images: int, tmp_path: Path) -> None:
    paint(tmp_path, "c/train/good/1.png", "c/validation/good/1.png", "c/test/good/1.png", "c/test/bad/1.png")
    listing = read(tmp_path, splits={"validation": split})
    of_it = [record for record in listing.records if "validation" in record.image]
    assert [record.split for record in of_it] == ([split] if split != "none" else [])
    assert len(listing.ignored) == (split == "none")


MASKS = {
    "ground_truth/bad/1_mask.png": "bad/1.png",
    "masks/bad/1.png": "bad/1.png",
    "masks/1.png": "bad/1.png",
    "mask_dir/bad/1.png": "bad/1.png",
    "GT/bad/1.png": "bad/1.png",
    "groundtruth/1_gt.png": "bad/1.png",
    "label/bad/1.png": "bad/1.png",
    "labels/1_label.png": "bad/1.png",
    "annotations/bad/1.png": "bad/1.png",
    "Segmentation/bad/1_seg.png": "bad/1.png",
    "bad/masks/1.png": "bad/1.png",
    "bad/1_mask.png": "bad/1.png",
    "bad/1-mask.png": "bad/1.png",
    "bad/1_gt.png": "bad/1.png",
    "bad/1_label.png": "bad/1.png",
    "bad/1.mask.bmp": "bad/1.png",
    "bad_mask/1.png": "bad/1.png",
    "ground_truth/defect/1.png": "bad/1.png",
    "masks/mask_1.png": "bad/1.png",
    "bad/mask_1.png": "bad/1.png",
    "mask/mask01.png": "bad/image01.png",
    "cup/ground_truth/crack/1_mask.png": "cup/test/crack/1.png",
    "cup/test/ground_truth/crack/1_mask.png": "cup/test/crack/1.png",
    "cup/test/crack/masks/1.png": "cup/test/crack/1.png",
    "masks/test/crack/1.png": "images/test/crack/1.png",
    "test_masks/crack/1.png": "test_images/crack/1.png",
    "crack/masks/1.png": "crack/images/1.png",
}


@pytest.mark.parametrize(("mask", "image"), MASKS.items())
def test_masks_in_any_usual_place_are_masks_and_never_images(mask: str, image: str, tmp_path: Path) -> None:
    good = str(PurePosixPath(image).parent.parent / "good/g.png") if "images" not in image else "images/good/g.png"
    good = "good/images/g.png" if image.startswith("crack") else good
    paint(tmp_path / "s", image, mask, good)
    listing = read(tmp_path / "s")
    assert masks(listing) == {image: (mask,)}
    assert {record.image: record.label for record in listing.records} == {image: 1, good: 0}
    assert {record.category for record in listing.records} <= {"s", "cup", "crack"}


def test_all_masks_of_an_image_count(tmp_path: Path) -> None:
    paint(
        tmp_path,
        *("c/good/1.png", "c/bad/000.png", "c/bad/001.png", "c/bad/002.png"),
        *("c/ground_truth/bad/000/000.png", "c/ground_truth/bad/000/001.png"),
        *("c/ground_truth/bad/001_mask_1.png", "c/ground_truth/bad/001_mask_2.png"),
        *("c/ground_truth/bad/002_1.png", "c/ground_truth/bad/002_2.png"),
        *("c/bad/003.png", "c/bad/003_dent_mask.png", "c/bad/003_big_hole_mask.png"),
    )
    assert {image: len(paths) for image, paths in masks(read(tmp_path)).items()} == {
        "c/bad/000.png": 2,
        "c/bad/001.png": 2,
        "c/bad/002.png": 2,
        "c/bad/003.png": 2,
    }


def test_a_mask_that_could_be_of_two_images_is_of_neither(tmp_path: Path) -> None:
    paint(tmp_path, "c/test/good/1.png", "c/test/crack/1.png", "c/test/dent/1.png", "c/masks/1.png")
    listing = read(tmp_path)
    assert [record.label for record in listing.records] == [0]
    assert [reason.partition(" with ")[0] for _, reason in listing.set_aside] == ["shares its mask c/masks/1.png"] * 2


def test_masks_that_fit_no_image_are_named(tmp_path: Path) -> None:
    paint(tmp_path, "good/1.png", "bad/1.png", "masks/xy.png")
    listing = read(tmp_path)
    assert dict(listing.set_aside) == {"bad/1.png": "is defective and has no mask"}
    assert dict(listing.ignored) == {"masks/xy.png": "a mask without an image"}


def test_a_category_may_be_called_like_a_mask(tmp_path: Path) -> None:
    parts = ("train/good/000.png", "test/good/000.png", "test/bad/000.png", "ground_truth/bad/000_mask.png")
    paint(tmp_path, *(f"{name}/{part}" for name in ("label", "plate", "mask") for part in parts))
    listing = read(tmp_path)
    assert {record.category for record in listing.records} == {"label", "plate", "mask"}
    assert len(masks(listing)) == 3


def test_a_label_can_come_from_the_mask_where_the_user_says_so(tmp_path: Path) -> None:
    tree = painted.Tree(tmp_path / "s")
    for name in ("a", "b", "c"):
        tree.image(f"images/{name}.jpg")
    tree.mask("masks/a.png", 7)
    tree.mask("masks/b.png", 0)
    labels = {record.image: record.label for record in read(tree.root, label_from_masks=True).records}
    assert labels == {"images/a.jpg": 1, "images/b.jpg": 0, "images/c.jpg": 0}


def test_gray_twins_of_photographs_are_their_masks_and_coloured_ones_are_not(tmp_path: Path) -> None:
    tree = painted.Tree(tmp_path / "s")
    tree.image("p/OK/S1/a.jpg")
    tree.image("p/NG/BX/S2/a.jpg")
    tree.image("p/NG/BX/S2/b.jpg")  # a view that does not show the defect
    tree.mask("p/NG/BX/S2/a.png")
    listing = read(tree.root)
    assert masks(listing) == {"p/NG/BX/S2/a.jpg": ("p/NG/BX/S2/a.png",)}
    assert dict(listing.set_aside) == {"p/NG/BX/S2/b.jpg": "is defective and has no mask"}
    tree.image("p/NG/BX/S2/a.png")
    assert len(read(tree.root).records) == 4


def test_names_match_in_any_unicode_form(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Prüfling/schlecht/ü1.png")
    paint(tmp_path, "Prüfling/gut/1.png", decomposed, "Prüfling/masks/schlecht/ü1_mask.png")
    listing = read(tmp_path)
    assert len(masks(listing)) == 1
    assert {record.label for record in listing.records} == {0, 1}


class TestBenchmarks:
    """Miniatures of published data sets that have no description of their own."""

    def test_mpdd_and_goods_ad(self, tmp_path: Path) -> None:
        paint(
            tmp_path,
            *("bracket_black/train/good/000.png", "bracket_black/test/good/000.png", "bracket_black/test/hole/000.png"),
            *(
                "bracket_black/ground_truth/hole/000_mask.png",
                "drink_can/train/good/1.jpg",
                "drink_can/test/good/2.jpg",
            ),
            *("drink_can/test/opened/3.jpg", "drink_can/ground_truth/opened/3.png"),
        )
        listing = read(tmp_path)
        assert set(kinds(listing).values()) == {
            *("bracket_black train good", "bracket_black test good", "bracket_black test hole"),
            *("drink_can train good", "drink_can test good", "drink_can test opened"),
        }
        assert len(masks(listing)) == 2

    def test_mvtec_ad_2(self, tmp_path: Path) -> None:
        paint(
            tmp_path,
            *("can/train/good/000_regular.png", "can/validation/good/000_regular.png"),
            *("can/test_public/good/000_regular.png", "can/test_public/bad/000_shift_1.png"),
            *("can/test_public/ground_truth/bad/000_shift_1_mask.png",),
            *("can/test_private/000_regular.png", "can/test_private_mixed/000_mixed.png"),
        )
        with pytest.raises(DataError, match="--split validation=train"):
            read(tmp_path)
        listing = read(tmp_path, splits={"validation": "train"})
        assert sorted(kinds(listing).values()) == ["can test bad", "can test good", "can train good", "can train good"]
        assert len(masks(listing)) == 1
        assert {reason for _, reason in listing.ignored} == {"unlabelled images"}

    def test_mvtec_loco(self, tmp_path: Path) -> None:
        paint(
            tmp_path,
            *("box/train/good/000.png", "box/test/good/000.png", "box/test/logical_anomalies/000.png"),
            *("box/ground_truth/logical_anomalies/000/000.png", "box/ground_truth/logical_anomalies/000/001.png"),
        )
        assert [len(paths) for paths in masks(read(tmp_path)).values()] == [2]

    def test_visa_without_its_lists(self, tmp_path: Path) -> None:
        paint(
            tmp_path,
            *("candle/Data/Images/Normal/0.JPG", "candle/Data/Images/Anomaly/0.JPG", "candle/Data/Masks/Anomaly/0.png"),
        )
        listing = read(tmp_path)
        assert masks(listing) == {"candle/Data/Images/Anomaly/0.JPG": ("candle/Data/Masks/Anomaly/0.png",)}
        assert {record.category for record in listing.records} == {"candle"}

    def test_bmad(self, tmp_path: Path) -> None:
        parts = ("good/img/1.png", "good/label/1.png", "Ungood/img/2.png", "Ungood/label/2.png")
        paint(tmp_path, "Brain/train/good/0.png", *(f"Brain/test/{part}" for part in parts))
        listing = read(tmp_path)
        assert sorted(kinds(listing).values()) == ["Brain test Ungood", "Brain test good", "Brain train good"]
        assert masks(listing)["Brain/test/Ungood/img/2.png"] == ("Brain/test/Ungood/label/2.png",)

    def test_magnetic_tiles_with_black_masks_of_the_normal_ones(self, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "tiles")
        for kind, value in (("MT_Free", 0), ("MT_Blowhole", 255)):
            tree.image(f"{kind}/Imgs/1.jpg")
            tree.mask(f"{kind}/Imgs/1.png", value)
        with pytest.raises(DataError, match="--normal"):
            read(tree.root)
        listing = read(tree.root, normal=("MT_Free",))
        assert {record.image: record.label for record in listing.records} == {
            "MT_Blowhole/Imgs/1.jpg": 1,
            "MT_Free/Imgs/1.jpg": 0,
        }

    def test_breast_ultrasound_where_benign_is_a_tumour(self, tmp_path: Path) -> None:
        paint(
            tmp_path / "busi",
            *("benign/benign (1).png", "benign/benign (1)_mask.png", "benign/benign (1)_mask_1.png"),
            *("malignant/malignant (1).png", "malignant/malignant (1)_mask.png"),
            *("normal/normal (1).png", "normal/normal (1)_mask.png"),
        )
        listing = read(tmp_path / "busi")
        assert {record.defect: len(record.masks) for record in listing.records} == {
            "benign": 2,
            "malignant": 1,
            "good": 1,
        }

    def test_kaputt_whose_masks_are_of_objects_and_labels_in_tables(self, tmp_path: Path) -> None:
        paint(
            tmp_path,
            *("datasets/query-test.parquet", "datasets/reference-test.parquet"),
            *("query-image/data/test/query-data/image/1.jpg", "query-mask/data/test/query-data/mask/1.png"),
            "reference-image/data/test/reference-data/image/1.jpg",
        )
        message = r"No folder under .*Or, if datasets/query-test\.parquet lists them, save it as CSV"
        with pytest.raises(DataError, match=message):
            read(tmp_path)
