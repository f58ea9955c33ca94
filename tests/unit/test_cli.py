"""The command line: quick help, every command's help, clear errors."""

import argparse
import importlib
import importlib.metadata
import os
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from bayes_pfl.config import read_config
from pipelines.cli import COMMANDS, ENDPOINT, main, options_of
from pipelines.options.config_files import CONFIGS, config_file
from pipelines.platform.settings import TrainSettings
from pipelines.platform.settings_table import settings_rows, settings_table


def test_help_names_every_command_without_loading_torch():
    program = (
        "import sys; from pipelines.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert all(command in answer.stdout for command in [*COMMANDS, *ENDPOINT])


def test_wrong_options_of_every_command_are_refused_without_importing_its_program():
    program = (
        "import sys\nfrom pipelines.cli import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    try: main([command, '--no-such-option'])\n"
        "    except SystemExit as ended: assert ended.code == 2\n"
        "assert main(['train', '--set', 'backbone.nmae=x']) == 2\n"
        "print(sorted({'torch', 'open_clip', 'ray', 'mlflow', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
    assert "unknown key 'backbone.nmae'; did you mean 'name'?" in answer.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["score", "x.png", "--num-samples", "0"], "argument --num-samples: 0 is too small, give 1 or more"),
        (["score", "x.png", "--workers", "two"], "argument --workers: 'two' is no whole number"),
        (
            ["evaluate", "--method", "winclpi"],
            "argument --method: There is no method 'winclpi'; did you mean 'winclip'?",
        ),
        (["score", "x.png", "--method", "april_gan"], "must be trained"),
        (["score", "x.png", "--seed", "-1"], "argument --seed: -1 is too small, give 0 or more"),
        (["score", "x.png", "--threads", "99999999999"], "99999999999 is too large, give 1024 or less"),
        (["score", "x.png", "--workers", "99999999999"], "99999999999 is too large, give 10000 or less"),
        (["score", "x.png", "--seed", str(2**64)], "is too large"),
        (["serve", "--threads", "99999999999"], "99999999999 is too large, give 1024 or less"),
        (["train", "--config", "n" * 300], "and no configuration of that name comes along"),
        (["train", "--config", ""], "argument --config: is empty"),
        (["score", "", "--class-name", "x"], "is empty: give a value, or leave it out"),
        (["ingest", "folder", "--source", ""], "argument --source: is empty"),
        (["ingest", "folder", "--output", ""], "argument --output: is empty"),
        (["evaluate", "--output", ""], "argument --output: is empty"),
        (["serve", "--model="], "argument --model: is empty"),
        (["score", "x.png", "--bits", "8"], "argument --bits: 8 is too small, give 9 or more"),
        (["score", "x.png", "--threshold", "60"], "argument --threshold: 60 is not between 0 and 1"),
        (["score", "x.png", "--store-threshold", "nan"], "argument --store-threshold: nan is not between 0 and 1"),
        (["score", "x.png", "--num-samples", "100000000"], "100000000 is too large, give 1000 or fewer"),
        (["configs", "train_vis"], "did you mean 'train_visa'?"),
        (["train", "--config", "no/such.yaml"], "there is no file 'no/such.yaml'"),
        (["reproduce", "tabel1"], "did you mean 'table1'?"),
        (["compare", "a", "b", "--resamples", "10"], "argument --resamples: 10 is too small, give 100 or more"),
    ],
)
def test_wrong_values_of_options_are_refused_in_words(words, reason, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


def test_compare_looks_for_the_file_of_weights_that_its_models_need(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["compare", "a", "b", "--shards", "s", "--output", "out", "--weights", "nowhere.pt"]
    assert main(words) == 2
    assert "There is no file nowhere.pt: give that of CLIP's weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["serve", "--model", "n" * 300], "n is no bundle. Give"),
        (["serve", "--weights", "n" * 300], "There is no file n"),
        (["serve", "--model", "embedded", "--tokens-file", "n" * 300], "n is too long for a file's name"),
        (["reference", ".", "--model", "n" * 300], "is too long for a file's name"),
        (["score", "n" * 300, "--class-name", "x"], "n is too long for a file's name"),
    ],
)
def test_a_name_too_long_for_a_file_is_one_sentence(words, reason, capsys):
    assert main(words) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_of_one_style(command):
    parser = argparse.ArgumentParser()
    options_of(command).add_arguments(parser)
    for action in parser._actions:
        words = " ".join(action.option_strings) or action.dest
        assert action.help, f"{words} has no sentence"
        assert not action.help.endswith("."), words
        assert action.help.split()[0] not in ("of", "it", "is"), f"{words} begins as a fragment: {action.help}"
        takes_value = action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction)
        named = action.dest == "name" or bool(action.choices) or str(action.metavar or "").strip()
        assert not takes_value or named, f"{words} does not say what it takes"
        assert isinstance(action, argparse._HelpAction) or "(default:" not in action.help, words


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_of_the_help_are_understood(command):
    parser = argparse.ArgumentParser(exit_on_error=False)
    options = options_of(command)
    options.add_arguments(parser)
    for example in options.EXAMPLES.splitlines():
        program, name, *words = shlex.split(example.partition(" > ")[0])
        assert (program, name) == ("bayes-pfl", command)
        parsed = parser.parse_args(words)
        if hasattr(options, "SETTINGS"):
            read_config(options.SETTINGS, parsed.config, parsed.set)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"bayes-pfl {command}" in capsys.readouterr().out


