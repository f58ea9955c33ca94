"""One training step of the head (features given), fast and exact, against a straightforward one with the same weights.

    python benchmarks/train_step.py            ViT-L-14-336's shape, 518 px, batch 2: about four minutes
    python benchmarks/train_step.py --quick    the same shape, fewer repeats: under a minute

The straightforward step calls the text encoder per image and state with all 77 tokens and stored attention weights,
refines all prompts of both banks, upsamples all their maps and takes the softmax of one pair, and leaves CLIP's
parameters trainable, as the published code does; `frozen` is the same with CLIP frozen. Random weights, the released
recipe's choices, one thread, process CPU time, runs in turn, medians. The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import statistics
import time
from typing import Any, NamedTuple

import open_clip
import straightforward
import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.prompt_encoder import PromptEncoder, pad_class_tokens
from bayes_pfl.config import BackboneConfig, LossConfig, LossVariant, ModelConfig, published_variant
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.methods.prompt_flow.losses import LossTerms, Target, losses
from bayes_pfl.methods.prompt_flow.noise import Noise

SEED = 0
SIZE = 518
CLASS_NAMES = ("bottle", "cable")
CHOSEN = 1
"""The prompt of the bank that is classified and segmented with; the released code noise it at random."""
CLIP_NORM = 10.0
"""Length of the global feature: that of CLIP's own, about."""
RELEASED = LossConfig(
    orthogonal_mean=True,
    variant=LossVariant(classify_class_token=True, one_prompt_per_step=True, state_log_det_over_batch=True),
)


class StepSetup(NamedTuple):
    """A head with random weights, a batch of random features, and its targets and noise."""

    model: BayesPFL
    backbone: Backbone
    encoder: PromptEncoder
    features: Features
    noise: Noise
    target: Target


def make_setup() -> StepSetup:
    """ViT-L-14-336 at 518 px, the released variant; one image has a defect of a tenth of its area, one has none."""
    backbone = Backbone(
        BackboneConfig(name="ViT-L-14-336", pretrained="random:0", image_size=SIZE, feature_layers=(6, 12, 18, 24))
    )
    torch.manual_seed(SEED)
    model = BayesPFL(published_variant(ModelConfig(num_prompts=3, flow_length=10)), Widths.from_backbone(backbone))
    batch, width = len(CLASS_NAMES), backbone.text_width
    patches = torch.randn(4, batch, backbone.grid[0] * backbone.grid[1], backbone.patch_width)
    image = F.normalize(torch.randn(batch, backbone.joint_width), dim=-1) * CLIP_NORM
    features = Features(image, patches)
    noise = Noise(torch.randn(batch, 1, width), torch.randn(1, width), torch.randn(1, width))
    mask = torch.zeros(batch, SIZE, SIZE)
    mask[0, 100:264, 100:264] = 1
    return StepSetup(model, backbone, PromptEncoder(backbone), features, noise, Target(torch.tensor([1.0, 0.0]), mask))


def fast_step(setup: StepSetup) -> LossTerms:
    """The library's forward and backward."""
    tokens = pad_class_tokens([setup.backbone.class_tokens(name) for name in CLASS_NAMES])
    setup.model.zero_grad()
    bank = slice(CHOSEN, CHOSEN + 1)
    prompts, logits = setup.model(setup.features, tokens, setup.noise, setup.encoder, bank, class_token_only=True)
    terms = losses(prompts, logits, setup.target, RELEASED, setup.model.config.variant.upsampled_corners)
    terms.total.backward()
    return terms


def slow_step(setup: StepSetup, clip_trainable: bool) -> LossTerms:
    """The straightforward forward and backward; CLIP's own gradients are thrown away."""
    setup.model.zero_grad()
    parameters = list(setup.backbone.text_tower.parameters())
    for parameter in parameters:
        parameter.requires_grad_(clip_trainable)
    terms = slow_terms(setup)
    terms.total.backward()
    for parameter in parameters:
        parameter.requires_grad_(False).grad = None
    return terms


def slow_terms(setup: StepSetup) -> LossTerms:
    """Every loss term (eq. 7, 13, 14) with the released code's choices."""
    model, target = setup.model, setup.target
    text = torch.stack([embed(setup, index, name) for index, name in enumerate(CLASS_NAMES)])
    pair = torch.stack([text[:, CHOSEN], text[:, CHOSEN + model.config.num_prompts]], dim=1)
    mapped = F.normalize(model.class_mapping(pair), dim=-1)
    image = F.normalize(setup.features.image, dim=-1).unsqueeze(2)
    classification = F.cross_entropy((model.image_temperature.exp() * mapped @ image).squeeze(2), target.label.long())
    focal, dice = torch.zeros(()), torch.zeros(())
    for layer, patches in enumerate(setup.features.patches):
        abnormal = layer_maps(model, layer, text, patches)
        focal = focal + focal_term(abnormal, target.mask)
        dice = dice + 1 - 2 * (abnormal * target.mask).sum() / (abnormal.sum() + target.mask.sum())
    ort = sum((orthogonality(bank) for bank in text.split(model.config.num_prompts, dim=1)), torch.zeros(()))
    context, *states = model.sample(setup.features, setup.noise)
    kl_context = context.divergence().mean()
    kl_normal, kl_abnormal = ((state.log_ratio - state.log_det / len(text)).mean() for state in states)
    total = classification + focal + dice + ort + RELEASED.kl_weight * (kl_context + kl_normal + kl_abnormal)
    return LossTerms(total, classification, focal, dice, ort, kl_context, kl_normal, kl_abnormal)


