"""Masks lie on the upright image, whatever their values and whichever way up the file is stored."""

import io
import json
from pathlib import Path

import numpy as np
import painted
import pytest
from PIL import Image

from bayes_pfl.data.dicom import MISSING
from bayes_pfl.data.preprocess import MAX_PIXELS, count_pages, decode_image
from bayes_pfl.datasets.catalogue import find
from bayes_pfl.datasets.checks import check_files, check_listing
from bayes_pfl.datasets.header import read_header
from bayes_pfl.datasets.masks import decode_any_mask, record_mask
from bayes_pfl.datasets.names import NameChoices
from bayes_pfl.datasets.own import own_images
from bayes_pfl.datasets.record import Record, Shape
from bayes_pfl.datasets.source import Source
from bayes_pfl.errors import ImageError

MARK = np.zeros((16, 24), bool)
MARK[4:8, 10:16] = True


def png(pixels: np.ndarray, mode: str | None = None, form: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(sink, form, **options)
    return sink.getvalue()


def palette(index: int, colour: tuple[int, int, int]) -> bytes:
    image = Image.fromarray(np.where(MARK, index, 0).astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0] * index + list(colour))
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


VALUES = {
    "0 and 1": png(MARK.astype(np.uint8)),
    "0 and 255": png(np.where(MARK, 255, 0).astype(np.uint8)),
    "class 9": png(np.where(MARK, 9, 0).astype(np.uint8)),
    "value 100": png(np.where(MARK, 100, 0).astype(np.uint8)),
    "two values": png(np.where(MARK, 255, 0).astype(np.uint8), "1"),
    "red": png(np.where(MARK[..., None], [255, 0, 0], 0).astype(np.uint8)),
    "dark blue": png(np.where(MARK[..., None], [0, 0, 40], 0).astype(np.uint8)),
    "palette": palette(1, (128, 0, 0)),
    "black palette": palette(1, (0, 0, 0)),
    "palette with white first": png(np.where(MARK, 255, 0).astype(np.uint8), "P"),
    "very dark blue": png(np.where(MARK[..., None], [0, 0, 3], 0).astype(np.uint8)),
    "alpha": png(np.dstack([np.zeros((16, 24, 3), np.uint8), np.where(MARK, 255, 0).astype(np.uint8)])),
    "white on transparent white": png(
        np.dstack([np.full((16, 24, 3), 255, np.uint8), np.where(MARK, 255, 0).astype(np.uint8)])
    ),
    "red, opaque": png(np.dstack([np.where(MARK, 255, 0), 0 * MARK, 0 * MARK, 0 * MARK + 255]).astype(np.uint8)),
    "16 bits, classes 5 and 1000": png(np.where(MARK, np.where(np.arange(24) < 13, 5, 1000), 0).astype(np.uint16)),
    "32 bits": png(np.where(MARK, 70_000, 0).astype(np.int32), form="TIFF"),
    "float 300": png(np.where(MARK, 300.0, 0.0).astype(np.float32), form="TIFF"),
    "16 bits": png(np.where(MARK, 65535, 0).astype(np.uint16)),
    "float": png(np.where(MARK, 1.0, 0.0).astype(np.float32), form="TIFF"),
    "JPEG": png(np.where(MARK, 255, 0).astype(np.uint8), form="JPEG", quality=95),
    "dark JPEG": png(np.where(MARK, 100, 0).astype(np.uint8), form="JPEG", quality=95),
}


@pytest.mark.parametrize("name", VALUES)
def test_any_value_but_black_is_a_mark(name: str) -> None:
    mask = decode_any_mask(VALUES[name], None, MAX_PIXELS)
    if "JPEG" in name:  # a pixel of the outline may go either way
        assert (mask != MARK).sum() <= 4
    else:
        assert np.array_equal(mask, MARK)


def test_noise_of_jpeg_is_no_mark() -> None:
    mask = decode_any_mask(png(np.where(MARK, 255, 0).astype(np.uint8), form="JPEG", quality=30), None, MAX_PIXELS)
    assert MARK.sum() * 0.8 <= mask.sum() <= MARK.sum() * 1.2


def turned(folder: Path, orientation: int, size: tuple[int, int], stored: bool) -> tuple[bytes, np.ndarray]:
    """An image that EXIF turns and a mask without a tag; where the dark defect is on the upright image."""
    pixels = np.full((size[1], size[0], 3), 200, np.uint8)
    pixels[2:6, 3:13] = 10
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = png(pixels, form="JPEG", exif=exif, quality=95)
    upright = np.asarray(decode_image(data)).mean(-1) < 100
    drawn = pixels[..., 0] < 100 if stored else upright
    (folder / "mask.png").write_bytes(png(np.where(drawn, 255, 0).astype(np.uint8)))
    return data, upright


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "upright"])
@pytest.mark.parametrize("size", [(48, 32), (40, 40)], ids=["oblong", "square"])
def test_a_mask_turns_with_its_image_where_it_was_drawn_before(
    orientation: int, stored: bool, size: tuple[int, int], tmp_path: Path
) -> None:
    data, upright = turned(tmp_path, orientation, size, stored)
    record = Record("i.jpg", "mask.png", 1, "c", "c", "test", "d")
    upright_size = decode_image(data).size
    told = record_mask(tmp_path, record, data, upright_size, None, stored, MAX_PIXELS)
    assert (told.mask != upright).sum() <= 8
    assert told.turned == ""
    guessed = record_mask(tmp_path, record, data, upright_size, None, None, MAX_PIXELS)
    if orientation >= 5 and size[0] != size[1]:
        assert np.array_equal(guessed.mask, told.mask)
        assert guessed.turned == "by its size"
    else:
        assert guessed.turned == "unsure"


