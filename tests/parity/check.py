"""`python -m tests.parity.check FILE.npz`: this implementation against numbers recorded from the published one.

The file holds small weights (`clip/*`, `head/*` with the published names), inputs, random draws and what came out;
every size is read from it, and which of the methods it was recorded from. Exit code 0: all within tolerance; 1:
something is not; 2: this is no such file.
"""

import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from bayes_pfl.clip.backbone import Features
from bayes_pfl.clip.prompt_encoder import ClassTokens, PromptEncoder, pad_class_tokens
from bayes_pfl.config import BackboneConfig, LossConfig, LossVariant
from bayes_pfl.errors import BayesPFLError
from bayes_pfl.methods.maps import MapAccumulator
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.methods.prompt_flow.losses import Target, losses
from bayes_pfl.methods.prompt_flow.noise import Noise
from bayes_pfl.methods.prompt_flow.published import convert_published, our_key
from tests.parity import ada_clip, anomaly_clip, clip_ad, linear_layers, winclip
from tests.parity.recording import Difference, Recording, absolute, relative

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


class Recorded(Recording):
    """A file recorded from Bayes-PFL, with the head built from its weights by the code that users run."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.samples = int(self.arrays["num_samples"])
        self.backbone = self.clip(BackboneConfig(quick_gelu=False))
        head = {name.removeprefix("head/"): self[name] for name in self.arrays if name.startswith("head/")}
        config, weights = convert_published(head)
        self.model = BayesPFL(config, Widths.from_backbone(self.backbone))
        self.model.load_state_dict(weights)
        self.encoder = PromptEncoder(self.backbone)
        end = self.backbone.tokenizer.eot_token_id
        rows = [row.tolist() for row in self.arrays["tokens"]]
        self.tokens = [row[2 : row.index(end) + 1] for row in rows]  # behind the start token and the X that is replaced

    def class_tokens(self, images: slice) -> ClassTokens:
        """Padded class names of some of the images."""
        return pad_class_tokens(self.tokens[images])

    def draws(self, prefix: str) -> Noise:
        """Recorded draws; the singleton axis of the evaluation's is the batch of one image."""
        context, normal, abnormal = (self[f"{prefix}_eps_{kind}"] for kind in ("context", "normal", "abnormal"))
        if prefix == "train":
            return Noise(context.unsqueeze(1), normal, abnormal)
        return Noise(context.transpose(0, 1), normal[:, 0], abnormal[:, 0])


def all_differences(path: Path) -> Iterator[Difference]:
    """Every comparison of a file recorded from any of the methods, told apart by what it holds."""
    names = set(Recording(path).arrays)
    if "num_samples" in names:
        yield from differences(Recorded(path))
        return
    kinds = {
        "windows_0": winclip,
        "similarity_0": clip_ad,
        "head/fc.0.weight": linear_layers,
        "head/ctx_pos": anomaly_clip,
        "conditioning": ada_clip,
    }
    module = next((module for name, module in kinds.items() if name in names), None)
    if module is None:
        raise LookupError("it has none of the arrays that tell a method")
    yield from module.differences(Recording(path))


def differences(recorded: Recorded) -> Iterator[Difference]:
    """Every comparison, in the order in which an image travels."""
    features = recorded.backbone.encode_image(recorded["image"])
    yield absolute("image features", features.image, recorded["image_features"])
    for index, patches in enumerate(features.patches):
        yield absolute(f"patch tokens {index}", patches, recorded[f"patch_tokens_{index}"])
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
    yield absolute(f"text embeddings {index}", by_kind, recorded[f"eval{index}_text_embeddings"][0])
    pixel = recorded.model.pixel_logits(recorded.model.patch_features(image), prompts.text)[:, 0]
    logits = recorded.model.image_logits(image, prompts.text)
    side = int(pixel.shape[-1] ** 0.5)
    maps = MapAccumulator(recorded.size, side, [recorded.samples], recorded.model.config.variant.upsampled_corners)
    maps.add(pixel, logits[0])
    scores = maps.result(recorded.samples)
    yield absolute(f"map {index}", scores.anomaly_map, recorded[f"eval{index}_map"])
    first = recorded.model.class_token_logits(image, prompts.text).sigmoid().mean()
    yield absolute(f"score {index}, stage 1", first, recorded[f"eval{index}_stage1_text_score"])
    yield absolute(f"score {index}, stage 2", scores.text_scores.mean(), recorded[f"eval{index}_stage2_text_score"])


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
    yield absolute("text embeddings, training", by_kind, recorded["train_text_embeddings"])
    target = Target(recorded["train_label"].float(), recorded["train_mask"].float())
    terms = losses(prompts, logits, target, RELEASED_LOSSES, model.config.variant.upsampled_corners)
    for name, ours in LOSS_NAMES.items():
        if name in recorded.arrays:
            weight = RELEASED_LOSSES.kl_weight if name in WEIGHTED else 1.0
            yield relative(name, weight * getattr(terms, ours), recorded[name])
    terms.total.backward()
    parameters = dict(model.named_parameters())
    for name in sorted(recorded.arrays):
        key = our_key(_stored_once(name.removeprefix("grad_"))) if name.startswith("grad_") else None
        if key in parameters:
            parameter = parameters[key]
            ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            yield relative(name, ours, recorded[name])


def _stored_once(name: str) -> str:
    """A published head's name, where an encoder that its flow holds a second time goes by its own."""
    name = re.sub(r"^PFL_context\.encoder\.", "context_encoder.", name)
    return re.sub(r"^PFL_(ab)?normal\.encoder\.", "state_encoder.", name)


def main(arguments: list[str]) -> int:
    """Print every difference; the exit code says whether all are within tolerance."""
    if len(arguments) != 1:
        print("usage: python -m tests.parity.check FILE.npz", file=sys.stderr)
        return 2
    try:
        results = list(all_differences(Path(arguments[0])))
    except (OSError, EOFError, ValueError, LookupError, RuntimeError, zipfile.BadZipFile, BayesPFLError) as error:
        print(f"{arguments[0]} is no recording of the published implementation: {error}", file=sys.stderr)
        return 2
    for result in results:
        verdict = "" if result.value <= result.allowed else "  TOO FAR"
        print(f"{result.name:40s} {result.value:9.2e}  (at most {result.allowed:.0e}){verdict}")
    return int(any(not result.value <= result.allowed for result in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
