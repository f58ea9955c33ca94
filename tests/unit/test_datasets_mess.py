"""What goes wrong in real folders: nothing is lost without a word, nothing is counted twice."""

import json
import os
import shutil
from pathlib import Path

import painted
import pytest

from bayes_pfl.data.walk import printable
from bayes_pfl.datasets.catalogue import DATASETS, find, get_dataset
from bayes_pfl.datasets.source import DatasetListing, Source
from bayes_pfl.errors import DataError


def read(name: str, folder: Path, **choices: object) -> DatasetListing:
    return find(get_dataset(name), Source(folder), **choices)


def reasons(found: DatasetListing) -> dict[str, str]:
    return dict(found.set_aside)


def test_a_missing_mask_sets_one_image_aside_and_shifts_no_other(tmp_path: Path) -> None:
    tree = painted.paint("kvasir", tmp_path)
    gone = sorted(tree.records)[0]
    (tmp_path / gone.mask).unlink()
    found = read("kvasir", tmp_path)
    assert list(found.records) == sorted(tree.records)[1:]
    assert reasons(found) == {gone.image: "is defective and has no mask"}


def test_two_masks_for_one_image_are_a_riddle(tmp_path: Path) -> None:
    tree = painted.paint("btad", tmp_path)
    record = next(record for record in tree.records if record.mask)
    tree.mask(str(Path(record.mask).with_suffix(".bmp")))
    found = read("btad", tmp_path)
    assert record not in found.records
    assert "has 2 masks" in reasons(found)[record.image]


def test_two_images_for_one_mask_are_a_riddle(tmp_path: Path) -> None:
    tree = painted.paint("endo", tmp_path)
    first = sorted(tree.records)[0]
    twin = tree.image(str(Path(first.image).with_suffix(".png")))
    found = read("endo", tmp_path)
    assert reasons(found) == {twin: f"shares its mask with {first.image}"}


def test_a_list_made_by_position_is_not_believed(tmp_path: Path) -> None:
    tree = painted.paint("colondb", tmp_path)
    one, ten, two = sorted(tree.records)  # in the order in which folders are sorted
    shifted = [one, ten._replace(mask=two.mask), two._replace(mask=one.mask)]
    painted.write_list(tmp_path / "meta.json", shifted, {})
    found = read("colondb", tmp_path, layout="meta")
    assert found.records == (one,)
    assert f"is listed with {two.mask}, the mask of another image" in reasons(found)[ten.image]


def test_a_listed_image_counts_once_and_must_exist(tmp_path: Path) -> None:
    tree = painted.paint("br35h", tmp_path)
    gone = tree.records[0]
    (tmp_path / gone.image).unlink()
    painted.write_list(tmp_path / "meta.json", [*tree.records, tree.records[-1]], {})
    found = read("br35h", tmp_path, layout="meta")
    assert list(found.records) == sorted(tree.records[1:])
    assert {reason.partition(" (")[0] for reason in reasons(found).values()} == {
        "is listed twice",
        "is listed and does not exist",
    }


def test_a_list_without_its_images_says_how_many_are_missing(tmp_path: Path) -> None:
    tree = painted.paint("visa", tmp_path)
    for record in tree.records:
        (tmp_path / record.image).unlink()
    with pytest.raises(DataError, match=rf"{len(tree.records)} were found or listed.*is listed and does not exist"):
        read("visa", tmp_path, layout="published")


def test_a_list_cannot_point_outside_the_source(tmp_path: Path) -> None:
    outside = painted.Tree(tmp_path / "outside")
    outside.image("images/1.png")
    tree = painted.paint("br35h", tmp_path / "inside")
    painted.write_list(tree.root / "meta.json", [tree.records[0]._replace(image="../outside/images/1.png")], {})
    with pytest.raises(DataError, match="no images of Br35H"):
        read("br35h", tree.root, layout="meta")


@pytest.mark.parametrize("content", ["[]", "{", '{"test": {"brain": [{"img_path": 3}]}}', '{"exam": {}}'])
def test_a_damaged_list_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(content)
    with pytest.raises(DataError, match=r"meta\.json is not a list of the known form|no images"):
        read("br35h", tmp_path, layout="meta")


def test_a_double_copy_is_counted_once(tmp_path: Path) -> None:
    tree = painted.paint("brainmri", tmp_path)
    for folder in ("yes", "no"):
        shutil.copytree(tmp_path / "brain_tumor_dataset" / folder, tmp_path / folder)
    found = read("brainmri", tmp_path)
    assert len(found.records) == len(tree.records)
    assert len(found.ignored) == len(tree.records)


