"""Files of the recording's form with any sizes: random weights under the published names, and the equations' results.

The numbers come from `equations.py` and `equations_clip.py`, which compute nothing with the library; so `check` meets
sizes, class names and labels that the recorded file does not have.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.methods.prompt_flow.published import convert_published, our_key
from tests.equations import Image, Step, prompt_maps, text_bank, text_logits, training_losses
from tests.equations_clip import Weights, encode_image
from tests.parity.check import RELEASED_LOSSES

START, PLACEHOLDER, END = 49406, 343, 49407
WEIGHTS = {"loss_kl_context": 0.01, "loss_kl_normal": 0.01, "loss_kl_abnormal": 0.01}
RECORDED_LOSSES = {
    "loss_ce": "classification",
    "loss_focal": "focal",
    "loss_dice": "dice",
    "loss_ortho": "orthogonality",
    "loss_kl_context": "kl_context",
    "loss_kl_normal": "kl_normal",
    "loss_kl_abnormal": "kl_abnormal",
    "loss_total": "total",
}


class Sizes(NamedTuple):
    """Everything that may differ from the recorded file."""

    width: int = 64
    joint: int = 64
    temperature: float = 2.66
    layers: int = 4
    text_layers: int = 2
    feature_layers: tuple[int, ...] = (2, 4)
    side: int = 3
    patch: int = 7
    hidden: int = 32
    mlp_ratio: int = 4
    prompts: int = 3
    context: int = 5
    states: int = 5
    samples: int = 2
    flows: int = 2
    names: tuple[tuple[int, ...], ...] = ((7,), (8, 9), (10, 11, 12))
    labels: tuple[int, ...] = (1, 0, 1)
    chosen: int = 0


def make(sizes: Sizes, seed: int) -> dict[str, np.ndarray]:
    """All arrays of a file of the recording's form."""
    generator = torch.Generator().manual_seed(seed)
    clip, published = _clip(sizes, generator), _head(sizes, generator)
    arrays = {f"clip/{name}": value.numpy() for name, value in clip.items()}
    arrays |= {f"head/{name}": value.numpy() for name, value in published.items()}
    config, weights = convert_published(published)
    model = BayesPFL(config, Widths(sizes.joint, sizes.joint, sizes.width, len(sizes.feature_layers)))
    model.load_state_dict(weights)
    pixels = torch.randn(len(sizes.names), 3, sizes.side * sizes.patch, sizes.side * sizes.patch, generator=generator)
    with torch.no_grad():
        encoded = [encode_image(clip, image, list(sizes.feature_layers)) for image in pixels]
    images = [Image(cls, patches, [*name, END]) for (cls, patches), name in zip(encoded, sizes.names, strict=True)]
    arrays |= _inputs(sizes, pixels, images)
    for index, image in enumerate(images):
        arrays |= _evaluation(model, clip, image, sizes, generator, f"eval{index}")
    return arrays | _training(model, clip, images, sizes, generator, published)


def _inputs(sizes: Sizes, pixels: Tensor, images: list[Image]) -> dict[str, np.ndarray]:
    tokens = np.zeros((len(images), 77), np.int32)
    for row, image in zip(tokens, images, strict=True):
        row[: 2 + len(image.name)] = [START, PLACEHOLDER, *image.name]
    arrays = {
        "image": pixels.numpy(),
        "tokens": tokens,
        "image_features": torch.stack([image.cls for image in images]).numpy(),
        "prompt_num": np.array(sizes.prompts),
        "context_len": np.array(sizes.context),
        "state_len": np.array(sizes.states),
        "num_samples": np.array(sizes.samples),
        "num_flows": np.array(sizes.flows),
        "feature_layers": np.array(sizes.feature_layers),
        "image_size": np.array(sizes.side * sizes.patch),
        "patch_size": np.array(sizes.patch),
    }
    for layer in range(len(sizes.feature_layers)):
        arrays[f"patch_tokens_{layer}"] = torch.stack([image.patches[layer] for image in images]).numpy()
    return arrays


@torch.no_grad()
def _evaluation(
    model: BayesPFL, clip: Weights, image: Image, sizes: Sizes, generator: torch.Generator, prefix: str
) -> dict[str, np.ndarray]:
    draws = [torch.randn(sizes.samples, 1, sizes.joint, generator=generator) for _ in range(3)]
    text = text_bank(model, clip, image, [(c[0], n[0], a[0]) for c, n, a in zip(*draws, strict=True)])
    arrays = {
        f"{prefix}_eps_{name}": noise.numpy()
        for name, noise in zip(("context", "normal", "abnormal"), draws, strict=True)
    }
    arrays[f"{prefix}_text_embeddings"] = torch.cat([text[:, :, 0].flatten(0, 1), text[:, :, 1].flatten(0, 1)])[
        None
    ].numpy()
    arrays[f"{prefix}_map"] = prompt_maps(model, image, text, sizes.side * sizes.patch)[:, :, 1].mean((0, 1)).numpy()
    for stage, class_token_only in ((1, True), (2, False)):
        scores = text_logits(model, image, text, class_token_only).softmax(-1)[..., 1]
        arrays[f"{prefix}_stage{stage}_text_score"] = scores.mean().numpy()
    return arrays


