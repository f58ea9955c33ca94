"""Features of images <-> Arrow IPC files, which are memory-mapped and handed to torch without a copy.

The image encoder never changes, so training and sweeps may read its output from disk. A folder belongs to one backbone,
weights, layers, size and precision (`FeatureKey`), and is refused for any other.
"""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone, FeatureKind, Features
from bayes_pfl.data.remote import Store, landing, local_copy
from bayes_pfl.data.samples import UNAUGMENTED, SampleRef
from bayes_pfl.data.shards import MANIFEST_FOLDER
from bayes_pfl.errors import DataError

KEY_FILE = f"{MANIFEST_FOLDER}/features.json"
ROWS_PER_BATCH = 16
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class FeatureKey(NamedTuple):
    """What the features depend on."""

    backbone: str
    weights_sha256: str
    layers: tuple[int, ...]
    image_size: int
    dtype: str
    shape: tuple[int, int, int, int]
    """(layers, patches, patch width, joint width)."""
    passes: str = ""
    """Of `FeatureKind`: what a method computes beside or in place of a plain pass."""
    precision: str = "float32"
    """Of the encoder's matrix products."""

    def plain(self) -> dict[str, Any]:
        """The key as JSON has it, without what keys of older folders do not have.

        Returns:
            Values by name.
        """
        return {name: value for name, value in self._asdict().items() if self._field_defaults.get(name) != value}

    @classmethod
    def of(
        cls, backbone: Backbone, dtype: str, kind: FeatureKind | None = None, precision: str = "float32"
    ) -> "FeatureKey":
        """The key of a loaded backbone's features.

        Args:
            backbone: the encoder.
            dtype: a name of `DTYPES`: of the features as they are stored.
            kind: what a method takes from it; None: a plain pass.
            precision: of the encoder's matrix products.

        Returns:
            The key. The weights' SHA-256 covers the positions, so also how they were resized.
        """
        config, kind = backbone.config, kind or backbone.plain_kind
        layers, size = config.feature_layers, config.image_size
        return cls(config.name, backbone.digest, layers, size, dtype, kind.shape, kind.passes, precision)


class EncodedSample(NamedTuple):
    """One view of one image: its features, mask and draw key. `view` is its augmentation's seed, or UNAUGMENTED."""

    ref: SampleRef
    view: int
    draw_key: bytes
    image: Float[Tensor, "dim"]
    patches: Float[Tensor, "layers patches width"]
    mask: Float[Tensor, "size size"]


def write_features(folder: Path | str, name: str, key: FeatureKey, samples: Iterable[EncodedSample]) -> None:
    """Write one shard of features, whole or not at all.

    Args:
        folder: path or URI.
        name: of the file.
        key: what the features depend on.
        samples: read once.

    Raises:
        OutputError: it cannot be written.
    """
    schema = _schema(key)
    with (
        landing(folder, name) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        pending: list[dict[str, object]] = []
        for sample in samples:
            pending.append(_row(sample, DTYPES[key.dtype]))
            if len(pending) == ROWS_PER_BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(pending, schema=schema))
                pending.clear()
        if pending:
            writer.write_batch(pa.RecordBatch.from_pylist(pending, schema=schema))


def write_key(folder: Path | str, key: FeatureKey) -> None:
    """Record in the folder's manifest what its features depend on.

    Args:
        folder: path or URI.
        key: what to record.

    Raises:
        OutputError: it cannot be written.
    """
    Store(folder).write_json(KEY_FILE, key.plain())


def read_key(folder: Path | str) -> FeatureKey:
    """What the folder's features depend on.

    Args:
        folder: path or URI.

    Returns:
        The key.

    Raises:
        DataError: it holds none, or cannot be read.
    """
    try:
        values: Any = Store(folder).read_json(KEY_FILE)
        values |= {name: tuple(values[name]) for name in ("layers", "shape")}
        return FeatureKey(**values)
    except (TypeError, KeyError) as error:
        raise DataError(f"{folder} holds no frozen features; make them with `bayes-pfl features`.") from error


def fitting_key(folder: Path | str, backbone: Backbone, kind: FeatureKind | None = None) -> FeatureKey:
    """What the folder's features depend on; no feature is read.

    Args:
        folder: path or URI.
        backbone: the encoder that they must be of.
        kind: what a method takes from it; None: a plain pass.

    Returns:
        The key.

    Raises:
        DataError: the folder holds no features, or those of another backbone, weights, layers or size.
    """
    key = read_key(folder)
    wanted = FeatureKey.of(backbone, key.dtype, kind, key.precision)
    if wanted != key:
        different = [name for name in FeatureKey._fields if getattr(wanted, name) != getattr(key, name)]
        raise DataError(
            f"{folder} has features of another {', '.join(different)}; make them anew with `bayes-pfl features`."
        )
    return key


