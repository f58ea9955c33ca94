"""The authors' published checkpoints of all methods -> settings and weights, told apart by what they hold.

Each variant is the one that the weights were trained with, quirks of the released code included. What a format is known
by comes from the codes that write it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone, load_tokenizer
from bayes_pfl.config import (
    AdaClipConfig,
    AnomalyClipConfig,
    AprilGanConfig,
    BackboneConfig,
    ClipAdConfig,
    MethodConfig,
)
from bayes_pfl.errors import BundleError
from bayes_pfl.methods.anomaly_clip import ObjectText
from bayes_pfl.methods.prompt_flow.published import convert_published, published_widths

Weights = dict[str, Tensor]

LINEAR = re.compile(r"fc\.(\d+)\.(weight|bias)")

UNUSED_WIDTH = 896
"""Rows of the layers that AnomalyCLIP creates, stores and never uses."""

PROMPT_BUFFERS = re.compile(r"(token_(prefix|suffix)|tokenized_prompts)_(pos|neg)|compound_prompt_projections\.\d+\..*")
"""AnomalyCLIP's stored word embeddings and ids, the same for everybody, and layers that it creates and never uses."""

ADA_CLIP_PARTS = {
    "text_prompter.static_prompts": "text_prompts",
    "visual_prompter.static_prompts": "image_prompts",
    "patch_token_layer.head": "patch_layers",
    "cls_token_layer.head.0": "image_layer",
    "dynamic_visual_prompt_generator.head": "image_generators",
    "dynamic_text_prompt_generator.head": "text_generators",
}
"""AdaCLIP's names, behind `clip_model.`, and ours."""


class PublishedModel(NamedTuple):
    """What a checkpoint holds, and what it was trained with."""

    model: MethodConfig
    weights: Weights
    layers: int | None
    """Vision blocks that it reads, at equal distances; None where the weights do not say: the last alone."""
    widths: dict[str, int]
    """Of the CLIP that it fits: joint, text and vision, as far as the weights say."""


def read_published(content: Any) -> PublishedModel:
    """Recognise a checkpoint.

    Args:
        content: what torch's restricted unpickler read.

    Returns:
        The model.

    Raises:
        BundleError: it is of no known format, or keys are unknown or missing; it lists them.
    """
    if isinstance(content, Mapping):
        for name, read in FORMATS.items():
            if isinstance(content.get(name), Mapping):
                return read(_tensors(content[name], name))
        if any(str(key).startswith("clip_model.") for key in content):
            return _ada_clip(_tensors(content, "the file"))
    raise BundleError(
        f"This is no published checkpoint of a method that there is: it has none of the entries {', '.join(FORMATS)}, "
        "and no 'clip_model.' keys; give a file as its authors published it."
    )


def published_content(model: MethodConfig, weights: Weights, backbone: Backbone) -> dict[str, Any]:
    """The other way round: what a file holds that the authors' code, or `read_published`, takes.

    Args:
        model: settings of APRIL-GAN, CLIP-AD, AnomalyCLIP or AdaCLIP.
        weights: what is learned.
        backbone: the CLIP that they belong to; AnomalyCLIP's file has word embeddings of it.

    Returns:
        What `torch.save` writes, whole: the authors' `load_state_dict` finds every key. The layers that AnomalyCLIP
        never uses are zero.

    Raises:
        BundleError: there is no such format of this method here, or CLIP has another vocabulary than AnomalyCLIP's.
    """
    if isinstance(model, AprilGanConfig):
        return {"trainable_linearlayer": dict(weights)}
    if isinstance(model, ClipAdConfig) and model.linear_layers:
        return {"linear_layers": dict(weights)}
    if isinstance(model, AnomalyClipConfig):
        return {"prompt_learner": _prompt_learner(model, weights, backbone)}
    if isinstance(model, AdaClipConfig):
        parts = {ours: part for part, ours in ADA_CLIP_PARTS.items()}
        return {_ada_clip_key(key, parts): value for key, value in weights.items()}
    raise BundleError(f"The weights of {model.method} have no published format that is written here.")


