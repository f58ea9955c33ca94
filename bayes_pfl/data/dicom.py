"""The bytes of a DICOM file -> its first frame, as the file says that it is to be looked at.

Stored values go through the modality transform (rescale or table) and the first window or table of values of interest;
MONOCHROME1 is turned around, so that 0 is black as everywhere. Gray without a window is taken as that of any file:
unsigned values over the range of their bits, signed or rescaled ones from the lowest to the highest of the image. Read
are uncompressed data, RLE and JPEG of 8 bits; whatever else there is gets a sentence. pydicom comes with the extra
`medical`.
"""

import importlib.util
import io
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from bayes_pfl.data.parts import BoundedReader
from bayes_pfl.errors import ImageError

INSTALL = "pip install bayes-pfl[medical]"

MISSING = f"DICOM, which is read after `{INSTALL}`"
"""Why a file is not read where the extra is not installed."""

_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_RLE = "1.2.840.10008.1.2.5"
_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_DEFLATED = b"1.2.840.10008.1.2.1.99"

_FIRST_ELEMENTS = (b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0")
"""Tags that old files begin with, which have no preamble."""

_TAGS = [
    "BitsAllocated", "BitsStored", "BluePaletteColorLookupTableData", "BluePaletteColorLookupTableDescriptor",
    "Columns", "GreenPaletteColorLookupTableData", "GreenPaletteColorLookupTableDescriptor", "HighBit",
    "LargestImagePixelValue", "ModalityLUTSequence", "NumberOfFrames", "PerFrameFunctionalGroupsSequence",
    "PhotometricInterpretation", "PixelData", "PixelPaddingValue", "PixelRepresentation", "PlanarConfiguration",
    "RedPaletteColorLookupTableData", "RedPaletteColorLookupTableDescriptor", "RescaleIntercept", "RescaleSlope",
    "Rows", "SamplesPerPixel", "SharedFunctionalGroupsSequence", "VOILUTFunction", "VOILUTSequence", "WindowCenter",
    "WindowWidth",
]  # fmt: skip
"""Elements that are read; all others, patients' names among them, never leave the file."""


_SEQUENCES = (
    "ModalityLUTSequence",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
    "VOILUTSequence",
)
_MOST_READS, _MOST_BYTES_OF_ITEM, _MOST_FRAGMENTS = 200_000, 2**20, 100_000
"""Bounds on what a file may make pydicom read: some hundred bytes of memory and 6 microseconds for each element."""


class DicomImage(NamedTuple):
    """The first frame of a DICOM file."""

    image: Image.Image
    """RGB, 8-bit gray, or gray of more bits that is still to be scaled."""
    frames: int
    stated_bits: int
    """Bits of a sample that the file states, for gray that is still to be scaled; else 0."""
    white_is_zero: bool
    """Whether gray that is still to be scaled is to be turned around."""


def is_dicom(data: bytes) -> bool:
    """Whether bytes begin as a DICOM file: after its preamble, or at once with an element of its first group.

    Args:
        data: the file's bytes.

    Returns:
        True for what `decode_dicom` is to read.
    """
    return data[128:132] == b"DICM" or data[:4] in _FIRST_ELEMENTS


def is_installed() -> bool:
    """Whether the extra `medical` is there.

    Returns:
        True if pydicom can be imported.
    """
    return importlib.util.find_spec("pydicom") is not None


def decode_dicom(data: bytes, max_pixels: int, max_side_px: int) -> DicomImage:
    """The first frame of a DICOM file.

    Args:
        data: the file's bytes.
        max_pixels: larger images are refused from their header.
        max_side_px: longer ones are refused from their header.

    Returns:
        The frame, and what is to be said of it.

    Raises:
        ImageError: pydicom is not installed, the file is broken, too large, holds no image, or is compressed in a
            way that is not read.
    """
    if not is_installed():
        raise ImageError(f"is {MISSING}")
    try:
        file = _elements(data)
        _check_size(file, max_pixels, max_side_px)
        return _first_frame(file)
    except ImageError:
        raise
    except Exception as error:  # pydicom answers malformed bytes with a dozen exception types
        raise ImageError("is DICOM that is broken or cut short") from error


def count_frames(data: bytes) -> int:
    """Frames of a DICOM file.

    Args:
        data: the file's bytes.

    Returns:
        Their number; 1 for what cannot be read.
    """
    try:
        return max(1, int(_elements(data).get("NumberOfFrames") or 1))
    except Exception:  # as above
        return 1


def _elements(data: bytes) -> Any:
    """The elements that matter, as pydicom's data set; of a sequence that is not parsed yet the first item alone."""
    import pydicom

    if _DEFLATED in data:
        raise ImageError("is deflated as a whole, which is not read; save it uncompressed")
    file = pydicom.dcmread(BoundedReader(data, _MOST_READS), force=data[128:132] != b"DICM", specific_tags=_TAGS)
    order: Literal["little", "big"] = "little" if file.original_encoding[1] is not False else "big"
    for name in _SEQUENCES:
        raw: Any = file.get_item(name)
        if isinstance(getattr(raw, "value", None), bytes):
            length = int.from_bytes(raw.value[4:8], order)
            first = raw.value[: 8 + length]  # all of them where the first has no length
            if len(first) > _MOST_BYTES_OF_ITEM:
                raise ImageError(f"is DICOM with more in its {name} than is read; save the image alone")
            file[name] = raw._replace(value=first, length=len(first))
    return file


def _check_size(file: Any, max_pixels: int, max_side_px: int) -> None:
    """Refuse what is no image or too large, from the header alone."""
    if "PixelData" not in file or not file.get("Rows") or not file.get("Columns"):
        raise ImageError("is DICOM without an image")
    width, height = int(file.Columns), int(file.Rows)
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} is larger than {max_pixels} pixels (max_pixels)")
    if max(width, height) > max_side_px:
        raise ImageError(f"{width} x {height} has a side longer than {max_side_px} px")
    if file.get("SamplesPerPixel", 1) not in (1, 3) or file.get("BitsAllocated") not in (1, 8, 16):
        samples, bits = file.get("SamplesPerPixel", 1), file.get("BitsAllocated")
        raise ImageError(f"has {samples} samples of {bits} bits a pixel; 1 or 3 of 8 or 16 are read")


