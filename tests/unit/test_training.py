"""Training: several workers equal one, a restored run equals an uninterrupted one, broken losses are named."""

import hashlib

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import (
    BackboneConfig,
    LossConfig,
    LossVariant,
    ModelConfig,
    PromptFlowVariant,
    RunConfig,
    TrainingConfig,
)
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.errors import ClassNameError, TrainingError
from bayes_pfl.methods.method import TrainingBatch
from bayes_pfl.training.trainer import Trainer, check_class_names, learning_rate_factor, mean_terms

BACKBONE = BackboneConfig(
    name="package:embedded/bayes-pfl-embedded.json", pretrained="random:0", image_size=64, feature_layers=(3, 6, 9, 12)
)
RELEASED = {"variant": PromptFlowVariant(mapped_classification=True, attention_pooling=True)}
STEPS = 20
BATCH = 6
NAMES = ("carpet", "metal nut", "cable with clamp")


@pytest.fixture(scope="module")
def backbone():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Backbone(BACKBONE)
    torch.set_num_threads(threads)


def run_config(**training) -> RunConfig:
    options = {"batch_size": BATCH, "learning_rate": 1e-3, "epochs": STEPS} | training
    model = ModelConfig(num_prompts=2, flow_length=2, **(RELEASED if "second_stage_epochs" in training else {}))
    return RunConfig(backbone=BACKBONE, model=model, training=TrainingConfig(**options))


def make_trainer(backbone, run=None, workers=1) -> Trainer:
    return Trainer(run or run_config(), backbone, torch.device("cpu"), 1, workers)


