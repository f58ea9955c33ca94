"""A small random model and painted shards for tests of programs: real code, seconds, no trained weights."""

from pathlib import Path

import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import BackboneConfig, DetectorConfig, ModelConfig, ScoringConfig
from bayes_pfl.data.shards import iterate_rows
from bayes_pfl.inference.bundle import save_bundle
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.synthetic import write_dataset
from pipelines.ingest import ingest
from pipelines.options.ingest import IngestConfig

BACKBONE = BackboneConfig(
    name="package:embedded/bayes-pfl-embedded.json", pretrained="random:0", image_size=64, feature_layers=(3, 6, 9, 12)
)


def random_bundle(folder: Path, trained_on: Path | None = None) -> Path:
    """A bundle with random weights that says it was trained on the images of `trained_on`."""
    config = DetectorConfig(
        backbone=BACKBONE, model=ModelConfig(num_prompts=2, flow_length=2), scoring=ScoringConfig(smoothing_sigma_px=1)
    )
    torch.manual_seed(0)
    model = BayesPFL(config.model, Widths.from_backbone(Backbone(config.backbone)))
    digests = [row["sha256"] for row in iterate_rows(trained_on)] if trained_on else []
    save_bundle(folder, config, model.state_dict(), {"kind": "random weights for a test"}, digests)
    return folder


def painted_shards(folder: Path, categories: tuple[str, ...], seed: int, normal: int = 2, defective: int = 3) -> Path:
    """Shards of the test split of freshly painted images."""
    images = folder / f"images-{seed}"
    write_dataset(images, categories, normal, defective, size=64, seed=seed)
    ingest(
        "folder", images, folder / f"shards-{seed}", IngestConfig(splits=("test",), name="painted", rows_per_shard=4)
    )
    return folder / f"shards-{seed}"
