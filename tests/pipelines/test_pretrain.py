"""`bayes-pfl pretrain` and `generate` as programs: Ray Train computes what the library does, killed or not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bayes_pfl.config import read_config
from bayes_pfl.embedded_training.pretraining import Pretraining, export_weights
from bayes_pfl.errors import OutputError
from bayes_pfl.synthetic.batches import training_batch
from pipelines.cli import main
from pipelines.options.pretrain import PretrainSettings
from pipelines.pretrain import pretrain

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "configs/pretrain_embedded.yaml"
TINY = [
    "pretraining.crop_steps=4",
    "pretraining.full_steps=4",
    "pretraining.crop_size=32",
    "pretraining.image_size=48",
    "pretraining.pairs=2",
    "pretraining.warmup_steps=1",
    "pretraining.validation_images=1",
    "pretraining.report_every=2",
]


def _options(*overrides: str) -> list[str]:
    settings = [part for value in (*TINY, *overrides) for part in ("--set", value)]
    return ["pretrain", "--config", str(SHIPPED), "--json", *settings]


def _pretrain(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, object]:
    assert main(_options(*overrides)) == 0
    result: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return result


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_session: str) -> Path:
    """Where these runs lie; they join the tests' Ray."""
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_the_shipped_configuration_is_valid() -> None:
    settings = read_config(PretrainSettings, SHIPPED, [])
    assert settings.pretraining.image_size == 112
    assert settings.name() != read_config(PretrainSettings, SHIPPED, ["pretraining.seed=8"]).name()
    assert settings.name() == read_config(PretrainSettings, SHIPPED, ["output=elsewhere"]).name()


def test_weights_are_not_written_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "curve.json").write_text("mine", encoding="utf-8")
    settings = read_config(PretrainSettings, SHIPPED, [*TINY, f"output={tmp_path}"])
    with pytest.raises(OutputError, match=r"holds curve\.json and no weights"):
        pretrain(settings)
    assert (tmp_path / "curve.json").read_text(encoding="utf-8") == "mine"


@pytest.mark.ray
def test_a_killed_run_goes_on_and_ends_with_the_very_weights_of_an_uninterrupted_one(
    home: Path, ray_session: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = read_config(PretrainSettings, SHIPPED, TINY)
    config = settings.pretraining
    torch.set_num_threads(1)
    plain = Pretraining(config)
    while plain.step < config.steps:
        batch = training_batch(config.batch_options(), config.side(plain.step), config.seed, plain.step, 0)
        plain.train_step(plain.model, batch)
    expected = export_weights(plain.model.clip, home / "plain.safetensors")

    command = [sys.executable, "-m", "pipelines.cli", *_options(f"output={home / 'weights'}")]
    environment = os.environ | {"RAY_ADDRESS": ray_session, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, env=environment, cwd=home, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list((home / "training").glob("pretrain-*/step_000004*")):
        assert first.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (home / "weights").exists()

    result = _pretrain(capsys, f"output={home / 'weights'}")
    assert result["sha256"] == expected
    curve = json.loads((home / "weights/curve.json").read_text())
    assert [entry["step"] for entry in curve] == [2, 4, 6, 8]
    assert {"total", "contrastive", "state", "dense", "image_auroc", "pixel_auroc", "pixel_ap"} <= set(curve[-1])


@pytest.mark.ray
def test_two_workers_train_one_model_on_different_images(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shorter = ["pretraining.crop_steps=1", "pretraining.full_steps=1"]
    spread = ["cluster.num_workers=2", "cluster.cpus_per_worker=0.5"]
    result = _pretrain(capsys, *shorter, *spread, f"output={home / 'weights'}")
    assert (home / "weights/bayes-pfl-embedded.safetensors").is_file()
    config = read_config(PretrainSettings, SHIPPED, [*TINY, *shorter]).pretraining
    for rank in range(2):  # what one worker alone makes of either share is another model
        alone = Pretraining(config)
        for step in range(config.steps):
            batch = training_batch(config.batch_options(), config.side(step), config.seed, step, rank)
            alone.train_step(alone.model, batch)
        assert result["sha256"] != export_weights(alone.model.clip, home / "alone.safetensors")


def _generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.cli", "generate", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_generate_writes_what_it_says(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    done = _generate(
        "--output", str(folder), "--categories", "hex_nut,paper", "--seed", "7", "--size", "64",
        "--normal", "2", "--defective", "3", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["categories"] == ["hex nut", "paper"]
    assert result["images"] == 14 == len([p for p in folder.rglob("*.png") if "ground_truth" not in p.parts])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "x", "--categories", "unicorn"], "no category or set 'unicorn'"),
        (["--output", "x", "--categories", "paper", "--defects", "magic"], "no kind of defect 'magic'"),
        (["--output", "x", "--categories", "paper", "--seed", "-1"], "-1 is too small, give 0 or more"),
        (["--categories", "paper"], "--output"),
    ],
)
def test_generate_refuses_with_one_sentence(arguments: list[str], message: str) -> None:
    done = _generate(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
