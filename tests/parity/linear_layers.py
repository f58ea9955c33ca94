"""APRIL-GAN, and the training step that CLIP-AD's SDP+ shares with it, against recorded numbers."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bayes_pfl.clip.backbone import Features
from bayes_pfl.config import AprilGanConfig, BackboneConfig, DetectorConfig, RunConfig
from bayes_pfl.methods.april_gan import AprilGan
from bayes_pfl.methods.builder import build_method, build_trainable_method
from bayes_pfl.methods.linear_layers import LinearLayers, LinearLayersObjective, layer_maps
from bayes_pfl.methods.method import BatchQuery, TrainingBatch, WithoutSamples
from bayes_pfl.methods.segmentation import identity, map_sums, means
from tests.parity.recording import LOGITS, Difference, Recording, absolute, relative
from tests.parity.sentences import sentence_differences


def differences(recording: Recording) -> Iterator[Difference]:
    """Every comparison, in the order in which an image travels."""
    model, backbone = AprilGanConfig(), recording.clip(BackboneConfig(quick_gelu=False))
    config = DetectorConfig(backbone=backbone.config, model=model)
    method = build_method(config, backbone, torch.device("cpu"), recording.head())
    assert isinstance(method, WithoutSamples)
    scorer = method.scorer
    assert isinstance(scorer, AprilGan)
    positions = backbone.clip.visual.positional_embedding
    yield absolute("positions", positions, recording["positional_embedding_resized"])
    yield from sentence_differences(recording, backbone, model.wording)
    text = scorer.text.vectors(recording.names())
    yield absolute("text embeddings", text, recording["text_embeddings"])
    features = method.encode_image(recording["image"])
    yield absolute("image features", features.image, recording["image_features"])
    yield absolute("patch tokens", features.patches, recording.layered("patch_tokens"))
    yield from head_differences(recording, scorer.head, features.patches, text, model.scale)
    result = method.batch_scores(BatchQuery(features, (b"",) * len(text), recording.names()), 1)
    yield absolute("image score", result.text_scores[:, 0, 0], recording["image_score"])
    yield absolute("map", result.anomaly_map * len(features.patches), recording["map"])
    run = RunConfig(backbone=backbone.config, model=model)
    yield from training_differences(recording, build_trainable_method(run, backbone, torch.device("cpu")), features)


@torch.no_grad()
def head_differences(
    recording: Recording, head: LinearLayers, patches: Tensor, text: Tensor, scale: float
) -> Iterator[Difference]:
    """Projected tokens, logits of both classes and maps, layer by layer."""
    projected = head(patches)
    if "patch_features_0" in recording.arrays:
        yield absolute("patch features", projected, recording.layered("patch_features"))
    both = scale * torch.einsum("lbpd,bkd->lbpk", projected, text)
    yield absolute("patch logits", both, recording.layered("patch_logits"), LOGITS)
    logits = head.logits(patches, text, scale)
    recorded = recording.layered("patch_logits")
    yield absolute("logit differences", logits, recorded[..., 1] - recorded[..., 0], LOGITS)
    yield absolute("layer maps", layer_maps(logits, recording.size).abnormal, recording.layered("layer_map"))


def training_differences(recording: Recording, method: object, features: Features) -> Iterator[Difference]:
    """Loss terms and gradients of one step on all images, by the method that trains."""
    if "train_mask" not in recording.arrays:
        return
    assert isinstance(method, LinearLayersObjective)
    method.head.load_state_dict(recording.head())
    names, mask = recording.names(), recording["train_mask"]
    keys = (b"",) * len(names)
    batch = TrainingBatch(features, recording["train_label"].float(), mask, names, keys, names)
    maps = layer_maps(method.logits(features.patches, names), mask.shape[-1])
    terms = means(map_sums(maps, mask, method.model.segmentation, both_classes=False), identity)
    yield relative("loss_focal", terms["focal"], recording.layered("loss_focal"))
    yield relative("loss_dice", terms["dice_abnormal"], recording.layered("loss_dice"))
    loss = method.loss(batch, 0, False, identity)
    yield relative("loss_total", loss.total, recording["loss_total"])
    loss.total.backward()
    for name, parameter in method.head.named_parameters():
        assert parameter.grad is not None
        yield relative(f"grad_{name}", parameter.grad, recording[f"grad_{name}"])
