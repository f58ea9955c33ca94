"""Configurations: strict, helpful, and the released implementation's choices as fields."""

import pytest

from bayes_pfl.config import ModelConfig, RunConfig, parse_config, published_variant, read_config
from bayes_pfl.errors import ConfigError


def test_overrides_and_files_meet(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {num_prompts: 2}\ntraining: {epochs: 3}\n")
    run = read_config(RunConfig, tmp_path / "a.yaml", ["model.flow_length=0", "training.epochs=5"])
    assert (run.model.num_prompts, run.model.flow_length, run.training.epochs) == (2, 0, 5)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.num_promts=4", "did you mean 'num_prompts'"),
        ("modell.num_prompts=4", "did you mean 'model'"),
        ("model.num_prompts=0", "greater than or equal to 1"),
        ("model.num_prompts=many", "valid integer"),
        ("model", "not an override"),
        ("training.epochs=2021-99-99", "not valid YAML: month must be in"),
        ("training.epochs.x=1", "epochs"),
    ],
)
def test_mistakes_are_explained(override, said):
    with pytest.raises(ConfigError, match=said):
        read_config(RunConfig, None, [override])


@pytest.mark.parametrize(
    "text", [b"a: [", b"- 1", b"model: {num_prompts: 3, x: }", b"\xff\xfe", b"a: 2021-99-99", b"[" * 5000]
)
def test_broken_files_are_explained(tmp_path, text):
    (tmp_path / "broken.yaml").write_bytes(text)
    with pytest.raises(ConfigError):
        read_config(RunConfig, tmp_path / "broken.yaml", [])


def test_the_released_variant_keeps_the_sizes():
    sizes = ModelConfig(num_prompts=2, context_tokens=3, state_tokens=4, flow_length=5)
    released = published_variant(sizes)
    kept = ("num_prompts", "context_tokens", "state_tokens", "flow_length")
    assert all(getattr(released, name) == getattr(sizes, name) for name in kept)
    assert released.attention_heads == 4
    assert released.offset_scale == 1.0


def test_configurations_are_immutable_and_come_back_from_json():
    run = RunConfig()
    with pytest.raises(ValueError, match="frozen"):
        run.model.num_prompts = 7  # type: ignore[misc]
    assert parse_config(RunConfig, run.model_dump(mode="json"), "here") == run
