"""`bayes-pfl quickstart`: generated images -> every stage of the main job, on the embedded CLIP, in minutes on 2 cores.

generate -> ingest -> train (Ray Train, 2 workers) -> evaluate on categories never trained on -> register under a name
of its own ->
start the endpoint, score an image over HTTP, stop it -> report. Stopped anywhere, it goes on from there when run again.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bayes_pfl.config import LossConfig, TrainingConfig
from bayes_pfl.data.samples import SampleRef, index_shards
from bayes_pfl.errors import BayesPFLError, OutputError
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.machine import end_with_parent
from bayes_pfl.synthetic import write_dataset
from bayes_pfl.synthetic.splits import AUXILIARY, HELD_OUT
from pipelines.evaluate import EvaluateSettings, evaluate
from pipelines.ingest import ingest
from pipelines.options.config_files import config_file
from pipelines.options.ingest import IngestConfig
from pipelines.platform.html import percent_rows, table
from pipelines.platform.mlflow_store import check_store, tracking_uri
from pipelines.platform.settings import ClusterSettings, DataSettings, TrackingSettings, TrainSettings, home
from pipelines.register import register
from pipelines.scoring.actors import read_row
from pipelines.train import train

AUXILIARY_SEED, HELD_OUT_SEED = 101, 202
TRACKING = TrackingSettings(experiment="bayes-pfl-quickstart", model_name="bayes-pfl-quickstart")
"""Names of its own: the user's runs, model and champion are never touched."""
MARKER = "quickstart.json"
OWN_FOLDERS = ("images/auxiliary", "images/held-out", "shards/auxiliary", "shards/held-out", "model", "evaluation")
SERVE_TIMEOUT_S = 120


def run(args: argparse.Namespace) -> int:
    """Run all stages, print the table, the report's path and what to try next.

    Args:
        args: parsed options.

    Returns:
        Exit code.

    Raises:
        BayesPFLError: a stage cannot go on; with what to do.
    """
    began = time.monotonic()
    folder = home() / "quickstart"
    print(f"The main job on generated images, in {folder}: about 4 minutes on 2 cores.", file=sys.stderr)
    check_store(TRACKING)
    prepare(folder, args.fresh)
    auxiliary = _shards(folder, "auxiliary", AUXILIARY, AUXILIARY_SEED, normal=10, defective=24)
    held_out = _shards(folder, "held-out", HELD_OUT, HELD_OUT_SEED, normal=8, defective=16)
    _say("training on the auxiliary categories")
    trained = train(_settings(auxiliary, folder / "model"), fresh=args.fresh)
    _say("evaluating on categories never trained on")
    evaluation = EvaluateSettings(
        model=trained["bundle"], shards=(str(held_out),), output=str(folder / "evaluation"), tracking=TRACKING
    )
    evaluated = evaluate(evaluation)
    _say(f"registering the model as {TRACKING.model_name} and scoring over HTTP")
    registered = register(TRACKING, trained["run_id"], margin=1.0)  # the newest is always shown
    served = _score_over_http(registered["uri"], trained["bundle"], index_shards(held_out, "test")[-1])
    result = {
        "evaluation": evaluated,
        "model": registered["uri"],
        "version": registered["version"],
        "http": served,
        "seconds": time.monotonic() - began,
    }
    print(json.dumps(result) if args.json else _summary(result, folder))
    return 0


def prepare(folder: Path, fresh: bool) -> None:
    """Make the folder of the quickstart; `fresh` deletes what an earlier quickstart wrote there, and nothing else.

    Args:
        folder: where everything of the quickstart lies.
        fresh: start over.

    Raises:
        OutputError: `fresh`, and the folder was made by somebody else; or it cannot be written.
    """
    marker = folder / MARKER
    try:
        if not folder.exists() or not any(folder.iterdir()):
            folder.mkdir(parents=True, exist_ok=True)
            marker.write_text(json.dumps({"folders": OWN_FOLDERS}) + "\n", encoding="utf-8")
        elif fresh:
            if not marker.is_file():
                raise OutputError(
                    f"{folder} has no {MARKER}, so no quickstart made it, and nothing was deleted: move it away "
                    "or delete it."
                )
            for name in OWN_FOLDERS:
                shutil.rmtree(folder / name, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"Cannot write {folder}: {error.strerror}. Set BAYES_PFL_HOME to another folder.") from error


def _shards(folder: Path, name: str, categories: tuple[str, ...], seed: int, normal: int, defective: int) -> Path:
    """Paint a dataset in MVTec's layout and ingest its test split; both are skipped where they are done."""
    images, shards = folder / "images" / name, folder / "shards" / name
    if not images.exists():
        _say(f"painting {len(categories)} {name} categories")
        write_dataset(images, categories, normal, defective, size=128, seed=seed)
    _say(f"ingesting {name} images into Arrow shards")
    ingest("folder", images, shards, IngestConfig(splits=("test",), name=name, rows_per_shard=64))
    return shards


