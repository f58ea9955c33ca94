"""The quickstart's folder and what it tells to try next."""

import argparse
import os
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bayes_pfl.config import read_config
from bayes_pfl.errors import OutputError
from bayes_pfl.synthetic import write_dataset
from bayes_pfl.synthetic.splits import HELD_OUT
from pipelines.cli import options_of
from pipelines.options.tune import TuneSettings
from pipelines.platform.settings import TrackingSettings
from pipelines.quickstart import MARKER, TRACKING, next_commands, prepare
from serve.main import add_arguments as add_serve_arguments


def test_its_model_and_experiment_are_not_the_users():
    users = TrackingSettings()
    assert TRACKING.model_name != users.model_name
    assert TRACKING.experiment != users.experiment


def test_a_fresh_start_deletes_only_what_a_quickstart_wrote(tmp_path):
    folder = tmp_path / "quickstart"
    prepare(folder, fresh=True)
    for name in ("images/auxiliary/a.png", "images/mine/a.png", "model/bundle.json", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("", encoding="utf-8")
    prepare(folder, fresh=False)
    assert (folder / "model" / "bundle.json").is_file()
    prepare(folder, fresh=True)
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left == ["images/mine/a.png", "notes.txt", MARKER]


def test_a_strangers_folder_is_left_alone(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(OutputError, match="nothing was deleted"):
        prepare(tmp_path, fresh=True)
    assert (tmp_path / "model").is_dir()


def test_what_to_try_next_names_files_that_are_there(tmp_path):
    write_dataset(tmp_path / "images" / "held-out", HELD_OUT[:1], 1, 1, size=32, seed=1)
    serve, score, tune = next_commands("models:/m@a", tmp_path)
    assert serve[1:] == ["serve", "--model", "models:/m@a"]
    assert Path(score[2]).is_file()
    assert score[4:7] == [HELD_OUT[0], "--model", "models:/m@a"]
    assert Path(tune[tune.index("--config") + 1]).is_file()
    assert tune[-1] == f"data.train={tmp_path}/shards/auxiliary"
    parsed = []
    for command, add_arguments in (
        (serve, add_serve_arguments),
        (score, options_of("score").add_arguments),
        (tune, options_of("tune").add_arguments),
    ):
        parser = argparse.ArgumentParser(exit_on_error=False)
        add_arguments(parser)
        parsed.append(parser.parse_args(shlex.split(shlex.join(command))[2:]))  # as it is printed and typed
    settings = read_config(TuneSettings, parsed[-1].config, parsed[-1].set)
    assert settings.data.train == f"{tmp_path}/shards/auxiliary"


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_program_that_was_started_ends_with_the_one_that_started_it():
    program = (
        "import subprocess, sys, time\nfrom bayes_pfl.machine import end_with_parent\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], preexec_fn=end_with_parent)\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        child = os.pidfd_open(int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
    assert select.select([child], [], [], 60)[0]  # readable once the child has ended
    os.close(child)