def make_batch(trainer, step: int, share: slice = slice(None)) -> TrainingBatch:
    """Images, masks and references of one global batch, made from its number alone; only `share` of it is encoded."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 3, 64, 64, generator=generator)
    masks = torch.zeros(BATCH, 64, 64)
    refs = []
    for index in range(BATCH):
        label = int(index % 3 > 0)
        if label:
            masks[index, 4 : 10 + 5 * index, 8:40] = 1
        digest = hashlib.sha256(f"{step}/{index}".encode()).hexdigest()
        refs.append(SampleRef("", index, f"made/{step}-{index}.png", "c", NAMES[index % 3], label, digest))
    return trainer.batch(images[share], masks[share], refs[share])


def worker(rank: int, world: int, folder: str, run: RunConfig) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    trainer = make_trainer(Backbone(BACKBONE), run, world)
    history = [trainer.step(make_batch(trainer, step, slice(rank, None, world))) for step in range(STEPS)]
    if rank == 0:
        torch.save({"history": history, "state": trainer.state().tensors}, f"{folder}/result.pt")
    dist.destroy_process_group()


def test_two_workers_have_the_losses_of_one_over_20_steps(backbone, tmp_path):
    run = run_config()
    multiprocessing.start_processes(worker, (2, str(tmp_path), run), nprocs=2, start_method="spawn")
    shared = torch.load(tmp_path / "result.pt", weights_only=True)
    alone = make_trainer(backbone, run)
    losses = [alone.step(make_batch(alone, step)) for step in range(STEPS)]
    terms = [name for name in losses[0] if not name.startswith("offset_ratio")]
    assert losses[-1]["total"] < losses[0]["total"]
    for step in range(STEPS):
        for name in terms:
            # KL is a difference of sums of 128 squares, around 100 nats each: rounding of those is what is left of it
            rounding = 1e-4 if name.startswith("kl_") else 1e-7
            assert shared["history"][step][name] == pytest.approx(losses[step][name], rel=1e-5, abs=rounding), (
                step,
                name,
            )
    for name, value in alone.state().tensors.items():
        if name.startswith("model."):
            torch.testing.assert_close(shared["state"][name], value, rtol=1e-2, atol=1e-4, msg=name)


def test_restored_run_equals_an_uninterrupted_one_to_the_bit(backbone):
    run = run_config(warmup_fraction=0.3)
    straight = make_trainer(backbone, run)
    for step in range(4):
        straight.step(make_batch(straight, step))
    first = make_trainer(backbone, run)
    for step in range(2):
        first.step(make_batch(first, step))
    second = make_trainer(backbone, run)
    second.load_state(first.state())
    for step in range(2, 4):
        second.step(make_batch(second, step))
    expected, restored = straight.state(), second.state()
    assert restored.steps == expected.steps == 4
    assert restored.tensors.keys() == expected.tensors.keys()
    assert any(name.startswith("exp_avg_sq.") for name in expected.tensors)
    for name, value in expected.tensors.items():
        assert torch.equal(restored.tensors[name], value), name


def test_a_state_is_a_copy_that_later_steps_do_not_touch(backbone):
    trainer = make_trainer(backbone)
    before = trainer.state()
    copies = {name: value.clone() for name, value in before.tensors.items()}
    trainer.step(make_batch(trainer, 0))
    assert all(torch.equal(before.tensors[name], value) for name, value in copies.items())
    assert any(not torch.equal(trainer.state().tensors[name], value) for name, value in copies.items())


def test_same_seed_gives_the_same_weights_and_another_seed_others(backbone):
    first, same, other = (make_trainer(backbone, run_config(seed=seed)).state().tensors for seed in (0, 0, 1))
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert not torch.equal(first["model.banks.context"], other["model.banks.context"])


def test_the_frozen_backbone_receives_no_gradient_and_is_in_no_state(backbone):
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    trainer = make_trainer(backbone)
    trainer.step(make_batch(trainer, 0))
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    assert not any("clip" in name for name in trainer.state().tensors)


def test_class_names_without_room_are_refused_by_category_before_a_step(backbone):
    names = make_trainer(backbone).method.class_names
    refs = [
        SampleRef("", row, f"{row}.png", f"c{row}", name, 0, "") for row, name in enumerate(("gear", "a " * 21, " "))
    ]
    check_class_names(names, refs[:1])
    with pytest.raises(ClassNameError, match=r"Category 'c1': .* 22 tokens .* room for 21"):
        check_class_names(names, refs)
    with pytest.raises(ClassNameError, match=r"Category 'c2': .* blank"):
        check_class_names(names, refs[2:])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_step_term_and_samples(backbone, value):
    trainer = make_trainer(backbone)
    trainer.step(make_batch(trainer, 0))
    weights = trainer.state()
    with torch.no_grad():
        trainer.model.image_temperature.fill_(value)
    with pytest.raises(TrainingError, match=r"Step 1: .*classification.*made/5-0\.png, made/5-1\.png"):
        trainer.step(make_batch(trainer, 5))
    moments = trainer.state().tensors
    assert all(
        torch.equal(value, moments[name]) for name, value in weights.tensors.items() if name.startswith("exp_avg")
    )


def test_one_prompt_per_step_leaves_the_others_of_the_bank_to_the_regularisers(backbone):
    quiet = LossConfig(kl_weight=0, orthogonal_weight=0, variant=LossVariant(one_prompt_per_step=True))
    trainer = make_trainer(backbone, run_config().model_copy(update={"loss": quiet}))
    trainer.step(make_batch(trainer, 0))
    moved = trainer.model.banks.normal.grad.abs().sum((1, 2)) > 0
    assert moved.sum() == 1


def test_gradient_clipping_bounds_the_norm(backbone):
    trainer = make_trainer(backbone, run_config(gradient_clip_norm=1e-3))
    trainer.step(make_batch(trainer, 0))
    norm = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("parts", [2, 4, 100])
def test_accumulated_parts_have_the_loss_and_the_gradients_of_the_whole(backbone, parts):
    whole, cut = make_trainer(backbone), make_trainer(backbone, run_config(accumulation_parts=parts))
    expected, actual = whole.step(make_batch(whole, 0)), cut.step(make_batch(cut, 0))
    for name, value in expected.items():
        if not name.startswith("offset_ratio"):
            assert actual[name] == pytest.approx(value, rel=1e-5, abs=1e-4 if name.startswith("kl_") else 1e-7), name
    gradients = dict(cut.model.named_parameters())
    for name, parameter in whole.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name].grad, parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_mixed_precision_stays_near_float32_and_keeps_float32_weights(backbone):
    full, mixed = make_trainer(backbone), make_trainer(backbone, run_config(mixed_precision=True))
    expected, actual = full.step(make_batch(full, 0)), mixed.step(make_batch(mixed, 0))
    assert actual["total"] != expected["total"]
    assert actual["total"] == pytest.approx(expected["total"], rel=0.05)
    assert all(value.dtype == torch.float32 for value in mixed.state().tensors.values())


def second_stage_trainer(backbone):
    run = run_config(epochs=2, second_stage_epochs=2, warmup_fraction=0.5)
    trainer = make_trainer(backbone, run)
    for step in range(2):
        trainer.step(make_batch(trainer, step))
    trainer.begin_second_stage()
    return run, trainer


def test_the_second_stage_trains_the_maps_of_the_image_score_alone(backbone):
    _, trainer = second_stage_trainer(backbone)
    before = trainer.state().tensors
    terms = trainer.step(make_batch(trainer, 2))
    assert terms["total"] == terms["classification"]
    after = trainer.state().tensors
    changed = {
        name for name, value in after.items() if name.startswith("model.") and not torch.equal(value, before[name])
    }
    assert {name.split(".")[1] for name in changed} == {"class_mapping", "image_mapping", "pooling"}


def test_a_run_restored_in_the_second_stage_goes_on_to_the_bit(backbone):
    run, straight = second_stage_trainer(backbone)
    straight.step(make_batch(straight, 2))
    second = make_trainer(backbone, run)
    second.load_state(straight.state())
    for trainer in (straight, second):
        trainer.step(make_batch(trainer, 3))
    expected, restored = straight.state(), second.state()
    assert (restored.steps, restored.second_stage_start) == (4, 2)
    assert all(torch.equal(restored.tensors[name], value) for name, value in expected.tensors.items())


def test_a_second_stage_without_maps_is_refused():
    with pytest.raises(ValueError, match="mapped_classification"):
        RunConfig(training=TrainingConfig(second_stage_epochs=1))


def test_learning_rate_groups_of_the_released_recipe(backbone):
    run = run_config(learning_rate=1e-4, prompt_learning_rate=1e-3, temperature_learning_rate=1e-2)
    trainer = make_trainer(backbone, run)
    rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(trainer.model.parameters()))
    for name, parameter in trainer.model.named_parameters():
        part = name.split(".")[0]
        expected = 1e-2 if "temperature" in part else 1e-3 if part in ("banks", "context", "states") else 1e-4
        assert rates[id(parameter)] == expected, name


def test_learning_rate_is_constant_or_warms_up_and_follows_half_a_cosine():
    assert [learning_rate_factor(step, 10, 0.0) for step in (0, 5, 10)] == [1, 1, 1]
    factors = np.array([learning_rate_factor(step, 100, 0.1) for step in range(101)])
    np.testing.assert_allclose(factors[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(factors[10:], 0.5 * (1 + np.cos(np.pi * np.arange(91) / 90)), atol=1e-12)


def test_mean_terms():
    assert mean_terms([{"a": 1.0, "b": 4.0}, {"a": 3.0, "b": 0.0}]) == {"a": 2.0, "b": 2.0}