def test_an_unknown_category_is_ignored_and_named(tmp_path: Path) -> None:
    tree = painted.paint("mvtec", tmp_path)
    extra = tree.image("mvtec_anomaly_detection/teapot/test/good/000.png")
    found = read("mvtec", tmp_path)
    assert len(found.records) == len(tree.records)
    assert (extra, "not part of the layout") in found.ignored


def test_an_unreadable_mask_that_decides_the_label_sets_the_image_aside(tmp_path: Path) -> None:
    painted.paint("ksdd2", tmp_path)
    (tmp_path / "test/20000_GT.png").write_bytes(b"no image")
    found = read("ksdd2", tmp_path)
    assert "its mask test/20000_GT.png: not a readable image" in reasons(found)["test/20000.png"]


def test_circular_links_are_followed_once(tmp_path: Path) -> None:
    tree = painted.paint("br35h", tmp_path)
    (tmp_path / "yes/again").symlink_to(tmp_path)
    assert len(read("br35h", tmp_path).records) == len(tree.records)


def test_pipes_and_links_to_nowhere_are_set_aside_at_once(tmp_path: Path) -> None:
    painted.paint("br35h", tmp_path)
    (tmp_path / "yes/self.jpg").symlink_to("self.jpg")
    (tmp_path / "yes/broken.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "yes/pipe.jpg")
    assert reasons(read("br35h", tmp_path)) == {
        "yes/broken.jpg": "cannot be read: No such file or directory",
        "yes/pipe.jpg": "is no regular file",
        "yes/self.jpg": "cannot be read: Too many levels of symbolic links",
    }


def test_a_name_that_is_no_utf8_sets_the_image_aside(tmp_path: Path) -> None:
    tree = painted.paint("br35h", tmp_path)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/yes/caf\xe9.jpg")).write_bytes(b"an image")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/yes/caf\xe9.txt")).write_bytes(b"a note")
    found = read("br35h", tmp_path)
    assert list(found.records) == sorted(tree.records)
    assert reasons(found) == {r"yes/caf\udce9.jpg": "has a name that is not UTF-8; rename it"}
    assert (r"yes/caf\udce9.txt", "no image") in found.ignored


def test_folders_whose_names_cannot_be_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        Source(tmp_path / ("x" * 300))
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    with pytest.raises(DataError, match=r"caf\\udce9 is not UTF-8"):
        Source(folder)


def test_an_output_inside_the_source_is_known_for_what_it_is(tmp_path: Path) -> None:
    tree = painted.paint("br35h", tmp_path)
    tree.stray("shards/shard-00000.arrow", "shards/_manifest/manifest.json", "_manifest/shards/shard-00000.arrow.json")
    found = read("br35h", tmp_path)
    assert list(found.records) == sorted(tree.records)
    assert [reason for _, reason in found.ignored].count("shards of an ingest") == 3


def test_a_line_break_in_a_name_is_a_letter_like_others(tmp_path: Path) -> None:
    tree = painted.paint("br35h", tmp_path)
    name = tree.image("yes/two\nlines \x1b[31m.jpg")
    assert name in {record.image for record in read("br35h", tmp_path).records}
    assert printable(name) == r"yes/two\nlines \x1b[31m.jpg"
    assert printable("yes/ünï 漢字.jpg") == "yes/ünï 漢字.jpg"


class TestPaperSubset:
    """The evaluation set of the paper, where it is another than the complete one."""

    def test_brainmri_takes_two_case_sensitive_patterns(self, tmp_path: Path) -> None:
        painted.paint("brainmri", tmp_path)
        found = read("brainmri", tmp_path, subset="paper")
        assert [Path(record.image).name for record in found.records] == [
            "1 no.jpg",
            "No11.jpg",
            "no 2.jpg",
            "no.jpg",
            "Y100.JPG",
            "Y2.JPG",
        ]
        assert len(found.left_out) == 6

    def test_ksdd2_takes_all_defects_and_as_many_first_normals(self, tmp_path: Path) -> None:
        painted.paint("ksdd2", tmp_path)
        found = read("ksdd2", tmp_path, subset="paper")
        assert [(record.image, record.label, record.split) for record in found.records] == [
            ("test/20000.png", 0, "test"),
            ("test/20001.png", 0, "test"),
            ("test/20002.png", 1, "test"),
            ("train/10002.png", 1, "test"),
        ]

    def test_dagm_drops_classes_and_balances_each(self, tmp_path: Path) -> None:
        painted.paint("dagm", tmp_path)
        found = read("dagm", tmp_path, subset="paper")
        assert {record.category for record in found.records} == {"Class1"}
        assert [record.label for record in found.records].count(0) == 2
        assert [record.label for record in found.records].count(1) == 2

    def test_isic_takes_the_test_part(self, tmp_path: Path) -> None:
        painted.paint("isic", tmp_path)
        found = read("isic", tmp_path, subset="paper")
        assert {record.split for record in found.records} == {"test"}
        assert len(found.left_out) == 2

    def test_rsdd_follows_from_the_authors_copy_only(self, tmp_path: Path) -> None:
        tree = painted.paint("rsdd", tmp_path / "published")
        with pytest.raises(DataError, match="authors' own crops"):
            read("rsdd", tmp_path / "published", subset="paper")
        painted.rearrange(tree, tmp_path / "data", "RSDD", {"rail": "Metal15"})
        assert len(read("rsdd", tmp_path / "data", subset="paper").records) == len(tree.records)


