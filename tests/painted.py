"""Small datasets in their published layouts, painted with the quirks of the real ones.

Each painter writes files and notes by hand, as it goes, which record every image must become: the
oracle is independent of the code that reads. ``strays`` are files that must not become anything.
"""

import io
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from bayes_pfl.datasets.record import Record

SIZE = (24, 16)
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".tif": "TIFF"}


def encoded(image: Image.Image, suffix: str) -> bytes:
    """An image as the bytes of a file with this suffix."""
    sink = io.BytesIO()
    image.save(sink, format=FORMATS[suffix.lower()])
    return sink.getvalue()


def surface(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """An image of its own for every number."""
    width, height = size
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def blob(value: int = 255, size: tuple[int, int] = SIZE) -> Image.Image:
    """A mask with a rectangle of 6 x 4 pixels of this gray value."""
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[4:8, 10:16] = value
    return Image.fromarray(pixels)


@dataclass
class Tree:
    """A folder being painted and what it must be read as."""

    root: Path
    category: str = ""
    class_name: str = ""
    records: list[Record] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    numbers: itertools.count = field(default_factory=itertools.count)

    def write(self, path: str, data: bytes) -> str:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return path

    def image(self, path: str) -> str:
        return self.write(path, encoded(surface(next(self.numbers)), PurePosixPath(path).suffix))

    def mask(self, path: str, value: int = 255) -> str:
        return self.write(path, encoded(blob(value), PurePosixPath(path).suffix))

    def good(self, path: str, split: str = "test") -> None:
        names = self.category, self.class_name
        self.records.append(Record(self.image(path), None, 0, *names, split, "good"))

    def bad(self, path: str, mask: str | None, defect: str, split: str = "test", value: int = 255) -> None:
        names = self.category, self.class_name
        if mask is not None:
            self.mask(mask, value)
        self.records.append(Record(self.image(path), mask, 1, *names, split, defect))

    def stray(self, *paths: str) -> None:
        for path in paths:
            suffix = PurePosixPath(path).suffix.lower()
            self.strays.append(self.image(path) if suffix in FORMATS else self.write(path, b"stray"))


def mvtec(tree: Tree) -> None:
    top = "mvtec_anomaly_detection"
    for tree.category, tree.class_name in (("metal_nut", "metal nut"), ("screw", "screw")):
        base = f"{top}/{tree.category}"
        for number in range(3):
            tree.good(f"{base}/train/good/00{number}.png", "train")
        tree.good(f"{base}/test/good/000.png")
        for kind in ("scratch", "bent"):
            for number in range(2):  # the same names in every folder
                tree.bad(f"{base}/test/{kind}/00{number}.png", f"{base}/ground_truth/{kind}/00{number}_mask.png", kind)
        tree.stray(f"{base}/license.txt", f"{base}/readme.txt")
    tree.stray(".DS_Store", f"{top}/screw/test/good/.DS_Store", f"{top}/screw/test/bent/Thumbs.db")


def visa(tree: Tree) -> None:
    rows = ["object,split,label,image,mask"]
    for tree.category, tree.class_name in (("pcb1", "printed circuit board"), ("macaroni2", "macaroni")):
        base = f"{tree.category}/Data"
        for number, split in enumerate(("train", "train", "test")):
            tree.good(f"{base}/Images/Normal/000{number}.JPG", split)
            rows.append(f"{tree.category},{split},normal,{base}/Images/Normal/000{number}.JPG,")
        for number in range(2):  # the same stems as the normal images; masks hold class numbers
            image, mask = f"{base}/Images/Anomaly/00{number}.JPG", f"{base}/Masks/Anomaly/00{number}.png"
            tree.bad(image, mask, "anomaly", value=1 + number)
            rows.append(f"{tree.category},test,anomaly,{image},{mask}")
        tree.stray(f"{tree.category}/image_anno.csv")
    tree.write("split_csv/1cls.csv", "\n".join(rows).encode())
    tree.stray("split_csv/2cls_fewshot.csv", "LICENSE-DATASET")


def btad(tree: Tree) -> None:
    top = "BTech_Dataset_transformed"
    for tree.category, tree.class_name, image, mask in (
        ("01", "metal1", ".bmp", ".png"),
        ("02", "wood", ".png", ".png"),
        ("03", "metal2", ".bmp", ".bmp"),
    ):
        base = f"{top}/{tree.category}"
        tree.good(f"{base}/train/ok/0000{image}", "train")
        for number in ("0000", "0020"):  # the same stem in ok and ko
            tree.good(f"{base}/test/ok/{number}{image}")
            tree.bad(f"{base}/test/ko/{number}{image}", f"{base}/ground_truth/ko/{number}{mask}", "ko")


def ksdd2(tree: Tree) -> None:
    tree.category = tree.class_name = "metal"
    for split, first in (("train", 10000), ("test", 20000)):
        for number in range(first, first + 4):  # every image has a mask, most without a pixel
            image, mask = f"{split}/{number}.png", f"{split}/{number}_GT.png"
            if number == first + 2:
                tree.bad(image, mask, "defect", split, value=1)
            else:
                tree.good(image, split)
                tree.mask(mask, 0)
    tree.stray("train/10301 (copy).png", "train/10301_GT (copy).png")


def rsdd(tree: Tree) -> None:
    tree.category, tree.class_name = "rail", "metal15"
    for part in ("Type-I RSDDs dataset", "Type-II RSDDs dataset"):
        for number in (1, 2, 10):  # the mask has the image's name, and is JPEG
            name = f"rail_{number}.jpg"
            base = f"RSDDs dataset/{part}"
            tree.bad(f"{base}/Rail surface images/{name}", f"{base}/GroundTruth/{name}", "defect")


def dagm(tree: Tree) -> None:
    for number in (1, 6):
        tree.category, tree.class_name = f"Class{number}", f"fabric{number}"
        for split in ("train", "test"):
            base = f"DAGM_KaggleUpload/{tree.category}/{split.capitalize()}"
            for image in ("0001", "0002"):
                tree.good(f"{base}/{image}.PNG", split)
            tree.bad(f"{base}/0003.PNG", f"{base}/Label/0003_label.PNG", "defect", split)
            tree.stray(f"{base}/Label/Labels.txt")


def dtd(tree: Tree) -> None:
    for tree.category, tree.class_name, good in (("Woven_068", "woven4", "mesh_"), ("Blotchy_099", "blotchy", "")):
        base = tree.category
        tree.good(f"{base}/train/good/000.png", "train")
        tree.good(f"{base}/test/good/{good}000.png")
        for number in range(2):
            tree.bad(f"{base}/test/bad/00{number}.png", f"{base}/ground_truth/bad/00{number}_mask.png", "bad")


def headct(tree: Tree) -> None:
    tree.category, tree.class_name = "head_ct", "head ct"
    rows = ["id, hemorrhage"]  # with that space
    for number in range(2):
        tree.bad(f"head_ct/head_ct/{number:03d}.png", None, "hemorrhage")
        rows.append(f"{number},1")
    for number in range(100, 103):
        tree.good(f"head_ct/head_ct/{number:03d}.png")
        rows.append(f"{number},0")
    tree.write("labels.csv", "\n".join(rows).encode())


def brainmri(tree: Tree) -> None:
    tree.category, tree.class_name = "brain_ct", "brain ct"
    for name in ("1 no.jpg", "no 2.jpg", "No11.jpg", "N1.JPG", "3 no.jpeg", "no.jpg", "no 9.png"):
        tree.good(f"brain_tumor_dataset/no/{name}")
    for name in ("Y1.jpg", "Y2.JPG", "Y92.jpg", "Y92.png", "Y100.JPG"):  # a stem that occurs twice
        tree.bad(f"brain_tumor_dataset/yes/{name}", None, "tumor")
    inside = tree.root / "brain_tumor_dataset/no/No11.jpg"
    inside.write_bytes(encoded(surface(99).convert("RGBA"), ".png"))


def br35h(tree: Tree) -> None:
    tree.category = tree.class_name = "brain"
    for name in ("no0.jpg", "no1.jpg", "No12.jpg"):
        tree.good(f"no/{name}")
    for name in ("y0.jpg", "y1.jpg"):
        tree.bad(f"yes/{name}", None, "tumor")
    tree.stray("pred/pred0.jpg", "Br35H-Mask-RCNN/TRAIN/y1.jpg")


def isic(tree: Tree) -> None:
    tree.category = tree.class_name = "skin"
    for part, split in (("Training", "train"), ("Test", "test")):
        base = f"ISBI2016_ISIC_Part1_{part}"
        for number in range(2):
            name = f"ISIC_000000{number}"
            tree.bad(f"{base}_Data/{name}.jpg", f"{base}_GroundTruth/{name}_Segmentation.png", "lesion", split)


def _polyps(tree: Tree, images: str, masks: str, names: tuple[str, ...], suffixes: tuple[str, str]) -> None:
    tree.category = tree.class_name = "colon"
    for name in names:
        tree.bad(f"{images}/{name}{suffixes[0]}", f"{masks}/{name}{suffixes[1]}", "polyp")


def colondb(tree: Tree) -> None:
    _polyps(tree, "CVC-ColonDB/images", "CVC-ColonDB/masks", ("1", "2", "10"), (".png", ".png"))


def colondb_official(tree: Tree) -> None:
    _polyps(tree, "CVC-ColonDB", "CVC-ColonDB", (), (".bmp", ".bmp"))
    for number in (1, 2, 10):
        tree.bad(f"CVC-ColonDB/{number}.bmp", f"CVC-ColonDB/p{number}.bmp", "polyp")
        tree.stray(f"CVC-ColonDB/s{number}.bmp", f"CVC-ColonDB/c{number}.bmp")


def clinicdb(tree: Tree) -> None:
    _polyps(tree, "CVC-ClinicDB/Original", "CVC-ClinicDB/Ground Truth", ("1", "2", "10"), (".tif", ".tif"))


def clinicdb_kaggle(tree: Tree) -> None:
    _polyps(tree, "PNG/Original", "PNG/Ground Truth", ("1", "2"), (".png", ".png"))
    tree.stray("TIF/Original/1.tif", "TIF/Ground Truth/1.tif")


def endo(tree: Tree) -> None:
    top = "EndoTect_2020_Segmentation_Test_Dataset"
    names = ("0a1b-22", "ff00-9c")
    _polyps(tree, f"{top}/images", f"{top}/masks", names, (".jpg", ".png"))


def kvasir(tree: Tree) -> None:
    _polyps(tree, "Kvasir-SEG/images", "Kvasir-SEG/masks", ("cju0qk", "cju0rx"), (".jpg", ".jpg"))
    tree.stray("Kvasir-SEG/kavsir_bboxes.json")


PUBLISHED: dict[str, Callable[[Tree], None]] = {
    painter.__name__: painter
    for painter in (
        *(mvtec, visa, btad, ksdd2, rsdd, dagm, dtd),
        *(headct, brainmri, br35h, isic, colondb, clinicdb, endo, kvasir),
    )
}
OTHER_FORMS = {"colondb": colondb_official, "clinicdb": clinicdb_kaggle}


def paint(name: str, root: Path) -> Tree:
    """The dataset ``name`` in its published layout."""
    tree = Tree(root)
    PUBLISHED[name](tree)
    return tree


def write_list(path: Path, records: list[Record], names: dict[str, str], prefix: str = "") -> None:
    """A community list of these records; ``names`` are the categories as it calls them."""
    content: dict[str, dict[str, list[dict[str, object]]]] = {"train": {}, "test": {}}
    for record in records:
        name = names.get(record.category, record.category)
        entry = {
            "img_path": prefix + record.image,
            "mask_path": prefix + record.mask if record.mask else "",
            "cls_name": name,
            "specie_name": record.defect,
            "anomaly": record.label,
        }
        content[record.split].setdefault(name, []).append(entry)
    path.write_text(json.dumps(content), "utf-8")


def rearrange(tree: Tree, target: Path, dataset: str, names: dict[str, str]) -> Tree:
    """The same images in the form of the Bayes-PFL authors: new names, .bmp, one list beside the folder."""
    copy = Tree(target, numbers=tree.numbers)
    listed = []
    for number, record in enumerate(tree.records):
        name = names.get(record.category, record.category)
        kind = "anomaly" if record.label else "good"
        stem = f"{dataset}_{record.defect}_{number:06d}"
        image = copy.image(f"{dataset}/{name}/{record.split}/{kind}/{stem}.bmp")
        mask = f"{dataset}/{name}/ground_truth/{kind}/{stem}.png"
        if record.mask is not None:
            copy.mask(mask)
        copy.records.append(record._replace(image=image, mask=mask if record.mask else None))
        # The lists name a mask for every anomalous image, also where there never was one.
        listed.append(record._replace(image=image, mask=mask if record.label else None, defect=kind))
    write_list(target / f"meta_{dataset}.json", listed, names)
    return copy
