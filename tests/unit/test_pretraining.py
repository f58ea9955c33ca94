"""Pretraining of the embedded CLIP: losses against brute force, exact resumption, an ordinary open_clip model."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors
import torch
from torch.nn import functional as F

from bayes_pfl.config import parse_config
from bayes_pfl.embedded_training.losses import dense_loss, multi_positive, own_pair_loss, patch_targets
from bayes_pfl.embedded_training.pretraining import ARCHITECTURE, Pretraining, export_weights, validate
from bayes_pfl.embedded_training.recipe import PretrainingConfig
from bayes_pfl.errors import ConfigError
from bayes_pfl.synthetic.batches import BatchOptions, training_batch, validation_set
from bayes_pfl.synthetic.captions import CaptionPair, is_true

TINY = PretrainingConfig(crop_steps=2, full_steps=2, crop_size=32, image_size=48, pairs=2, warmup_steps=1)


def _train(pretraining: Pretraining, until: int) -> Pretraining:
    config = pretraining.config
    while pretraining.step < until:
        batch = training_batch(config.batch_options(), config.side(pretraining.step), config.seed, pretraining.step, 0)
        pretraining.train_step(pretraining.model, batch)
    return pretraining


def test_multi_positive_equals_its_definition() -> None:
    torch.manual_seed(0)
    logits, truth = torch.randn(5, 7), torch.rand(5, 7) < 0.4
    truth[3] = False
    rows = []
    for i in range(5):
        terms = [-torch.log(logits[i, j].exp() / logits[i].exp().sum()) for j in range(7) if truth[i, j]]
        if terms:
            rows.append(sum(terms) / len(terms))
    assert len(rows) == 4
    torch.testing.assert_close(multi_positive(logits, truth), sum(rows) / 4)


def test_multi_positive_with_one_positive_is_cross_entropy() -> None:
    torch.manual_seed(1)
    logits = torch.randn(6, 6)
    expected = F.cross_entropy(logits, torch.arange(6))
    torch.testing.assert_close(multi_positive(logits, torch.eye(6, dtype=torch.bool)), expected)


def test_own_pair_loss_reads_the_captions_of_the_images_own_pair() -> None:
    logits = torch.full((4, 4), 50.0)
    logits[0, :2] = torch.tensor([0.0, 2.0])
    logits[1, :2] = torch.tensor([1.0, 0.0])
    logits[2, 2:] = torch.tensor([0.0, 0.0])
    logits[3, 2:] = torch.tensor([3.0, 0.0])
    damaged = torch.tensor([True, False, True, False])
    expected = torch.tensor([2.0, 1.0, 0.0, 3.0]).neg().exp().log1p().mean()
    torch.testing.assert_close(own_pair_loss(logits, damaged), expected)


def test_patch_targets_are_shares_times_three_in_row_order() -> None:
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 0, 4:6] = True
    masks[0, 4:, :4] = True
    expected = torch.tensor([[0.0, 3 * 2 / 16, 1.0, 0.0]])
    torch.testing.assert_close(patch_targets(masks, 4), expected)


def test_dense_loss_weighs_both_classes_alike_and_falls_with_the_truth() -> None:
    target = torch.zeros(1, 100)
    target[0, :2] = 1
    undecided = torch.zeros(1, 1, 100)
    # Balanced cross-entropy of a coin is log 2 whatever the classes' sizes; dice: 1 - (2 + 1) / (50 + 2 + 1).
    expected = torch.tensor(np.log(2) + 1 - 3 / 53, dtype=torch.float32)
    torch.testing.assert_close(dense_loss(undecided, target), expected)
    right = (target[None] * 2 - 1) * 20
    assert dense_loss(right, target) < 1e-3
    assert dense_loss(-right, target) > 10


@pytest.mark.parametrize(
    ("pair", "damaged", "category", "kind", "expected"),
    [
        (CaptionPair("a", "b", None, None), True, "screw", "dent", True),
        (CaptionPair("a", "b", None, None), True, "screw", None, False),
        (CaptionPair("a", "b", "screw", None), False, "screw", None, True),
        (CaptionPair("a", "b", "screw", None), False, "paper", None, False),
        (CaptionPair("a", "b", "screw", None), False, None, None, False),
        (CaptionPair("a", "b", None, "dent"), True, "paper", "dent", True),
        (CaptionPair("a", "b", None, "dent"), True, "paper", "hole", False),
        (CaptionPair("a", "b", None, "dent"), False, "paper", None, True),
    ],
)
def test_which_caption_holds_of_which_image(
    pair: CaptionPair, damaged: bool, category: str | None, kind: str | None, expected: bool
) -> None:
    assert is_true(pair, damaged, category, kind) is expected


def test_a_batch_pairs_each_defect_with_its_twin_and_its_own_captions() -> None:
    batch = training_batch(BatchOptions(8, 64, 0.5, 0.4, 0.5), 32, 3, 5, 0)
    assert batch.images.shape == (16, 32, 32, 3)
    assert not batch.masks[1::2].any()
    for p in range(8):
        same = ~batch.masks[2 * p]
        assert np.array_equal(batch.images[2 * p][same], batch.images[2 * p + 1][same]) or not batch.masks[2 * p].any()
        assert batch.truth[2 * p + 1, 2 * p]
        assert batch.truth[2 * p, 2 * p + 1] == batch.masks[2 * p].any()
    other = training_batch(BatchOptions(8, 64, 0.5, 0.4, 0.5), 32, 3, 5, 1)
    assert not np.array_equal(batch.images, other.images)


def test_the_rate_warms_up_and_falls_to_nothing_over_the_pixels() -> None:
    config = PretrainingConfig(crop_steps=400, full_steps=100, crop_size=56, image_size=112, warmup_steps=10)
    assert config.rate(0) == pytest.approx(config.learning_rate / 10)
    # 400 steps at a quarter of the pixels cost what 100 full ones do: half of the cosine is over.
    assert config.rate(400) == pytest.approx(config.learning_rate / 2)
    assert config.rate(500) == pytest.approx(0.0, abs=1e-12)


def test_a_restored_run_continues_bit_for_bit(tmp_path: Path) -> None:
    whole = _train(Pretraining(TINY), 4)
    first = _train(Pretraining(TINY), 2)
    first.curve.append({"step": 2.0})
    first.save(tmp_path / "state.pt")
    second = Pretraining(TINY.model_copy(update={"seed": 99}))
    second.config = TINY
    second.restore(tmp_path / "state.pt")
    assert (second.step, second.curve) == (2, [{"step": 2.0}])
    _train(second, 4)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_training_lowers_the_loss_of_a_fixed_batch() -> None:
    pretraining = Pretraining(TINY.model_copy(update={"crop_steps": 60, "learning_rate": 1e-3}))
    batch = training_batch(TINY.batch_options(), 32, 0, 0, 0)
    losses = [float(pretraining.train_step(pretraining.model, batch).total) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


def test_exported_weights_load_into_open_clips_own_model(tmp_path: Path) -> None:
    pretraining = _train(Pretraining(TINY), 2)
    path = tmp_path / "clip.safetensors"
    digest = export_weights(pretraining.model.clip, path)
    assert digest == export_weights(pretraining.model.clip, tmp_path / "again.safetensors")
    assert path.stat().st_size < 9 * 2**20
    open_clip.add_model_config(ARCHITECTURE)
    loaded = open_clip.create_model(ARCHITECTURE.stem, pretrained=str(path), force_image_size=48)
    tokens = pretraining.model.tokenizer(["a photo of a scratched screw", "flawless paper"])
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    loaded.eval()
    pretraining.model.eval()
    with torch.no_grad():
        for ours, theirs in (
            (pretraining.model.clip.encode_text(tokens), loaded.encode_text(tokens)),
            (pretraining.model.clip.encode_image(images), loaded.encode_image(images)),
        ):
            torch.testing.assert_close(theirs, ours, rtol=0.02, atol=0.02)
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.keys()) == set(loaded.state_dict())


def test_validation_is_near_chance_for_random_weights() -> None:
    data = validation_set(6, 48, 0)
    figures = validate(Pretraining(TINY).model, data)
    assert set(figures) == {"image_auroc", "pixel_auroc", "pixel_ap"}
    assert 0.2 < figures["image_auroc"] < 0.8
    assert figures["pixel_ap"] < 0.2


@pytest.mark.parametrize(
    "values",
    [{"crop_steps": 0, "full_steps": 0}, {"crop_size": 64, "image_size": 48}, {"image_size": 50}, {"stpes": 3}],
)
def test_a_recipe_that_makes_no_sense_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        parse_config(PretrainingConfig, values, "test")
