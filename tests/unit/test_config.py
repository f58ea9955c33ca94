"""Configurations: strict, helpful, and the released implementation's choices as fields."""

import logging

import pytest

from bayes_pfl.config import DetectorConfig, ModelConfig, RunConfig, parse_config, published_variant, read_config
from bayes_pfl.errors import ConfigError
from pipelines.evaluate import EvaluateSettings
from pipelines.options.tune import TuneSettings


def test_overrides_and_files_meet(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {num_prompts: 2}\ntraining: {epochs: 3}\n")
    run = read_config(RunConfig, tmp_path / "a.yaml", ["model.flow_length=0", "training.epochs=5"])
    assert (run.model.num_prompts, run.model.flow_length, run.training.epochs) == (2, 0, 5)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.num_promts=4", "did you mean 'num_prompts'"),
        ("modell.num_prompts=4", "did you mean 'model'"),
        ("model.num_prompts=0", "greater than or equal to 1"),
        ("model.num_prompts=many", "valid integer"),
        ("model", "not an override"),
        ("training.epochs=2021-99-99", "not valid YAML: month must be in"),
        ("training.epochs.x=1", "epochs"),
        ("model.attention_head=4", "did you mean 'model.variant.attention_heads'"),
        ("num_prompts=4", "did you mean 'model.num_prompts'"),
        ("scoring={text_weight: 0, map_weight: 0}", "cannot both be 0"),
        ("scoring.smoothing_sigma_px=.inf", "finite number"),
        ("scoring.threshold=.nan", "finite number"),
        ("model.foo.bar=3", "^--set model.foo.bar=3: unknown key 'model.foo'"),
        ("model.num_prompts.x=3", "^--set model.num_prompts.x=3: model.num_prompts: .*valid integer"),
        ("training.epochs=99999999999999999999999999", "training.epochs: .*less than or equal to 100000"),
        ("training.batch_size=99999999999999999999999999", "less than or equal to 100000"),
        ("training.seed=99999999999999999999999999", "less than or equal to 9223372036854775807"),
        ("model.num_prompts=99999999999999999999999999", "less than or equal to 10000"),
        ("backbone.feature_layers=[0, 6]", "greater than or equal to 1"),
        ("backbone.feature_layers=[6, 6]", "names a block twice"),
    ],
)
def test_mistakes_are_explained(override, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read_config(RunConfig, None, [override])


@pytest.mark.parametrize(
    "text", [b"a: [", b"- 1", b"model: {num_prompts: 3, x: }", b"\xff\xfe", b"a: 2021-99-99", b"[" * 5000]
)
def test_broken_files_are_explained(tmp_path, text):
    (tmp_path / "broken.yaml").write_bytes(text)
    with pytest.raises(ConfigError):
        read_config(RunConfig, tmp_path / "broken.yaml", [])


def test_a_section_without_a_line_is_as_by_default(tmp_path):
    (tmp_path / "a.yaml").write_text("sweep:\ntraining:\n")
    assert read_config(TuneSettings, tmp_path / "a.yaml", []) == TuneSettings()
    settings = read_config(TuneSettings, tmp_path / "a.yaml", ["sweep.seed=1", "training.epochs=3"])
    assert (settings.sweep.seed, settings.training.epochs) == (1, 3)


def test_the_released_variant_keeps_the_sizes():
    sizes = ModelConfig(num_prompts=2, context_tokens=3, state_tokens=4, flow_length=5)
    released = published_variant(sizes)
    names = ("num_prompts", "context_tokens", "state_tokens", "flow_length")
    assert all(getattr(released, name) == getattr(sizes, name) for name in names)
    assert released.variant.attention_heads == 4
    assert released.offset_scale == 1.0


def test_configurations_are_immutable_and_come_back_from_json():
    run = RunConfig()
    with pytest.raises(ValueError, match="frozen"):
        run.model.num_prompts = 7  # type: ignore[misc]
    assert parse_config(RunConfig, run.model_dump(mode="json"), "here") == run


def test_keys_of_older_configurations_load_with_a_note_that_names_their_new_place(tmp_path, caplog):
    old = tmp_path / "old.yaml"
    old.write_text(
        "model: {num_prompts: 2, attention_heads: 4}\nscoring: {draws_in_order: true}\nloss: {dice_epsilon: 1}"
    )
    with caplog.at_level(logging.WARNING, "bayes_pfl.config.settings"):
        run = read_config(RunConfig, old, ["model.residual_attention=false", "training.epochs=3"])
    assert (run.model.num_prompts, run.training.epochs, run.loss.variant.dice_epsilon) == (2, 3, 1)
    variant = run.model.variant
    assert (variant.attention_heads, variant.draws_in_order, variant.residual_attention) == (4, True, False)
    (note,) = (record.getMessage() for record in caplog.records)
    for move in (
        "model.attention_heads is now model.variant.attention_heads",
        "model.residual_attention is now model.variant.residual_attention",
        "scoring.draws_in_order is now model.variant.draws_in_order",
        "loss.dice_epsilon is now loss.variant.dice_epsilon",
    ):
        assert move in note
    assert parse_config(RunConfig, run.model_dump(), "again") == run
    assert len(caplog.records) == 1


def test_what_a_program_wrote_with_old_keys_loads_without_a_note(caplog):
    with caplog.at_level(logging.WARNING):
        values = {"model": {"attention_heads": 2, "flow_length": 3}, "scoring": {"draws_in_order": True}}
        config = parse_config(DetectorConfig, values, "an old bundle")
    assert not caplog.records
    assert (config.model.flow_length, config.model.variant.attention_heads) == (3, 2)
    assert config.model.variant.draws_in_order
    assert values == {"model": {"attention_heads": 2, "flow_length": 3}, "scoring": {"draws_in_order": True}}


@pytest.mark.parametrize("override", ["model.variant.attention_heads=2", "model.attention_heads=2"])
@pytest.mark.parametrize("text", ["model: {attention_heads: 4}", "model: {variant: {attention_heads: 4}}"])
def test_an_override_wins_whichever_place_either_names(tmp_path, text, override):
    (tmp_path / "run.yaml").write_text(text)
    assert read_config(RunConfig, tmp_path / "run.yaml", [override]).model.variant.attention_heads == 2


def test_a_setting_changed_in_dumped_values_at_its_old_place_takes_effect():
    values = RunConfig().model_dump()
    values["model"]["residual_attention"] = False
    assert not parse_config(RunConfig, values, "a sweep").model.variant.residual_attention


def test_letters_of_the_paper_are_names():
    run = read_config(RunConfig, None, ["model.B=4", "K=2", "P=7", "model.Q=6", "R=5"])
    assert (run.model.num_prompts, run.model.flow_length) == (4, 2)
    assert (run.model.context_tokens, run.model.state_tokens, run.training.num_samples) == (7, 6, 5)
    with pytest.raises(ConfigError, match=r"--set model\.B=0: model\.num_prompts: Input should be greater"):
        read_config(RunConfig, None, ["model.B=0"])
    with pytest.raises(ConfigError, match=r"unknown key 'model\.R'"):
        read_config(RunConfig, None, ["model.R=1"])
    with pytest.raises(ConfigError, match=r"--set model\.B=1: unknown key 'model\.num_prompts'"):
        read_config(RunConfig, None, ["model.method=winclip", "model.B=1"])


def test_a_letter_that_may_mean_two_settings_is_refused():
    with pytest.raises(ConfigError, match=r"'R' may mean training\.num_samples or sweep\.num_samples: write which"):
        read_config(TuneSettings, None, ["R=5"])
    assert read_config(TuneSettings, None, ["sweep.R=[5]"]).sweep.num_samples == (5,)
    assert read_config(EvaluateSettings, None, ["R=auto"]).num_samples == "auto"


def test_a_grid_takes_letters_too():
    sweep = read_config(TuneSettings, None, ["sweep.grid={B: [1, 3], model.K: [2]}", "sweep.ranges={P: [2, 9]}"]).sweep
    assert sweep.grid == {"model.num_prompts": (1, 3), "model.flow_length": (2,)}
    assert sweep.ranges == {"model.context_tokens": (2, 9)}
    with pytest.raises(ConfigError, match=r"R needs no training of its own: sweep\.num_samples=\[1, 5\] has"):
        read_config(TuneSettings, None, ["sweep.grid={R: [1, 3]}"])
    with pytest.raises(ConfigError, match=r"model\.num_prompts is named twice"):
        read_config(TuneSettings, None, ["sweep.grid={B: [1], model.num_prompts: [2]}"])


def test_a_mistake_is_told_where_it_was_made(tmp_path):
    (tmp_path / "run.yaml").write_text("training: {epochs: 0}")
    with pytest.raises(ConfigError) as mistake:
        read_config(RunConfig, tmp_path / "run.yaml", ["backbone.nmae=x", "training.batch_size=none"])
    message = str(mistake.value)
    assert f"{tmp_path / 'run.yaml'}: training.epochs: Input should be greater" in message
    assert "--set backbone.nmae=x: unknown key 'backbone.nmae'; did you mean 'name'" in message
    assert "--set training.batch_size=none: training.batch_size: Input should be a" in message


def test_a_sentence_of_ours_is_not_introduced_by_pydantic():
    with pytest.raises(ConfigError) as raised:
        read_config(TuneSettings, None, ["sweep.grid={R: [1]}"])
    assert "R needs no training of its own" in str(raised.value)
    assert "Value error" not in str(raised.value)
