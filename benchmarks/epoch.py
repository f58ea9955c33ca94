"""An epoch from frozen features against an epoch from images: the same batches, steps and losses, paired.

    python benchmarks/epoch.py --images 2 --repeats 2

At ViT-L-14-336's shape (random weights: time does not depend on them) on 518 px images, about 4 core minutes with these
numbers and 8 GB of memory. Both kinds of epoch alternate in one process on one thread; process CPU time is measured, so
that other programs on the machine disturb little. Prints ratios as JSON; the claim is a ratio of at least 15.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import (
    UNAUGMENTED,
    EncodedSample,
    FeatureKey,
    FeatureShards,
    collate,
    write_features,
    write_key,
)
from bayes_pfl.config import BackboneConfig, RunConfig, TrainingConfig
from bayes_pfl.data.pixels import normalized, square_pixels
from bayes_pfl.data.samples import Sample, SampleRef, stack
from bayes_pfl.inference.images import noise_key
from bayes_pfl.training.trainer import Trainer

IMAGE_SIDE_PX = 900
"""Side of the made-up photographs: like MVTec's, larger than the model's input."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backbone", default="ViT-L-14-336", help="open_clip architecture or JSON file; weights are random"
    )
    parser.add_argument("--image-size", type=int, default=518)
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 12, 18, 24])
    parser.add_argument("--images", type=int, default=2, help="images an epoch, one batch")
    parser.add_argument("--repeats", type=int, default=2, help="pairs of epochs")
    parser.add_argument("--quick", action="store_true", help="one image, one pair: under a minute")
    args = parser.parse_args()
    if args.quick:
        args.images = args.repeats = 1
    torch.set_num_threads(1)
    config = BackboneConfig(
        name=args.backbone, pretrained="random:0", image_size=args.image_size, feature_layers=tuple(args.layers)
    )
    backbone = Backbone(config)
    run = RunConfig(backbone=config, training=TrainingConfig(batch_size=args.images, epochs=1))
    photographs, refs = make_photographs(args.images)
    with tempfile.TemporaryDirectory() as folder:
        shards = make_features(Path(folder), backbone, photographs, refs)
        pairs = []
        for _ in range(args.repeats):
            slow = measure(run, backbone, refs, photographs, None)
            fast = measure(run, backbone, refs, photographs, shards)
            assert abs(slow["total"] - fast["total"]) < 1e-4 * abs(slow["total"]), "the two epochs differ"
            pairs.append((slow["seconds"], fast["seconds"]))
    ratios = [slow / fast for slow, fast in pairs]
    result = {
        "backbone": args.backbone,
        "image_size": args.image_size,
        "threads": 1,
        "torch": torch.__version__,
        "cpu_seconds_per_image_from_images": statistics.median(slow for slow, _ in pairs) / args.images,
        "cpu_seconds_per_image_from_features": statistics.median(fast for _, fast in pairs) / args.images,
        "ratios": [round(ratio, 1) for ratio in ratios],
        "ratio": round(statistics.median(ratios), 1),
    }
    print(json.dumps(result))


def make_photographs(count: int) -> tuple[list[Image.Image], list[SampleRef]]:
    """Images of noise, every second one called anomalous.

    Args:
        count: how many.

    Returns:
        Images and references.
    """
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, IMAGE_SIDE_PX, IMAGE_SIDE_PX, 3), dtype=np.uint8)
    refs = [
        SampleRef("", index, str(index), "noise", "metal plate", index % 2, f"{index:064x}") for index in range(count)
    ]
    return [Image.fromarray(each) for each in pixels], refs


def samples(photographs: list[Image.Image], refs: list[SampleRef], size: int) -> list[Sample]:
    """What decoding gives: normalised images, and masks with a square in them.

    Args:
        photographs: images.
        refs: references; masks of normal images are empty.
        size: side of the tensors, pixels.

    Returns:
        Images and masks as tensors.
    """
    mask = torch.zeros(size, size)
    mask[size // 4 : size // 2, size // 4 : size // 2] = 1
    return [Sample(square_pixels(image, size), mask * ref.label) for image, ref in zip(photographs, refs, strict=True)]


def make_features(
    folder: Path, backbone: Backbone, photographs: list[Image.Image], refs: list[SampleRef]
) -> FeatureShards:
    """Write features of all images and open them, memory-mapped.

    Args:
        folder: where to write.
        backbone: the encoder.
        photographs: images.
        refs: references of them.

    Returns:
        The features.
    """
    key = FeatureKey.of(backbone, "float32")
    encoded = []
    for ref, sample in zip(refs, samples(photographs, refs, backbone.config.image_size), strict=True):
        features = backbone.encode_image(normalized(sample.image)[None])
        patches = features.patches[:, 0]
        encoded.append(
            EncodedSample(
                ref, UNAUGMENTED, noise_key(normalized(sample.image)), features.image[0], patches, sample.mask
            )
        )
    write_key(folder, key)
    write_features(folder, "features-000-00000.arrow", key, encoded)
    return FeatureShards(folder, backbone)


def measure(
    run: RunConfig,
    backbone: Backbone,
    refs: list[SampleRef],
    photographs: list[Image.Image],
    shards: FeatureShards | None,
) -> dict[str, float]:
    """One epoch of one step, from the same first weights each time.

    Args:
        run: the recipe.
        backbone: the encoder.
        refs: references of the images.
        photographs: images.
        shards: features to train from; None trains from images.

    Returns:
        `total`, the loss, and `seconds` of CPU time.
    """
    trainer = Trainer(run, backbone, torch.device("cpu"), steps_per_epoch=1, workers=1)
    began = time.process_time()
    if shards is None:
        images, masks = stack(samples(photographs, refs, run.backbone.image_size))
        batch = trainer.batch(normalized(images), masks, refs)
    else:
        batch = trainer.encoded_batch(*collate([shards.load(ref) for ref in refs]), refs)
    total = trainer.step(batch)["total"]
    return {"total": total, "seconds": time.process_time() - began}


if __name__ == "__main__":
    main()