def embed(setup: StepSetup, index: int, name: str) -> Tensor:
    """(2 x bank, dim) of one image: normal prompts, then abnormal ones."""
    row = slice(index, index + 1)
    features = Features(setup.features.image[row], setup.features.patches[:, row])
    noise = setup.noise._replace(context=setup.noise.context[row])
    tokens = setup.backbone.class_tokens(name)
    return (
        straightforward.text_embeddings(setup.model, setup.backbone, features, noise, tokens)[0]
        .transpose(0, 1)
        .flatten(0, 1)
    )


def layer_maps(model: BayesPFL, layer: int, text: Tensor, patches: Tensor) -> Tensor:
    """(batch, size, size): abnormal probability of the chosen prompt, after upsampling the maps of all prompts."""
    plain = model.projections[layer](patches)
    refined = torch.stack([straightforward.refine(model, *pair) for pair in zip(text, plain, strict=True)])
    similarity = (
        model.pixel_temperature.exp() * F.normalize(plain, dim=-1) @ F.normalize(refined, dim=-1).transpose(1, 2)
    )
    side = int(plain.shape[1] ** 0.5)
    full = F.interpolate(
        similarity.transpose(1, 2).unflatten(-1, (side, side)),
        size=(SIZE, SIZE),
        mode="bilinear",
        align_corners=model.config.variant.upsampled_corners,
    )
    pair = torch.stack([full[:, CHOSEN], full[:, CHOSEN + model.config.num_prompts]], dim=1)
    return torch.softmax(pair, dim=1)[:, 1]


def focal_term(abnormal: Tensor, mask: Tensor) -> Tensor:
    """-(1 - p_t)^gamma log p_t, averaged over foreground and background and added."""
    right = torch.where(mask > 0, abnormal, 1 - abnormal)
    value = -((1 - right) ** RELEASED.focal_gamma) * torch.log(right)
    return (value * mask).sum() / mask.sum() + (value * (1 - mask)).sum() / (1 - mask).sum()


def orthogonality(bank: Tensor) -> Tensor:
    """Mean over batch and the B x B matrix, its diagonal zero, of squared cosines."""
    cosine = torch.einsum("nic,njc->nij", bank, bank)
    return (cosine**2 * (1 - torch.eye(bank.shape[1]))).mean()


def gradients(model: BayesPFL) -> dict[str, Tensor]:
    """A copy of all gradients."""
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def largest_gradient_difference(slow: dict[str, Tensor], fast: dict[str, Tensor]) -> float:
    """Over all parameters: largest difference relative to the parameter's largest gradient."""
    assert slow.keys() == fast.keys()
    return max(
        float((fast[name] - value).abs().max() / value.abs().max())
        for name, value in slow.items()
        if value.abs().max() > 0
    )


def benchmark(repeats: int) -> dict[str, Any]:
    """All sides in turn: seconds, ratios, differences, sizes and versions."""
    setup = make_setup()
    runs = {
        "straightforward": lambda: slow_step(setup, clip_trainable=True),
        "frozen": lambda: slow_step(setup, clip_trainable=False),
        "fast": lambda: fast_step(setup),
    }
    terms, grads = {}, {}
    for name in ("straightforward", "fast"):
        terms[name], grads[name] = runs[name](), gradients(setup.model)
    assert all(parameter.grad is None for parameter in setup.backbone.parameters())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "head_step_ratio": medians["straightforward"] / medians["fast"],
        "head_step_ratio_to_frozen_clip": medians["frozen"] / medians["fast"],
        "loss": terms["fast"].total.item(),
        "largest_loss_difference": max(
            abs(ours.item() - theirs.item())
            for ours, theirs in zip(terms["fast"], terms["straightforward"], strict=True)
        ),
        "largest_relative_gradient_difference": largest_gradient_difference(grads["straightforward"], grads["fast"]),
        "gradients_compared": len(grads["fast"]),
        "seconds": medians,
        "backbone": "ViT-L-14-336, random weights",
        "image_px": SIZE,
        "batch": len(CLASS_NAMES),
        "num_prompts": 3,
        "num_samples": 1,
        "flow_length": 10,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one repeat instead of seven")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(benchmark(1 if arguments.quick else 7)))


if __name__ == "__main__":
    main()
