"""`bayes-pfl features`: shards -> frozen features of them, once, with Ray Data actors."""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import DTYPES, EncodedSample, FeatureKey, read_key, write_features, write_key
from bayes_pfl.clip.placement import placed
from bayes_pfl.config import parse_config, read_config
from bayes_pfl.data.pixels import normalized
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import UNAUGMENTED, SampleRef, index_shards, load_samples, mosaic_partners, stack
from bayes_pfl.data.shards import MANIFEST_FOLDER
from bayes_pfl.datasets.checks import counted
from bayes_pfl.errors import ConfigError, DataError
from bayes_pfl.inference.detector import BATCH
from bayes_pfl.inference.encoding import ImageEncoder
from bayes_pfl.inference.images import noise_key
from bayes_pfl.methods.builder import frozen_encoder
from pipelines.options.features import FeatureSettings
from pipelines.options.model import typed_options
from pipelines.platform.cluster import start_ray
from pipelines.platform.progress import progress, waiting
from pipelines.platform.storage import absolute
from pipelines.scoring.actors import through_actors
from pipelines.scoring.options import choose_actors
from pipelines.training.decoding import tile_columns, tiles_of

IMAGES_PER_SHARD = 64
IMAGES_FILE = f"{MANIFEST_FOLDER}/images.json"
"""Which images the features are of; folders of earlier versions have none."""

DECODED = ("pixels", "masks", "keys")
"""Columns of a row whose views are decoded already."""


