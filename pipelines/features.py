"""`bayes-pfl features`: shards -> frozen features of them, once, with Ray Data actors."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import DTYPES, EncodedSample, FeatureKey, read_key, write_features, write_key
from bayes_pfl.config import DetectorConfig, parse_config, read_config
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import UNAUGMENTED, SampleRef, index_shards, load_samples, mosaic_partners
from bayes_pfl.data.shards import MANIFEST_FOLDER
from bayes_pfl.errors import ConfigError, DataError
from bayes_pfl.inference.images import noise_key
from bayes_pfl.methods.builder import frozen_encoder
from pipelines.platform.cluster import require_gpu, start_ray
from pipelines.platform.progress import progress
from pipelines.platform.storage import absolute
from pipelines.scoring.actors import through_actors
from pipelines.training.decoding import tile_columns, tiles_of

IMAGES_PER_SHARD = 64


class FeatureSettings(DetectorConfig):
    """Which features of which images: `model` and `backbone` as in a training configuration, `scoring` is ignored."""

    shards: str = Field("shards/train", description="folder or URI of shards")
    split: str | None = Field("test", description="split that is encoded; none: all")
    output: str = Field("features/train", description="folder or URI for the features")
    views: int = Field(0, ge=0, description="seeded augmented views of each image, beside the plain one")
    mosaic_probability: float = Field(
        0.0, ge=0, le=1, description="share of the anomalous images that become a mosaic, in augmented views"
    )
    dtype: str = Field("float16", description="float16, bfloat16 or float32")
    workers: int = Field(2, ge=1, description="actors that hold a backbone")
    threads: int = Field(1, ge=1, description="torch threads of an actor")
    use_gpu: bool = Field(False, description="one GPU for every actor")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl features`.

    Args:
        parser: gets the options.
    """
    parser.add_argument("--shards", help="folder or URI of shards")
    parser.add_argument("--output", help="folder or URI for the features")
    parser.add_argument("--config", type=Path, help="YAML file; backbone as in a training configuration")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting, dotted")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Compute the features and say how many.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    settings = read_config(FeatureSettings, args.config, args.set)
    given = {"shards": args.shards, "output": args.output}
    changes = {key: value for key, value in given.items() if value is not None}
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
    require_gpu(settings.use_gpu)
    if settings.dtype not in DTYPES:
        raise ConfigError(f"dtype '{settings.dtype}' is unknown; choose among {', '.join(DTYPES)}.")
    began = time.monotonic()
    folder = absolute(settings.output).rstrip("/")
    store = Store(folder)
    refs = index_shards(settings.shards, settings.split)
    backbone = Backbone(settings.backbone)
    key = FeatureKey.of(backbone, settings.dtype, frozen_encoder(settings.model, backbone).kind)
    if MANIFEST_FOLDER in store.names() and read_key(folder) != key:
        raise DataError(
            f"{folder} holds features of another backbone, size or precision; choose another output or delete it."
        )
    write_key(folder, key)
    done = set(store.names())
    work = [row for row in _plan(settings, refs) if row["name"] not in done]
    samples = len(refs) * (settings.views + 1)
    if work:
        start_ray(settings.workers, settings.workers if settings.use_gpu else 0)
        gigabytes = samples * np.prod(key.shape[:3]) * torch.finfo(DTYPES[settings.dtype]).bits / 8 / 1e9
        print(f"Encoding {samples} views, about {gigabytes:.2f} GB, on {settings.workers} workers.", file=sys.stderr)
        with progress(sum(len(row["tiles"]) for row in work), "view") as advance:
            options = {"settings": settings.model_copy(update={"output": folder})}
            for row in through_actors(work, Encoder, options, settings.workers, settings.use_gpu):
                advance(int(row["views"]))
    return {"samples": samples, "output": folder, "seconds": time.monotonic() - began}


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
    """One actor's backbone; a call writes one feature shard, image by image: features do not depend on a batch."""

    def __init__(self, settings: FeatureSettings) -> None:
        torch.set_num_threads(settings.threads)
        self._output = settings.output
        self._device = torch.device("cuda" if settings.use_gpu else "cpu")
        self._backbone = Backbone(settings.backbone).to(self._device)
        self._frozen = frozen_encoder(settings.model, self._backbone)
        self._key = FeatureKey.of(self._backbone, settings.dtype, self._frozen.kind)

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        view, tiles = int(rows["view"][0]), tiles_of(rows)
        name, encoded = str(rows["name"][0]), (self._encode(each, view) for each in tiles)
        write_features(self._output, name, self._key, encoded)
        return {"views": np.array([len(tiles)])}

    def _encode(self, tiles: list[SampleRef], view: int) -> EncodedSample:
        size, seed = self._backbone.config.image_size, None if view == UNAUGMENTED else view
        sample = load_samples([tiles[0]], size, seed, [tiles[1:]])[0]
        features = self._frozen.encode_image(sample.image[None].to(self._device))
        patches = features.patches[:, 0].cpu()
        return EncodedSample(tiles[0], view, noise_key(sample.image), features.image[0].cpu(), patches, sample.mask)