class FeatureShards:
    """All features of a folder, memory-mapped: a sample's pages are read when it is loaded.

    Args:
        folder: path, or URI whose files are copied first.
        backbone: the encoder that they must be of.
        kind: what they must be of it; None: a plain pass.

    Raises:
        DataError: the folder holds no features, or those of another backbone, weights, layers or size.
    """

    def __init__(self, folder: Path | str, backbone: Backbone, kind: FeatureKind | None = None) -> None:
        self.key = fitting_key(folder, backbone, kind)
        self._batches: list[pa.RecordBatch] = []
        self._where: dict[tuple[str, int], tuple[int, int]] = {}
        for name in Store(folder).names():
            if not (name.startswith("features-") and name.endswith(".arrow")):
                continue
            reader = pa.ipc.open_file(pa.memory_map(str(local_copy(f"{folder}/{name}"))))
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                for row, (digest, view) in enumerate(
                    zip(batch["sha256"].to_pylist(), batch["view"].to_pylist(), strict=True)
                ):
                    self._where[digest, view] = (len(self._batches), row)
                self._batches.append(batch)
        self.views = sorted({view for _, view in self._where} - {UNAUGMENTED})

    def load(self, ref: SampleRef, view: int = UNAUGMENTED) -> EncodedSample:
        """One view of an image, its features still in the mapped file.

        Args:
            ref: the image.
            view: seed of its augmentation, or UNAUGMENTED.

        Returns:
            Features and mask.

        Raises:
            DataError: it is not there.
        """
        if (ref.sha256, view) not in self._where:
            raise DataError(
                f"{ref.sample_id} has no features of view {view}; run `bayes-pfl features` on these shards again."
            )
        index, row = self._where[ref.sha256, view]
        batch, (layers, patches, width, joint) = self._batches[index], self.key.shape
        size, dtype = self.key.image_size, DTYPES[self.key.dtype]
        bits = np.frombuffer(batch["mask"][row].as_py(), np.uint8)
        mask = torch.from_numpy(np.unpackbits(bits, count=size * size).reshape(size, size).astype(np.float32))
        return EncodedSample(
            ref,
            view,
            batch["draw_key"][row].as_py(),
            _mapped(batch["image"], row, dtype).view(joint),
            _mapped(batch["patches"], row, dtype).view(layers, patches, width),
            mask,
        )


def collate(samples: Sequence[EncodedSample]) -> tuple[Features, Float[Tensor, "batch size size"]]:
    """Features and masks of a batch, in float32.

    Args:
        samples: of one folder.

    Returns:
        Features and masks, stacked along the batch.
    """
    image = torch.stack([sample.image for sample in samples]).float()
    patches = torch.stack([sample.patches for sample in samples], dim=1).float()
    return Features(image, patches), torch.stack([sample.mask for sample in samples])


def _schema(key: FeatureKey) -> pa.Schema:
    layers, patches, width, joint = key.shape
    bytes_each = torch.finfo(DTYPES[key.dtype]).bits // 8
    return pa.schema(
        [
            ("sample_id", pa.string()),
            ("sha256", pa.string()),
            ("view", pa.int64()),
            ("draw_key", pa.binary(32)),
            ("image", pa.binary(joint * bytes_each)),
            ("patches", pa.binary(layers * patches * width * bytes_each)),
            ("mask", pa.binary(-(-(key.image_size**2) // 8))),
        ]
    )


def _row(sample: EncodedSample, dtype: torch.dtype) -> dict[str, object]:
    return {
        "sample_id": sample.ref.sample_id,
        "sha256": sample.ref.sha256,
        "view": sample.view,
        "draw_key": sample.draw_key,
        "image": _bytes(sample.image.to(dtype)),
        "patches": _bytes(sample.patches.to(dtype)),
        "mask": np.packbits(sample.mask.numpy() > 0).tobytes(),
    }


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _mapped(column: pa.FixedSizeBinaryArray, row: int, dtype: torch.dtype) -> Tensor:
    """One row's bytes as a flat tensor over the mapped file: read-only, never written to."""
    width = column.type.byte_width
    buffer = column.buffers()[1].slice((column.offset + row) * width, width)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.frombuffer(buffer, np.uint8)).view(dtype)
