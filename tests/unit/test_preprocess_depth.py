"""Gray of more than 8 bits, pages, long notes and thin masks: values as the file means them, and said."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from scipy import ndimage

from bayes_pfl.data.colours import rgb
from bayes_pfl.data.preprocess import decode, decode_image, mask_tensor, truth_at, vanishes
from bayes_pfl.errors import ImageError
from bayes_pfl.inference.images import rgb_image

GRAY = np.arange(12 * 20).reshape(12, 20) % 251
"""Values of 8 bits that do not reach the full range."""


def png(values, chunk=b"", content=b""):
    """A 16-bit PNG with one more chunk behind its header."""
    sink = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(sink, format="PNG")
    data = sink.getvalue()
    extra = struct.pack(">I", len(content)) + chunk + content + struct.pack(">I", zlib.crc32(chunk + content))
    return data[:33] + (extra if chunk else b"") + data[33:]


def tiff(values, bits, photometric=1, largest=None):
    """An uncompressed gray TIFF; 12 bits are packed."""
    height, width = values.shape
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(int)
        packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
        data = packed.astype(np.uint8).tobytes()
    else:
        data = values.astype("<u2").tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    tags |= {} if largest is None else {281: largest}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def scaled(bits):
    return np.round(GRAY / 255 * (2**bits - 1)).astype(int)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_the_depth_is_the_smallest_that_holds_the_image_and_is_said(bits):
    for data in (png(scaled(bits)), tiff(scaled(bits), 16)):
        decoded = decode(data)
        assert (decoded.bits, decoded.bits_stated, decoded.pages) == (bits, False, 1)
        np.testing.assert_allclose(np.asarray(decoded.image)[..., 0], GRAY, atol=1)
        np.testing.assert_array_equal(np.asarray(rgb_image(data)), np.asarray(decoded.image))


@pytest.mark.parametrize(
    "data",
    [
        png(scaled(12) // 8, b"sBIT", b"\x0c"),
        tiff(scaled(12) // 8, 12),
        tiff(scaled(12) // 8, 16, largest=4095),
    ],
    ids=["sBIT", "BitsPerSample", "MaxSampleValue"],
)
def test_a_stated_depth_counts_even_for_a_dark_image(data):
    decoded = decode(data)
    assert (decoded.bits, decoded.bits_stated) == (12, True)
    np.testing.assert_allclose(np.asarray(decoded.image)[..., 0], GRAY / 8, atol=1)


def test_a_stated_depth_that_the_values_exceed_is_not_believed():
    assert decode(png(scaled(16), b"sBIT", b"\x0c"))[2:4] == (16, False)


def test_the_caller_may_state_the_depth():
    assert decode(png(scaled(10)), bits=12)[2:4] == (12, True)
    with pytest.raises(ImageError, match="leave the number of bits out"):
        decode(png(scaled(16)), bits=12)


@pytest.mark.parametrize("bits", [12, 16])
def test_white_may_be_zero(bits):
    white = tiff(2**bits - 1 - scaled(bits), 16, photometric=0, largest=2**bits - 1)
    np.testing.assert_allclose(np.asarray(decode_image(white))[..., 0], GRAY, atol=1)


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
def test_notes_of_any_size_do_not_matter(kind):
    text = b"x" * (3 * 2**20)
    content = {
        b"tEXt": b"k\0" + text,
        b"zTXt": b"k\0\0" + zlib.compress(text),
        b"iTXt": b"k\0\1\0\0\0" + zlib.compress(text),
    }[kind]
    np.testing.assert_array_equal(
        np.asarray(decode_image(png(scaled(16), kind, content))), np.asarray(decode_image(png(scaled(16))))
    )


def test_pages_are_counted():
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 20, 30)]
    sink = io.BytesIO()
    frames[0].save(sink, format="TIFF", save_all=True, append_images=frames[1:])
    decoded = decode(sink.getvalue())
    assert (decoded.pages, decoded.bits, decoded.remarks) == (3, None, ("first of 3 pages",))
    assert np.asarray(decoded.image).max() == 10


def file_of(image, kind="PNG", **options):
    sink = io.BytesIO()
    image.save(sink, format=kind, **options)
    return sink.getvalue()


def test_transparent_pixels_are_shown_over_white_and_that_is_said():
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (12, 20, 4), dtype=np.uint8)
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    gray = pixels[..., [0, 3]]
    for data, wanted in (
        (file_of(Image.fromarray(pixels)), expected),
        (file_of(Image.fromarray(pixels), "WEBP", lossless=True, exact=True), expected),
        (file_of(Image.fromarray(pixels), "TIFF"), expected),
        (file_of(Image.fromarray(gray, "LA")), expected[..., :1].repeat(3, 2)),
    ):
        decoded = decode(data)
        assert decoded.remarks == ("transparent pixels over white",)
        np.testing.assert_allclose(np.asarray(decoded.image), wanted, atol=1)
    one = Image.fromarray(pixels[..., :3])
    assert decode(file_of(one, transparency=tuple(pixels[0, 0, :3].tolist()))).image.getpixel((0, 0)) == (255, 255, 255)
    pixels[..., 3] = 255
    assert decode(file_of(Image.fromarray(pixels))).remarks == ()


def test_floats_are_of_0_to_1_or_of_0_to_255_and_nothing_else():
    gray = GRAY.astype(np.float32)
    for values, remarks in ((gray / 255, 0), (gray, 1)):
        decoded = decode(file_of(Image.fromarray(values), "TIFF"))
        np.testing.assert_array_equal(np.asarray(decoded.image)[..., 0], GRAY)
        assert len(decoded.remarks) == remarks
    for values in (gray - 1, gray * 2, gray * np.nan, np.where(gray > 9, np.inf, gray).astype(np.float32)):
        with pytest.raises(ImageError, match="floating-point"):
            decode(file_of(Image.fromarray(values), "TIFF"))


def test_a_colour_profile_that_is_not_applied_is_said():
    image = Image.fromarray(GRAY.astype(np.uint8)).convert("RGB")
    assert (
        decode(file_of(image, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())).remarks
        == ()
    )
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for kind in ("PNG", "JPEG", "TIFF"):
        assert decode(file_of(image, kind, icc_profile=lab)).remarks == ("colour profile (ICC) not applied",)


def test_what_was_assumed_is_said():
    assert decode(png(scaled(12))).remarks == ("12 of 16 bits used, as the largest value shows",)
    assert decode(png(scaled(12), b"sBIT", b"\x0c")).remarks == ()
    assert decode(png(scaled(16))).remarks == ()


@pytest.mark.parametrize("seed", range(20))
def test_regions_that_vanish_are_ignored_and_all_others_are_as_the_tensor_has_them(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((60, 90), np.uint8)
    for _ in range(6):
        row, column, side = rng.integers(0, 50), rng.integers(0, 80), rng.integers(1, 9)
        mask[row : row + side, column : column + side] = 1
    truth, plain = truth_at(mask, 15), mask_tensor(mask, 15).numpy()
    ignored = np.isnan(truth)
    np.testing.assert_array_equal(truth[~ignored], plain[~ignored])
    assert not plain[ignored].any()
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    expected = np.zeros((15, 15), bool)
    for region in range(1, count + 1):
        cells = {(row * 15 // 60, column * 15 // 90) for row, column in np.argwhere(labels == region)}
        if not any(plain[cell] for cell in cells):
            for cell in cells:
                expected[cell] = True
    np.testing.assert_array_equal(ignored, expected)


def test_a_mask_vanishes_where_no_pixel_of_its_tensor_is_left():
    mask = np.zeros((200, 200), np.uint8)
    assert not vanishes(mask, 28, 28), "nothing was there"
    mask[:2, :2] = 1
    for size in (28, 100, 200):
        assert vanishes(mask, size, size) == (not mask_tensor(mask, size).any())
    assert vanishes(mask, 28, 28)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "P"])
@pytest.mark.parametrize("alphas", [(0, 256), (0, 1), (255, 256)])
def test_transparency_in_bands_equals_transparency_at_once(monkeypatch, mode, alphas):
    draw = np.random.default_rng(7)
    values = draw.integers(0, 256, (37, 23, 4), np.uint8)
    values[..., 3] = draw.integers(*alphas, (37, 23))
    image = Image.fromarray(values)
    if mode == "P":
        image = image.quantize(16)
        image.info["transparency"] = bytes(draw.integers(*alphas, 16, np.uint8))
    elif mode == "PA":
        image = Image.fromarray(values[..., :3]).quantize(16).convert("PA")
        image.putalpha(Image.fromarray(values[..., 3]))
    else:
        image = image.convert(mode)
    colours = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    shown = colours if colours.getchannel("A").getextrema()[1] == 0 else Image.alpha_composite(white, colours)
    monkeypatch.setattr("bayes_pfl.data.colours.PIXELS_AT_ONCE", 23 * 5)
    assert np.array_equal(rgb(image), shown.convert("RGB"))


def wide_png(values):
    """A PNG of 16-bit colours, which Pillow does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_colours_of_16_bits_are_said_and_never_nearly_black():
    values = np.arange(12 * 20 * 3).reshape(12, 20, 3) * 90
    decoded = decode(wide_png(values))
    assert np.array_equal(np.asarray(decoded.image), values >> 8)
    assert decoded.remarks == ("upper 8 of the 16 bits of a colour",)
    for data, bits in ((wide_png(values // 16), None), (wide_png(values), 12)):
        with pytest.raises(ImageError, match="save it with 8 bits"):
            decode(data, bits=bits)


@pytest.mark.parametrize("head", [b"FLIR\0", b"http://ns.adobe.com/xmp/extension/\0"])
def test_a_camera_s_own_segments_are_no_exif(head):
    sink = io.BytesIO()
    Image.new("RGB", (20, 10), (9, 80, 200)).save(sink, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 60_000) + head.ljust(59_998, b"x")
    data = sink.getvalue()
    assert decode_image(data[:2] + segment * 30 + data[2:]).size == (20, 10)
