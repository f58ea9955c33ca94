"""Regions of labelling tools become masks with the right pixels."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import painted
import pytest
from PIL import Image

from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.datasets.annotations.coco import unpacked_counts
from bayes_pfl.datasets.catalogue import find
from bayes_pfl.datasets.masks import drawn_mask
from bayes_pfl.datasets.names import NameChoices
from bayes_pfl.datasets.own import own_images
from bayes_pfl.datasets.packing import PackingOptions, read_record
from bayes_pfl.datasets.record import Record, Shape
from bayes_pfl.datasets.source import DatasetListing, Source
from bayes_pfl.errors import ConfigError, DataError

WIDTH, HEIGHT = painted.SIZE
BLOB = (np.asarray(painted.blob()) > 0).astype(np.uint8)
LEFT, TOP, RIGHT, BOTTOM = 10, 4, 16, 8
CORNERS = [[LEFT, TOP], [RIGHT, TOP], [RIGHT, BOTTOM], [LEFT, BOTTOM]]
FLAT = [value for corner in CORNERS for value in corner]


@pytest.fixture
def tree(tmp_path: Path) -> painted.Tree:
    """One normal and two defective images."""
    tree = painted.Tree(tmp_path / "s")
    for path in ("good/1.png", "bad/1.png", "bad/2.png"):
        tree.image(path)
    return tree


def read(tree: painted.Tree, annotations: str | None = None) -> DatasetListing:
    return find(own_images(NameChoices(), annotations=annotations), Source(tree.root))


def mask_of(tree: painted.Tree, record: Record) -> np.ndarray:
    mask = read_record(tree.root, PackingOptions("s", None, None, MAX_PIXELS), record).mask
    assert mask is not None
    return mask


def write_json(tree: painted.Tree, path: str, content: object) -> None:
    tree.write(path, json.dumps(content).encode())


def coco(
    segmentation: object, names: tuple[str, ...] = ("bad/1.png", "bad/2.png"), **more: object
) -> dict[str, object]:
    images = [{"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT} for n, name in enumerate(names)]
    annotations = [
        {"id": n, "image_id": n, "category_id": 3, "segmentation": segmentation, **more} for n in range(len(names))
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "scratch"}]}


def packed(counts: list[int]) -> str:
    """Run lengths as COCO's tools pack them, written from their description."""
    text = ""
    for position, count in enumerate(counts):
        value = count - counts[position - 2] if position > 2 else count
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            text += chr(bits + (0x20 if more else 0) + 48)
    return text


RUNS = [LEFT * HEIGHT + TOP, *([BOTTOM - TOP, HEIGHT - BOTTOM + TOP] * (RIGHT - LEFT))]
RUNS[-1] = WIDTH * HEIGHT - sum(RUNS[:-1])


@pytest.mark.parametrize(
    "segmentation",
    [
        [FLAT],
        {"size": [HEIGHT, WIDTH], "counts": RUNS},
        {"size": [HEIGHT, WIDTH], "counts": packed(RUNS)},
        [[10, 4, 13, 4, 13, 8, 10, 8], [13, 4, 16, 4, 16, 8, 13, 8]],
    ],
    ids=["polygon", "runs", "packed runs", "two polygons"],
)
@pytest.mark.parametrize("names", [("bad/1.png", "bad/2.png"), ("bad\\1.png", "/data/x/bad/2.png")])
def test_coco(segmentation: object, names: tuple[str, ...], tree: painted.Tree) -> None:
    write_json(tree, "annotations/instances.json", coco(segmentation, names))
    listing = read(tree)
    assert [record.label for record in listing.records] == [1, 1, 0]
    for record in listing.records[:2]:
        assert np.array_equal(mask_of(tree, record), BLOB)
    assert listing.ignored == ()


def test_coco_boxes_where_there_is_no_outline(tree: painted.Tree) -> None:
    write_json(tree, "instances.json", coco([], bbox=[LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP]))
    assert np.array_equal(mask_of(tree, read(tree).records[0]), BLOB)


def test_packed_counts_are_unpacked() -> None:
    for counts in (RUNS, [0, 5, 1000, 3, 2, 70000, 1]):
        assert unpacked_counts(packed(counts)) == counts


