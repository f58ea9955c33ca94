"""Every way of storing pixels ends as the same upright RGB picture, and nothing else gets through."""

import contextlib
import io
import zlib

import numpy as np
import painted
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from bayes_pfl.data.pixels import CLIP_MEAN, CLIP_STD, image_tensor
from bayes_pfl.data.preprocess import decode_image, decode_mask, encode_mask, encode_png, mask_tensor, shrink
from bayes_pfl.errors import ImageError

GRAY = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
COLOUR = np.asarray(painted.surface(1, (20, 12)))
RAMP_16_BIT = GRAY.astype(np.uint16) * 257


def stored(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format=file_format, **options)
    return sink.getvalue()


def with_alpha(alpha: int) -> Image.Image:
    return Image.fromarray(np.dstack([COLOUR, np.full((12, 20), alpha, np.uint8)]))


class TestImages:
    """decode_image."""

    @pytest.mark.parametrize(
        ("data", "pixels"),
        [
            (stored(Image.fromarray(COLOUR)), COLOUR),
            (stored(Image.fromarray(COLOUR), "BMP"), COLOUR),
            (stored(Image.fromarray(COLOUR), "TIFF"), COLOUR),
            (stored(Image.fromarray(COLOUR), "WEBP", lossless=True), COLOUR),
            (stored(Image.fromarray(GRAY)), GRAY[..., None].repeat(3, 2)),
            (stored(Image.fromarray(GRAY).convert("P")), GRAY[..., None].repeat(3, 2)),
            (stored(Image.fromarray(GRAY > 99)), (GRAY > 99)[..., None].repeat(3, 2) * 255),
            (stored(with_alpha(255)), COLOUR),
            (stored(with_alpha(0)), COLOUR),  # alpha that hides everything was never meant
            (stored(Image.fromarray(GRAY).convert("LA")), GRAY[..., None].repeat(3, 2)),
            (stored(Image.fromarray(RAMP_16_BIT)), GRAY[..., None].repeat(3, 2)),
            (stored(Image.fromarray(RAMP_16_BIT), "TIFF"), GRAY[..., None].repeat(3, 2)),
            (stored(Image.fromarray(RAMP_16_BIT.astype(np.int32)), "TIFF"), GRAY[..., None].repeat(3, 2)),
            (stored(Image.fromarray(GRAY / np.float32(255)), "TIFF"), GRAY[..., None].repeat(3, 2)),
        ],
        ids=[
            *("png", "bmp", "tiff", "webp", "gray", "palette", "bilevel"),
            *("alpha", "transparent", "gray-alpha", "png16", "tiff16", "int32", "float"),
        ],
    )
    def test_lossless_forms_keep_their_pixels(self, data: bytes, pixels: np.ndarray) -> None:
        image = decode_image(data)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), pixels)

    @pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
    def test_jpeg_of_every_mode_keeps_its_colour(self, mode: str) -> None:
        flat = Image.new("RGB", (32, 32), (200, 120, 40))
        data = stored(flat.convert(mode), "JPEG", quality=95)
        expected = np.asarray(flat.convert("L").convert("RGB") if mode == "L" else flat).astype(int)
        assert np.abs(np.asarray(decode_image(data)) - expected).max() <= 4

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_undone(self, orientation: int) -> None:
        turns = {  # what a viewer has to do to the stored picture, EXIF 2.3, table of tag 0x0112
            1: lambda pixels: pixels,
            2: lambda pixels: pixels[:, ::-1],
            3: lambda pixels: pixels[::-1, ::-1],
            4: lambda pixels: pixels[::-1],
            5: lambda pixels: pixels.swapaxes(0, 1),
            6: lambda pixels: np.rot90(pixels, -1),
            7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
            8: lambda pixels: np.rot90(pixels, 1),
        }
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = stored(Image.fromarray(COLOUR), "PNG", exif=exif)
        np.testing.assert_array_equal(np.asarray(decode_image(data)), turns[orientation](COLOUR))

    def test_a_palettes_transparency_is_shown_over_white_without_a_warning(self) -> None:
        palette = Image.fromarray(COLOUR).quantize(16)
        data = stored(palette, "PNG", transparency=bytes(range(0, 256, 17)))
        alpha = np.asarray(palette)[..., None] * 17 / 255
        expected = np.asarray(palette.convert("RGB")) * alpha + 255 * (1 - alpha)
        np.testing.assert_allclose(np.asarray(decode_image(data)), expected, atol=1)

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty"),
            (b"GIF89a not one of ours", "not a readable image"),
            (b"\xff\xd8\xff\xe0 nothing follows", "not a readable image"),
            (stored(Image.fromarray(COLOUR))[:-60], "broken or cut short"),
            (stored(Image.fromarray(COLOUR), "JPEG")[:-60], "broken or cut short"),
            (stored(Image.fromarray(COLOUR), "GIF"), "not a readable image"),
            (stored(Image.fromarray(GRAY * np.float32(3)), "TIFF"), "floating-point"),
            (stored(Image.fromarray(GRAY.astype(np.int32) - 5), "TIFF"), "outside 0..65535"),
        ],
        ids=["empty", "gif-head", "jpeg-head", "cut-png", "cut-jpeg", "gif", "float-range", "int-range"],
    )
    def test_other_bytes_are_refused_with_a_reason(self, data: bytes, reason: str) -> None:
        with pytest.raises(ImageError, match=reason):
            decode_image(data)

    def test_size_is_checked_before_a_pixel_is_decoded(self) -> None:
        bomb = bytearray(stored(Image.new("L", (20, 20))))
        bomb[16:24] = (30_000).to_bytes(4, "big") * 2  # the header alone claims 0.9 gigapixels
        bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
        with pytest.raises(ImageError, match="larger than 67108864 pixels"):
            decode_image(bytes(bomb))
        with pytest.raises(ImageError, match="20 x 12 is larger than 239 pixels"):
            decode_image(stored(Image.fromarray(COLOUR)), max_pixels=239)
        with pytest.raises(ImageError, match="longer than 19 px"):
            decode_image(stored(Image.fromarray(COLOUR)), max_side_px=19)

    @given(st.data())
    def test_damaged_bytes_raise_image_errors_only(self, data: st.DataObject) -> None:
        image = bytearray(stored(Image.fromarray(COLOUR), data.draw(st.sampled_from(["PNG", "JPEG", "TIFF", "BMP"]))))
        for _ in range(data.draw(st.integers(1, 8))):
            image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(ImageError):
            assert decode_image(bytes(image)).mode == "RGB"


