"""The work of a sweep over B, K and R, in CPU time without any program's start, against each combination on its own.

    python benchmarks/sweep_work.py

On the embedded CLIP and painted images, about 4 core minutes; `sweep.py` beside it measures the programs by the clock.
Both sides do their work in this one process on one thread, without Ray and MLflow; process CPU time is measured.

The sweep is measured whole: features once, one training a (B, K), one evaluation with the largest R. The other side's
parts are all measured too, but a training does not depend on R, so each (B, K) is trained from images once and that
time counted for every R; every evaluation is run. The factor for the paper's 25 x 8 sweep is extrapolated from the same
parts and marked so.
"""

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

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
from bayes_pfl.config import BackboneConfig, DetectorConfig, ModelConfig, RunConfig, TrainingConfig
from bayes_pfl.data.pixels import normalized, square_pixels
from bayes_pfl.data.preprocess import decode_image, decode_mask, mask_tensor
from bayes_pfl.data.samples import Sample, SampleRef, global_batches, stack
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.images import noise_key
from bayes_pfl.synthetic import write_dataset
from bayes_pfl.synthetic.splits import AUXILIARY
from bayes_pfl.training.trainer import Trainer

EMBEDDED = BackboneConfig(
    name="package:embedded/bayes-pfl-embedded.json",
    pretrained="package:embedded/bayes-pfl-embedded.safetensors",
    image_size=112,
    feature_layers=(6, 8, 10, 12),
)
BANKS, LENGTHS, SAMPLES = (1, 3), (0, 10), (1, 3, 5, 10, 20)
PAPER_BANKS, PAPER_LENGTHS, PAPER_SAMPLES = 5, 5, 8


class Photo(NamedTuple):
    """One painted image as its files' bytes."""

    ref: SampleRef
    image: bytes
    mask: bytes | None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6, help="of each training; the paper trains 20")
    parser.add_argument("--categories", type=int, default=4)
    parser.add_argument("--validation", type=int, default=8, help="images that every combination is evaluated on")
    parser.add_argument("--quick", action="store_true", help="1 epoch on 2 categories: under a minute, another ratio")
    args = parser.parse_args()
    if args.quick:
        args.epochs, args.categories = 1, 2
    torch.set_num_threads(1)
    backbone = Backbone(EMBEDDED)
    with tempfile.TemporaryDirectory() as folder:
        photos = paint(Path(folder) / "images", args.categories)
        training, validation = photos[args.validation :], photos[: args.validation]
        began = time.process_time()
        shards = encode_all(Path(folder) / "features", backbone, photos)
        encoding = time.process_time() - began
        fast, slow, parts = encoding, 0.0, []
        for bank, length in itertools.product(BANKS, LENGTHS):
            run = RunConfig(
                backbone=EMBEDDED,
                model=ModelConfig(num_prompts=bank, flow_length=length),
                training=TrainingConfig(epochs=args.epochs, batch_size=16, learning_rate=1e-3),
            )
            sweep_train, trainer = timed_training(run, backbone, training, shards)
            sweep_score = timed_scores(trainer, validation, SAMPLES, shards)
            alone_train, _ = timed_training(run, backbone, training, None)
            alone_scores = [timed_scores(trainer, validation, (number,), None) for number in SAMPLES]
            fast += sweep_train + sweep_score
            slow += alone_train * len(SAMPLES) + sum(alone_scores)
            parts.append((sweep_train, sweep_score, alone_train, float(np.mean(alone_scores))))
    print(json.dumps(summary(args.epochs, encoding, fast, slow, np.array(parts))))


def summary(
    epochs: int, encoding: float, fast: float, slow: float, parts: Float[np.ndarray, "trainings kinds"]
) -> dict[str, object]:
    """Ratios of CPU times.

    Args:
        epochs: of each training.
        encoding: seconds of encoding all images once.
        fast: seconds of the sweep.
        slow: seconds of each combination on its own.
        parts: seconds for each (B, K): training and evaluation of the sweep, training and mean evaluation alone.

    Returns:
        What is printed.
    """
    mean = parts.mean(axis=0)
    trainings = PAPER_BANKS * PAPER_LENGTHS
    paper_fast = encoding + trainings * (mean[0] + mean[1])
    paper_slow = trainings * PAPER_SAMPLES * (mean[2] + mean[3])
    return {
        "epochs": epochs,
        "threads": 1,
        "torch": torch.__version__,
        "trainings": len(parts),
        "combinations": len(parts) * len(SAMPLES),
        "ratio": round(slow / fast, 1),
        "encoder_saved_only": round(float(mean[2] / mean[0]), 2),
        "trainings_saved_only": len(SAMPLES),
        "paper_sweep_25_x_8_extrapolated": round(float(paper_slow / paper_fast), 1),
        "cpu_seconds": {
            "sweep": round(fast, 1),
            "each_on_its_own": round(slow, 1),
            "encoding_once": round(encoding, 1),
        },
    }


