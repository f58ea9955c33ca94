"""The command line: quick help, every command's help, clear errors."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import COMMANDS, ENDPOINT, main


def test_help_names_every_command_without_loading_torch():
    program = (
        "import sys; from pipelines.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert all(command in answer.stdout for command in [*COMMANDS, *ENDPOINT])


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
    assert main(["train", "--config", "nowhere.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "nowhere.yaml" in error


@pytest.mark.parametrize("option", ["--source", "--output"])
@pytest.mark.parametrize("path", ["", "~nobody_has_this_name/x"])
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