def _first_frame(file: Any) -> DicomImage:
    from pydicom.pixels import apply_color_lut

    frames = max(1, int(file.get("NumberOfFrames") or 1))
    stored, seen_as = _stored_values(file, frames)
    if seen_as == "PALETTE COLOR":
        stored = apply_color_lut(stored, file)
    if stored.ndim == 3:
        bits = 16 if stored.dtype == np.uint16 else 8
        return DicomImage(Image.fromarray((stored >> (bits - 8)).astype(np.uint8)), frames, 0, False)
    white_is_zero = seen_as == "MONOCHROME1"
    transform = _Transform(file)
    bits = int(file.get("BitsStored") or file.BitsAllocated)
    if stored.dtype == np.uint16 and bits > 8 and transform.keeps_range:
        return DicomImage(Image.fromarray(stored), frames, bits if bits < 16 else 0, white_is_zero)
    gray = transform.gray(stored, bits)
    return DicomImage(Image.fromarray(255 - gray if white_is_zero else gray), frames, 0, False)


def _stored_values(file: Any, frames: int) -> tuple[np.ndarray, str]:
    """The first frame's pixels, colours as RGB, and the photometric interpretation that they then have."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder

    meta = getattr(file, "file_meta", {})
    syntax = str(meta.get("TransferSyntaxUID") or _UNCOMPRESSED[0])
    plugin = ""
    if syntax not in _UNCOMPRESSED:
        if syntax != _RLE and syntax not in _JPEG:
            name = getattr(meta.get("TransferSyntaxUID"), "name", syntax)
            raise ImageError(f"is compressed as {name}, which is not read; save it uncompressed or as PNG")
        if file.PixelData.count(b"\xfe\xff\x00\xe0") > _MOST_FRAGMENTS:
            raise ImageError("is DICOM of more fragments than are read; save the first frame alone")
        frame = get_frame(file.PixelData, 0, number_of_frames=frames)
        if syntax == _RLE:
            _check_run_lengths(frame, file.Rows * file.Columns)
            plugin = "pydicom"
        else:
            _check_jpeg(frame, (file.Columns, file.Rows))
            plugin = "pillow"
    values, properties = get_decoder(syntax).as_array(file, index=0, decoding_plugin=plugin)
    return values, str(properties["photometric_interpretation"])


def _check_jpeg(frame: bytes, size: tuple[int, int]) -> None:
    """Refuse a JPEG of another size than the header's, which was checked."""
    with Image.open(io.BytesIO(frame), formats=("JPEG",)) as image:
        if image.size != size:
            raise ImageError(f"is {size[0]} x {size[1]} by its header, its JPEG {image.width} x {image.height}")


