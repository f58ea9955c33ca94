"""The options and settings of `bayes-pfl tune`."""

import argparse
from typing import Any, Literal

from pydantic import Field, field_validator

from bayes_pfl.config import DetectorOptions, Settings
from bayes_pfl.config.settings import PAPER_LETTERS
from pipelines.options.config_files import add_settings
from pipelines.platform.settings import TrainSettings


class SweepSettings(Settings):
    """What is varied, and how combinations are chosen."""

    grid: dict[str, tuple[Any, ...]] = Field(
        {"model.num_prompts": (1, 3), "model.flow_length": (0, 10)},
        description="dotted setting -> values; all combinations",
    )
    ranges: dict[str, tuple[float, float]] = Field(
        {},
        description="dotted setting -> lowest and highest value, drawn evenly; whole numbers if both ends are; "
        "not for a full grid",
    )
    log_ranges: dict[str, tuple[float, float]] = Field({}, description="the same, drawn evenly in the logarithm")
    random_trials: int | None = Field(
        None, ge=1, description="so many combinations drawn at random; none: all of the grid"
    )
    bayesian_trials: int | None = Field(
        None, ge=1, description="so many combinations proposed one after another by Optuna (TPE)"
    )
    num_samples: tuple[int, ...] = Field(
        (1, 3, 5, 10), min_length=1, description="values of R; none of them causes a training"
    )
    features_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="of the frozen features that trials read: half the room with two bytes a value"
    )
    options: DetectorOptions = DetectorOptions()
    """How the features are computed."""
    cpus_per_trial: float = Field(1.0, gt=0, description="logical CPUs of one trial; as many run at once as fit")
    early_stopping: bool = Field(False, description="stop weak trials early (ASHA) by validation pixel AP")
    seed: int = Field(0, ge=0, description="of the random or Bayesian choice")

    @field_validator("grid", "ranges", "log_ranges", mode="before")
    @classmethod
    def _letters_written_out(cls, value: Any) -> Any:
        """B, K, P and Q of the paper, alone or behind `model.`, by their names."""
        if not isinstance(value, dict):
            return value
        written: dict[str, Any] = {}
        for key, values in value.items():
            letter = str(key).removeprefix("model.")
            if letter == "R":
                raise ValueError("R needs no training of its own: sweep.num_samples=[1, 5] has its values")
            name = f"model.{PAPER_LETTERS[letter]}" if letter in PAPER_LETTERS else key
            if name in written:
                raise ValueError(f"{name} is named twice")
            written[name] = values
        return written


class TuneSettings(TrainSettings):
    """A training run and what a sweep varies of it."""

    sweep: SweepSettings = SweepSettings()
    output: str = Field("runs/sweep", description="folder for results.csv, results.json, report.html and the trials")


SETTINGS = TuneSettings
"""What `--set` and `--settings` are about."""

EXAMPLES = """\
bayes-pfl tune --config tune_embedded
bayes-pfl tune --config tune_bkr --set "sweep.grid={B: [1, 3], K: [0, 10]}"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl tune`.

    Args:
        parser: gets the options.
    """
    add_settings(parser, SETTINGS)
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--fresh", action="store_true", help="start over instead of finishing a sweep in the same folder"
    )
    again.add_argument(
        "--resume", action="store_true", help="refuse to start a new sweep; default: finish one if it exists"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