def test_a_wrong_key_names_the_nearest(capsys):
    assert main(["train", "--set", "model.num_promts=4"]) == 2
    assert "did you mean 'num_prompts'" in capsys.readouterr().err


def test_a_missing_configuration_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", "nowhere.yaml"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "nowhere.yaml" in error


@pytest.mark.parametrize("option", ["--source", "--output"])
@pytest.mark.parametrize("path", ["~nobody_has_this_name/x"])
def test_a_path_that_is_none_is_one_sentence(option, path, tmp_path, capsys):
    paths = {"--source": str(tmp_path), "--output": str(tmp_path / "shards"), option: path}
    assert main(["ingest", "folder", *(word for pair in paths.items() for word in pair)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert option in error


def test_a_reader_who_leaves_early_is_no_error():
    program = "import sys; from pipelines.cli import main; sys.exit(main(['generate', '--list']))"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_closed_output_is_no_error():
    command = [sys.executable, "-m", "pipelines.cli", "configs", "train_visa"]
    closed = subprocess.run(["sh", "-c", f"{shlex.join(command)} >&-"], capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_a_folder_named_like_a_configuration_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train_embedded").mkdir()
    assert config_file("train_embedded") == CONFIGS / "train_embedded.yaml"


def test_a_full_disk_behind_the_output_is_one_sentence():
    program = "import sys; from pipelines.cli import main; sys.exit(main(['datasets', 'list']))"
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        answer = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True)
    assert answer.returncode == 2
    assert answer.stderr == "bayes-pfl datasets: no room left to write; free some space and run it again.\n"


@pytest.mark.parametrize("command", ENDPOINT)
def test_the_endpoints_programs_are_commands(command, capsys):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended.value.code == 0
    assert f"usage: bayes-pfl {command}" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"bayes-pfl {importlib.metadata.version('bayes-pfl')}\n"


@pytest.mark.parametrize(
    ("words", "program", "meant"),
    [
        (["scor", "x.png"], "bayes-pfl", "'scor', did you mean 'score'?"),
        (["servee"], "bayes-pfl", "did you mean 'serve'?"),
        (["score", "--classname", "plate", "x.png"], "bayes-pfl score", "did you mean '--class-name'?"),
        (["train", "--ste=a.b=c"], "bayes-pfl train", "did you mean '--set'?"),
    ],
)
def test_a_misspelt_command_or_option_names_the_nearest(words, program, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{program}: ")
    assert error.count("\n") == 1
    assert meant in error


@pytest.mark.parametrize("command", ["train", "tune", "evaluate", "features", "ingest", "pretrain", "compare"])
def test_settings_are_a_table_of_every_key(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--settings"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    kind = options_of(command).SETTINGS
    for key, default, sentence in settings_rows(kind):
        line = next(line for line in shown.splitlines() if line.split()[0] == key)
        assert default in line or default in shown, key
        assert " ".join(sentence.split()[:3]) in " ".join(shown.split()), key
        value = read_config(kind, None, [f"{key}={default}"])
        usual = kind()
        for part in key.split("."):
            value, usual = getattr(value, part), getattr(usual, part)
        assert value == usual, key


def test_the_table_fits_a_narrow_terminal():
    lines = settings_table(TrainSettings, 100).splitlines()
    assert max(map(len, lines)) <= 100
    assert "training.epochs" in {line.split()[0] for line in lines}


@pytest.mark.parametrize(
    ("command", "option", "meant"), [("serve", "--prot", "--port"), ("reference", "--clas-name", "--class-name")]
)
def test_the_endpoints_programs_name_the_nearest_option(command, option, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, *(["photos", "--model", "bundle"] if command == "reference" else []), option, "3"])
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"bayes-pfl {command}: ")
    assert f"did you mean '{meant}'?" in shown


def test_proxies_of_the_environment_never_catch_this_machine(monkeypatch, capsys):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.com")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.delenv("grpc_proxy", raising=False)
    assert main(["generate", "--list"]) == 0
    capsys.readouterr()
    assert all(urllib.request.proxy_bypass(host) for host in ("127.0.0.1", "localhost", "::1", "example.com"))
    assert not urllib.request.proxy_bypass("example.org")
    assert os.environ.pop("grpc_proxy") == ""


HOSTILE = ("serve", "pipelines", "bayes_pfl", "ray", "yaml", "numpy", "torch", "json", "sitecustomize")


@pytest.mark.parametrize(
    "command", [["serve", "--port", "0"], ["reference", "--help"], ["generate", "--list"], ["train"]]
)
def test_no_file_of_the_current_folder_is_executed(command, tmp_path):
    for name in HOSTILE:
        (tmp_path / f"{name}.py").write_text("open('executed', 'a').write(__name__)", encoding="utf-8")
    script = tmp_path / "bin" / "bayes-pfl"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pipelines.cli import main\nsys.exit(main())\n", encoding="utf-8"
    )
    script.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "BAYES_PFL_HOME": str(tmp_path / "home")}
    answer = subprocess.run(
        [script, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "executed").exists()
