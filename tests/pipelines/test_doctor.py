"""`bayes-pfl doctor`: what is there is said, what is wrong gets a sentence and exit code 1."""

import argparse
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

import bayes_pfl
from pipelines import doctor
from pipelines.cli import options_of
from pipelines.platform import cluster
from pipelines.platform.settings import home
from serve.own_ray import set_environment


def examine(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    parser = argparse.ArgumentParser()
    options_of("doctor").add_arguments(parser)
    code = doctor.run(parser.parse_args(["--json"]))
    answer = json.loads(capsys.readouterr().out)
    return code, {finding["name"]: finding for finding in answer["findings"]}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_a_machine_that_works(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_ROOM_BYTES", 0)
    monkeypatch.setattr(doctor, "LEAST_SHARED_MEMORY_BYTES", 0)
    code, findings = examine(capsys)
    assert code == 0
    assert torch.__version__.startswith(findings["torch"]["value"])
    assert "images/s" in findings["self-test on cpu"]["value"]
    assert findings["MLflow"]["value"].startswith("sqlite:///")


def test_what_is_wrong_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "LOOKS", (doctor.gpus, doctor.cluster, doctor.storage))
    monkeypatch.setattr(doctor, "LEAST_SHARED_MEMORY_BYTES", 2**60)
    monkeypatch.setattr(doctor, "LEAST_ROOM_BYTES", 2**60)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RAY_TMPDIR", "/no-such-folder")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    code, findings = examine(capsys)
    assert code == 1
    assert "--gpus all" in findings["GPU"]["problem"]
    assert "does not exist" in findings["temporary folder"]["problem"]
    assert "--shm-size" in findings["shared memory"]["problem"]
    assert "BAYES_PFL_HOME" in findings["disk"]["problem"]
    assert "sqlite" in findings["MLflow"]["problem"]


@pytest.mark.parametrize("name", ["file", "file/home", "n" * 300, "/proc/home"])
def test_a_home_that_cannot_be_written_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_text("a file")
    monkeypatch.setattr(doctor, "LOOKS", (doctor.storage,))
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / name))
    code, findings = examine(capsys)
    assert code == 1
    assert findings["home"]["problem"].startswith(f"Nothing can be kept in {tmp_path / name} (")
    assert "MLflow" not in findings


def test_an_empty_home_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {"BAYES_PFL_HOME": ""})
    assert home() == tmp_path / "runs"
    set_environment(tmp_path / "stop")
    assert os.environ["BAYES_PFL_HOME"] == str(tmp_path / "runs")


def test_a_tracking_server_that_does_not_run_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LOOKS", (doctor.storage,))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        code, findings = examine(capsys)
    assert code == 1
    assert findings["MLflow"]["problem"].startswith(f"{uri} does not answer")


def test_weights_in_the_cache_are_named_as_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, commit = "models--timm--vit_large_patch14_clip_336.openai", "0" * 40
    folder = tmp_path / repository / "snapshots" / commit
    folder.mkdir(parents=True)
    (tmp_path / repository / "refs").mkdir()
    (tmp_path / repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert doctor.cached_weights() == []
    (folder / "open_clip_model.safetensors").write_bytes(b"weights")
    assert "ViT-L-14-336 openai" in doctor.cached_weights()
    assert not any("ViT-B-16 " in line for line in doctor.cached_weights())


def test_a_cluster_that_does_not_answer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOOKS", (doctor.cluster,))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    code, findings = examine(capsys)
    assert code == 1
    assert "No Ray cluster answers" in findings["Ray"]["problem"]


@pytest.mark.ray
def test_a_machine_that_does_not_answer_in_time_is_said(ray_session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = "no answer within 0 s"
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "ANSWER_S", 0)
        _, silent = doctor._machines_of_cluster()
    assert silent.value == machine
    assert silent.problem.startswith(f"{silent.name}: {machine}. Run doctor again")
    _, answered = doctor._machines_of_cluster()
    assert (answered.value, answered.problem) == ("the same versions", "")


def test_a_model_whose_weights_are_gone_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert [finding.value for finding in doctor.models()] == ["none yet"]
    weights = tmp_path / "clip.safetensors"
    weights.write_bytes(b"weights")
    for folder, pretrained in (("home/own", str(weights)), ("runs/far", "openai")):
        (tmp_path / folder).mkdir(parents=True)
        record = {"config": {"backbone": {"pretrained": pretrained}}}
        (tmp_path / folder / "bundle.json").write_text(json.dumps(record))
    shutil.copytree(Path(bayes_pfl.__file__).parent / "embedded/bundle", tmp_path / "home/sweep/embedded")
    (finding,) = doctor.models()
    assert (finding.value, finding.problem) == (f"3 in {tmp_path}/home, {tmp_path}/runs", "")
    weights.unlink()
    (finding,) = doctor.models()
    assert finding.problem.startswith(
        f"1 model whose weights of CLIP are not there: {tmp_path}/home/own ({weights}). Put the file back"
    )


def test_a_device_that_computes_something_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TOLERANCE", -1.0)
    (finding,) = [finding for finding in doctor.self_test() if finding.name == "self-test on cpu"]
    assert "do not use this device" in finding.problem
