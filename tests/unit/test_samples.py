"""Which rows take part, in which order, and what becomes of their bytes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import plain_shards

from bayes_pfl.data.pixels import image_tensor, normalized
from bayes_pfl.data.preprocess import decode_image, decode_mask, mask_tensor
from bayes_pfl.data.samples import epoch_order, global_batches, index_shards, load_samples, mosaic_partners, stack
from bayes_pfl.data.shards import iterate_rows, shard_paths, write_shard
from bayes_pfl.errors import DataError


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return plain_shards(tmp_path_factory.mktemp("samples"), ("carpet", "gear"), seed=5)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**31), st.integers(0, 100))
def test_an_epoch_visits_every_sample_once_but_for_an_incomplete_last_batch(count, batch_size, seed, epoch):
    batches = global_batches(count, batch_size, seed, epoch)
    visited = [position for batch in batches for position in batch]
    assert len(visited) == len(set(visited))
    assert set(visited) <= set(range(count))
    if count < batch_size:
        assert [len(batch) for batch in batches] == [count]
    else:
        assert [len(batch) for batch in batches] == [batch_size] * (count // batch_size)
    assert visited == epoch_order(count, seed, epoch)[: len(visited)]


@given(st.integers(1, 200), st.integers(0, 2**31), st.integers(0, 50))
def test_order_is_a_function_of_seed_and_epoch(count, seed, epoch):
    assert sorted(epoch_order(count, seed, epoch)) == list(range(count))
    assert epoch_order(count, seed, epoch) == epoch_order(count, seed, epoch)


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_index_lists_every_row_with_its_position(shards):
    refs = index_shards(shards)
    rows = list(iterate_rows(shards))
    assert [(ref.sample_id, ref.sha256, ref.label, ref.class_name) for ref in refs] == [
        (row["sample_id"], row["sha256"], row["label"], row["class_name"]) for row in rows
    ]
    assert len({(ref.shard, ref.row) for ref in refs}) == len(refs)
    gears = index_shards(shards, "test", ["gear"])
    assert [ref.sample_id for ref in gears] == [row["sample_id"] for row in rows if row["category"] == "gear"]


@pytest.mark.parametrize(("split", "categories"), [("train", None), ("test", ["no such thing"])])
def test_an_empty_choice_is_refused_with_a_sentence(shards, split, categories):
    with pytest.raises(DataError, match="has no image of split"):
        index_shards(shards, split, categories)


def test_empty_shards_are_refused_with_a_sentence(tmp_path):
    write_shard(tmp_path / "shard-00000.arrow", [])
    with pytest.raises(DataError, match="has no image; check the names"):
        index_shards(tmp_path)


def test_samples_are_the_decoded_rows(shards):
    refs = index_shards(shards)[3:0:-1]
    samples = load_samples(refs, 48)
    rows = {row["sample_id"]: row for row in iterate_rows(shards)}
    for ref, sample in zip(refs, samples, strict=True):
        row = rows[ref.sample_id]
        assert torch.equal(normalized(sample.image), image_tensor(decode_image(row["image"]), 48))
        expected = torch.zeros(48, 48) if row["mask"] is None else mask_tensor(decode_mask(row["mask"]), 48)
        assert torch.equal(sample.mask, expected)
    images, masks = stack(samples)
    assert images.shape == (3, 3, 48, 48)
    assert masks.shape == (3, 48, 48)


def test_an_anomalous_image_without_a_mask_is_refused(shards, tmp_path):
    rows = [dict(row, mask=None) for row in iterate_rows(shards) if row["label"] == 1][:1]
    write_shard(tmp_path / "shard-00000.arrow", rows)
    with pytest.raises(DataError, match="anomalous but has no mask"):
        load_samples(index_shards(tmp_path), 48)


def test_a_shard_of_another_schema_is_refused(shards, tmp_path):
    data = shard_paths(shards)[0].read_bytes()
    damaged = tmp_path / "shard-00000.arrow"
    damaged.write_bytes(data.replace(b"bayes_pfl_schema", b"bayes_pfl_schemb"))
    with pytest.raises(DataError, match="Ingest the dataset again"):
        index_shards(tmp_path)


def test_augmented_samples_depend_on_seed_and_content_alone(shards):
    refs = index_shards(shards)
    together = load_samples(refs, 48, augmentation_seed=3)
    backwards = load_samples(refs[::-1], 48, augmentation_seed=3)[::-1]
    alone = [load_samples([ref], 48, augmentation_seed=3)[0] for ref in refs]
    for one, two, three in zip(together, backwards, alone, strict=True):
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.image, three.image)
        assert torch.equal(one.mask, two.mask)
        assert torch.equal(one.mask, three.mask)
    other = load_samples(refs, 48, augmentation_seed=4)
    assert np.mean([torch.equal(one.image, two.image) for one, two in zip(together, other, strict=True)]) < 0.5


def test_mosaics_join_anomalous_images_of_one_category_by_seed_and_content(shards):
    refs = index_shards(shards)
    partners = mosaic_partners(refs, 7, 1.0)
    for ref, others in zip(refs, partners, strict=True):
        assert len(others) == (3 if ref.label else 0)
        assert all(other.label == 1 for other in others)
        assert {other.category for other in others} <= {ref.category}
    assert mosaic_partners(refs, 7, 1.0) == partners != mosaic_partners(refs, 8, 1.0)
    assert mosaic_partners(refs[::-1], 7, 0.5)[::-1] != [()] * len(refs)
    assert mosaic_partners(refs, None, 1.0) == mosaic_partners(refs, 7, 0.0) == [()] * len(refs)


def test_a_mosaic_keeps_the_labelled_pixels_of_its_four_images(shards):
    refs = [ref for ref in index_shards(shards) if ref.label == 1 and ref.category == "gear"]
    tiles = refs[:3] + refs[:1]
    quarters = [load_samples([ref], 32)[0] for ref in tiles]
    joined = load_samples([tiles[0]], 64, None, [tiles[1:]])[0]
    for index, quarter in enumerate(quarters):
        top, left = 32 * (index // 2), 32 * (index % 2)
        found = joined.mask[top : top + 32, left : left + 32]
        assert abs(float(found.mean()) - float(quarter.mask.mean())) < 0.02
        quadrant = joined.image[:, top : top + 32, left : left + 32]
        difference = (normalized(quadrant) - normalized(quarter.image)).abs().mean()
        assert float(difference) < 0.35


def copies_of(cache: Path) -> list[str]:
    """Names of the files whose copies lie in a cache."""
    return sorted(path.name.partition("-")[2] for path in cache.rglob("*") if path.is_file())


def test_shards_are_read_by_uri(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_PFL_CACHE", str(tmp_path / "cache"))
    by_uri, by_path = index_shards(f"file://{shards}"), index_shards(shards)
    assert [ref.sample_id for ref in by_uri] == [ref.sample_id for ref in by_path]
    assert all(ref.shard.startswith("file://") for ref in by_uri)
    assert copies_of(tmp_path / "cache") == ["index.arrow"]
    assert torch.equal(load_samples(by_uri[:2], 32)[1].image, load_samples(by_path[:2], 32)[1].image)
    assert copies_of(tmp_path / "cache") == ["index.arrow", "shard-00000.arrow"]
    load_samples(by_uri, 32)
    assert copies_of(tmp_path / "cache") == ["index.arrow", *(path.name for path in shard_paths(shards))]
    with pytest.raises(DataError, match="holds no shards"):
        index_shards(f"file://{tmp_path}")