def test_labelme_beside_the_images(tree: painted.Tree) -> None:
    drawn = np.zeros((4, 6), np.uint8) + 255
    png = io.BytesIO()
    Image.fromarray(drawn).save(png, "PNG")
    shapes = [
        {"label": "scratch", "points": CORNERS, "shape_type": "polygon"},
        {"label": "scratch", "points": [CORNERS[2], CORNERS[0]], "shape_type": "rectangle"},
        {
            "label": "scratch",
            "points": [[LEFT, TOP], [RIGHT - 1, BOTTOM - 1]],
            "shape_type": "mask",
            "mask": base64.b64encode(png.getvalue()).decode(),
        },
    ]
    for shape in shapes:
        for number in (1, 2):
            content = {"shapes": [shape], "imagePath": f"{number}.png", "imageWidth": WIDTH, "imageHeight": HEIGHT}
            write_json(tree, f"bad/{number}.json", {"version": "5", "imageData": None, **content})
        listing = read(tree)
        assert np.array_equal(mask_of(tree, listing.records[0]), BLOB), shape
        assert listing.set_aside == ()


def test_labelme_circles_points_and_nothing(tree: painted.Tree) -> None:
    circle = {"label": "hole", "points": [[12, 8], [12, 5]], "shape_type": "circle"}
    point = {"label": "hole", "points": [[12, 8]], "shape_type": "point"}
    for number, shapes in ((1, [circle, point]), (2, [point])):
        write_json(tree, f"bad/{number}.json", {"shapes": shapes, "imagePath": f"{number}.png"})
    listing = read(tree)
    assert mask_of(tree, listing.records[0]).sum() == pytest.approx(np.pi * 9, abs=4)
    assert dict(listing.set_aside) == {"bad/2.png": "is defective and not annotated"}


def test_cvat(tree: painted.Tree) -> None:
    points = ";".join(f"{x},{y}" for x, y in CORNERS)
    runs = "0,24"
    tree.write(
        "annotations.xml",
        f"""<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>
        <image id="0" name="bad/1.png" width="{WIDTH}" height="{HEIGHT}"><polygon label="dent" points="{points}"/></image>
        <image id="1" name="2.png" width="{WIDTH}" height="{HEIGHT}">
        <mask label="dent" rle="{runs}" left="10" top="4" width="6" height="4"/><points label="x" points="1,1"/></image>
        </annotations>""".encode(),
    )
    listing = read(tree)
    for record in listing.records[:2]:
        assert np.array_equal(mask_of(tree, record), BLOB)


def test_pascal_voc(tree: painted.Tree) -> None:
    sides = "".join(
        f"<{name}>{v}</{name}>" for name, v in zip(("xmin", "ymin", "xmax", "ymax"), (10, 4, 16, 8), strict=True)
    )
    drawn = f"<object><name>dent</name><bndbox>{sides}</bndbox></object>"
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    tree.write("Annotations/1.xml", f"<annotation><filename>bad/1.png</filename>{size}{drawn}</annotation>".encode())
    tree.write("bad/2.xml", f"<annotation><filename>x.png</filename>{size}{drawn}</annotation>".encode())
    for record in read(tree).records[:2]:
        assert np.array_equal(mask_of(tree, record), BLOB)


def test_yolo_says_what_is_normal_where_the_user_names_it(tmp_path: Path) -> None:
    tree = painted.Tree(tmp_path / "s")
    for path in ("images/train/1.png", "images/val/2.png", "images/val/3.png"):
        tree.image(path)
    box = f"0 {13 / WIDTH} {6 / HEIGHT} {6 / WIDTH} {4 / HEIGHT}\n"
    outline = "0 " + " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in CORNERS) + "\n"
    tree.write("labels/train/1.txt", box.encode())
    tree.write("labels/val/2.txt", outline.encode())
    tree.write("classes.txt", b"dent\nscratch\n")
    with pytest.raises(DataError, match="YOLO annotations, --annotations labels"):
        read(tree)
    listing = read(tree, "labels")
    assert [(record.label, record.split, record.defect) for record in listing.records] == [
        (1, "train", "dent"),
        (1, "test", "dent"),
        (0, "test", "good"),
    ]
    for record in listing.records[:2]:
        assert np.array_equal(mask_of(tree, record), BLOB)


def test_a_named_file_may_lie_elsewhere_and_must_fit(tree: painted.Tree, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(coco([FLAT], ("1.png",))))
    with pytest.raises(DataError, match=r"annotates none of the images"):
        read(tree, str(tmp_path / "a.json"))  # there are two of this name
    (tmp_path / "a.json").write_text(json.dumps(coco([FLAT])))
    assert len(read(tree, str(tmp_path / "a.json")).records) == 3
    with pytest.raises(ConfigError, match=r"There is no b\.json for --annotations"):
        read(tree, "b.json")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match="is no annotation file of COCO, LabelMe, CVAT, Pascal VOC or YOLO"):
        read(tree, str(tmp_path / "a.json"))


