"""The package as it is installed, not cloned: a wheel in a fresh environment, walked from an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The command of an environment that holds the wheel, and finds what it needs where these tests do."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    for name in filter(None, listed):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            shutil.copy(ROOT / name, folder / "source" / name, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder / "out", folder / "source"], check=True)
    (wheel,) = (folder / "out").glob("bayes_pfl-*.whl")
    venv.create(folder / "environment")
    python = folder / "environment" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    (packages,) = (folder / "environment").glob("lib/python*/site-packages")
    (packages / "what_it_needs.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "environment" / "bin" / "bayes-pfl"


def test_it_walks_from_an_empty_folder(installed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    environment |= {"BAYES_PFL_HOME": str(tmp_path / "home")}

    def typed(*words: str) -> str:
        return subprocess.run(
            [installed, *words], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True, timeout=240
        ).stdout

    where = "import bayes_pfl, pipelines, serve; print(bayes_pfl.__file__, pipelines.__file__, serve.__file__)"
    python = installed.with_name("python")
    files = subprocess.check_output([python, "-c", where], cwd=tmp_path, env=environment, text=True).split()
    assert all(Path(file).is_relative_to(installed.parents[1]) for file in files)
    assert "train_visa" in typed("configs")
    assert typed("configs", "methods/april_gan") == (ROOT / "configs/methods/april_gan.yaml").read_text("utf-8")
    typed(
        "generate", "--categories", "plate", "--normal", "1", "--defective", "1", "--size", "64", "--output", "images"
    )
    assert "metal plate" in typed("score", "images/plate/test", "--class-name", "metal plate", "--output", "maps")
    refused = subprocess.run(
        [installed, "train", "--config", "train_embedded"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2
    assert "shards/auxiliary" in refused.stderr
