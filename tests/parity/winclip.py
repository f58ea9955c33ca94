"""WinCLIP against numbers recorded from anomalib."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from bayes_pfl.clip.windows import window_patches
from bayes_pfl.config import BackboneConfig, DetectorConfig, WinClipConfig
from bayes_pfl.methods.builder import build_method
from bayes_pfl.methods.method import BatchQuery, WithoutSamples
from bayes_pfl.methods.winclip import WinClip
from tests.parity.recording import Difference, Recording, absolute, equal
from tests.parity.sentences import sentence_differences


@torch.no_grad()
def differences(recording: Recording) -> Iterator[Difference]:
    """Every comparison, in the order in which an image travels."""
    model = WinClipConfig(
        scales=tuple(int(scale) for scale in recording.arrays["scales"]),
        temperature=float(recording.arrays["temperature"]),
    )
    backbone = recording.clip(BackboneConfig(quick_gelu=False))
    config = DetectorConfig(backbone=backbone.config, model=model)
    method = build_method(config, backbone, torch.device("cpu"), {})
    assert isinstance(method, WithoutSamples)
    scorer = method.scorer
    assert isinstance(scorer, WinClip)
    yield from sentence_differences(recording, backbone, model.wording)
    text = scorer.text.vectors(recording.names())
    yield absolute("text embeddings", text, recording["text_embeddings"])
    features = method.encode_image(recording["image"])
    yield absolute("image features", features.image, recording["image_features"])
    scores = scorer.window_scores(features.patches[0], text)
    start = 0
    for index, scale in enumerate(model.scales):
        windows = window_patches(backbone.grid[0], scale)
        yield equal(f"windows {index}", windows, recording[f"windows_{index}"])
        stop = start + len(windows)
        each = features.patches[0][:, start:stop]
        yield absolute(f"window features {index}", each, recording[f"window_features_{index}"])
        yield absolute(f"window scores {index}", scores[index], recording[f"window_scores_{index}"])
        scale_map = scorer.scale_map(scores[index], index)
        yield absolute(f"scale map {index}", scale_map, recording[f"scale_map_{index}"])
        start = stop
    query = BatchQuery(features, (b"",) * len(features.image), recording.names())
    result = method.batch_scores(query, 1)
    yield absolute("image score", result.text_scores[:, 0, 0], recording["image_score"])
    grid = scorer.grid_map(result.text_scores[:, 0, 0], scores)
    yield absolute("grid map", grid, recording["grid_map"])
    yield absolute("map", result.anomaly_map, recording["map"])
    means = [F.normalize(mean, dim=-1) for mean in recording["text_mean"].flatten(0, 1)]
    yield absolute("text means", text.flatten(0, 1), torch.stack(means))