def test_annotations_of_other_sizes_and_of_two_files_are_refused(tree: painted.Tree) -> None:
    content = coco([FLAT])
    content["images"][0]["width"] = 99
    write_json(tree, "a.json", content)
    record = read(tree).records[0]
    with pytest.raises(Exception, match="is annotated as 99 x 16, the image is 24 x 16"):
        mask_of(tree, record)
    write_json(tree, "b.json", coco([FLAT]))
    with pytest.raises(DataError, match=r"is annotated in a\.json and in b\.json"):
        read(tree)


def test_other_json_and_text_beside_the_images_does_not_matter(tree: painted.Tree) -> None:
    for name, text in (("notes.json", "{"), ("x.json", '{"images": 3}'), ("bad/1.txt", "hello"), ("c.xml", "<a/>")):
        tree.write(name, text.encode())
    listing = read(tree)
    assert len(listing.records) == 3
    assert {reason for _, reason in listing.ignored} == {"no image"}


@pytest.mark.parametrize("seed", range(5))
def test_polygons_hold_the_pixels_whose_centres_they_hold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-3, 20, (7, 2))
    mask = drawn_mask(Shape("polygon", tuple(points.ravel())), 16, 12)
    for y in range(12):
        for x in range(16):
            inside = False
            for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
                if (y0 <= y + 0.5) != (y1 <= y + 0.5):
                    inside ^= x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0) < x + 0.5
            assert mask[y, x] == inside


def test_a_label_that_means_normal_marks_no_defect(tree: painted.Tree) -> None:
    box = [LEFT - 6, TOP - 2, 20, 10]
    content = {
        "images": [{"id": number, "file_name": f"bad/{number}.png"} for number in (1, 2)],
        "categories": [{"id": 1, "name": "good"}, {"id": 2, "name": "scratch"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": box},
            {"image_id": 1, "category_id": 2, "segmentation": [FLAT]},
            {"image_id": 2, "category_id": 2, "segmentation": [FLAT]},
        ],
    }
    tree.write("all.json", json.dumps(content).encode())
    records = {record.image: record for record in read(tree).records}
    alone = mask_of(tree, records["bad/2.png"])
    assert np.array_equal(mask_of(tree, records["bad/1.png"]), alone)
    content["annotations"] = content["annotations"][:1]
    tree.write("all.json", json.dumps(content).encode())
    assert "bad/1.png" not in {record.image for record in read(tree, "all.json").records}  # defective by its folder


@pytest.mark.parametrize("names", ["names: [good, scratch]", "names:\n  0: good\n  1: scratch\n", "nc: 2", "- a list"])
def test_yolo_s_data_yaml_names_the_classes(tmp_path: Path, names: str) -> None:
    tree = painted.Tree(tmp_path / "s")
    for number in (1, 2):
        tree.image(f"images/train/{number}.png")
    tree.write("labels/train/1.txt", b"0 0.5 0.5 0.9 0.9\n")
    tree.write("labels/train/2.txt", b"1 0.5 0.5 0.2 0.2\n")
    tree.write("data.yaml", names.encode())
    for given in ("labels", str(tree.root / "labels")):
        records = {record.image: record for record in read(tree, given).records}
        known = names.startswith("names")
        assert records["images/train/1.png"].label == int(not known)
        assert records["images/train/2.png"].defect == ("scratch" if known else "defect")


def test_labels_outside_the_source_belong_to_the_only_image_of_their_name(tmp_path: Path) -> None:
    tree = painted.Tree(tmp_path / "s")
    for number in (1, 2):
        tree.image(f"images/{number}.png")
    other = painted.Tree(tmp_path / "elsewhere")
    other.write("labels/1.txt", b"")
    other.write("labels/2.txt", b"0 0.5 0.5 0.2 0.2\n")
    labels = {record.image: record.label for record in read(tree, str(other.root / "labels")).records}
    assert labels == {"images/1.png": 0, "images/2.png": 1}


def test_an_annotated_name_that_two_images_have_is_said(tmp_path: Path) -> None:
    tree = painted.Tree(tmp_path / "s")
    for path in ("bolt/good/1.png", "bolt/bad/2.png", "nut/good/1.png", "nut/bad/2.png"):
        tree.image(path)
    content = {
        "images": [{"id": 1, "file_name": "2.png"}],
        "annotations": [{"image_id": 1, "segmentation": [FLAT]}],
    }
    tree.write("ann.json", json.dumps(content).encode())
    assert "whose name is not theirs alone" in dict(read(tree).ignored)["ann.json"]