def test_a_mask_with_a_tag_of_its_own_is_upright(tmp_path: Path) -> None:
    data, upright = turned(tmp_path, 6, (40, 40), stored=True)
    mask = Image.open(tmp_path / "mask.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    mask.save(tmp_path / "mask.png", exif=exif)
    record = Record("i.jpg", "mask.png", 1, "c", "c", "test", "d")
    result = record_mask(tmp_path, record, data, (40, 40), None, None, MAX_PIXELS)
    assert (result.mask != upright).sum() <= 8
    assert result.turned == ""


def test_the_union_of_several_masks(tmp_path: Path) -> None:
    for name, columns in (("a.png", slice(0, 4)), ("b.png", slice(2, 8))):
        pixels = np.zeros((8, 8), np.uint8)
        pixels[:2, columns] = 1
        (tmp_path / name).write_bytes(png(pixels))
    record = Record("i.png", "a.png", 1, "c", "c", "test", "d", more_masks=("b.png",))
    image = png(np.zeros((8, 8, 3), np.uint8))
    assert record_mask(tmp_path, record, image, (8, 8), None, None, MAX_PIXELS).mask.sum() == 16
    (tmp_path / "b.png").write_bytes(png(np.zeros((9, 8), np.uint8)))
    with pytest.raises(ImageError, match="its mask is 8 x 9, the image 8 x 8"):
        record_mask(tmp_path, record, image, (8, 8), None, None, MAX_PIXELS)


def test_headers_say_pages_and_channels() -> None:
    pages = io.BytesIO()
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (1, 2, 3)]
    frames[0].save(pages, "TIFF", save_all=True, append_images=frames[1:])
    assert count_pages(pages.getvalue()) == 3
    assert read_header(VALUES["palette"]).one_channel
    assert not read_header(VALUES["red"]).one_channel
    assert read_header(b"nothing") == (1, False)


def test_records_survive_the_way_to_another_process() -> None:
    shapes = (Shape("polygon", (1.0, 2.0, 3.0, 4.0, 5.0, 6.5), True, (7, 8)), Shape("runs", (2.0, 2.0, 4.0)))
    for record in (
        Record("i", None, 0, "c", "c", "test", "good"),
        Record("i", "m", 1, "c", "c", "test", "d", ("n",)),
        Record("i", None, 1, "c", "c", "test", "d", shapes=shapes),
        Record("i", None, 1, "c", "c", "test", "d", shapes=()),
    ):
        assert Record.from_plain(json.loads(json.dumps(record.plain()))) == record
    assert len(Record("i", None, 0, "c", "c", "test", "good").plain()) == 7


def test_dicom_that_is_not_read_is_named_once() -> None:
    aside = [["a.dcm", f"is {MISSING}"], ["b", f"is {MISSING}"], ["c.dcm", "broken"]]
    assert check_files({"set_aside": aside}) == [
        "2 DICOM files are not read: a.dcm, b; `pip install bayes-pfl[medical]` reads them"
    ]
    assert check_files({"set_aside": aside[2:]}) == []


def test_masks_of_several_categories_may_lie_in_one_folder(tmp_path: Path) -> None:
    tree = painted.Tree(tmp_path / "s")
    for path in ("bolt/good/1.png", "bolt/bad/2.png", "nut/good/1.png", "nut/bad/3.png"):
        tree.image(path)
    for number in (2, 3):
        tree.mask(f"masks/{number}.png")
    listing = find(own_images(NameChoices()), Source(tree.root))
    assert {record.image: record.mask for record in listing.records if record.label} == {
        "bolt/bad/2.png": "masks/2.png",
        "nut/bad/3.png": "masks/3.png",
    }


def test_masks_that_fit_two_images_are_said(tmp_path: Path) -> None:
    tree = painted.Tree(tmp_path / "s")
    for path in ("bolt/good/1.png", "bolt/bad/2.png", "nut/good/1.png", "nut/bad/2.png"):
        tree.image(path)
    tree.mask("masks/2.png")
    dataset = own_images(NameChoices())
    (remark,) = check_listing(find(dataset, Source(tree.root)), dataset, selected=False)
    assert "2 images of defects without a mask" in remark
    assert "masks/2.png" in remark