def anomaly_clip_checkpoint(published: Weights) -> tuple[AnomalyClipConfig, Weights]:
    """AnomalyCLIP's prompt learner: sizes from the shapes, words from the stored ids, all else as released.

    Args:
        published: its state dict.

    Returns:
        Settings, and weights of `ObjectPrompts`.

    Raises:
        BundleError: keys are unknown or missing, or the ids are no words.
    """
    patterns = (r"compound_prompts_text\.(\d+)", r"compound_prompt_projections\.(\d+)\..*")
    deep = max(_numbered(published, pattern) for pattern in patterns)
    expected = {"ctx_pos", "ctx_neg", *(f"compound_prompts_text.{index}" for index in range(deep))}
    _check(published, expected, PROMPT_BUFFERS, "AnomalyCLIP")
    weights = {"normal": _rows(published["ctx_pos"]), "abnormal": _rows(published["ctx_neg"])}
    weights |= {f"deep.{index}": published[f"compound_prompts_text.{index}"] for index in range(deep)}
    context = len(weights["normal"])
    released = AnomalyClipConfig()
    model = AnomalyClipConfig(
        context_tokens=context,
        deep_tokens=len(weights["deep.0"]) if deep else min(released.deep_tokens, context),
        deep_blocks=deep + 1,
        normal_words=_words(published, "tokenized_prompts_pos", context, released.normal_words),
        abnormal_words=_words(published, "tokenized_prompts_neg", context, released.abnormal_words),
    )
    return model, weights


def ada_clip_checkpoint(published: Weights) -> tuple[AdaClipConfig, Weights]:
    """AdaCLIP's prompts and layers: sizes from the shapes, all else as released.

    Args:
        published: its state dict.

    Returns:
        Settings, and weights of `HybridPrompts`.

    Raises:
        BundleError: keys are unknown or missing.
    """
    count = {part: _numbered(published, rf"clip_model\.{re.escape(part)}\.(\d+)(\..*)?") for part in ADA_CLIP_PARTS}
    expected = set()
    for part in ADA_CLIP_PARTS:
        if part == "cls_token_layer.head.0":
            names = [part]
        else:
            names = [f"{part}.{index}" for index in range(max(1, count[part]))]
        endings = [""] if part.endswith("static_prompts") else [".weight", ".bias"]
        expected |= {f"clip_model.{name}{ending}" for name in names for ending in endings}
    _check(published, expected, None, "AdaCLIP")
    weights = {}
    for key, value in published.items():
        part = next(part for part in ADA_CLIP_PARTS if key.startswith(f"clip_model.{part}."))
        weights[ADA_CLIP_PARTS[part] + key.removeprefix(f"clip_model.{part}")] = value
    blocks = count["visual_prompter.static_prompts"]
    tokens = published["clip_model.visual_prompter.static_prompts.0"].shape[0]
    generators = {count[part] for part in ADA_CLIP_PARTS if part.endswith("generator.head")}
    if generators != {tokens} or count["text_prompter.static_prompts"] != blocks:
        raise BundleError(
            f"This is no AdaCLIP: it has {blocks} blocks and {tokens} tokens of image prompts, but "
            f"{count['text_prompter.static_prompts']} blocks of text prompts and {sorted(generators)} generators."
        )
    return AdaClipConfig(prompted_blocks=blocks, prompt_tokens=tokens), weights


def linear_layers_checkpoint(published: Weights, method: str) -> Weights:
    """Linear layers of APRIL-GAN or CLIP-AD, whose names are ours.

    Args:
        published: their state dict.
        method: for messages.

    Returns:
        Weights of `LinearLayers`.

    Raises:
        BundleError: keys are unknown or missing, or shapes differ among layers.
    """
    count = max(1, _numbered(published, LINEAR.pattern))
    expected = {f"fc.{index}.{part}" for index in range(count) for part in ("weight", "bias")}
    _check(published, expected, None, method)
    if len({(*published[f"fc.{i}.weight"].shape, len(published[f"fc.{i}.bias"])) for i in range(count)}) > 1:
        raise BundleError(f"This is no {method}: its linear layers are of different sizes.")
    return published


def _bayes_pfl(published: Weights) -> PublishedModel:
    model, weights = convert_published(published)
    widths = published_widths(weights)
    sizes = {"joint": widths.joint, "text": widths.text, "vision": widths.patch}
    return PublishedModel(model, weights, widths.layers, sizes)


def _april_gan(published: Weights) -> PublishedModel:
    return _linear(AprilGanConfig(), linear_layers_checkpoint(published, "APRIL-GAN"))


def _clip_ad(published: Weights) -> PublishedModel:
    return _linear(ClipAdConfig(linear_layers=True), linear_layers_checkpoint(published, "CLIP-AD"))