def run(args: argparse.Namespace) -> int:
    """Compute the features and say how many.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    settings = read_config(FeatureSettings, args.config, args.set)
    given = {"shards": args.shards, "output": args.output, "use_gpu": args.use_gpu}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    changes["options"] = {**settings.options.model_dump(), **typed_options(args)}
    settings = parse_config(FeatureSettings, {**settings.model_dump(), **changes}, "the command line")
    summary = compute_features(settings)
    print(
        json.dumps(summary)
        if args.json
        else f"{summary['samples']} views in {summary['output']}, {summary['seconds']:.1f} s"
    )
    return 0


def compute_features(settings: FeatureSettings) -> dict[str, Any]:
    """Encode every image and view that is not there yet; shards are whole or absent, and named by their order.

    Args:
        settings: which features of which images.

    Returns:
        `samples`, the number of views; `output`; `seconds`.

    Raises:
        ConfigError: the precision is unknown, or there is no GPU.
        DataError: the folder holds features of something else.
    """
    actors = choose_actors(settings.options, settings.use_gpu, settings.workers)
    settings = settings.model_copy(update={"use_gpu": actors.use_gpu})
    if settings.dtype not in DTYPES:
        raise ConfigError(f"dtype '{settings.dtype}' is unknown; choose among {', '.join(DTYPES)}.")
    began = time.monotonic()
    folder = absolute(settings.output).rstrip("/")
    store = Store(folder)
    refs = index_shards(settings.shards, settings.split)
    with waiting(f"Loading CLIP {settings.backbone.name}"):
        backbone = Backbone(settings.backbone)
    kind = frozen_encoder(settings.model, backbone).kind
    key = FeatureKey.of(backbone, settings.dtype, kind, settings.options.precision)
    if MANIFEST_FOLDER in store.names() and read_key(folder) != key:
        raise DataError(
            f"{folder} holds features of another backbone, size or precision; choose another output or delete it."
        )
    write_key(folder, key)
    _require_same_images(store, settings, refs)
    done = set(store.names())
    work = [row for row in _plan(settings, refs) if row["name"] not in done]
    samples = len(refs) * (settings.views + 1)
    if work:
        start_ray(actors.number, actors.gpus)
        gigabytes = samples * np.prod(key.shape[:3]) * torch.finfo(DTYPES[settings.dtype]).bits / 8 / 1e9
        print(
            f"Encoding {samples} views, about {gigabytes:.2f} GB, on {counted(actors.number, 'worker')}.",
            file=sys.stderr,
        )
        with progress(sum(len(row["tiles"]) for row in work), "view") as advance:
            options = {"settings": settings.model_copy(update={"output": folder})}
            decode = (partial(_decode, size=settings.backbone.image_size), None) if actors.use_gpu else ()
            for row in through_actors(work, Encoder, options, actors.number, actors.use_gpu, *decode):
                advance(int(row["views"]))
    return {"samples": samples, "output": folder, "seconds": time.monotonic() - began}


def _require_same_images(store: Store, settings: FeatureSettings, refs: Sequence[SampleRef]) -> None:
    """Note whose features the folder holds. Raises DataError if they are of other images: files are named by order."""
    content = [[ref.sha256, ref.mask_sha256] for ref in refs]
    mosaics = {"mosaic_probability": settings.mosaic_probability} if settings.views else {}
    ours = {"images_sha256": hashlib.sha256(json.dumps(content).encode()).hexdigest(), **mosaics}
    noted = store.read_json(IMAGES_FILE)
    if noted is not None and any(noted.get(name, value) != value for name, value in ours.items()):
        raise DataError(
            f"{store.root} holds features of other images, or with other mosaics: choose another output or delete it."
        )
    if noted is not None or not any(name.startswith("features-") for name in store.names()):
        store.write_json(IMAGES_FILE, {**(noted or {}), **ours})


def _plan(settings: FeatureSettings, refs: Sequence[SampleRef]) -> list[dict[str, Any]]:
    """One row a feature shard: which rows of which shards, as which view."""
    work = []
    for view in [UNAUGMENTED, *range(settings.views)]:
        partners = mosaic_partners(refs, None if view == UNAUGMENTED else view, settings.mosaic_probability)
        samples = [(ref, *others) for ref, others in zip(refs, partners, strict=True)]
        for start in range(0, len(refs), IMAGES_PER_SHARD):
            name = f"features-{view + 1:03d}-{start // IMAGES_PER_SHARD:05d}.arrow"
            work.append({"name": name, "view": view, **tile_columns(samples[start : start + IMAGES_PER_SHARD])})
    return work


class Encoder:
    """One actor: a frozen encoder, and where its features go."""

    def __init__(self, settings: FeatureSettings) -> None:
        torch.set_num_threads(settings.threads)
        device, precision = torch.device("cuda" if settings.use_gpu else "cpu"), settings.options.precision
        backbone = placed(Backbone(settings.backbone), device, reduce=precision == "bfloat16")
        frozen = frozen_encoder(settings.model, backbone)
        self._output, self._size = settings.output, settings.backbone.image_size
        self._encode = ImageEncoder(frozen.encode_image, device, precision, settings.options.compiled)
        self._key = FeatureKey.of(backbone, settings.dtype, frozen.kind, precision)
        self._together = 1 if device.type == "cpu" or settings.options.deterministic else BATCH

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tiles = tiles_of(rows)
        write_features(self._output, str(rows["name"][0]), self._key, self._encoded(rows, tiles))
        return {"views": np.array([len(tiles)])}

    def _encoded(self, rows: dict[str, np.ndarray], tiles: list[list[SampleRef]]) -> Iterator[EncodedSample]:
        """The samples of a row, as many at a time as the device takes."""
        for start in range(0, len(tiles), self._together):
            group = slice(start, start + self._together)
            decoded = {name: column[0][group] for name, column in rows.items() if name in DECODED}
            if not decoded:
                decoded = decoded_views(tiles[group], int(rows["view"][0]), self._size)
            features = self._encode(torch.from_numpy(np.array(decoded["pixels"])))
            image, patches = features.image.cpu(), features.patches.cpu()
            masks = torch.from_numpy(np.array(decoded["masks"])).float()
            for row, (refs, key) in enumerate(zip(tiles[group], decoded["keys"], strict=True)):
                view = int(rows["view"][0])
                yield EncodedSample(refs[0], view, bytes(key), image[row], patches[:, row], masks[row])


def decoded_views(tiles: Sequence[Sequence[SampleRef]], view: int, size: int) -> dict[str, Any]:
    """What an encoder needs of some views.

    Args:
        tiles: for each view its reference, and those of the images that it forms a mosaic with.
        view: seed of the augmentation, or UNAUGMENTED.
        size: side of the square input, pixels.

    Returns:
        `pixels` (views, 3, size, size) and `masks` (views, size, size) of bytes, and `keys` of their noise.

    Raises:
        DataError: an image cannot be decoded, or has no mask and needs one.
    """
    partners = [refs[1:] for refs in tiles]
    samples = load_samples([refs[0] for refs in tiles], size, None if view == UNAUGMENTED else view, partners)
    images, masks = stack(samples)
    keys = [noise_key(normalized(sample.image)) for sample in samples]
    return {"pixels": images.numpy(), "masks": masks.to(torch.uint8).numpy(), "keys": keys}


def _decode(rows: dict[str, np.ndarray], size: int) -> dict[str, Any]:
    """A row with its views decoded, in a task in front of a GPU."""
    decoded = decoded_views(tiles_of(rows), int(rows["view"][0]), size)
    return {**rows, **{name: [value] for name, value in decoded.items()}}
