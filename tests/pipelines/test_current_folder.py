"""Files of the current folder are data: none of them is executed, whichever command starts whichever process there."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.ray
COMMAND = str(Path(sys.executable).with_name("bayes-pfl"))
NAMES = ("bayes_pfl", "pipelines", "serve", "ray", "numpy", "torch", "yaml", "mlflow", "json", "usercustomize")


@pytest.fixture
def folder(tmp_path):
    """A folder full of images, and of modules that leave a trace when they are imported."""
    for name in NAMES:
        trace = f"open({str(tmp_path / f'{name}.executed')!r}, 'w')"
        (tmp_path / f"{name}.py").write_text(trace, encoding="utf-8")
    for seed in range(20):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{seed:02d}.png")
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "BAYES_PFL_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}


def test_scoring_over_ray_executes_no_file_of_the_current_folder(folder):
    command = [COMMAND, "score", ".", "--class-name", "plate", "--num-samples", "1", "--json"]
    answer = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["scored"] == 20
    assert list(folder.glob("*.executed")) == []


def test_the_endpoint_executes_no_file_of_the_current_folder_and_ends_on_a_signal(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [COMMAND, "serve", "--port", str(port), "--json"]
    with subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        assert process.wait(120) == 0
    assert json.loads(line)["url"].endswith(str(port))
    assert list(folder.glob("*.executed")) == []
