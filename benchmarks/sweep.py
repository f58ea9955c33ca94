"""`bayes-pfl tune` over B, K and R by the clock, against each combination as its own `train` and `evaluate`.

    python benchmarks/sweep.py

The real programs with their start-up on both sides, on the embedded CLIP and painted images: 4 (B, K) by 5 R, about
6 minutes on two cores. Both sides use the same shards, recipe, validation images and cores; nothing else should run.

Measured: the sweep, whole; and for each (B, K) one training and one evaluation as programs of their own, each with
another R. Extrapolated: a training does not depend on R, so its time is counted for every R of its (B, K); the other
evaluations are counted with the mean of those that were run. `measured_share` says how much of the slow side was run.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml

from bayes_pfl.synthetic import write_dataset
from bayes_pfl.synthetic.splits import AUXILIARY
from pipelines.ingest import ingest
from pipelines.options.ingest import IngestConfig

BANKS, LENGTHS, SAMPLES = (1, 3), (0, 10), (1, 3, 5, 10, 20)
VALIDATION = AUXILIARY[0].replace(" ", "_")
RECIPE = {
    "backbone": {
        "name": "package:embedded/bayes-pfl-embedded.json",
        "pretrained": "package:embedded/bayes-pfl-embedded.safetensors",
        "image_size": 112,
        "feature_layers": [6, 8, 10, 12],
    },
    "scoring": {"smoothing_sigma_px": 2},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6, help="of each training; the paper trains 20")
    parser.add_argument("--categories", type=int, default=5, help="one of them is for validation")
    parser.add_argument(
        "--quick", action="store_true", help="1 (B, K) by 5 R, 1 epoch, 1 worker: a minute and a half, another ratio"
    )
    parser.add_argument("--workers", type=int, default=2, help="of every program")
    args = parser.parse_args()
    banks, lengths = ((1,), (0,)) if args.quick else (BANKS, LENGTHS)
    if args.quick:
        args.epochs, args.categories, args.workers = 1, 2, 1
    combinations = list(itertools.product(banks, lengths))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paint_and_ingest(folder, args.categories)
        sweep_seconds = timed(folder, "tune", "--config", str(sweep_file(folder, args, banks, lengths)))
        trainings, evaluations = [], []
        for index, (bank, length) in enumerate(combinations):
            model, config = folder / f"model-{index}", training_file(folder, args)
            chosen = [f"model.num_prompts={bank}", f"model.flow_length={length}", f"output={model}"]
            trainings.append(timed(folder, "train", "--config", str(config), *settings(chosen)))
            options = [f"workers={args.workers}", f"num_samples={SAMPLES[index % len(SAMPLES)]}", "cases=0"]
            shards = ["--shards", str(folder / "validation"), "--output", str(folder / f"evaluation-{index}")]
            evaluations.append(timed(folder, "evaluate", "--model", str(model), *shards, *settings(options)))
    evaluation = sum(evaluations) / len(evaluations)
    alone = len(SAMPLES) * (sum(trainings) + len(combinations) * evaluation)
    result = {
        "epochs": args.epochs,
        "trainings": len(combinations),
        "combinations": len(combinations) * len(SAMPLES),
        "ratio": round(alone / sweep_seconds, 1),
        "wall_seconds": {
            "sweep": round(sweep_seconds, 1),
            "each_on_its_own_extrapolated": round(alone, 1),
            "trainings_run": [round(seconds, 1) for seconds in trainings],
            "evaluations_run": [round(seconds, 1) for seconds in evaluations],
        },
        "measured_share": round((sum(trainings) + sum(evaluations)) / alone, 2),
        "workers": args.workers,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


def paint_and_ingest(folder: Path, categories: int) -> None:
    """Shards of all images for the sweep, and of either part for the other side; their making is counted on neither.

    Args:
        folder: where to write.
        categories: how many are painted; the first one is for validation.
    """
    write_dataset(folder / "images", AUXILIARY[:categories], 4, 12, 128, 7)
    names = tuple(name.replace(" ", "_") for name in AUXILIARY[:categories])
    parts = {"all": names, "training": names[1:], "validation": names[:1]}
    for part, categories_of_part in parts.items():
        chosen = IngestConfig(splits=("test",), categories=categories_of_part, name="painted")
        ingest("folder", folder / "images", folder / part, chosen)


def training_file(folder: Path, args: argparse.Namespace) -> Path:
    """The recipe of a training on its own: no validation in between, which the sweep has not either.

    Args:
        folder: where to write.
        args: of the command line.

    Returns:
        The file.
    """
    return written(folder / "train.yaml", recipe(args) | {"data": {"train": str(folder / "training")}})


def sweep_file(folder: Path, args: argparse.Namespace, banks: tuple[int, ...], lengths: tuple[int, ...]) -> Path:
    """The same recipe as a sweep.

    Args:
        folder: where to write.
        args: of the command line.
        banks: values of B.
        lengths: values of K.

    Returns:
        The file.
    """
    grid = {"model.num_prompts": list(banks), "model.flow_length": list(lengths)}
    content = {
        "data": {"train": str(folder / "all"), "validation_categories": [VALIDATION]},
        "sweep": {"grid": grid, "num_samples": list(SAMPLES)},
        "output": str(folder / "sweep"),
    }
    return written(folder / "tune.yaml", recipe(args) | content)


def recipe(args: argparse.Namespace) -> dict[str, object]:
    """What both sides train.

    Args:
        args: of the command line.

    Returns:
        Settings by section.
    """
    training = {"epochs": args.epochs, "batch_size": 16, "learning_rate": 0.001}
    return RECIPE | {"training": training, "cluster": {"num_workers": args.workers}}


def written(path: Path, content: dict[str, object]) -> Path:
    """Write settings as YAML.

    Args:
        path: the file.
        content: settings by section.

    Returns:
        The path.
    """
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def settings(overrides: list[str]) -> list[str]:
    """Overrides as a command line has them.

    Args:
        overrides: `key=value` each.

    Returns:
        Arguments.
    """
    return [part for override in overrides for part in ("--set", override)]


def timed(folder: Path, *arguments: str) -> float:
    """Run a program.

    Args:
        folder: its home lies there.
        arguments: of `bayes-pfl`.

    Returns:
        Seconds from its start to its end.
    """
    environment = os.environ | {"BAYES_PFL_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - began
    if done.returncode:
        sys.exit(f"bayes-pfl {' '.join(arguments)} failed:\n{done.stderr}")
    print(f"{arguments[0]}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds


if __name__ == "__main__":
    main()
