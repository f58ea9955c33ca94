"""`python -m tests.parity.check FILE.npz`: this implementation against numbers recorded from the published one.

The file holds small weights (`clip/*`, `head/*` with the published names), inputs, random draws and what came out;
every size is read from it. Exit code 0: all within tolerance; 1: something is not; 2: this is no such file.
"""

import json
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.prompt_encoder import ClassTokens, PromptEncoder, pad_class_tokens
from bayes_pfl.config import BackboneConfig, LossConfig, LossVariant
from bayes_pfl.errors import BayesPFLError
from bayes_pfl.methods.maps import MapAccumulator
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.methods.prompt_flow.losses import Target, losses
from bayes_pfl.methods.prompt_flow.noise import Noise
from bayes_pfl.methods.prompt_flow.published import convert_published, our_key

ABSOLUTE, RELATIVE = 2e-5, 1e-4
LOSS_NAMES = {
    "loss_ce": "classification",
    "loss_focal": "focal",
    "loss_dice": "dice",
    "loss_ortho": "orthogonality",
    "loss_kl_context": "kl_context",
    "loss_kl_normal": "kl_normal",
    "loss_kl_abnormal": "kl_abnormal",
    "loss_total": "total",
}
WEIGHTED = {"loss_kl_context", "loss_kl_normal", "loss_kl_abnormal"}
"""Recorded after their weight; ours are before it."""
RELEASED_LOSSES = LossConfig(
    orthogonal_mean=True,
    variant=LossVariant(
        one_prompt_per_step=True,
        classify_class_token=True,
        state_log_det_over_batch=True,
        focal_epsilon=1e-8,
        dice_epsilon=1e-5,
    ),
)


class Difference(NamedTuple):
    """One recorded quantity: the largest difference, and what is allowed."""

    name: str
    value: float
    allowed: float


