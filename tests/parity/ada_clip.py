"""AdaCLIP against numbers recorded from caoyunkang's code."""

import re
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.config import BackboneConfig, DetectorConfig, RunConfig, ScoringConfig
from bayes_pfl.inference.prediction import batch_predictions
from bayes_pfl.methods.ada_clip.fusion import Partition, cluster_feature, partition
from bayes_pfl.methods.ada_clip.head import HybridPrompts
from bayes_pfl.methods.ada_clip.method import AdaClip, AdaClipObjective, image_logits, layer_maps, patch_logits
from bayes_pfl.methods.builder import build_method, build_trainable_method
from bayes_pfl.methods.method import BatchQuery, TrainingBatch, WithoutSamples
from bayes_pfl.methods.published import ADA_CLIP_PARTS, ada_clip_checkpoint
from bayes_pfl.methods.segmentation import identity, means
from tests.parity.recording import LOGITS, Difference, Recording, absolute, equal, relative

CPU = torch.device("cpu")


def differences(recording: Recording) -> Iterator[Difference]:
    """Every comparison, in the order in which an image travels."""
    backbone = recording.clip(BackboneConfig(quick_gelu=False, position_resize="bicubic"))
    positions = backbone.clip.visual.positional_embedding
    yield absolute("positions", positions, recording["positional_embedding_resized"])
    model, weights = ada_clip_checkpoint(recording.head())
    clusters = int(recording.arrays["k_clusters"])
    model = model.model_copy(
        update={
            "clusters": clusters,
            "patches_per_cluster": -(-int(recording.arrays["top_tokens"]) // clusters),
            "cluster_weight": float(recording.arrays["fusion_weight"]),
            "scale": float(recording.arrays["logit_scale_used"]),
        }
    )
    config = DetectorConfig(backbone=backbone.config, model=model)
    method = build_method(config, backbone, CPU, weights)
    assert isinstance(method, WithoutSamples)
    yield from _inside(recording, method.scorer)
    yield from _scores(recording, method)
    trained = build_trainable_method(RunConfig(backbone=backbone.config, model=model), backbone, CPU)
    for name in recording.arrays:
        if match := re.fullmatch(r"(train\d+)_image", name):
            trained.head.load_state_dict(weights)
            yield from _training(recording, trained, match[1])


@torch.no_grad()
def _inside(recording: Recording, scorer: AdaClip) -> Iterator[Difference]:
    features = scorer.encode_image(recording["image"])
    yield absolute("condition", features.image, recording["conditioning"])
    dynamic = scorer.head.dynamic(features.image)
    yield absolute("dynamic image prompts", dynamic.image, recording["dynamic_visual_prompts"])
    yield absolute("dynamic text prompts", dynamic.text, recording["dynamic_text_prompts"])
    prompted = scorer.towers.image(scorer.head, features.patches[0], dynamic)
    yield absolute("image features", prompted.image, recording["image_features"])
    yield absolute("patch tokens", prompted.tokens, recording.layered("patch_tokens"))
    encoder, words = scorer.towers.encoder, scorer.model.wording
    for index, name in enumerate(recording.names()):
        normal, abnormal = words.sentences(name.replace("-", " "))
        tokens, recorded = encoder.tokens([*normal, *abnormal]), recording["tokens"][index]
        yield equal(f"tokens {index}", F.pad(tokens, (0, recorded.shape[1] - tokens.shape[1])), recorded)
        embeddings, _ = scorer.towers.sentences(scorer.head, name, dynamic.text[index])
        yield absolute(f"text embeddings {index}", embeddings, recording["text_embeddings"][index])
    encoded = scorer.towers.encode(scorer.head, features, recording.names())
    yield absolute("text vectors", encoded.text, recording["text_features"].transpose(1, 2).contiguous())
    yield absolute("projected image", encoded.image, recording["projected_image"])
    yield absolute("projected patches", encoded.patches, recording.layered("projected_patches"))
    both = scorer.model.scale * torch.einsum("lbpd,bkd->lbpk", encoded.patches, encoded.text)
    yield absolute("patch logits", both, recording.layered("patch_logits"), LOGITS)
    logits, parts = patch_logits(encoded, scorer.model), []
    recorded = recording.layered("patch_logits")
    yield absolute("logit differences", logits, recorded[..., 1] - recorded[..., 0], LOGITS)
    for index, seed in enumerate(recording["kmeans_seed"].tolist()):
        own = partition(scorer.model, encoded.patches[:, index], logits[:, index], seed)
        yield equal(f"most anomalous patches {index}", own.patches, recording["topk_index"][index])
        ours, theirs = (_together(labels) for labels in (own.labels, recording["cluster_labels"][index]))
        yield equal(f"clusters {index}", ours, theirs)
        parts.append(Partition(recording["topk_index"][index], recording["cluster_labels"][index].long()))
    fused = torch.stack([cluster_feature(encoded.patches[:, index], each) for index, each in enumerate(parts)])
    yield absolute("cluster feature", fused, recording["cluster_feature"])
    yield absolute("image score", image_logits(encoded, parts, scorer.model).sigmoid(), recording["image_score"])


def _together(labels: Tensor) -> Tensor:
    """Which patches share a cluster, whatever its number."""
    return (labels[:, None] == labels).int()


@torch.no_grad()
def _scores(recording: Recording, method: WithoutSamples) -> Iterator[Difference]:
    names = recording.names()
    result = method.batch_scores(BatchQuery(method.encode_image(recording["image"]), (b"",) * len(names), names), 1)
    yield absolute("map", result.anomaly_map, recording["map"])
    scoring = ScoringConfig(smoothing_sigma_px=float(recording.arrays["sigma"]), edge_twice=True)
    smoothed = [torch.from_numpy(each.anomaly_map) for each in batch_predictions(result, scoring, 1)]
    yield absolute("smoothed map", torch.stack(smoothed), recording["map_smoothed"])


def _training(recording: Recording, method: AdaClipObjective, prefix: str) -> Iterator[Difference]:
    method.head.zero_grad()
    index = int(recording.arrays[f"{prefix}_image"])
    names = recording.names()[index : index + 1]
    features = method.encode_image(recording["image"][index : index + 1])
    label, mask = recording[f"{prefix}_label"].float().view(1), recording[f"{prefix}_mask"][None]
    batch = TrainingBatch(features, label, mask, names, (b"",), names)
    parts = [Partition(recording[f"{prefix}_topk_index"], recording[f"{prefix}_cluster_labels"].long())]
    encoded = method.towers.encode(method.head, features, names)
    probability = image_logits(encoded, parts, method.model).sigmoid()
    both = torch.cat([1 - probability, probability])
    yield absolute(f"{prefix}_image_probabilities", both, recording[f"{prefix}_image_probabilities"])
    if f"{prefix}_layer_map_0" in recording.arrays:
        maps = layer_maps(patch_logits(encoded, method.model), mask.shape[-1]).abnormal[:, 0]
        yield absolute(f"{prefix}_layer_map", maps, recording.layered(f"{prefix}_layer_map"))
    terms = means(method.sums(batch, parts), identity)
    yield relative(f"{prefix}_loss_image", terms["classification"][0], recording[f"{prefix}_loss_image"])
    for name in ("focal", "dice_abnormal", "dice_normal"):
        yield relative(f"{prefix}_loss_{name}", terms[name], recording.layered(f"{prefix}_loss_{name}"))
    total = torch.stack([values.sum() for values in terms.values()]).sum()
    yield relative(f"{prefix}_loss_local", total - terms["classification"][0], recording[f"{prefix}_loss_local"])
    yield relative(f"{prefix}_loss_total", total, recording[f"{prefix}_loss_total"])
    total.backward()
    yield from _gradients(recording, method.head, f"{prefix}_grad_")
    assert torch.isfinite(method.loss(batch, 0, False, identity).total)


def _gradients(recording: Recording, head: HybridPrompts, prefix: str) -> Iterator[Difference]:
    parameters = dict(head.named_parameters())
    for name in recording.arrays:
        if not name.startswith(prefix):
            continue
        published = name.removeprefix(f"{prefix}clip_model.")
        part = next(part for part in ADA_CLIP_PARTS if published.startswith(f"{part}."))
        gradient = parameters[ADA_CLIP_PARTS[part] + published.removeprefix(part)].grad
        assert gradient is not None
        yield relative(name, gradient, recording[name])
    assert head.text_prompts[0].grad is None
