"""A small random CLIP with CLIP's own image encoder, for tests of methods that look inside it: real code, no weights."""

import json
from pathlib import Path

from bayes_pfl.config import BackboneConfig

ARCHITECTURE = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 48, "layers": 4, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}


def small_clip(folder: Path, **changes) -> BackboneConfig:
    """6 x 6 patches, 4 vision blocks, 3 text blocks; the configuration takes `changes`."""
    path = folder / "small-vision-transformer.json"
    path.write_text(json.dumps(ARCHITECTURE), encoding="utf-8")
    values = {"name": str(path), "pretrained": "random:3", "image_size": 48, "feature_layers": (1, 2, 3, 4)}
    return BackboneConfig(**{**values, **changes})
