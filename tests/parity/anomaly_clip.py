"""AnomalyCLIP against numbers recorded from zqhang's code."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bayes_pfl.clip.blocks import embedded, image_encoder, projected
from bayes_pfl.config import AnomalyClipConfig, BackboneConfig, DetectorConfig, RunConfig, ScoringConfig
from bayes_pfl.inference.prediction import batch_predictions
from bayes_pfl.methods.anomaly_clip import (
    AnomalyClip,
    AnomalyClipObjective,
    ObjectText,
    layer_maps,
    patch_logits,
    value_streams,
)
from bayes_pfl.methods.builder import build_method, build_trainable_method
from bayes_pfl.methods.method import BatchQuery, TrainingBatch, WithoutSamples
from bayes_pfl.methods.published import anomaly_clip_checkpoint
from bayes_pfl.methods.segmentation import identity, means
from tests.parity.recording import Difference, Recording, absolute, equal, relative

TERMS = {"focal": "focal", "dice_abnormal": "dice_abnormal", "dice_normal": "dice_normal"}


def differences(recording: Recording) -> Iterator[Difference]:
    """Every comparison, in the order in which an image travels."""
    backbone = recording.clip(BackboneConfig(quick_gelu=True, position_resize="bilinear"))
    positions = backbone.clip.visual.positional_embedding
    yield absolute("positions", positions, recording["positional_embedding_resized"])
    model, weights = anomaly_clip_checkpoint(recording.head())
    model = model.model_copy(
        update={
            "first_value_block": int(recording.arrays["dpam_first_layer"]),
            "temperature": float(recording.arrays["temperature"]),
            "pixel_weight": float(recording.arrays["local_weight"]),
        }
    )
    config = DetectorConfig(backbone=backbone.config, model=model)
    method = build_method(config, backbone, torch.device("cpu"), weights)
    yield from _text(recording, model, backbone, weights)
    yield from _scores(recording, method, backbone)
    for prefix, layers in (("", backbone.config.feature_layers), ("last_", backbone.config.feature_layers[-1:])):
        backbone.config = backbone.config.model_copy(update={"feature_layers": layers})
        run = RunConfig(backbone=backbone.config, model=model)
        trained = build_trainable_method(run, backbone, torch.device("cpu"))
        assert isinstance(trained, AnomalyClipObjective)
        trained.head.load_state_dict(weights)
        yield from _training(recording, trained, prefix)
    yield from _last_layer(recording, build_method(config, backbone, torch.device("cpu"), weights))


@torch.no_grad()
def _text(recording, model: AnomalyClipConfig, backbone, weights) -> Iterator[Difference]:
    trained = build_trainable_method(RunConfig(backbone=backbone.config, model=model), backbone, torch.device("cpu"))
    trained.head.load_state_dict(weights)
    text = ObjectText(model, backbone)
    context, length = model.context_tokens, text.words.shape[1]
    tokens = recording["tokens"]
    yield equal("tokens of words", text.words, tokens[:, 1 + context : 1 + context + length])
    yield absolute("prompt embeddings", text.words_of(trained.head), recording["prompt_embeddings"])
    yield absolute("text embeddings", text.embeddings(trained.head), recording["text_embeddings"])


@torch.no_grad()
def _scores(recording, method, backbone) -> Iterator[Difference]:
    assert isinstance(method, WithoutSamples)
    scorer = method.scorer
    assert isinstance(scorer, AnomalyClip)
    features = method.encode_image(recording["image"])
    yield absolute("image features", features.image, recording["image_features"])
    visual = image_encoder(backbone)
    streams, _ = value_streams(visual, embedded(visual, recording["image"]), scorer.model.first_value_block)
    chosen = torch.stack([streams[layer - 1].transpose(0, 1) for layer in backbone.config.feature_layers])
    yield absolute("value streams", chosen, recording.layered("stream_tokens"))
    yield absolute("projected streams", projected(visual, chosen), recording.layered("patch_tokens"))
    yield absolute("patch features", features.patches, recording.layered("patch_tokens")[:, :, 1:])
    logits = patch_logits(features.patches, scorer.text, scorer.model)
    yield absolute("patch probabilities", logits.sigmoid(), recording.layered("patch_probability"))
    maps = layer_maps(logits, recording.size)
    yield absolute("layer maps", (maps.abnormal + 1 - maps.normal) / 2, recording.layered("layer_map"))
    result = method.batch_scores(BatchQuery(features, _keys(features.image), _keys(features.image, "x")), 1)
    yield absolute("image score", result.text_scores[:, 0, 0], recording["image_score"])
    layers = len(features.patches)
    yield absolute("map", result.anomaly_map * layers, recording["map"])
    yield absolute("smoothed map", _smoothed(recording, result) * layers, recording["map_smoothed"])


@torch.no_grad()
def _last_layer(recording, method) -> Iterator[Difference]:
    features = method.encode_image(recording["image"])
    result = method.batch_scores(BatchQuery(features, _keys(features.image), _keys(features.image, "x")), 1)
    yield absolute("smoothed map of the last layer", _smoothed(recording, result), recording["map_last_smoothed"])


def _smoothed(recording, result) -> Tensor:
    scoring = ScoringConfig(smoothing_sigma_px=float(recording.arrays["sigma"]), edge_twice=True)
    return torch.stack([torch.from_numpy(each.anomaly_map) for each in batch_predictions(result, scoring, 1)])


def _keys(images: Tensor, key="") -> tuple:
    return ((key or b""),) * len(images)


def _training(recording, method: AnomalyClipObjective, prefix: str) -> Iterator[Difference]:
    if "train_mask" not in recording.arrays:
        return
    features = method.encode_image(recording["image"])
    keys, names = _keys(features.image), _keys(features.image, "x")
    mask, label = recording["train_mask"], recording["train_label"].float()
    batch = TrainingBatch(features, label, mask, names, keys, names)
    terms = means(method.sums(batch), identity)
    if not prefix:
        yield relative("loss_image", terms["classification"][0], recording["loss_image"])
        for ours, theirs in TERMS.items():
            yield relative(f"loss_{theirs}", terms[ours], recording.layered(f"loss_{theirs}"))
    loss = method.loss(batch, 0, False, identity)
    yield relative(f"{prefix}loss_local", loss.total - loss.terms["classification"], recording[f"{prefix}loss_local"])
    yield relative(f"{prefix}loss_total", loss.total, recording[f"{prefix}loss_total"])
    loss.total.backward()
    named = {"ctx_pos": method.head.normal, "ctx_neg": method.head.abnormal}
    named |= {f"compound_prompts_text.{index}": tokens for index, tokens in enumerate(method.head.deep)}
    for name, parameter in named.items():
        assert parameter.grad is not None
        yield relative(f"{prefix}grad_{name}", parameter.grad, recording[f"{prefix}grad_{name}"])
