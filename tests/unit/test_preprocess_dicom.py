"""DICOM: window, rescale, MONOCHROME1, frames and colours give the values that the file means; broken files a sentence."""

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bayes_pfl.data import dicom
from bayes_pfl.data.preprocess import count_pages, decode, decode_image, decode_mask
from bayes_pfl.data.walk import select_images, skipped_summary
from bayes_pfl.errors import ImageError
from bayes_pfl.inference.images import rgb_image

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels.encoders import RLELosslessEncoder  # noqa: E402
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless, RLELossless  # noqa: E402

GRAY = (np.arange(12 * 20).reshape(12, 20) * 17 % 4096).astype(np.uint16)
"""Unsigned values of 12 bits."""


def written(pixels, syntax=pydicom.uid.ExplicitVRLittleEndian, content=None, **elements):
    """A DICOM file of an array (height, width[, 3]) or (frames, height, width)."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    colours = pixels.ndim == 3 and pixels.shape[2] == 3
    file.Rows, file.Columns = pixels.shape[-3:-1] if colours else pixels.shape[-2:]
    file.SamplesPerPixel = 3 if colours else 1
    file.PhotometricInterpretation = "RGB" if colours else "MONOCHROME2"
    if colours:
        file.PlanarConfiguration = 0
    file.BitsAllocated = 8 * pixels.dtype.itemsize
    file.BitsStored = elements.pop("BitsStored", file.BitsAllocated)
    file.HighBit = file.BitsStored - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes() if content is None else content
    file["PixelData"].VR = "OW" if file.BitsAllocated == 16 and content is None else "OB"
    for name, value in elements.items():
        setattr(file, name, value)
    sink = io.BytesIO()
    encoding = {"implicit_vr": syntax == pydicom.uid.ImplicitVRLittleEndian, "little_endian": True}
    pydicom.dcmwrite(sink, file, enforce_file_format=True, **({} if content else encoding))
    return sink.getvalue()


def shown(data):
    """The gray values that come out, the same in all three colours."""
    pixels = np.asarray(decode_image(data))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].astype(float)


def test_gray_without_a_window_fills_the_bits_that_the_file_states():
    np.testing.assert_allclose(shown(written(GRAY, BitsStored=12)), GRAY / 4095 * 255, atol=0.51)
    decoded = decode(written(GRAY // 8, BitsStored=12))
    assert (decoded.bits, decoded.bits_stated, decoded.pages) == (12, True, 1)
    assert decode(written(GRAY))[2:4] == (12, False), "16 bits say no more than those of a TIFF"
    np.testing.assert_array_equal(shown(written((GRAY >> 4).astype(np.uint8))), GRAY >> 4)


def test_monochrome1_is_turned_around():
    for extra in ({}, {"WindowCenter": 2000, "WindowWidth": 1000}):
        plain = shown(written(GRAY, BitsStored=12, **extra))
        np.testing.assert_array_equal(
            shown(written(GRAY, BitsStored=12, PhotometricInterpretation="MONOCHROME1", **extra)), 255 - plain
        )


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_the_first_window_of_rescaled_values(function):
    signed = (GRAY.astype(np.int16) - 1024) // 2
    hounsfield = signed * 2.0 + 24
    center, width = 300.0, 1500.0
    extra = {} if function is None else {"VOILUTFunction": function}
    data = written(signed, RescaleSlope=2, RescaleIntercept=24, WindowCenter=[300, 50], WindowWidth=[1500, 9], **extra)
    share = {
        "LINEAR_EXACT": (hounsfield - center) / width + 0.5,
        "SIGMOID": 1 / (1 + np.exp(-4 * (hounsfield - center) / width)),
    }.get(function, (hounsfield - (center - 0.5)) / (width - 1) + 0.5)
    np.testing.assert_allclose(shown(data), np.clip(share, 0, 1) * 255, atol=0.51)


def test_the_window_is_that_of_pydicom():
    data = written(GRAY, BitsStored=12, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=1500, WindowWidth=900)
    file = pydicom.dcmread(io.BytesIO(data))
    theirs = pydicom.pixels.apply_windowing(pydicom.pixels.apply_modality_lut(file.pixel_array, file), file)
    theirs = (theirs - theirs.min()) / (theirs.max() - theirs.min()) * 255
    np.testing.assert_allclose(shown(data), theirs, atol=1)


def test_signed_values_without_a_window_go_from_the_lowest_to_the_highest_without_padding():
    signed = GRAY.astype(np.int16) - 1024
    signed[0] = -2000
    data = written(signed, PixelPaddingValue=-2000)
    there = signed[1:].astype(float)
    expected = np.clip((signed - there.min()) / (there.max() - there.min()), 0, 1) * 255
    np.testing.assert_allclose(shown(data), expected, atol=0.51)
    assert not shown(written(np.full((4, 5), -7, np.int16))).any(), "one value has no range"


def test_a_table_of_values_of_interest_comes_before_a_window():
    item = Dataset()
    item.LUTDescriptor = [256, 0, 8]
    item.LUTData = list(range(255, -1, -1))
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    values = (GRAY >> 4).astype(np.uint8)
    data = written(values, VOILUTSequence=[item], WindowCenter=1, WindowWidth=1)
    np.testing.assert_array_equal(shown(data), 255 - values)


def test_a_window_in_the_functional_groups_counts():
    window, transform, group = Dataset(), Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 100, 50
    transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = 1, -50, "HU"
    group.FrameVOILUTSequence, group.PixelValueTransformationSequence = [window], [transform]
    data = written(np.stack([GRAY, GRAY // 2]), NumberOfFrames=2, SharedFunctionalGroupsSequence=[group])
    np.testing.assert_array_equal(
        shown(data),
        shown(written(GRAY, RescaleSlope=1, RescaleIntercept=-50, WindowCenter=100, WindowWidth=50)),
    )


def test_the_first_of_many_frames_is_taken_and_they_are_counted():
    frames = np.stack([np.full((6, 7), value, np.uint8) for value in (10, 20, 30)])
    data = written(frames, NumberOfFrames=3)
    assert (decode(data).pages, count_pages(data)) == (3, 3)
    assert (shown(data) == 10).all()


def test_colours_are_kept():
    colours = np.random.default_rng(3).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(decode_image(written(colours))), colours)
    in_ycc = np.asarray(Image.fromarray(colours).convert("YCbCr"))
    data = written(in_ycc, PhotometricInterpretation="YBR_FULL")
    assert np.abs(np.asarray(decode_image(data)).astype(int) - colours).max() <= 3


def test_a_palette_is_looked_up():
    values = (GRAY % 256).astype(np.uint8)
    tables = {}
    for name, shift in (("Red", 0), ("Green", 40), ("Blue", 80)):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        table = ((np.arange(256) + shift) % 256 * 257).astype("<u2")
        tables[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    data = written(values, PhotometricInterpretation="PALETTE COLOR", **tables)
    expected = np.stack([(values.astype(int) + shift) % 256 for shift in (0, 40, 80)], -1)
    np.testing.assert_array_equal(np.asarray(decode_image(data)), expected)


def run_lengths(pixels):
    """The image compressed by pydicom."""
    options = {
        "rows": pixels.shape[0], "columns": pixels.shape[1], "samples_per_pixel": 1, "number_of_frames": 1,
        "bits_allocated": 16, "bits_stored": 16, "pixel_representation": 0, "photometric_interpretation": "MONOCHROME2",
    }  # fmt: skip
    return RLELosslessEncoder.encode(pixels.tobytes(), encoding_plugin="pydicom", **options)


def test_compressed_files_give_the_pixels_of_uncompressed_ones():
    packed = written(GRAY, RLELossless, encapsulate([run_lengths(GRAY)]))
    np.testing.assert_array_equal(shown(packed), shown(written(GRAY)))
    smooth = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1))
    sink = io.BytesIO()
    Image.fromarray(smooth).save(sink, format="JPEG", quality=95)
    data = written(smooth, JPEGBaseline8Bit, encapsulate([sink.getvalue()]))
    assert np.abs(shown(data) - smooth).max() <= 4


def test_the_same_bytes_give_the_same_pixels_everywhere():
    data = written(GRAY, BitsStored=12, WindowCenter=900, WindowWidth=1000)
    np.testing.assert_array_equal(np.asarray(rgb_image(data)), np.asarray(decode_image(data)))
    old = written(GRAY, pydicom.uid.ImplicitVRLittleEndian, BitsStored=12, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    file = pydicom.dcmread(io.BytesIO(old))
    sink = io.BytesIO()
    pydicom.dcmwrite(sink, Dataset(file), implicit_vr=True, little_endian=True)
    assert sink.getvalue()[128:132] != b"DICM"
    np.testing.assert_array_equal(shown(sink.getvalue()), shown(old))


def test_a_mask_may_be_dicom():
    mask = np.zeros((6, 7), np.uint8)
    mask[2:4, 3] = 255
    np.testing.assert_array_equal(decode_mask(written(mask)), mask // 255)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (written(GRAY, JPEGLSLossless, encapsulate([b"\xff\xd8\xff\xf7" + bytes(40)])), "is compressed as JPEG-LS"),
        (written(GRAY).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"), "is deflated"),
        (written(GRAY)[:400], "broken or cut short"),
        (bytes(128) + b"DICM", "without an image"),
        (written(GRAY.astype(np.uint32)), "32 bits a pixel"),
        (written(GRAY, Rows=60_000, Columns=60_000), "60000 x 60000 is larger than"),
        (written(GRAY, Rows=2, Columns=60_000), "a side longer than"),
        (written(GRAY, Rows=100), "broken or cut short"),
    ],
)
def test_what_is_not_read_gets_a_sentence(data, sentence):
    with pytest.raises(ImageError, match=sentence):
        decode_image(data)


def test_run_lengths_and_pictures_that_unpack_to_more_than_the_image_are_refused_before_they_take_memory():
    bomb = bytes([2, 0, 0, 0, 64, 0, 0, 0, 66, 0, 0, 0]).ljust(64, b"\0") + b"\x81\0" * 500_000
    picture = io.BytesIO()
    Image.new("L", (4000, 4000)).save(picture, format="JPEG")
    for syntax, frame, pixels in (
        (RLELossless, bomb, GRAY),
        (JPEGBaseline8Bit, picture.getvalue(), GRAY.astype(np.uint8)),
    ):
        data = written(pixels, syntax, encapsulate([frame]))
        tracemalloc.start()
        with pytest.raises(ImageError):
            decode_image(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 * 2**20


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_broken_bytes_never_end_in_anything_but_a_sentence(data):
    whole = bytearray(
        data.draw(
            st.sampled_from(
                [
                    written(GRAY, BitsStored=12, WindowCenter=900, WindowWidth=1000, NumberOfFrames=1),
                    written(GRAY, RLELossless, encapsulate([run_lengths(GRAY)])),
                ]
            )
        )
    )
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(128, len(whole) - 1))] = data.draw(st.integers(0, 255))
    whole = whole[: data.draw(st.integers(100, len(whole)))]
    try:
        image = decode_image(bytes(whole), max_pixels=1_000_000)
    except ImageError:
        return
    assert image.mode == "RGB"


def test_without_the_extra_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(dicom.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"pip install bayes-pfl\[medical\]"):
        decode_image(written(GRAY))
    images, skipped = select_images(["a.png", "b.dcm", "c.DICOM"])
    assert images == ("a.png",)
    assert skipped_summary(skipped) == ["2 files, DICOM, which is read after `pip install bayes-pfl[medical]`"]