class TestSelection:
    """Splits, categories and a limit."""

    def test_a_limit_takes_of_everything_in_turn(self, tmp_path: Path) -> None:
        painted.paint("mvtec", tmp_path)
        found = read("mvtec", tmp_path, limit=6)
        groups = {(record.category, record.split, record.label) for record in found.records}
        assert len(found.records) == len(groups) == 6

    def test_categories_by_any_of_their_names(self, tmp_path: Path) -> None:
        painted.paint("mvtec", tmp_path)
        found = read("mvtec", tmp_path, categories=["Metal Nut"], splits=["test"])
        assert {(record.category, record.split) for record in found.records} == {("metal_nut", "test")}
        assert {skipped.reason for skipped in found.left_out} == {
            "not of the split test",
            "not of the categories Metal Nut",
        }

    def test_an_absent_category_is_an_error(self, tmp_path: Path) -> None:
        painted.paint("mvtec", tmp_path)
        with pytest.raises(DataError, match="There are: metal_nut, screw"):
            read("mvtec", tmp_path, categories=["bottle"])


def test_an_unknown_dataset_names_the_nearest() -> None:
    with pytest.raises(DataError, match="Did you mean brainmri"):
        get_dataset("brain-mri")


def test_a_missing_or_foreign_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        Source(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"split_csv/1cls\.csv"):
        find(DATASETS["visa"], Source(tmp_path))