class TestMasks:
    """decode_mask and encode_mask."""

    def test_a_pixel_counts_above_the_threshold(self) -> None:
        data = stored(Image.fromarray(GRAY))
        for above in (0, 127, 128, 254):
            np.testing.assert_array_equal(decode_mask(data, above), above < GRAY)

    def test_class_numbers_survive_16_bits(self) -> None:
        numbers = (GRAY % 10).astype(np.uint16)
        np.testing.assert_array_equal(decode_mask(stored(Image.fromarray(numbers)), 0), numbers > 0)
        np.testing.assert_array_equal(decode_mask(stored(Image.fromarray(RAMP_16_BIT)), 128), GRAY > 128)

    def test_a_mode_without_gray_values_is_an_image_error(self) -> None:
        with pytest.raises(ImageError, match="has the mode LAB"):
            decode_mask(stored(Image.new("LAB", (4, 4)), "TIFF"))

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
    def test_any_mode(self, mode: str) -> None:
        mask = np.asarray(painted.blob()) > 0
        np.testing.assert_array_equal(decode_mask(stored(painted.blob().convert(mode)), 128), mask)

    def test_round_trip(self) -> None:
        mask = (GRAY > 100).astype(np.uint8)
        data = encode_mask(mask)
        assert data == encode_mask(mask)
        assert set(np.unique(np.asarray(Image.open(io.BytesIO(data))))) == {0, 255}
        for above in (0, 128):
            np.testing.assert_array_equal(decode_mask(data, above), mask)


class TestTensors:
    """image_tensor, mask_tensor and shrink."""

    def test_image_equals_torchvisions_transform(self) -> None:
        image = painted.surface(3, (61, 40))
        oracle = v2.Compose(
            [
                v2.Resize((28, 28), interpolation=v2.InterpolationMode.BICUBIC),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(CLIP_MEAN, CLIP_STD),
            ]
        )
        ours = image_tensor(image, 28)
        assert ours.shape == (3, 28, 28)
        torch.testing.assert_close(ours, oracle(image))

    def test_mask_equals_bilinear_resizing_at_one_half(self) -> None:
        mask = np.asarray(painted.blob()) // 255
        oracle = v2.functional.to_dtype(
            v2.functional.to_image(v2.functional.resize(Image.fromarray(mask * 255), [14, 14])),
            torch.float32,
            scale=True,
        )
        ours = mask_tensor(mask, 14)
        assert ours.shape == (14, 14)
        torch.testing.assert_close(ours, (oracle[0] > 0.5).float())
        assert 0 < ours.mean() < 1

    def test_shrinking_keeps_the_shape_of_both(self) -> None:
        mask = np.asarray(painted.blob(size=(240, 160))) // 255
        image, small = shrink(painted.surface(2, (240, 160)), mask, 60)
        assert image.size == (60, 40)
        assert small.shape == (40, 60)
        assert shrink(image, small, 60) == (image, small)

    def test_png_is_lossless_and_repeatable(self) -> None:
        image = painted.surface(4)
        assert encode_png(image) == encode_png(image.copy())
        np.testing.assert_array_equal(np.asarray(decode_image(encode_png(image))), np.asarray(image))