class Recorded:
    """A recorded file, with the backbone and head built from its weights by the code that users run."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {name: file[name] for name in file.files}
        self.samples, self.size = int(self.arrays["num_samples"]), int(self.arrays["image_size"])
        self.backbone = self._backbone()
        head = {name.removeprefix("head/"): self[name] for name in self.arrays if name.startswith("head/")}
        config, weights = convert_published(head)
        self.model = BayesPFL(config, Widths.from_backbone(self.backbone))
        self.model.load_state_dict(weights)
        self.encoder = PromptEncoder(self.backbone)
        end = self.backbone.tokenizer.eot_token_id
        rows = [row.tolist() for row in self.arrays["tokens"]]
        self.tokens = [row[2 : row.index(end) + 1] for row in rows]  # behind the start token and the X that is replaced

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self.arrays[name]))

    def class_tokens(self, images: slice) -> ClassTokens:
        """Padded class names of some of the images."""
        return pad_class_tokens(self.tokens[images])

    def draws(self, prefix: str) -> Noise:
        """Recorded draws; the singleton axis of the evaluation's is the batch of one image."""
        context, normal, abnormal = (self[f"{prefix}_eps_{kind}"] for kind in ("context", "normal", "abnormal"))
        if prefix == "train":
            return Noise(context.unsqueeze(1), normal, abnormal)
        return Noise(context.transpose(0, 1), normal[:, 0], abnormal[:, 0])

    def _backbone(self) -> Backbone:
        """CLIP of the recorded sizes: an architecture file and a checkpoint, loaded through open_clip."""
        clip = {name.removeprefix("clip/"): self[name].contiguous() for name in self.arrays if name.startswith("clip/")}
        width, _, patch, _ = clip["visual.conv1.weight"].shape
        text_width = clip["token_embedding.weight"].shape[1]
        architecture = {
            "embed_dim": clip["text_projection"].shape[1],
            "vision_cfg": {
                "image_size": self.size,
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
            layers = tuple(int(layer) for layer in self.arrays["feature_layers"])
            weights = str(Path(folder, "clip.safetensors"))
            return Backbone(
                BackboneConfig(name=str(name), pretrained=weights, image_size=self.size, feature_layers=layers)
            )


def differences(recorded: Recorded) -> Iterator[Difference]:
    """Every comparison, in the order in which an image travels."""
    features = recorded.backbone.encode_image(recorded["image"])
    yield _absolute("image features", features.image, recorded["image_features"])
    for index, patches in enumerate(features.patches):
        yield _absolute(f"patch tokens {index}", patches, recorded[f"patch_tokens_{index}"])
    for index in range(len(recorded["image"])):
        if f"eval{index}_map" in recorded.arrays:
            yield from _evaluation(recorded, features, index)
    yield from _training(recorded, features)


@torch.no_grad()
def _evaluation(recorded: Recorded, features: Features, index: int) -> Iterator[Difference]:
    row = slice(index, index + 1)
    image = Features(features.image[row], features.patches[:, row])
    prompts = recorded.model.prompts(
        image, recorded.class_tokens(row), recorded.draws(f"eval{index}"), recorded.encoder
    )
    by_kind = prompts.text[0].permute(2, 0, 1, 3).flatten(0, 2)  # all normal first, then sample-major
    yield _absolute(f"text embeddings {index}", by_kind, recorded[f"eval{index}_text_embeddings"][0])
    pixel = recorded.model.pixel_logits(recorded.model.patch_features(image), prompts.text)[:, 0]
    logits = recorded.model.image_logits(image, prompts.text)
    side = int(pixel.shape[-1] ** 0.5)
    maps = MapAccumulator(recorded.size, side, [recorded.samples], recorded.model.config.variant.upsampled_corners)
    maps.add(pixel, logits[0])
    scores = maps.result(recorded.samples)
    yield _absolute(f"map {index}", scores.anomaly_map, recorded[f"eval{index}_map"])
    first = recorded.model.class_token_logits(image, prompts.text).sigmoid().mean()
    yield _absolute(f"score {index}, stage 1", first, recorded[f"eval{index}_stage1_text_score"])
    yield _absolute(f"score {index}, stage 2", scores.text_scores.mean(), recorded[f"eval{index}_stage2_text_score"])


def _training(recorded: Recorded, features: Features) -> Iterator[Difference]:
    if "train_eps_context" not in recorded.arrays:
        return
    model, chosen = recorded.model, int(recorded.arrays["train_prompt_index"])
    model.zero_grad()
    prompts, logits = model(
        features,
        recorded.class_tokens(slice(None)),
        recorded.draws("train"),
        recorded.encoder,
        slice(chosen, chosen + 1),
        True,
    )
    by_kind = prompts.text[:, 0].transpose(1, 2).flatten(1, 2)
    yield _absolute("text embeddings, training", by_kind, recorded["train_text_embeddings"])
    target = Target(recorded["train_label"].float(), recorded["train_mask"].float())
    terms = losses(prompts, logits, target, RELEASED_LOSSES, model.config.variant.upsampled_corners)
    for name, ours in LOSS_NAMES.items():
        if name in recorded.arrays:
            weight = RELEASED_LOSSES.kl_weight if name in WEIGHTED else 1.0
            yield _relative(name, weight * getattr(terms, ours), recorded[name])
    terms.total.backward()
    parameters = dict(model.named_parameters())
    for name in sorted(recorded.arrays):
        key = our_key(_stored_once(name.removeprefix("grad_"))) if name.startswith("grad_") else None
        if key in parameters:
            parameter = parameters[key]
            ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            yield _relative(name, ours, recorded[name])


def _stored_once(name: str) -> str:
    """A published head's name, where an encoder that its flow holds a second time goes by its own."""
    name = re.sub(r"^PFL_context\.encoder\.", "context_encoder.", name)
    return re.sub(r"^PFL_(ab)?normal\.encoder\.", "state_encoder.", name)


def _blocks(clip: dict[str, Tensor], tower: str) -> int:
    """Number of residual blocks of a tower."""
    pattern = re.compile(rf"{re.escape(tower)}\.resblocks\.(\d+)\.")
    return 1 + max(int(match[1]) for name in clip if (match := pattern.match(name)))


def _mlp_ratio(clip: dict[str, Tensor], tower: str) -> float:
    """Hidden width of a tower's perceptrons over its width."""
    hidden, width = clip[f"{tower}.resblocks.0.mlp.c_fc.weight"].shape
    return hidden / width


def _absolute(name: str, ours: Tensor, theirs: Tensor) -> Difference:
    return Difference(name, _largest(ours, theirs), ABSOLUTE)


def _relative(name: str, ours: Tensor, theirs: Tensor) -> Difference:
    scale = max(float(theirs.double().abs().max()), 1e-12) if theirs.numel() else 1.0
    return Difference(name, _largest(ours, theirs) / scale, RELATIVE)


def _largest(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference: NaN, which no tolerance allows, where a side is not finite; 0 for a flow of length 0."""
    difference = ours.detach().double() - theirs.double().reshape(ours.shape)
    return float(difference.abs().max()) if difference.numel() else 0.0


def main(arguments: list[str]) -> int:
    """Print every difference; the exit code says whether all are within tolerance."""
    if len(arguments) != 1:
        print("usage: python -m tests.parity.check FILE.npz", file=sys.stderr)
        return 2
    try:
        results = list(differences(Recorded(Path(arguments[0]))))
    except (OSError, EOFError, ValueError, LookupError, RuntimeError, zipfile.BadZipFile, BayesPFLError) as error:
        print(f"{arguments[0]} is no recording of the published implementation: {error}", file=sys.stderr)
        return 2
    for result in results:
        verdict = "" if result.value <= result.allowed else "  TOO FAR"
        print(f"{result.name:40s} {result.value:9.2e}  (at most {result.allowed:.0e}){verdict}")
    return int(any(not result.value <= result.allowed for result in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
