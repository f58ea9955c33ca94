"""`bayes-pfl quickstart`: the main job, every stage real, on generated images and the embedded CLIP, in minutes on 2 cores.

generate -> ingest -> train (Ray Train, 2 workers) -> evaluate on categories never trained on -> register as champion ->
start the endpoint, score an image over HTTP, stop it -> report. Stopped anywhere, it goes on from there when run again.
"""

import argparse
import json
import os
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
from bayes_pfl.errors import BayesPFLError
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.synthetic import write_dataset
from bayes_pfl.synthetic.splits import AUXILIARY, HELD_OUT
from pipelines.evaluate import EvaluateSettings, evaluate, table_rows
from pipelines.ingest import IngestConfig, ingest
from pipelines.platform.html import table
from pipelines.platform.settings import ClusterSettings, DataSettings, TrackingSettings, TrainSettings, home
from pipelines.platform.tracking import register_bundle, tracking_uri
from pipelines.scoring.actors import read_row
from pipelines.train import train

AUXILIARY_SEED, HELD_OUT_SEED = 101, 202
ALIAS = "champion"
SERVE_TIMEOUT_S = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl quickstart`."""
    parser.add_argument(
        "--fresh", action="store_true", help="start over instead of going on where an earlier run stopped"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Run all stages, print the table, the report's path and what to try next."""
    began = time.monotonic()
    folder = home() / "quickstart"
    print(f"The main job on generated images, in {folder}: about 4 minutes on 2 cores.", file=sys.stderr)
    if args.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    auxiliary = _shards(folder, "auxiliary", AUXILIARY, AUXILIARY_SEED, normal=10, defective=24)
    held_out = _shards(folder, "held-out", HELD_OUT, HELD_OUT_SEED, normal=8, defective=16)
    _say("training on the auxiliary categories")
    trained = train(_settings(auxiliary, folder / "model"), fresh=args.fresh)
    _say("evaluating on categories never trained on")
    evaluated = evaluate(
        EvaluateSettings(model=trained["bundle"], shards=(str(held_out),), output=str(folder / "evaluation"))
    )
    _say("registering the model and scoring over HTTP")
    tracking = TrackingSettings()
    version = register_bundle(tracking, trained["run_id"], ALIAS)
    uri = f"models:/{tracking.model_name}@{ALIAS}"
    served = _score_over_http(uri, trained["bundle"], index_shards(held_out, "test")[-1])
    result = {
        "evaluation": evaluated,
        "model": uri,
        "version": version,
        "http": served,
        "seconds": time.monotonic() - began,
    }
    if args.json:
        print(json.dumps(result))
    else:
        print(_summary(result))
    return 0


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
        output=str(output),
    )


def _score_over_http(uri: str, bundle: str, ref: SampleRef) -> dict[str, Any]:
    """Start the endpoint with the registered model, score one image, compare with the library, stop the endpoint."""
    image, _ = read_row(ref.shard, ref.row)
    query = urllib.parse.urlencode({"class_name": ref.class_name, "num_samples": 10})
    with _endpoint(uri) as url:
        request = urllib.request.Request(f"{url}/v1/score?{query}", data=image, headers={"Content-Type": "image/png"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
    local = Detector.load(bundle).predict([image], [ref.class_name])[0].image_score
    if abs(answer["pred_score"] - local) > 1e-6:
        raise BayesPFLError(f"The endpoint says {answer['pred_score']}, the library {local}: report this as a bug.")
    return {"sample": ref.sample_id, "score": answer["pred_score"], "label": ref.label, "url": url}


@contextmanager
def _endpoint(uri: str) -> Iterator[str]:
    """The endpoint as a program of its own on a free port, ready, and stopped in the end."""
    import ray

    ray.shutdown()  # two cores: make room for the endpoint's own Ray
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking_uri(TrackingSettings())}
    process = subprocess.Popen(
        [sys.executable, "-m", "serve", "--model", uri, "--port", str(port), "--json"],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
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


def _summary(result: dict[str, Any]) -> str:
    evaluation, served = result["evaluation"], result["http"]
    dataset = next(iter(evaluation["datasets"].values()))
    truth = "anomalous" if served["label"] else "normal"
    return "\n".join(
        [
            "",
            f"Categories never trained on ({dataset['images']} generated images, R = {evaluation['num_samples']}), percent:",
            table(table_rows(dataset), decimals=1),
            "",
            f"Over HTTP: {served['sample']} ({truth}) scored {served['score']:.3f}, as the library says.",
            f"Model: {result['model']} (version {result['version']}); {result['seconds']:.0f} s in all.",
            f"Report: {evaluation['report']}",
            "",
            "Try next:",
            f"  bayes-pfl serve --model {result['model']}",
            '  bayes-pfl score my_part.png --class-name "metal plate" --output heat/',
            "  bayes-pfl tune --config configs/tune_embedded.yaml",
        ]
    )


def _say(what: str) -> None:
    print(f"-- {what}", file=sys.stderr)