class TestOwnImages:
    """`folder`: the usual forms of people's own images."""

    def read(self, tree: painted.Tree) -> DatasetListing:
        found = read("folder", tree.root)
        assert list(found.records) == sorted(tree.records)
        return found

    def test_mvtec_like(self, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "parts", "left_valve", "left valve")
        tree.good("left_valve/train/good/a.jpg", "train")
        tree.bad("left_valve/test/Crack/a.jpg", "left_valve/ground_truth/Crack/a.png", "Crack")
        tree.category = tree.class_name = "hose"  # has labels only
        tree.bad("hose/test/hole/a.jpg", None, "hole")
        self.read(tree)

    def test_mvtec_like_with_some_masks_needs_all(self, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "parts", "hose", "hose")
        tree.bad("hose/test/hole/a.jpg", "hose/ground_truth/hole/a_mask.png", "hole")
        lost = tree.image("hose/test/cut/b.jpg")
        assert reasons(self.read(tree)) == {lost: "is defective and has no mask"}

    def test_one_category_without_a_folder_of_its_own(self, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "big_gears", "big_gears", "big gears")
        tree.good("train/good/1.png", "train")
        tree.bad("test/chip/1.png", "ground_truth/chip/1_mask.png", "chip")
        self.read(tree)

    def test_plain_good_and_bad(self, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "my_parts", "my_parts", "my parts")
        tree.good("good/1.png")
        tree.bad("bad/2.jpeg", None, "bad")
        tree.stray("notes/3.png")
        self.read(tree)

    def test_categories_with_plain_good_and_bad(self, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path)
        for tree.category, tree.class_name in (("gear", "gear"), ("cog_wheel", "cog wheel")):
            tree.good(f"{tree.category}/good/1.png")
            tree.bad(f"{tree.category}/bad/1.png", None, "bad")
        self.read(tree)

    def test_csv(self, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "shop", "shop", "shop")
        tree.good("a/1.png")
        tree.bad("a/2.png", "m/2.png", "defect")
        tree.category = tree.class_name = "cup"
        tree.good("b/3, 4.png", "train")
        lines = (
            "\ufeffpath, label,mask,category,split",  # with a byte-order mark and a space
            "a/1.png,normal,,,",
            r"a\2.png,1,m/2.png,,",
            '"b/3, 4.png",good,,cup,train',
        )
        tree.write("list.csv", "\n".join(lines).encode())
        self.read(tree)

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ("a/9.png,0,,", "does not exist"),
            ("a/1.png,maybe,,", "unknown label 'maybe'"),
            ("a/1.png,1,m/9.png,", "mask m/9.png that does not exist"),
            ("a/1.png,1,,", "is defective and has no mask"),
            ("a/1.png,0,,validation", "unknown split 'validation'"),
            ("a/2.png,1,m/2.png,", "listed twice"),
        ],
    )
    def test_csv_with_a_bad_row(self, row: str, reason: str, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "shop", "shop", "shop")
        tree.image("a/1.png")
        tree.bad("a/2.png", "m/2.png", "defect")
        tree.write("list.csv", f"path,label,mask,split\na/2.png,1,m/2.png,\n{row}\n".encode())
        (said,) = reasons(self.read(tree)).values()
        assert reason in said
        assert "list.csv" in said

    @pytest.mark.parametrize(
        "text",
        [
            "path;label;category\na/1.png;0;\na/2.png;1;\n",
            "Path\tLabel\tCategory\r\na/1.png\t0\t\r\na/2.png\t1\t\r\n",
            "path,label,category\ra/1.png,0,\ra/2.png,1,\r",
            "path,label,category\n./a/1.png,0,\na/../a/2.png,1,\n,,\n,,\n",
            "path,label,category\n{source}/a/1.png,0,\n{source}/a/2.png,1,\n",
        ],
        ids=["semicolons", "tabs", "old Mac", "dots and empty rows", "absolute"],
    )
    def test_csv_as_programs_write_it(self, text: str, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "shop", "shop", "shop")
        tree.good("a/1.png")
        tree.bad("a/2.png", None, "defect")
        tree.write("LIST.CSV", text.format(source=tree.root).encode())
        assert self.read(tree).set_aside == ()

    def test_csv_with_paths_that_leave_the_folder(self, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "shop", "shop", "shop")
        tree.good("a/1.png")
        painted.Tree(tmp_path).image("other/1.png")
        tree.write("list.csv", f"path,label\na/1.png,0\n../other/1.png,0\n{tmp_path}/other/1.png,0\n".encode())
        assert set(reasons(self.read(tree)).values()) == {"is listed and lies outside the source (in list.csv)"}

    def test_other_csvs_beside_the_images_do_not_matter(self, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "my_parts", "my_parts", "my parts")
        tree.good("good/1.png")
        tree.write("results.csv", b"name,score\n1,2,3\n")
        tree.write("notes.csv", b"caf\xe9 \x00\n")
        tree.write("long.csv", b'"' + b"x" * 200_000)
        assert len(self.read(tree).ignored) == 3

    def test_csv_with_other_headers_if_it_lists_images(self, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "shop", "shop", "shop")
        tree.good("a/1.png")
        tree.bad("a/2.png", "m/2.png", "defect")
        tree.write("list.csv", b"Filename,Class,mask_path\na/1.png,OK,\na/2.png,NG,m/2.png\n")
        self.read(tree)
        tree.write("list.csv", b"filename,class\nelsewhere/1.png,OK\n")
        with pytest.raises(DataError, match="No folder under"):
            read("folder", tree.root)

    def test_two_lists_are_a_riddle(self, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "my_parts", "my_parts", "my parts")
        tree.good("good/1.png")
        for name in ("a.csv", "b.csv"):
            tree.write(name, b"path,label\ngood/1.png,0\n")
        with pytest.raises(DataError, match=r"2 lists of images: a\.csv, b\.csv"):
            read("folder", tree.root)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"path,label\n1.png\n", "line 2: 1 values for 2 columns"),
            (b"path,label\n\xff\xfe,1\n", "UTF-8"),
            (b'path,label\n"' + b"x" * 200_000, "limit"),
        ],
    )
    def test_csv_that_is_none(self, text: bytes, message: str, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_bytes(text)
        with pytest.raises(DataError, match=message):
            read("folder", tmp_path)


def test_placeholders_of_the_authors_lists_are_no_images(tmp_path: Path) -> None:
    tree = painted.paint("endo", tmp_path)
    empty = {"img_path": "", "mask_path": "", "cls_name": "colon", "specie_name": "good", "anomaly": 0}
    painted.write_list(tmp_path / "meta_Endo.json", tree.records, {})
    content = json.loads((tmp_path / "meta_Endo.json").read_text())
    content["train"] = {"colon": [empty]}
    (tmp_path / "meta_Endo.json").write_text(json.dumps(content))
    found = read("endo", tmp_path, layout="meta")
    assert list(found.records) == sorted(tree.records)
    assert found.set_aside == ()
