"""A file of numbers recorded from a released implementation: its arrays, its CLIP, and differences from them."""

import json
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import BackboneConfig

ABSOLUTE, LOGITS, RELATIVE = 2e-5, 1e-4, 1e-4


class Difference(NamedTuple):
    """One recorded quantity: the largest difference, and what is allowed."""

    name: str
    value: float
    allowed: float


class Recording:
    """The arrays of a file; weights may be stored in half precision where that is exact."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {name: _float32(file[name]) for name in file.files}
        self.size = int(self.arrays["image_size"])

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self.arrays[name]))

    def head(self) -> dict[str, Tensor]:
        """The learned weights under their published names."""
        return {name.removeprefix("head/"): self[name] for name in self.arrays if name.startswith("head/")}

    def layered(self, prefix: str) -> Tensor:
        """Arrays `prefix_0`, `prefix_1`, ... as one."""
        count = sum(re.fullmatch(rf"{prefix}_\d+", name) is not None for name in self.arrays)
        return torch.stack([self[f"{prefix}_{index}"] for index in range(count)])

    def names(self) -> tuple[str, ...]:
        """Class names of the images."""
        return tuple(str(name) for name in self.arrays["class_names"])

    def clip(self, config: BackboneConfig) -> Backbone:
        """CLIP of the recorded sizes: an architecture file and a checkpoint, loaded through open_clip.

        `config` gives the activation and the resize of positions.
        """
        clip = {name.removeprefix("clip/"): self[name].contiguous() for name in self.arrays if name.startswith("clip/")}
        width, _, patch, _ = clip["visual.conv1.weight"].shape
        text_width = clip["token_embedding.weight"].shape[1]
        side = round((len(clip["visual.positional_embedding"]) - 1) ** 0.5)
        architecture = {
            "embed_dim": clip["text_projection"].shape[1],
            "vision_cfg": {
                "image_size": side * patch,
                "layers": _blocks(clip, "visual.transformer"),
                "width": width,
                "patch_size": patch,
                "head_width": 64,
                "mlp_ratio": _mlp_ratio(clip, "visual.transformer"),
            },
            "text_cfg": {
                "context_length": clip["positional_embedding"].shape[0],
                "vocab_size": clip["token_embedding.weight"].shape[0],
                "width": text_width,
                "heads": max(1, text_width // 64),
                "layers": _blocks(clip, "transformer"),
                "mlp_ratio": _mlp_ratio(clip, "transformer"),
            },
        }
        with tempfile.TemporaryDirectory(prefix="parity-") as folder:
            name = Path(folder, f"{Path(folder).name}.json")
            name.write_text(json.dumps(architecture), encoding="utf-8")
            save_file(clip, Path(folder, "clip.safetensors"))
            last = (_blocks(clip, "visual.transformer"),)
            layers = tuple(int(layer) for layer in self.arrays.get("feature_layers", last))
            weights = str(Path(folder, "clip.safetensors"))
            changes = {"name": str(name), "pretrained": weights, "image_size": self.size, "feature_layers": layers}
            return Backbone(config.model_copy(update=changes))


def absolute(name: str, ours: Tensor, theirs: Tensor, allowed: float = ABSOLUTE) -> Difference:
    """The largest difference of two arrays."""
    return Difference(name, _largest(ours, theirs), allowed)


def relative(name: str, ours: Tensor, theirs: Tensor) -> Difference:
    """The largest difference of two arrays over the largest value."""
    scale = max(float(theirs.double().abs().max()), 1e-12) if theirs.numel() else 1.0
    return Difference(name, _largest(ours, theirs) / scale, RELATIVE)


def equal(name: str, ours: Tensor, theirs: Tensor) -> Difference:
    """How many entries of two arrays of integers differ: none may; another shape is all of them."""
    same = ours.shape == theirs.shape
    return Difference(name, float((ours != theirs.to(ours)).sum()) if same else float(theirs.numel()), 0.0)


def _largest(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference: NaN, which no tolerance allows, where a side is not finite; 0 for a flow of length 0."""
    difference = ours.detach().double() - theirs.double().reshape(ours.shape)
    return float(difference.abs().max()) if difference.numel() else 0.0


def _float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _blocks(clip: dict[str, Tensor], tower: str) -> int:
    """Number of residual blocks of a tower."""
    pattern = re.compile(rf"{re.escape(tower)}\.resblocks\.(\d+)\.")
    return 1 + max(int(match[1]) for name in clip if (match := pattern.match(name)))


def _mlp_ratio(clip: dict[str, Tensor], tower: str) -> float:
    """Hidden width of a tower's perceptrons over its width."""
    hidden, width = clip[f"{tower}.resblocks.0.mlp.c_fc.weight"].shape
    return hidden / width
