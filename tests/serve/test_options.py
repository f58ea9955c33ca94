"""The endpoint's command lines: one style of help, and what is wrong with options is said in words before torch is imported."""

import argparse
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pipelines.cli import main
from serve.options import reference, serving
from serve.settings import ModelSettings
from serve.waiting import waiting

OPTIONS = {"serve": serving, "reference": reference}
HEAVY = ("torch", "open_clip", "ray", "mlflow", "fastapi", "scipy", "sklearn")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The signal handlers as they were: the commands set their own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says of wrong options, which must be one line and exit code 2."""
    try:
        code = main(words)
    except SystemExit as ended:
        code = int(str(ended.code))
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert printed.err.startswith(f"bayes-pfl {words[0]}: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("options", OPTIONS.values())
def test_help_is_of_the_style_of_the_other_commands(options: ModuleType) -> None:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    for action in parser._actions[1:]:
        words = " ".join(action.option_strings) or action.dest
        assert action.help, words
        assert not action.help.endswith("."), words
        assert "(default:" not in action.help, words
        named = action.dest in ("name", "address") or bool(action.choices) or bool(action.metavar)
        assert action.nargs == 0 or named, f"{words} does not say what it takes"
        optional = action.option_strings and action.nargs != 0 and not action.required
        silent = ("--weights", "--set", "--challenger", "--decision-log", "--method")  # nothing holds without them
        assert not optional or words in silent or "default: " in action.help, f"{words} does not say its default"


@pytest.mark.parametrize("command", OPTIONS)
def test_help_has_usage_and_examples_that_are_understood(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: bayes-pfl {command} ")
    examples = shown.partition("\nexamples:\n")[2].splitlines()
    assert examples
    parser = argparse.ArgumentParser(exit_on_error=False)
    OPTIONS[command].add_arguments(parser)
    for example in examples:
        program, name, *words = shlex.split(example)
        assert (program, name) == ("bayes-pfl", command)
        parser.parse_args(words)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("--porrt 1", "did you mean '--port'?"),
        ("--port 70000", "'70000' is no port, give a whole number from 1 to 65535"),
        ("--port 0", "'0' is no port"),
        ("--port -1", "'-1' is no port"),
        ("--port http", "'http' is no port"),
        ("--replicas 0", "argument --replicas: 0 is too small, give 1 or more"),
        ("--max-queued -1", "argument --max-queued: -1 is too small, give 0 or more"),
        ("--threads two", "argument --threads: 'two' is no whole number"),
        ("--gpus -1", "argument --gpus: -1 is too small, give 0 or more"),
        ("--refresh soon", "argument --refresh: 'soon' is no number"),
        ("--rate nan", "argument --rate: 'nan' is no number that can be used"),
        ("--max-body-mb 0", "argument --max-body-mb: 0 is too small, give 0.001 or more"),
        ("--decision-log x.jsonl --decision-log-mb 0", "0 is too small, give 0.004 or more"),
        ("--false-drift-alarms 1", "1 is too small, give 2 or more"),
        ("--usual-defects 1", "argument --usual-defects: 1 is too large, give less than 1"),
        ("--name 'Not A Name'", "'Not A Name' cannot stand in a URL"),
        ("--allowed-host https://inspect.example.com", "'https://inspect.example.com': give the name alone"),
        ("--precision float3", "did you mean 'float32'?"),
        ("--method april_gan", "'april_gan' must be trained"),
        ("--method winclpi", "did you mean 'winclip'?"),
        ("--method winclip --set model.scale=[2]", "did you mean 'scales'?"),
        ("--set model.scales=[2]", "give --method too"),
        ("--model embedded --method winclip", "--method: not allowed with argument --model"),
        ("--model nowhere", "nowhere is no bundle"),
        ("--challenger elsewhere", "elsewhere is no bundle"),
        ("--weights nowhere.pt", "There is no file nowhere.pt"),
        ("--host 0.0.0.0", "needs bearer tokens"),
        ("--host 192.0.2.1 --tokens-file TOKENS", "Cannot listen on 192.0.2.1"),
        ("--tokens-file missing.txt", "missing.txt"),
        ("--decision-log nowhere/decisions.jsonl", "There is no folder"),
        ("--decision-log-mb 4", "give --decision-log too"),
        ("--precision tf32 --gpus 0", "leave --gpus 0 out"),
    ],
)
def test_wrong_options_of_serve_are_refused_in_words(
    options: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BAYES_PFL_TOKENS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "TOKENS").write_text("0123456789abcdef\n", encoding="ascii")
    assert part in refusal(["serve", *shlex.split(options)], capsys)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("photos --model bundle --clas-name nut", "did you mean '--class-name'?"),
        ("photos", "the following arguments are required: --model"),
        ("photos --model bundle --num-samples 0", "0 is too small, give 1 or more"),
        ("photos --model bundle --num-samples 1001", "1001 is too large, give 1000 or fewer"),
        ("photos --model bundle --class-name ' '", "--class-name is blank"),
        ("missing --model bundle", "There is no missing"),
        ("photos --model photos", "The folder photos holds no model"),
        ("photos --model bundle --weights nowhere.pt", "There is no file nowhere.pt"),
    ],
)
def test_wrong_options_of_reference_are_refused_in_words(
    options: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").touch()
    assert part in refusal(["reference", *shlex.split(options)], capsys)


def test_a_taken_port_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "Choose another --port or --host" in refusal(["serve", "--port", port], capsys)


def test_names_of_models_are_those_of_the_settings() -> None:
    parser = argparse.ArgumentParser()
    serving.add_arguments(parser)
    name = "plates_2-b"
    assert ModelSettings(name=parser.parse_args(["--name", name]).name).name == name


def test_nothing_heavy_is_imported_before_options_are_right(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pipelines.cli import main\n"
        "for words in (['serve', '--model', 'nowhere'], ['reference', 'nowhere', '--model', 'nowhere']):\n"
        "    assert main(words) == 2\n"
        "for words in (['serve', '--porrt', '1'], ['serve', '--help'], ['reference', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit as ended: assert ended.code in (0, 2)\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys()), file=sys.stderr)"
    ).replace(repr(HEAVY), repr(set(HEAVY)))
    answer = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert answer.stderr.splitlines()[-1] == "[]"


def test_waiting_is_told_at_once_and_again_and_news_between(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("serve.waiting.LOOK_S", 0.01)
    monkeypatch.setattr("serve.waiting.AGAIN_S", 0.2)
    coming = [[], ["Replica 1 of 2 is up."]]
    told = threading.Event()

    def news() -> list[str]:
        if not coming:
            told.set()
            return []
        return coming.pop(0)

    with waiting("Loading the model", news):
        assert capsys.readouterr().err == "Loading the model ...\n"
        assert told.wait(10)
        time.sleep(0.3)  # longer than the longest time without a line
        coming.append(["Replica 2 of 2 is up."])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Replica 1 of 2 is up."
    assert lines[1].startswith("Loading the model: still at it after ")
    assert lines[-1] == "Replica 2 of 2 is up."