def _check_run_lengths(frame: bytes, pixels: int) -> None:
    """Refuse run lengths that unpack to more than the image before they take any memory."""
    starts = [int.from_bytes(frame[at : at + 4], "little") for at in range(4, 64, 4)][: min(15, frame[0])]
    for start, end in zip(starts, [*starts[1:], len(frame)], strict=True):
        position, unpacked = start, 0
        while position < end:
            head = frame[position]
            unpacked += head + 1 if head < 128 else 257 - head if head > 128 else 0
            position += head + 2 if head < 128 else 2 if head > 128 else 1
            if unpacked > pixels + 256:
                raise ImageError("broken: its run lengths are longer than the image")


class _Transform:
    """From stored values to gray as the file says: modality, then window or table.

    Args:
        file: the elements.
    """

    def __init__(self, file: Any) -> None:
        self.slope = float(_of_first_frame(file, "RescaleSlope", 1))
        self.intercept = float(_of_first_frame(file, "RescaleIntercept", 0))
        self.modality = _of_first_frame(file, "ModalityLUTSequence", None)
        self.interest = _of_first_frame(file, "VOILUTSequence", None)
        center, width = (_of_first_frame(file, name, None) for name in ("WindowCenter", "WindowWidth"))
        self.window = None if center is None or width is None else (_first_number(center), _first_number(width))
        self.shape = str(_of_first_frame(file, "VOILUTFunction", "LINEAR")).upper()
        self.padding = file.get("PixelPaddingValue")

    @property
    def keeps_range(self) -> bool:
        """Whether the stored values only have to be scaled."""
        return self.slope > 0 and not (self.modality or self.interest or self.window)

    def gray(self, stored: np.ndarray, bits: int) -> np.ndarray:
        """The stored values of an image to uint8.

        Args:
            stored: (height, width), integers of at most 16 bits.
            bits: of a sample that count.

        Returns:
            The same shape, 0 black.
        """
        unsigned = stored.view(f"u{stored.dtype.itemsize}")
        every = np.arange(1 << (8 * stored.dtype.itemsize)).astype(unsigned.dtype).view(stored.dtype)
        values = _through_table(every, self.modality[0])[0] if self.modality else every * self.slope + self.intercept
        if self.interest:
            values, full = _through_table(values, self.interest[0])
            share = values / full
        elif self.window:
            share = self._windowed(values, *self.window)
        elif stored.dtype.kind == "u" and self.keeps_range:
            share = every / ((1 << bits) - 1)
        else:
            share = self._stretched(values, unsigned)
        return np.asarray(np.round(np.clip(share, 0, 1) * 255).astype(np.uint8)[unsigned])

    def _windowed(self, values: np.ndarray, center: float, width: float) -> np.ndarray:
        """Shares of the window, as PS3.3 C.11.2 has them."""
        if self.shape == "SIGMOID":
            return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / max(width, 1e-9), -60, 60))))
        if self.shape == "LINEAR_EXACT":
            return np.asarray((values - center) / max(width, 1e-9) + 0.5)
        if width <= 1:
            return np.asarray((values > center - 0.5).astype(np.float64))
        return np.asarray((values - (center - 0.5)) / (width - 1) + 0.5)

    def _stretched(self, values: np.ndarray, unsigned: np.ndarray) -> np.ndarray:
        """Shares of the range between the lowest and the highest value of the image, padding left out."""
        used = np.bincount(unsigned.ravel(), minlength=len(values)) > 0
        if self.padding is not None:
            padding = int(self.padding) % len(values)
            used[padding] &= used.sum() == 1
        low, high = values[used].min(), values[used].max()
        return np.asarray((values - low) / max(high - low, 1e-9))


def _through_table(values: np.ndarray, item: Any) -> tuple[np.ndarray, int]:
    """Values looked up in a table of the file, and the highest value that its bits hold."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    data = item.LUTData
    table = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.asarray(data, np.int64)
    if not 8 <= bits <= 16 or len(table) < (entries or 65_536):
        raise ImageError("has a table of values that is cut short")
    at = np.clip(np.asarray(values, np.int64) - first, 0, (entries or 65_536) - 1)
    return table[at].astype(np.float64), (1 << bits) - 1


def _of_first_frame(file: Any, name: str, otherwise: Any) -> Any:
    """An element's value: of the file, or of the functional groups of the first frame or of all."""
    datasets = [file]
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        if file.get(groups):
            group = file.get(groups)[0]
            kinds = ("FrameVOILUTSequence", "PixelValueTransformationSequence")
            datasets += [group.get(kind)[0] for kind in kinds if group.get(kind)]
    values = (dataset.get(name) for dataset in datasets)
    return next((value for value in values if value not in (None, "")), otherwise)


def _first_number(value: Any) -> float:
    """The first of one or several windows."""
    return float(value if isinstance(value, int | float | str) else value[0])