def _settings(shards: Path, output: Path) -> TrainSettings:
    """The recipe of the embedded bundle (configs/train_embedded.yaml) with half its epochs, to be quick."""
    embedded = load_bundle("embedded").config
    return TrainSettings(
        backbone=embedded.backbone,
        model=embedded.model,
        scoring=embedded.scoring,
        loss=LossConfig(orthogonal_mean=True),
        training=TrainingConfig(epochs=3, batch_size=16, learning_rate=1e-3, warmup_fraction=0.1),
        data=DataSettings(train=str(shards)),
        cluster=ClusterSettings(),
        tracking=TRACKING,
        output=str(output),
    )


def _score_over_http(uri: str, bundle: str, ref: SampleRef) -> dict[str, Any]:
    """Start the endpoint with the registered model, score one image, compare with the library, stop the endpoint."""
    image, _ = read_row(ref.shard, ref.row)
    query = urllib.parse.urlencode({"class_name": ref.class_name, "num_samples": 10})
    with _endpoint(uri) as url:
        request = urllib.request.Request(f"{url}/v1/score?{query}", data=image, headers={"Content-Type": "image/png"})
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({})
        )  # a proxy does not reach this machine's loopback
        with direct.open(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
    local = Detector.load(bundle).predict([image], [ref.class_name])[0].image_score
    if abs(answer["image_score"] - local) > 1e-6:
        raise BayesPFLError(f"The endpoint says {answer['image_score']}, the library {local}: report this as a bug.")
    return {"sample": ref.sample_id, "image_score": answer["image_score"], "label": ref.label, "url": url}


@contextmanager
def _endpoint(uri: str) -> Iterator[str]:
    """The endpoint as a program of its own on a free port, ready, and stopped in the end."""
    import ray

    ray.shutdown()  # two cores: make room for the endpoint's own Ray
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking_uri(TRACKING)}
    command = [sys.executable, "-P", "-m", "pipelines.cli", "serve"]  # -P: nothing is imported from the current folder
    process = subprocess.Popen(
        [*command, "--model", uri, "--port", str(port), "--json"],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        preexec_fn=end_with_parent,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"url"'):
                break
            sys.stderr.write(line)  # what Ray has to say
        else:
            raise BayesPFLError(
                f"The endpoint did not start (exit code {process.wait(SERVE_TIMEOUT_S)}); see the lines above."
            )
        yield json.loads(line)["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(SERVE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _summary(result: dict[str, Any], folder: Path) -> str:
    """The table of the evaluation, what the endpoint answered, and commands that work as they are printed."""
    evaluation, served = result["evaluation"], result["http"]
    dataset = next(iter(evaluation["datasets"].values()))
    truth = "defective" if served["label"] else "good"
    return "\n".join(
        [
            "",
            f"Categories never trained on ({dataset['images']} generated images, R = "
            f"{evaluation['num_samples']}), percent:",
            table(percent_rows(dataset), decimals=1),
            "",
            f"Over HTTP: {served['sample']} ({truth}) scored {served['image_score']:.3f}, as the library says.",
            f"Model: {result['model']} (version {result['version']}); {result['seconds']:.0f} s in all.",
            f"Report: {evaluation['report']}",
            "",
            "Try next:",
            *(f"  {shlex.join(command)}" for command in next_commands(result["model"], folder)),
        ]
    )


def next_commands(model: str, folder: Path) -> list[list[str]]:
    """Commands to try after the quickstart, which run as they are, here.

    Args:
        model: URI of the registered model.
        folder: where everything of the quickstart lies.

    Returns:
        Each command as a list of words.
    """
    program = "bayes-pfl" if shutil.which("bayes-pfl") else str(Path(sys.executable).with_name("bayes-pfl"))
    image = sorted((folder / "images" / "held-out").glob("*/test/*/*.png"))[0]
    class_name = image.parts[-4].replace("_", " ")
    score = ["score", str(image), "--class-name", class_name, "--model", model, "--output", str(folder / "scores")]
    commands = [[program, "serve", "--model", model], [program, *score]]
    config = config_file("tune_embedded")
    if config.is_file():  # it comes with the source, not with the package
        shards = folder / "shards" / "auxiliary"
        commands.append([program, "tune", "--config", str(config), "--set", f"data.train={shards}"])
    return commands


def _say(what: str) -> None:
    print(f"-- {what}", file=sys.stderr)