def _linear(model: AprilGanConfig | ClipAdConfig, weights: Weights) -> PublishedModel:
    joint, vision = weights["fc.0.weight"].shape
    return PublishedModel(model, weights, len(weights) // 2, {"joint": joint, "vision": vision})


def _anomaly_clip(published: Weights) -> PublishedModel:
    model, weights = anomaly_clip_checkpoint(published)
    return PublishedModel(model, weights, None, {"text": weights["normal"].shape[1]})


def _ada_clip(published: Weights) -> PublishedModel:
    model, weights = ada_clip_checkpoint(published)
    joint, vision = weights["patch_layers.0.weight"].shape
    layers = _numbered(weights, r"patch_layers\.(\d+)\.weight")
    text = weights["text_prompts.0"].shape[1]
    return PublishedModel(model, weights, layers, {"joint": joint, "text": text, "vision": vision})


FORMATS: dict[str, Callable[[Weights], PublishedModel]] = {
    "MyModel": _bayes_pfl,
    "trainable_linearlayer": _april_gan,
    "linear_layers": _clip_ad,
    "prompt_learner": _anomaly_clip,
}
"""The entry of a checkpoint that holds the state dict, and who reads it. AdaCLIP's is the state dict itself."""


@torch.no_grad()
def _prompt_learner(model: AnomalyClipConfig, weights: Weights, backbone: Backbone) -> Weights:
    """AnomalyCLIP's state dict: what is learned, ids and embeddings of both prompts, and the unused layers."""
    if backbone.tokenizer.encoder != load_tokenizer(BackboneConfig()).encoder:
        raise BundleError(
            f"AnomalyCLIP's file has words of CLIP's own vocabulary, and {backbone.config.name} has another: keep the "
            "weights as a bundle."
        )
    text, context = ObjectText(model, backbone), model.context_tokens
    (placeholder,) = backbone.tokenizer.encode("X")
    ids = torch.zeros(2, 1, len(text.encoder.tower.positional_embedding), dtype=torch.int32, device=text.words.device)
    ids[..., 0], ids[..., 1 : 1 + context] = text.start, placeholder
    ids[:, 0, 1 + context : 1 + context + text.words.shape[1]] = text.words
    written = {}
    for sign, learned, row in zip(("pos", "neg"), ("normal", "abnormal"), ids, strict=True):
        words = text.encoder.embed(row)[None].float()
        written[f"ctx_{sign}"] = weights[learned][None, None]
        written[f"token_prefix_{sign}"], written[f"token_suffix_{sign}"] = words[:, :, :1], words[:, :, 1 + context :]
        written[f"tokenized_prompts_{sign}"] = row[None]
    for index in range(model.deep_blocks - 1):
        written[f"compound_prompts_text.{index}"] = weights[f"deep.{index}"]
        written[f"compound_prompt_projections.{index}.weight"] = torch.zeros(UNUSED_WIDTH, weights["normal"].shape[1])
        written[f"compound_prompt_projections.{index}.bias"] = torch.zeros(UNUSED_WIDTH)
    return {name: value.contiguous() for name, value in written.items()}


def _words(published: Weights, name: str, context: int, released: str) -> str:
    """Words of a prompt, from the ids between its learned vectors and the end of text; without ids the released ones.

    Raises BundleError for ids that are no words.
    """
    if name not in published:
        return released
    tokenizer = load_tokenizer(BackboneConfig())
    row = published[name].long().flatten().tolist()[1 + context :]
    ids = row[: row.index(tokenizer.eot_token_id)] if tokenizer.eot_token_id in row else []
    if ids == tokenizer.encode(released):
        return released
    words: str = tokenizer.decode(ids).strip()
    if not words or tokenizer.encode(words) != ids:
        raise BundleError(f"{name} holds no words of CLIP's vocabulary behind the learned vectors: it is damaged.")
    return words


def _ada_clip_key(ours: str, parts: dict[str, str]) -> str:
    """AdaCLIP's name of one of our weights."""
    part, _, rest = ours.partition(".")
    return f"clip_model.{parts[part]}.{rest}"


def _tensors(values: Mapping[Any, Any], name: str) -> Weights:
    others = [str(key) for key, value in values.items() if not isinstance(value, Tensor)]
    if others:
        raise BundleError(
            f"{name} holds something that is no tensor ({', '.join(others[:5])}): no published checkpoint."
        )
    return {
        str(key): value if value.dtype.is_floating_point is False else value.float() for key, value in values.items()
    }


def _numbered(published: Weights, pattern: str) -> int:
    """How many numbers keys of a pattern have, from 0 on; one that is left out is a missing key then."""
    numbers = [int(match[1]) for key in published if (match := re.fullmatch(pattern, key))]
    return 1 + max(numbers, default=-1)


def _rows(value: Tensor) -> Tensor:
    return value.reshape(value.shape[-2:])


def _check(published: Weights, expected: set[str], unused: re.Pattern[str] | None, method: str) -> None:
    """Raises BundleError with all unknown and missing keys."""
    unknown = [key for key in published if key not in expected and not (unused and unused.fullmatch(key))]
    missing = [key for key in expected if key not in published]
    if unknown or missing:
        problems = [
            f"{name} {', '.join(sorted(keys))}"
            for name, keys in (("unexpected keys:", unknown), ("missing keys:", missing))
            if keys
        ]
        raise BundleError(f"These are not the published weights of {method} ({'; '.join(problems)}).")