def _training(
    model: BayesPFL, clip: Weights, images: list[Image], sizes: Sizes, generator: torch.Generator, published: Weights
) -> dict[str, np.ndarray]:
    size, count = sizes.side * sizes.patch, len(images)
    label = torch.tensor(sizes.labels)
    mask = (torch.rand(count, size, size, generator=generator) < 0.2).float() * label.view(-1, 1, 1)
    context, normal, abnormal = (torch.randn(rows, sizes.joint, generator=generator) for rows in (count, 1, 1))
    bank = slice(sizes.chosen, sizes.chosen + 1)
    terms, text = training_losses(
        model, clip, Step(images, context, normal[0], abnormal[0], label, mask, bank), RELEASED_LOSSES
    )
    terms["total"].backward()
    arrays = {
        "train_eps_context": context.numpy(),
        "train_eps_normal": normal.numpy(),
        "train_eps_abnormal": abnormal.numpy(),
        "train_mask": mask.numpy(),
        "train_label": label.numpy(),
        "train_prompt_index": np.array(sizes.chosen),
        "train_text_embeddings": torch.cat([text[:, :, 0], text[:, :, 1]], dim=1).detach().numpy(),
    }
    for name, ours in RECORDED_LOSSES.items():
        arrays[name] = WEIGHTS.get(name, 1.0) * terms[ours].detach().double().numpy()
    parameters = dict(model.named_parameters())
    for name, value in published.items():
        gradient = parameters[our_key(name)].grad if our_key(name) in parameters else None
        if gradient is not None:
            arrays[f"grad_{name}"] = gradient.reshape(value.shape).numpy()
    return arrays


def _clip(sizes: Sizes, generator: torch.Generator) -> Weights:
    """Random CLIP weights under OpenAI's names."""

    def random(*shape: int, scale: float = 0.1) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    width, text = sizes.width, sizes.joint
    table = torch.zeros(END + 2, text)
    used = [0, START, PLACEHOLDER, END, *(token for name in sizes.names for token in name)]
    table[used] = random(len(used), text, scale=0.3)
    clip = {
        "positional_embedding": random(77, text),
        "text_projection": random(text, sizes.joint),
        "logit_scale": torch.tensor(2.66),
        "visual.class_embedding": random(width),
        "visual.positional_embedding": random(sizes.side**2 + 1, width),
        "visual.proj": random(width, sizes.joint),
        "visual.conv1.weight": random(width, 3, sizes.patch, sizes.patch),
        "token_embedding.weight": table,
    }
    norms = [("visual.ln_pre", width), ("visual.ln_post", width), ("ln_final", text)]
    for tower, depth, dim in (("visual.transformer", sizes.layers, width), ("transformer", sizes.text_layers, text)):
        for block in (f"{tower}.resblocks.{index}" for index in range(depth)):
            norms += [(f"{block}.ln_1", dim), (f"{block}.ln_2", dim)]
            for name, rows, columns in (
                ("attn.in_proj_", 3 * dim, dim),
                ("attn.out_proj.", dim, dim),
                ("mlp.c_fc.", sizes.mlp_ratio * dim, dim),
                ("mlp.c_proj.", dim, sizes.mlp_ratio * dim),
            ):
                clip |= {f"{block}.{name}weight": random(rows, columns), f"{block}.{name}bias": random(rows)}
    for name, dim in norms:
        clip |= {f"{name}.weight": 1 + random(dim), f"{name}.bias": random(dim)}
    return clip


def _head(sizes: Sizes, generator: torch.Generator) -> Weights:
    """Random head weights in the published layout."""

    def random(*shape: int, scale: float = 0.1) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    dim, hidden, flows = sizes.joint, sizes.hidden, sizes.flows
    head = {
        "prompt_context": random(sizes.prompts, sizes.context, dim),
        "prompt_state_normal": random(sizes.prompts, sizes.states, dim) + 0.5,
        "prompt_state_abnormal": random(sizes.prompts, sizes.states, dim) - 0.5,
        "temperature_pixel": torch.tensor(sizes.temperature),
        "temperature_image": torch.tensor(2.5),
        "RCA.q_proj_pre.weight": random(dim, dim, 1),
        "RCA.q_proj_pre.bias": random(dim),
        "fuse.fuse_modules.weight": random(hidden, sizes.width * len(sizes.feature_layers)),
        "fuse.fuse_modules.bias": random(hidden),
        "fuse.compress.weight": random(1, hidden),
        "fuse.compress.bias": random(1),
        "fuse.post_process.weight": random(dim, hidden),
        "fuse.post_process.bias": random(dim),
        "context_decoder.weight_mean.module.0.weight": random(hidden, dim),
        "PFL_context.p_mu.0.weight": random(dim, dim),
    }
    for name, rows in (("amor_u", flows * dim), ("amor_w", flows * dim), ("amor_b", flows)):
        head |= {f"PFL_context.{name}.weight": random(rows, dim), f"PFL_context.{name}.bias": random(rows)}
    for state in ("PFL_normal", "PFL_abnormal"):
        head[f"{state}.amor_u"] = random(1, flows, dim, 1, scale=0.3)
        head[f"{state}.amor_w"] = random(1, flows, 1, dim, scale=0.3)
        head[f"{state}.amor_b"] = random(1, flows, 1, 1)
        head[f"{state}.state"] = random(1, dim)
    for index in range(len(sizes.feature_layers)):
        head[f"RCA.linear_proj.{index}.weight"] = random(dim, sizes.width)
    for name in ("class_mapping", "image_mapping"):
        head |= {f"{name}.weight": random(dim, dim), f"{name}.bias": random(dim)}
    for encoder in ("context_encoder", "state_encoder"):
        for network in ("weight_mean", "weight_log_variance"):
            for layer, rows, columns in ((0, hidden, dim), (2, hidden, hidden), (4, dim, hidden)):
                name = f"{encoder}.{network}.module.{layer}"
                head |= {f"{name}.weight": random(rows, columns), f"{name}.bias": random(rows)}
    return head
