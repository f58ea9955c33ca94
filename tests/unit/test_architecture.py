"""The rules of ARCHITECTURE.md, held: who imports whom, what is never loaded, what every file may be."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = [path for folder in ("bayes_pfl", "pipelines", "serve") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_import_contracts_hold():
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout


def test_the_picture_of_the_rooms_is_that_of_the_code():
    program = "import sys; sys.path.insert(0, 'docs'); import draw_rooms; print(draw_rooms.draw(), end='')"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    picture = (ROOT / "docs" / "images" / "rooms.svg").read_text(encoding="utf-8")
    assert answer.stdout == picture, "run `make rooms` and commit docs/images/rooms.svg"


def test_nothing_is_unpickled():
    for path in CODE:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) (pickle|cloudpickle|dill|joblib)\b", text, re.M), path
        assert "allow_pickle=True" not in text, path
        for call in re.findall(r"(?<!safetensors.)torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, (path, call)


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_say_what_they_are(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400
    assert not lines or lines[0].startswith('"""')


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_loads(path):
    from bayes_pfl.config import read_config
    from pipelines.options.tune import TuneSettings
    from pipelines.platform.settings import TrainSettings

    kinds = {"train": TrainSettings, "tune": TuneSettings}
    kind = kinds.get(path.stem.split("_")[0])
    if kind is not None:
        read_config(kind, path, [])
    assert path.read_text(encoding="utf-8").startswith("#"), "the header says command, minutes and what to expect"
