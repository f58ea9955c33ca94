"""CLIP-AD's SDP and SDP+ against numbers recorded from ByChelsea's code."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from bayes_pfl.config import BackboneConfig, ClipAdConfig, DetectorConfig, RunConfig, ScoringConfig
from bayes_pfl.inference.prediction import batch_predictions
from bayes_pfl.methods.builder import build_method, build_trainable_method
from bayes_pfl.methods.clip_ad import ClipAd, clip_ad_text, clusters, linear_tokens
from bayes_pfl.methods.method import BatchQuery, WithoutSamples
from tests.parity.linear_layers import head_differences, training_differences
from tests.parity.recording import Difference, Recording, absolute, equal
from tests.parity.sentences import sentence_differences


def differences(recording: Recording) -> Iterator[Difference]:
    """Every comparison, in the order in which an image travels."""
    backbone = recording.clip(BackboneConfig(quick_gelu=False))
    model = ClipAdConfig(linear_layers=True)
    positions = backbone.clip.visual.positional_embedding
    yield absolute("positions", positions, recording["positional_embedding_resized"])
    yield from sentence_differences(recording, backbone, model.wording)
    yield from _text(recording, model, clip_ad_text, backbone)
    config = DetectorConfig(backbone=backbone.config, model=model)
    method = build_method(config, backbone, torch.device("cpu"), recording.head())
    features = method.encode_image(recording["image"])
    yield from _plus(recording, method, features)
    yield from _sdp(recording, config.model_copy(update={"model": ClipAdConfig()}), backbone)
    run = RunConfig(backbone=backbone.config, model=model)
    yield from training_differences(recording, build_trainable_method(run, backbone, torch.device("cpu")), features)


@torch.no_grad()
def _text(recording, model, text_of, backbone) -> Iterator[Difference]:
    for kind in ("normal", "abnormal"):
        for index, embeddings in enumerate(recording[f"text_each_{kind}"]):
            labels = clusters(model, F.normalize(embeddings, dim=-1))
            yield equal(f"clusters {kind} {index}", labels, recording[f"clusters_{kind}"][index])
    changes = {
        "": {},
        "_visa": {"cluster_radius": 1.5, "cluster_neighbours": 25},
        "_mean": {"largest_cluster": False},
    }
    for suffix, change in changes.items():
        vectors = text_of(model.model_copy(update=change), backbone).vectors(recording.names())
        yield absolute(f"text embeddings{suffix}", vectors, recording[f"text_embeddings{suffix}"])
    half = text_of(model.model_copy(update={"half_precision_text": True}), backbone).vectors(recording.names())
    # a sum whose rounding differs may fall on the other side of half precision's grid
    yield absolute("text embeddings_half", half, recording["text_embeddings_half"], 2**-10)


@torch.no_grad()
def _plus(recording, method, features) -> Iterator[Difference]:
    assert isinstance(method, WithoutSamples)
    scorer = method.scorer
    assert isinstance(scorer, ClipAd)
    yield absolute("image features", features.image, recording["image_features"])
    surgery, tokens = features.patches[..., : scorer.joint], linear_tokens(features.patches, scorer.joint)
    yield absolute("surgery tokens", surgery, recording.layered("surgery_tokens"))
    yield absolute("ordinary tokens", tokens, recording.layered("ori_tokens"))
    text = scorer.text.vectors(recording.names())
    similarity = scorer.similarity(surgery, text)
    both = torch.stack([-similarity, similarity], dim=-1)
    yield absolute("similarity", both, recording.layered("similarity"))
    yield absolute("similarity, sum", both.sum(0), recording["similarity"])
    yield from head_differences(recording, scorer.head, tokens, text, scorer.model.scale)
    released = scorer.released_map(features.patches, text)
    yield absolute("map of SDP+", released, recording["map_plus"])
    yield absolute("map of linear layers", released - recording["map_sdp"], recording["map_linear"])
    yield from _predictions(recording, method, features, "plus")


@torch.no_grad()
def _sdp(recording, config, backbone) -> Iterator[Difference]:
    method = build_method(config, backbone, torch.device("cpu"), {})
    features = method.encode_image(recording["image"])
    scorer = method.scorer
    released = scorer.released_map(features.patches, scorer.text.vectors(recording.names()))
    yield absolute("map of SDP", released, recording["map_sdp"])
    yield from _predictions(recording, method, features, "sdp")


def _predictions(recording, method, features, kind) -> Iterator[Difference]:
    """What a user gets, brought back to the released code's range."""
    names = recording.names()
    scores = method.batch_scores(BatchQuery(features, (b"",) * len(names), names), 1)
    scoring = ScoringConfig(smoothing_sigma_px=float(recording.arrays["sigma"]), edge_twice=True, smoothed_maximum=True)
    predictions = batch_predictions(scores, scoring, 1)
    least, extent = method.scorer.map_range()
    maps = torch.stack([torch.from_numpy(each.anomaly_map) for each in predictions]) * extent + least
    yield absolute(f"smoothed map of {kind}", maps, recording[f"map_{kind}_smoothed"])
    text = torch.tensor([each.text_score for each in predictions])
    yield absolute(f"text score, {kind}", text, recording["score_text"])
    peaks = torch.tensor([each.map_score for each in predictions]) * extent + least
    yield absolute(f"map score of {kind}", peaks, recording[f"score_map_{kind}"])
