"""Class names have a room that is known before a model is loaded; the programs refuse what does not fit at once."""

import pytest
from PIL import Image

from bayes_pfl.clip.backbone import context_length, load_tokenizer
from bayes_pfl.clip.class_names import ClassNames
from bayes_pfl.config import BackboneConfig, DetectorConfig
from bayes_pfl.errors import ClassNameError, ConfigError
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.methods.builder import class_names
from pipelines.cli import main

FITS = " ".join("abcdefghijklmnopqrst")


def test_the_room_is_the_context_without_start_and_learned_words():
    names = class_names(load_bundle("embedded").config)
    assert names.room == 32 - 1 - 5 - 5
    assert len(names.tokens(FITS)) == names.room
    with pytest.raises(ClassNameError, match="has 22 tokens with its end of text, but this model has room for 21"):
        names.tokens(FITS + " u")
    assert class_names(DetectorConfig()).room == 77 - 1 - 5 - 5


def test_prompts_without_room_for_any_name_are_refused():
    backbone = BackboneConfig()
    tokenizer, length = load_tokenizer(backbone), context_length(backbone)
    assert ClassNames(tokenizer, length, 74).room == 2
    with pytest.raises(ConfigError, match="no room for a class name beside 75 others"):
        ClassNames(tokenizer, length, 75)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [(FITS + " u", "room for 21"), ("a " * 31, "room for 21"), ("  ", "blank"), ("nut\x1b[2J", "control characters")],
)
def test_scoring_refuses_a_name_before_it_looks_at_an_image(tmp_path, capsys, name, sentence):
    Image.new("RGB", (8, 8)).save(tmp_path / "part.png")
    assert main(["score", str(tmp_path / "part.png"), "--class-name", name]) == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert message.count("\n") == 1
