"""Frozen features at rest: the same numbers, without a copy, for the right backbone alone."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from plain import plain_shards
from small import BACKBONE, random_bundle

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.features import (
    UNAUGMENTED,
    EncodedSample,
    FeatureKey,
    FeatureShards,
    collate,
    read_key,
    write_features,
    write_key,
)
from bayes_pfl.data.pixels import normalized
from bayes_pfl.data.samples import index_shards, load_samples
from bayes_pfl.data.shards import iterate_rows
from bayes_pfl.errors import DataError
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.images import noise_key


@pytest.fixture(scope="module")
def backbone():
    return Backbone(BACKBONE)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return plain_shards(tmp_path_factory.mktemp("features"), ("carpet", "gear"), seed=7)


def encode(backbone, refs, view=UNAUGMENTED):
    for ref in refs:
        sample = load_samples([ref], BACKBONE.image_size, None if view == UNAUGMENTED else view)[0]
        features = backbone.encode_image(normalized(sample.image)[None])
        yield EncodedSample(
            ref, view, noise_key(normalized(sample.image)), features.image[0], features.patches[:, 0], sample.mask
        )


def written(folder, backbone, refs, dtype="float32"):
    key = FeatureKey.of(backbone, dtype)
    write_key(folder, key)
    write_features(folder, "features-000-00000.arrow", key, encode(backbone, refs))
    return folder


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_features_come_back_in_their_precision(backbone, shards, tmp_path, dtype):
    refs = index_shards(shards)
    stored = FeatureShards(written(tmp_path, backbone, refs, dtype), backbone)
    for ref, expected in zip(refs, encode(backbone, refs), strict=True):
        found = stored.load(ref)
        kind = getattr(torch, dtype)
        assert torch.equal(found.patches, expected.patches.to(kind))
        assert torch.equal(found.image, expected.image.to(kind))
        assert torch.equal(found.mask, expected.mask)
        assert found.draw_key == expected.draw_key


def test_patches_lie_in_the_mapped_file(backbone, shards, tmp_path):
    refs = index_shards(shards)
    stored = FeatureShards(written(tmp_path, backbone, refs), backbone)
    batch = stored._batches[0]
    column = batch["patches"].buffers()[1]
    first, last = stored.load(refs[0]).patches, stored.load(refs[9]).patches
    assert column.address <= first.data_ptr() < last.data_ptr() < column.address + column.size
    before = pa.total_allocated_bytes()
    kept = [stored.load(ref).patches for ref in refs]
    assert pa.total_allocated_bytes() - before < kept[0].numel() * 4  # nothing of the features was copied


def test_predictions_from_features_equal_those_from_images(backbone, shards, tmp_path):
    detector = Detector.load(random_bundle(tmp_path / "bundle"))
    refs = index_shards(shards)[:4]
    stored = FeatureShards(written(tmp_path / "features", backbone, refs), backbone)
    rows = {row["sample_id"]: row for row in iterate_rows(shards)}
    for ref in refs:
        sample = stored.load(ref)
        features, _ = collate([sample])
        found = detector.predict_features(features, sample.draw_key, ref.class_name, [1, 3])
        expected = detector.predict_nested([rows[ref.sample_id]["image"]], [ref.class_name], [1, 3])[0]
        for number in (1, 3):
            assert found[number].image_score == expected[number].image_score
            np.testing.assert_array_equal(found[number].anomaly_map, expected[number].anomaly_map)


def test_collate_stacks_along_the_batch(backbone, shards, tmp_path):
    refs = index_shards(shards)[:3]
    stored = FeatureShards(written(tmp_path, backbone, refs, "float16"), backbone)
    features, masks = collate([stored.load(ref) for ref in refs])
    assert features.patches.dtype == torch.float32
    assert masks.shape == (3, 64, 64)
    assert torch.equal(features.patches[:, 1], stored.load(refs[1]).patches.float())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pretrained": "random:1"}, "weights_sha256"),
        ({"feature_layers": (6, 12)}, "layers"),
        ({"image_size": 80}, "image_size"),
    ],
)
def test_features_of_another_backbone_are_refused(backbone, shards, tmp_path, change, named):
    folder = written(tmp_path, backbone, index_shards(shards)[:1])
    with pytest.raises(DataError, match=f"another .*{named}.*make them anew"):
        FeatureShards(folder, Backbone(BACKBONE.model_copy(update=change)))


def test_a_folder_without_a_key_holds_no_features(tmp_path):
    with pytest.raises(DataError, match="holds no frozen features"):
        read_key(tmp_path)
    (tmp_path / "_manifest").mkdir()
    (tmp_path / "_manifest" / "features.json").write_text(json.dumps({"backbone": "x"}), encoding="utf-8")
    with pytest.raises(DataError, match="holds no frozen features"):
        read_key(tmp_path)


def test_a_missing_sample_or_view_is_named(backbone, shards, tmp_path):
    refs = index_shards(shards)
    stored = FeatureShards(written(tmp_path, backbone, refs[:1]), backbone)
    with pytest.raises(DataError, match=refs[1].sample_id):
        stored.load(refs[1])
    with pytest.raises(DataError, match="no features of view 2"):
        stored.load(refs[0], 2)


def test_features_of_another_method_are_refused(backbone, shards, tmp_path):
    folder = written(tmp_path, backbone, index_shards(shards)[:1])
    assert "passes" not in json.loads((folder / "_manifest" / "features.json").read_text(encoding="utf-8"))
    kind = backbone.plain_kind._replace(passes="windows")
    with pytest.raises(DataError, match="another passes; make them anew"):
        FeatureShards(folder, backbone, kind)
    write_key(folder, FeatureKey.of(backbone, "float32", kind))
    assert read_key(folder).passes == "windows"
    with pytest.raises(DataError, match="another passes"):
        FeatureShards(folder, backbone)