def paint(folder: Path, categories: int) -> list[Photo]:
    """Painted test images, in an order that mixes categories.

    Args:
        folder: where they are painted.
        categories: how many.

    Returns:
        Images and masks as bytes.
    """
    write_dataset(folder, AUXILIARY[:categories], 4, 12, 128, 7)
    photos = []
    for path in sorted(folder.glob("*/test/*/*.png")):
        category, _, defect, name = path.relative_to(folder).parts
        mask = (
            next((folder / category / "ground_truth" / defect).glob(f"{Path(name).stem}*"), None)
            if defect != "good"
            else None
        )
        ref = SampleRef("", len(photos), str(path), category, category, int(defect != "good"), f"{len(photos):064x}")
        photos.append(Photo(ref, path.read_bytes(), mask.read_bytes() if mask else None))
    return [photos[index] for index in np.random.default_rng(0).permutation(len(photos))]


def sample(photo: Photo) -> Sample:
    """Decode and resize an image and its mask, as in training.

    Args:
        photo: encoded image and mask.

    Returns:
        Their tensors.
    """
    image = decode_image(photo.image)
    mask = np.zeros((image.height, image.width), np.uint8) if photo.mask is None else decode_mask(photo.mask)
    return Sample(square_pixels(image, EMBEDDED.image_size), mask_tensor(mask, EMBEDDED.image_size))


def encode_all(folder: Path, backbone: Backbone, photos: list[Photo]) -> FeatureShards:
    """Write features of all images and open them, memory-mapped.

    Args:
        folder: where to write.
        backbone: the encoder.
        photos: the images.

    Returns:
        The features.
    """
    key = FeatureKey.of(backbone, "float32")

    def _encoded(photo: Photo) -> EncodedSample:
        each = sample(photo)
        features = backbone.encode_image(normalized(each.image)[None])
        return EncodedSample(
            photo.ref,
            UNAUGMENTED,
            noise_key(normalized(each.image)),
            features.image[0],
            features.patches[:, 0],
            each.mask,
        )

    write_key(folder, key)
    write_features(folder, "features-000-00000.arrow", key, map(_encoded, photos))
    return FeatureShards(folder, backbone)


def timed_training(
    run: RunConfig, backbone: Backbone, photos: list[Photo], shards: FeatureShards | None
) -> tuple[float, Trainer]:
    """Train all epochs.

    Args:
        run: the recipe.
        backbone: the encoder.
        photos: the images.
        shards: features to train from; None trains from images.

    Returns:
        CPU seconds, and the trainer with the trained head.
    """
    began, options = time.process_time(), run.training
    trainer = Trainer(
        run, backbone, torch.device("cpu"), len(global_batches(len(photos), options.batch_size, 0, 0)), workers=1
    )
    for epoch in range(options.epochs):
        for positions in global_batches(len(photos), options.batch_size, options.seed, epoch):
            chosen = [photos[position] for position in positions]
            refs = [photo.ref for photo in chosen]
            if shards is not None:
                trainer.step(trainer.encoded_batch(*collate([shards.load(ref) for ref in refs]), refs))
            else:
                pixels, masks = stack([sample(photo) for photo in chosen])
                trainer.step(trainer.batch(normalized(pixels), masks, refs))
    return time.process_time() - began, trainer


def timed_scores(
    trainer: Trainer, photos: list[Photo], num_samples: tuple[int, ...], shards: FeatureShards | None
) -> float:
    """Predict all images for some R, nested.

    Args:
        trainer: holds the head.
        photos: the images.
        num_samples: values of R.
        shards: features to predict from; None predicts from images.

    Returns:
        CPU seconds.
    """
    began = time.process_time()
    config = DetectorConfig(backbone=trainer.run.backbone, model=trainer.run.model, scoring=trainer.run.scoring)
    weights = {name: value.detach() for name, value in trainer.model.state_dict().items()}
    detector = Detector(Bundle(Path(), config, weights, {}), trainer.backbone, trainer.device)
    for photo in photos:
        name = photo.ref.class_name
        if shards is not None:
            stored = shards.load(photo.ref)
            features, _ = collate([stored])
            detector.predict_features(features, stored.draw_key, name, num_samples)
        else:
            detector.predict_nested([photo.image], [name], num_samples)
    return time.process_time() - began


if __name__ == "__main__":
    main()
